"""Infeasible problems made feasible: every row may be violated at a price, differentiably.

    min 1/2 x'Px + q'x + penalty(e)   s.t.   Gx <= h + e_G,  Ax = b + e_A,  lb <= x <= ub

The relaxed problem is a quadratic program again, so its gradients are those of any other. For
`P = 0, q = 0` the answer is the closest feasible point: the one of least violation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ProblemError
from .problem import QPProblem, Rows
from .solution import MEASURES, StackedSolution


@final
@dataclass(frozen=True, kw_only=True)
class Elastic:
    """Allow violations of `Gx <= h` and `Ax = b`; bounds stay hard.

    Args:
        norm: `"l2"` pays `weight/2 |e|²`: violations are shared, feasible problems are answered with violations of
            the order multiplier / weight. `"l1"` pays `weight |e|_1`: few rows give way, and feasible problems keep
            their answer exactly once `weight` exceeds every multiplier.
        weight: the price, in units of the cost.

    References:
        Bambade et al. (2024), QPLayer, for layers on infeasible programs; Nocedal and Wright (2006), 17.2.
    """

    norm: Literal["l1", "l2"] = "l2"
    weight: float = 1e3

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise ProblemError(f"norm: expected 'l1' or 'l2', got {self.norm!r}")
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ProblemError(f"weight: expected a positive number, got {self.weight!r}")


def relax(problem: QPProblem, elastic: Elastic) -> QPProblem:
    """Return the program in (x, violations); always feasible unless the bounds cross.

    The violations are one per row for l2, free; for l1 one per inequality and two per equality, >= 0.
    """
    P, q, G, h, A, b, lb, ub = problem
    n = q.shape[-1]
    m, p = 0 if G is None else G.shape[-2], 0 if A is None else A.shape[-2]
    extra = m + p if elastic.norm == "l2" else m + 2 * p
    weight = torch.full((extra,), elastic.weight, dtype=q.dtype, device=q.device)
    eye = torch.eye(extra, dtype=q.dtype, device=q.device)
    if elastic.norm == "l2":
        P = pad(P, (0, extra, 0, extra)) + torch.diag_embed(pad(weight, (n, 0)))
        q = pad(q, (0, extra))
        lowest = -torch.inf
    else:
        P = pad(P, (0, extra, 0, extra))
        q = _append(q, weight)
        lowest = 0.0
    if G is not None:
        G = _append(G, -eye[:m])
    if A is not None:
        A = _append(A, -eye[m : m + p] + (0 if elastic.norm == "l2" else eye[m + p :]))
    if lb is not None or lowest == 0.0:
        lb = pad(torch.full_like(q[..., :n], -torch.inf) if lb is None else lb, (0, extra), value=lowest)
    if ub is not None:
        ub = pad(ub, (0, extra), value=torch.inf)
    return QPProblem(P, q, G, h, A, b, lb, ub)


def restrict(out: StackedSolution, relaxed: Rows, rows: Rows) -> StackedSolution:
    """Return the stacked solution of the relaxed program without its violations."""
    k, n = rows.m + rows.p, rows.n
    ends = [slice(0, k)]
    if relaxed.upper and rows.upper:
        ends.append(slice(k, k + n))
    if relaxed.lower and rows.lower:
        start = k + relaxed.n * relaxed.upper
        ends.append(slice(start, start + n))

    def shorter(v: Tensor) -> Tensor:
        return torch.cat([v[..., part] for part in ends], -1) if len(ends) > 1 else v[..., ends[0]]

    info = torch.cat([out.info[..., :MEASURES], shorter(out.s)], -1)
    return StackedSolution(out.x[..., :n], shorter(out.lam), info, shorter(out.flags))


def _append(left: Tensor, right: Tensor) -> Tensor:
    """Put the columns `right`, without batch dimensions, behind `left`."""
    return torch.cat((left, right.expand(*left.shape[:-1], right.shape[-1])), -1)
