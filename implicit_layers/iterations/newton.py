"""Newton's method with backtracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from ..algebra import dot
from ..linear import LinearSolver
from .line_search import backtrack
from .loop import Point, State, System, check_options


@final
@dataclass(frozen=True, kw_only=True)
class Newton:
    """Newton's method: `w - t J⁻¹F(w)`, halving t until |F|² (in a minimisation: the cost) falls.

    Where J is singular, or where in a minimisation the step does not descend, that step goes along -F instead.

    Args:
        linear: how `J d = F` is solved: `DenseLU()`, or without forming J by `GMRES()` or `CG()`. `None`: dense for
            small systems, matrix-free for large ones.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.
    """

    linear: LinearSolver | None = None
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 50

    def __post_init__(self) -> None:
        check_options(self)

    def start(self, system: System, point: Point) -> State:
        """Remember nothing."""
        return {}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Solve for the direction and search along it."""
        d = -system.solve(point.w, point.residual, self.linear)
        finite = d.isfinite().all(-1, keepdim=True)
        d = torch.where(finite, d, -point.residual)
        slope = dot(d, point.residual) if system.minimises else -2 * point.value
        if system.minimises:
            uphill = slope >= 0
            d = torch.where(uphill.unsqueeze(-1), -point.residual, d)
            slope = torch.where(uphill, -dot(point.residual, point.residual), slope)
        new, t = backtrack(system, point, d, slope)
        return new, {"stuck": t == 0}
