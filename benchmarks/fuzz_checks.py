"""The judge of the fuzz run: every returned element proved right or wrong from its own numbers, in float64.

Multipliers, points and certificates are carried to the units of the base problem, whose data have size 1, so that
"small" means the same for rows in micro-units. Nothing here trusts the solver: a status is believed only if the
condition that it stands for holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem, QPSolution, SolveStatus

from .fuzz_problems import Case, rescale

KKT = 1e-7  # of the size of the terms: a hundred times what the solver is asked for
CERTIFICATE = 1e-6  # largest entry of what should vanish, over what it proves: a hundred times, too


class Rows(NamedTuple):
    """All rows as `Cx <= d` (`= d` where `equality`), bounds included; absent sides hold d = inf."""

    C: Tensor  # (B, rows, n)
    d: Tensor  # (B, rows)
    equality: Tensor  # (rows,) bool


def violations(case: Case, solution: QPSolution) -> dict[str, Tensor]:
    """Return which elements break which promise: a mask `(B,)` for each kind of violation."""
    base = base_problem(case)
    rows = stack(base)
    x, lam = to_base(case, solution)
    status = solution.status
    infinite = rows.d.isinf() & (lam != 0)
    signs = ((lam < 0) & ~rows.equality | infinite).any(-1)
    proper = ~case.invalid & ~x.isnan().any(-1) & ~lam.isnan().any(-1)
    return {
        "wrong SOLVED": (status == SolveStatus.SOLVED) & ~(proper & ~signs & optimal(base, rows, x, lam)),
        "wrong PRIMAL_INFEASIBLE": (status == SolveStatus.PRIMAL_INFEASIBLE) & ~(proper & ~signs & farkas(rows, lam)),
        "wrong DUAL_INFEASIBLE": (status == SolveStatus.DUAL_INFEASIBLE) & ~(proper & descent(base, rows, x)),
        "wrong INVALID_INPUT": (status == SolveStatus.INVALID_INPUT) & ~(case.invalid & x.isnan().all(-1)),
        "invalid input not noticed": case.invalid & (status != SolveStatus.INVALID_INPUT),
        "NaN": ~case.invalid & ~(x.isfinite().all(-1) & lam.isfinite().all(-1)),
    }


def base_problem(case: Case) -> QPProblem:
    """Return the problem in units in which its data have size 1."""
    return rescale(case.problem, type(case.units)(*(1 / unit for unit in case.units)))


def to_base(case: Case, solution: QPSolution) -> tuple[Tensor, Tensor]:
    """Return x and the multipliers of all rows in base units.

    The Lagrangian has the unit of the cost k, so a multiplier is multiplied by (unit of its row) / k.
    """
    c, r, e, k = case.units
    box = solution.z_box * c / k
    lam = [solution.z * r / k, solution.y * e / k, box.clamp(min=0), (-box).clamp(min=0)]
    return solution.x / c, torch.cat(lam, -1)


def stack(problem: QPProblem) -> Rows:
    """Return G, A, upper and lower bounds as one block of rows."""
    _, q, G, h, A, b, lb, ub = problem
    batch, n = q.shape
    identity = torch.eye(n, dtype=q.dtype).expand(batch, n, n)
    infinite = torch.full_like(q, torch.inf)
    empty, none = q.new_zeros(batch, 0, n), q.new_zeros(batch, 0)
    C = torch.cat([empty if G is None else G, empty if A is None else A, identity, -identity], -2)
    d = [none if h is None else h, none if b is None else b]
    d += [infinite if ub is None else ub, infinite if lb is None else -lb]
    equality = [torch.full((v.shape[-1],), v is d[1]) for v in d]
    return Rows(C, torch.cat(d, -1), torch.cat(equality))


def optimal(problem: QPProblem, rows: Rows, x: Tensor, lam: Tensor) -> Tensor:
    """Return where (x, lam) satisfies the optimality conditions relative to the size of their terms."""
    P, q = problem.P, problem.q
    C, d, equality = rows
    present = ~d.isinf()
    d = torch.where(present, d, 0.0)
    Px, Cx, Cl = _times(P, x), _times(C, x), _times(C.mT, lam)
    violation = torch.where(equality, (Cx - d).abs(), (Cx - d).clamp(min=0)) * present
    primal = violation <= KKT * (1 + _times(C.abs(), x.abs()) + d.abs())
    dual = (Px + q + Cl).abs() <= KKT * (1 + _times(P.abs(), x.abs()) + q.abs() + _times(C.mT.abs(), lam.abs()))
    gap = (x * Px).sum(-1) + (q * x).sum(-1) + (d * lam).sum(-1)
    size = (x.abs() * _times(P.abs(), x.abs())).sum(-1) + (q * x).abs().sum(-1) + (d * lam).abs().sum(-1)
    return primal.all(-1) & dual.all(-1) & (gap.abs() <= KKT * (1 + size))


def farkas(rows: Rows, lam: Tensor) -> Tensor:
    """Return where lam proves that no x (of size up to 1 / CERTIFICATE) satisfies the rows."""
    proof = -(torch.where(lam != 0, rows.d, 0.0) * lam).sum(-1)
    certified = (proof > 0) & (_times(rows.C.mT, lam).abs().amax(-1) <= CERTIFICATE * proof)
    # Crossing bounds are their own proof: both multipliers are equal, and z_box holds their difference, zero.
    n = rows.C.shape[-1]
    upper, lower = rows.d[..., -2 * n : -n], -rows.d[..., -n:]
    return certified | (lower > upper).any(-1)


def descent(problem: QPProblem, rows: Rows, x: Tensor) -> Tensor:
    """Return where x is a ray along which the cost falls without bound and no row is hit."""
    fall = -(problem.q * x).sum(-1)
    Cx = _times(rows.C, x) * ~rows.d.isinf()
    leaves = torch.where(rows.equality, Cx.abs(), Cx.clamp(min=0)).amax(-1)
    return (fall > 0) & (torch.maximum(leaves, _times(problem.P, x).abs().amax(-1)) <= CERTIFICATE * fall)


def _times(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v.unsqueeze(-1)).squeeze(-1)
