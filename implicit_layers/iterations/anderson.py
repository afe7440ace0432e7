"""Anderson's acceleration of a fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..algebra import ratio
from ..checks import check_count, check_positive
from .loop import Point, State, System, check_options

RIDGE = 1e3  # of the normalised normal equations, in units of round-off: old differences become dependent


@final
@dataclass(frozen=True, kw_only=True)
class Anderson:
    """Anderson acceleration: combine the last steps so that their residuals cancel as far as they can.

    Args:
        memory: how many differences are kept.
        relaxation: share of the residual that the combined point moves on.
        eps_abs, eps_rel, max_iter: as in `iterations.loop.Method`.

    References:
        Anderson (1965); Walker and Ni (2011), eq. 2.1 (type II, unconstrained form).
    """

    memory: int = 5
    relaxation: float = 1.0
    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 200

    def __post_init__(self) -> None:
        check_options(self)
        check_count("memory", self.memory)
        check_positive("relaxation", self.relaxation)

    def start(self, system: System, point: Point) -> State:
        """Begin with no differences: a difference of zero has no weight."""
        empty = point.w.detach().new_zeros(*point.w.shape[:-1], self.memory, point.w.shape[-1])
        return {"dw": empty, "dF": empty}

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Go to the combined point, and remember the difference that this makes."""
        dw, dF = state["dw"], state["dF"]
        weights = _least_squares(dF, point.residual)
        beta = self.relaxation
        w = point.w - beta * point.residual - (weights.unsqueeze(-2) @ (dw - beta * dF)).squeeze(-2)
        new = system.evaluate(w)
        return new, {
            "dw": torch.cat([dw[..., 1:, :], (new.w - point.w).unsqueeze(-2)], -2),
            "dF": torch.cat([dF[..., 1:, :], (new.residual - point.residual).unsqueeze(-2)], -2),
        }


def _least_squares(rows: Tensor, right: Tensor) -> Tensor:
    """Return the weights of rows `(B, m, N)` that combine to `right (B, N)` best; rows of zero weigh nothing."""
    length = rows.square().sum(-1)
    length = torch.where(length > 0, torch.where(length > 0, length, 1.0).sqrt(), 0.0)
    unit = ratio(rows, length.unsqueeze(-1))
    ridge = RIDGE * torch.finfo(rows.dtype).eps * torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)
    empty = torch.diag_embed((length == 0).to(rows.dtype))
    factor, _ = torch.linalg.cholesky_ex(unit @ unit.mT + ridge + empty)
    weights: Tensor = torch.cholesky_solve(unit @ right.unsqueeze(-1), factor).squeeze(-1)
    return ratio(weights, length)
