"""Levenberg and Marquardt's method for least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from ..algebra import dot, ratio
from ..checks import check_positive
from .gauss_newton import diagonal_scale, normal_equations, solve_shifted
from .loop import Point, State, System, check_options

ACCEPT = 1e-4  # share of the predicted decrease below which a step is not taken
SMALLEST, LARGEST = 1e-15, 1e15  # of the damping


@final
@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardt:
    """Levenberg-Marquardt: Gauss-Newton steps damped by `λ diag(JᵀJ)`, λ by how well the last one was predicted.

    For `LeastSquares` costs, and for roots where Newton's method is led astray by a singular Jacobian.

    Args:
        damping: first λ.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Marquardt (1963); Nielsen (1999) for the rule of λ.
    """

    damping: float = 1e-3
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 200

    def __post_init__(self) -> None:
        check_options(self)
        check_positive("damping", self.damping)

    def start(self, system: System, point: Point) -> State:
        """Begin with the first damping."""
        one = torch.ones_like(point.value.detach())
        return {"damping": self.damping * one, "growth": 2 * one}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Try one damped step; stay, and damp more, where it does not lower the cost."""
        hessian, gradient = normal_equations(system, point)
        shift = state["damping"].unsqueeze(-1) * diagonal_scale(hessian)
        d = -solve_shifted(hessian, shift, gradient)
        d = torch.where(d.isfinite().all(-1, keepdim=True), d, 0.0)
        trial = system.evaluate(point.w + d)
        predicted = (0.5 * dot(d, shift * d - gradient)).detach()
        gain = ratio((point.value - trial.value).detach(), predicted)
        # At a solution nothing is predicted any more; a step into infinities gains nothing.
        better = ((gain > ACCEPT) | (predicted == 0)) & trial.value.isfinite()
        if system.minimises:  # the cost's differences drown in round-off before its gradient does
            smaller = trial.residual.norm(dim=-1) < point.residual.norm(dim=-1)
            noise = 10 * torch.finfo(d.dtype).eps * point.value.abs()
            better = better | (smaller & (trial.value <= point.value + noise))
        factor = torch.where(better, (1 - (2 * gain - 1) ** 3).clamp(1 / 3, 2), state["growth"])
        damping = (state["damping"] * factor).clamp(SMALLEST, LARGEST)
        growth = torch.where(better, 2.0, (2 * state["growth"]).clamp(max=1e6))
        new = Point(*(torch.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
                      for a, b in zip(trial, point, strict=True)))  # fmt: skip
        return new, {"damping": damping, "growth": growth, "stuck": ~better & (state["damping"] >= LARGEST)}
