"""Broyden's method: Newton's with a Jacobian that is learned from the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from ..algebra import dot, ratio
from ..checks import check_count
from ..errors import ProblemError
from ..jacobian import jacobian
from ..transforms import everywhere
from .loop import Point, State, System, check_options

EXPLOSION = 100.0  # growth of |F|² in one step that calls for a shorter one
HALVINGS = 10


@final
@dataclass(frozen=True, kw_only=True)
class Broyden:
    """Broyden's (good) method with limited memory: `w - B F(w)`, B ≈ J⁻¹ corrected by rank one at every step.

    Args:
        initial: first approximation of J. `"identity"` fits fixed points, where J = I - ∂f/∂w. `"jacobian"` forms and
            inverts J once, at the first iterate.
        memory: how many corrections are kept; the oldest is dropped.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Broyden (1965); Kelley (2003), Solving nonlinear equations with Newton's method, chapter 4.
    """

    initial: Literal["auto", "identity", "jacobian"] = "auto"
    memory: int = 30
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 200

    def __post_init__(self) -> None:
        check_options(self)
        check_count("memory", self.memory)
        if self.initial not in ("auto", "identity", "jacobian"):
            raise ProblemError(f"initial: expected 'auto', 'identity' or 'jacobian', got {self.initial!r}")

    def start(self, system: System, point: Point) -> State:
        """Begin with no corrections."""
        empty = point.w.detach().new_zeros(*point.w.shape[:-1], self.memory, point.w.shape[-1])
        state = {"U": empty, "V": empty}
        if self.initial == "jacobian" or (self.initial == "auto" and not system.relative):
            J = jacobian(lambda w: system.evaluate(w).residual, point.w)
            inverse, singular = torch.linalg.inv_ex(J)
            usable = (singular == 0) & inverse.isfinite().all(-1).all(-1)
            identity = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
            state["inverse"] = torch.where(usable[..., None, None], inverse, identity)
        return state

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Step, halve where the residual explodes, and correct B so that it maps the change of F to the step."""
        d = -_apply(state, point.residual)
        new = _without_explosion(system, point, d)
        s, y = new.w - point.w, new.residual - point.residual
        Hy, sH = _apply(state, y), _apply_left(state, s)
        v = ratio(sH, dot(s, Hy).unsqueeze(-1))  # B <- B + (s - By) sᵀB / sᵀBy
        memory = {"U": (s - Hy), "V": v}
        kept = {k: torch.cat([state[k][..., 1:, :], x.unsqueeze(-2)], -2) for k, x in memory.items()}
        return new, {**state, **kept}


def _without_explosion(system: System, point: Point, d: Tensor) -> Point:
    new = system.evaluate(point.w + d)
    t = torch.ones_like(point.value.detach())
    with torch.no_grad():
        trial = new
        for _ in range(HALVINGS):
            calm = (trial.value <= EXPLOSION * point.value) | ~point.value.isfinite()
            if everywhere(calm):
                break
            t = torch.where(calm, t, 0.5 * t)
            trial = system.evaluate(point.w + t.unsqueeze(-1) * d)
    return new if everywhere(t == 1) else system.evaluate(point.w + t.unsqueeze(-1) * d)


def _apply(state: State, r: Tensor) -> Tensor:
    """Return B r."""
    base = r if "inverse" not in state else (state["inverse"] @ r.unsqueeze(-1)).squeeze(-1)
    weights = state["V"] @ r.unsqueeze(-1)
    return base + (weights.mT @ state["U"]).squeeze(-2)


def _apply_left(state: State, s: Tensor) -> Tensor:
    """Return sᵀB."""
    base = s if "inverse" not in state else (s.unsqueeze(-2) @ state["inverse"]).squeeze(-2)
    weights = state["U"] @ s.unsqueeze(-1)
    return base + (weights.mT @ state["V"]).squeeze(-2)
