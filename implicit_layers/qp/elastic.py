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
from .problem import QPProblem, Rows, is_sparse
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
    quadratic = elastic.norm == "l2"
    extra = m + p if quadratic else m + 2 * p
    weight = torch.full((extra,), elastic.weight, dtype=q.dtype, device=q.device)
    sparse, at = is_sparse(problem), torch.arange(extra, device=q.device)

    def beside(M: Tensor, *starts: int) -> Tensor:
        """Return M with columns for the violations: -I from the first start on, I from the second."""
        rows = M.shape[-2]
        column = torch.cat([n + at[start : start + rows] for start in starts])
        signs = torch.tensor([-1.0, 1.0][: len(starts)], dtype=q.dtype, device=q.device)
        values = signs.repeat_interleave(rows)
        return _attach(M, (rows, n + extra), at[:rows].repeat(len(starts)), column, values, sparse)

    if quadratic:
        P, q = _attach(P, (n + extra, n + extra), n + at, n + at, weight, sparse), pad(q, (0, extra))
    else:
        P, q = _attach(P, (n + extra, n + extra), at[:0], at[:0], weight[:0], sparse), _append(q, weight)
    G = None if G is None else beside(G, 0)
    A = None if A is None else beside(A, *((m,) if quadratic else (m, m + p)))
    lowest = -torch.inf if quadratic else 0.0
    if lb is not None or not quadratic:
        lb = pad(torch.full_like(q[..., :n], -torch.inf) if lb is None else lb, (0, extra), value=lowest)
    if ub is not None:
        ub = pad(ub, (0, extra), value=torch.inf)
    return QPProblem(P, q, G, h, A, b, lb, ub)


def _attach(M: Tensor, shape: tuple[int, int], row: Tensor, column: Tensor, values: Tensor, sparse: bool) -> Tensor:
    """Return M in the upper left corner of a larger matrix that has these entries besides."""
    if not sparse:
        block = M.new_zeros(shape).index_put((row, column), values)
        return pad(M, (0, shape[1] - M.shape[-1], 0, shape[0] - M.shape[-2])) + block
    from .sparse.layout import entries  # what it needs may not be installed

    held, place = entries("matrix", M)
    index = torch.stack((torch.cat((place.row, row)), torch.cat((place.column, column))))
    return torch.sparse_coo_tensor(index, torch.cat((held, values)), shape, check_invariants=True)


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
