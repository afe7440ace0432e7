"""The one definition of optimality: residuals of a quadratic program in the stacked form."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Rows
from .scaling import Scaling, max_abs


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


def infeasibility(program: Program, x: Tensor, lam: Tensor, res: Residuals, tolerance: float) -> tuple[Tensor, Tensor]:
    """Check the certificates of primal and of dual infeasibility that an iterate may hold.

    Primal: `lam >= 0` on inequality rows with `R'lam = 0` and `d'lam < 0` (Farkas): no x has Rx <= d.
    Dual: a ray x with `Px = 0, q'x < 0` and `Rx <= 0` (`= 0` on equality rows): the cost falls without bound.
    Zero means at most `tolerance` times the inner product, in scaled units.

    Returns:
        Two boolean tensors `(B,)`.
    """
    dl = (program.d * lam).sum(-1)
    primal = (dl < 0) & (max_abs(res.Rl) <= tolerance * -dl)
    qx = (program.q * x).sum(-1)
    ray = torch.where(program.inequality, res.Rx.clamp(min=0), res.Rx)
    bound = tolerance * -qx
    # A ray is a direction: x itself must dwarf its residuals, which the strict inequality ensures.
    dual = (qx < 0) & (max_abs(res.Px) <= bound) & (max_abs(ray) <= bound)
    return primal, dual
