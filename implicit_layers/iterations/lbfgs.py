"""L-BFGS with backtracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..algebra import dot, ratio
from ..checks import check_count
from .line_search import backtrack
from .loop import Point, State, System, check_options


@final
@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Limited-memory BFGS: the inverse Hessian from the last steps; the choice for smooth costs of any size.

    Args:
        memory: how many steps are kept.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Liu and Nocedal (1989), algorithm 2.1 (two-loop recursion: Nocedal and Wright (2006), algorithm 7.4).
    """

    memory: int = 10
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 500

    def __post_init__(self) -> None:
        check_options(self)
        check_count("memory", self.memory)

    def start(self, system: System, point: Point) -> State:
        """Begin with no steps, and a first trial of length 1."""
        empty = point.w.detach().new_zeros(*point.w.shape[:-1], self.memory, point.w.shape[-1])
        length = dot(point.residual, point.residual)
        return {"s": empty, "y": empty, "scale": torch.where(length > 1, length, 1.0).rsqrt()}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Search along the quasi-Newton direction; along the gradient where that does not descend."""
        d = -_apply_inverse(state["s"], state["y"], state["scale"], point.residual)
        slope = dot(d, point.residual)
        uphill = ~(slope < 0)
        d = torch.where(uphill.unsqueeze(-1), -point.residual, d)
        new, t = backtrack(system, point, d, torch.where(uphill, -dot(d, d), slope))
        s, y = new.w - point.w, new.residual - point.residual
        sy = dot(s, y)
        # A pair of negative curvature is forgotten; zeros in its place have no effect.
        convex = sy > torch.finfo(s.dtype).eps * dot(y, y) * state["scale"].detach()
        keep = convex.unsqueeze(-1)
        s, y = torch.where(keep, s, 0.0), torch.where(keep, y, 0.0)
        memory = {name: torch.cat([state[name][..., 1:, :], v.unsqueeze(-2)], -2) for name, v in (("s", s), ("y", y))}
        scale = torch.where(convex, ratio(sy, dot(y, y)), 2 * state["scale"])  # no curvature: go further
        return new, {**memory, "scale": scale, "stuck": (t == 0) & ~uphill}


def _apply_inverse(s: Tensor, y: Tensor, scale: Tensor, g: Tensor) -> Tensor:
    """Return the approximate inverse Hessian times g, by the two-loop recursion."""
    sy = dot(s, y)
    weights = []
    for i in reversed(range(s.shape[-2])):
        a = ratio(dot(s[..., i, :], g), sy[..., i])
        g = g - a.unsqueeze(-1) * y[..., i, :]
        weights.append(a)
    g = scale.unsqueeze(-1) * g
    for i, a in enumerate(reversed(weights)):
        b = ratio(dot(y[..., i, :], g), sy[..., i])
        g = g + (a - b).unsqueeze(-1) * s[..., i, :]
    return g
