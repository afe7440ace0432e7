"""Gradient descent with backtracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from ..algebra import dot
from ..checks import check_positive
from .line_search import backtrack
from .loop import Point, State, System, check_options

GROWTH = 2.0
SUFFICIENT = (
    0.3  # on a quadratic of curvature L that limits t to 1.4 / L; close to 2 / L the steps would only oscillate
)


@final
@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Gradient descent: `w - t ∇f(w)`, t halved until the cost falls enough and doubled for the next step.

    Args:
        step_length: of the first trial; later ones follow the cost. Also the length of `OneStep`'s step.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Armijo (1966).
    """

    step_length: float = 1.0
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 5000

    def __post_init__(self) -> None:
        check_options(self)
        check_positive("step_length", self.step_length)

    def start(self, system: System, point: Point) -> State:
        """Begin with the first step length."""
        return {"length": torch.full_like(point.value.detach(), self.step_length)}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Search along the negative gradient."""
        d = -point.residual
        new, t = backtrack(system, point, d, -dot(d, d), state["length"], SUFFICIENT)
        return new, {"length": torch.where(t > 0, GROWTH * t, self.step_length), "stuck": t == 0}
