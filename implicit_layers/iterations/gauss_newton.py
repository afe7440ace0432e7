"""Gauss-Newton's method for least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..algebra import dot
from ..jacobian import jacobian
from .line_search import backtrack
from .loop import Point, State, System, check_options

SINGULAR = 10  # smallest pivot of JᵀJ relative to its diagonal, in units of round-off


@final
@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    """Gauss-Newton: minimise `|r(w) + J d|²` for the step, with backtracking; for `LeastSquares` costs and for roots.

    Args:
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Nocedal and Wright (2006), section 10.3.
    """

    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 100

    def __post_init__(self) -> None:
        check_options(self)

    def start(self, system: System, point: Point) -> State:
        """Remember nothing."""
        return {}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Solve the normal equations and search along the step."""
        hessian, gradient = normal_equations(system, point)
        n = hessian.shape[-1]
        floor = SINGULAR * n * torch.finfo(hessian.dtype).eps * diagonal_scale(hessian)
        d = -solve_shifted(hessian, floor, gradient)
        new, t = backtrack(system, point, d, dot(d, gradient))
        return new, {"stuck": t == 0}


def normal_equations(system: System, point: Point) -> tuple[Tensor, Tensor]:
    """Return `JᵀJ (B, N, N)` and `Jᵀr (B, N)` of the misfit r."""
    misfit = system.misfit
    assert misfit is not None  # checked where the solver was chosen
    J, r = jacobian(misfit, point.w), misfit(point.w)
    return J.mT @ J, (r.unsqueeze(-2) @ J).squeeze(-2)


def diagonal_scale(hessian: Tensor) -> Tensor:
    """Return Marquardt's scale `(B, N)`: the diagonal, at least a sliver of its largest entry, and never zero."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).detach()
    if diagonal.shape[-1] == 0:
        return diagonal
    largest = diagonal.amax(-1, keepdim=True)
    return torch.maximum(diagonal, 1e-8 * torch.where(largest > 0, largest, 1.0))


def solve_shifted(hessian: Tensor, shift: Tensor, right: Tensor) -> Tensor:
    """Return `(H + diag(shift))⁻¹ right`, NaN where that is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(hessian + torch.diag_embed(shift))
    solution: Tensor = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    return torch.where((failed == 0).unsqueeze(-1), solution, torch.nan)
