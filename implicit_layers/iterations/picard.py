"""Picard's iteration: apply the map again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ..checks import check_positive
from .loop import Point, State, System, check_options


@final
@dataclass(frozen=True, kw_only=True)
class Picard:
    """Fixed-point iteration `w - relaxation · F(w)`, F = w - f(w): converges where f is a contraction.

    Args:
        relaxation: 1 applies f; less damps it.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.
    """

    relaxation: float = 1.0
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 1000

    def __post_init__(self) -> None:
        check_options(self)
        check_positive("relaxation", self.relaxation)

    def start(self, system: System, point: Point) -> State:
        """Remember nothing."""
        return {}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Apply f."""
        return system.evaluate(point.w - self.relaxation * point.residual), {}
