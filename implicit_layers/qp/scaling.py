"""Equilibration: rows and columns of the optimality system brought to comparable size, and the cost normalised."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Rows

NEGLIGIBLE = 1e-15  # of the largest entry of all rows
TINY_COST = 6e-309  # a cost below this stays as it is: its inverse is infinite
VANISHED = 1e-100  # the same for P in a linear system, whose other sides would be round-off beside it
SWEEPS = 4  # ten are no better; without any, one hard problem in eight is lost


class Scaling(NamedTuple):
    """`x = D x^`, `lam = E lam^ / k`, `s = s^ / E`, cost^ = k cost; bound rows keep unit entries (E = 1/D)."""

    D: Tensor  # (B or 1, n)
    E: Tensor  # (B or 1, total)
    k: Tensor  # (B or 1, 1)


def max_abs(v: Tensor) -> Tensor:
    """Return the largest magnitude along the last dimension; 0 if that is empty."""
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])


def equilibrate(P: Tensor, C: Tensor, rows: Rows, q: Tensor | None = None) -> Scaling:
    """Ruiz equilibration of `[P C'; C 0]`, then the cost factor.

    The cost factor is `1 / max(|P|, 1e-4 |q|)`: dividing by |q| alone would let a large q push the curvature
    below the regularisation, and the iteration stalls.

    Args:
        P: `(B or 1, n, n)`.
        C: `(B or 1, m+p, n)`.
        rows: their layout.
        q: `(B or 1, n)`, or None for a linear system.

    References:
        Ruiz (2001), A scaling algorithm to equilibrate both rows and columns norms in matrices.
    """
    batch = torch.broadcast_shapes(P.shape[:1], C.shape[:1])
    D = P.new_ones(*batch, rows.n)
    E = P.new_ones(*batch, C.shape[-2])
    P, C = P.abs(), C.abs()
    # Rows of round-off size say nothing, and scaling would blow them up: they stay as they are.
    row = max_abs(C).unsqueeze(-1)
    C = torch.where(row > NEGLIGIBLE * max_abs(C.flatten(-2))[..., None, None], C, 0.0)
    for _ in range(SWEEPS):
        Pd, Cd = P * D.unsqueeze(-1) * D.unsqueeze(-2), C * E.unsqueeze(-1) * D.unsqueeze(-2)
        column = torch.maximum(max_abs(Pd), max_abs(Cd.mT))
        D = D / _nonzero(column).sqrt()
        E = E / _nonzero(max_abs(Cd)).sqrt()
    largest = max_abs((P * D.unsqueeze(-1) * D.unsqueeze(-2)).flatten(-2))
    if q is not None:
        largest = torch.maximum(largest, 1e-4 * max_abs(q * D))
    k = 1 / torch.where(largest > (VANISHED if q is None else TINY_COST), largest, 1.0).unsqueeze(-1)
    bounds = [1 / D] * (rows.upper + rows.lower)
    return Scaling(D, torch.cat([E, *bounds], -1) if bounds else E, k)


def _nonzero(v: Tensor) -> Tensor:
    return torch.where(v > 0, v, torch.ones_like(v))
