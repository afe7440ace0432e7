"""The one definition of optimality: residuals of a quadratic program in the stacked form."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Rows
from .scaling import Scaling, max_abs

ROUND_OFF = 1e-10  # of the terms of an inner product: less says nothing about its sign


class Program(NamedTuple):
    """A batch of programs `min 1/2 x'Px + q'x  s.t.  R x + s = d, s >= 0 on inequality rows`, already scaled.

    Missing rows (infinite d) hold zero in `present`, and equality rows hold zero in `inequality`.
    """

    P: Tensor  # (B, n, n)
    q: Tensor  # (B, n)
    C: Tensor  # (B, m+p, n)
    d: Tensor  # (B, total)
    present: Tensor  # (B, total), 0 or 1
    inequality: Tensor  # (B, total), bool
    scaling: Scaling
    rows: Rows

    def select(self, index: Tensor) -> Program:
        """Return the programs of some elements."""
        P, q, C, d, present, inequality, scaling, rows = self
        scaling = Scaling(*(v[index] for v in scaling))
        return Program(P[index], q[index], C[index], d[index], present[index], inequality[index], scaling, rows)


class Residuals(NamedTuple):
    """Residuals of an iterate: in scaled units for the iteration, in the caller's units for the decision."""

    dual_vector: Tensor  # Px + q + R'lam, scaled
    primal_vector: Tensor  # Rx + s - d, scaled
    Px: Tensor
    Rx: Tensor
    Rl: Tensor
    primal: Tensor  # (B,) largest |Rx + s - d|, unscaled
    dual: Tensor  # (B,)
    gap: Tensor  # (B,)
    score: Tensor  # (B,) largest ratio of residual to tolerance: solved where <= 1

    def select(self, index: Tensor) -> Residuals:
        """Return the residuals of some elements."""
        return Residuals(*(v[index] for v in self))


def residuals(program: Program, x: Tensor, s: Tensor, lam: Tensor, eps_abs: float, eps_rel: float) -> Residuals:
    """Evaluate optimality at an iterate.

    A residual is compared with `eps_abs + eps_rel * (largest term it is the sum of)`, both in the caller's units
    and in scaled ones: an absolute tolerance alone means nothing for data in micro-units.
    """
    P, q, C, d, present, _, scaling, rows = program
    Px = (x.unsqueeze(-2) @ P).squeeze(-2)
    Rx = rows.apply(C, x) * present
    Rl = rows.transpose(C, lam)
    dual_vector = Px + q + Rl
    primal_vector = Rx + s - d
    xPx, qx, dl = (x * Px).sum(-1, keepdim=True), (q * x).sum(-1, keepdim=True), (d * lam).sum(-1, keepdim=True)
    gap_vector = xPx + qx + dl

    def judge(dual_unit: Tensor | float, primal_unit: Tensor | float, gap_unit: Tensor | float) -> tuple[Tensor, ...]:
        dual, primal, gap = (
            max_abs(v * unit)
            for v, unit in ((dual_vector, dual_unit), (primal_vector, primal_unit), (gap_vector, gap_unit))
        )
        dual_size = _largest(dual_unit, Px, q, Rl)
        primal_size = _largest(primal_unit, Rx, d)
        gap_size = _largest(gap_unit, xPx, qx, dl)
        score = torch.maximum(dual / (eps_abs + eps_rel * dual_size), primal / (eps_abs + eps_rel * primal_size))
        return dual, primal, gap, torch.maximum(score, gap / (eps_abs + eps_rel * gap_size))

    dual, primal, gap, score = judge(1 / (scaling.D * scaling.k), 1 / scaling.E, 1 / scaling.k)
    *_, scaled = judge(1.0, 1.0, 1.0)
    return Residuals(dual_vector, primal_vector, Px, Rx, Rl, primal, dual, gap, torch.maximum(score, scaled))


def _largest(unit: Tensor | float, *terms: Tensor) -> Tensor:
    return reduce(torch.maximum, (max_abs(term * unit) for term in terms))


def farkas(program: Program, lam: Tensor, Rl: Tensor, tolerance: float) -> Tensor:
    """Return `(B,)` where lam proves that no x has Rx <= d: `R'lam = 0`, `d'lam < 0`, lam >= 0 on inequality rows.

    Zero means at most `tolerance` times the inner product over the size of d, in scaled units.
    """
    negative, small = _negative(program.d, lam, tolerance)
    return negative & (max_abs(Rl) <= small)


def descent(program: Program, x: Tensor, Px: Tensor, Rx: Tensor, tolerance: float) -> Tensor:
    """Return `(B,)` where x is a ray of unbounded descent: `Px = 0`, `q'x < 0`, `Rx <= 0` (`= 0` on equality rows).

    Zero means at most `tolerance` times the inner product over the size of q, in scaled units.
    """
    negative, small = _negative(program.q, x, tolerance)
    outward = torch.where(program.inequality, Rx.clamp(min=0), Rx)
    return negative & (max_abs(Px) <= small) & (max_abs(outward) <= small)


def _negative(v: Tensor, w: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return whether v'w < 0 beyond its round-off, and the tolerance that follows from it."""
    terms = v * w
    value = terms.sum(-1)
    return value < -ROUND_OFF * terms.abs().sum(-1), tolerance * -value / max_abs(v).clamp(min=1)
