"""How far obstacles are from explaining demonstrations, and the way downhill."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.learned_constraints.demonstrations import Demonstrations, step_about
from robotics.learned_constraints.shapes import Shape


def row_loss(arm: PlanarArm, demonstrations: Demonstrations, stopped: Tensor, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the mean slack residual of rows `(*scenes,)`, of reach squared, for numbers `(*scenes, k, size)`."""
    values = row_values(arm, demonstrations, shape, numbers[..., None, :, :])
    least = values.amin(-1)
    residual: Tensor = values.clamp(max=0).square().sum(-1) + torch.where(stopped, least.square(), 0.0)
    return residual.mean(-1)


def step_loss(arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the mean squared difference of the program's steps and the demonstrations' [rad²]."""
    found, solved = step_about(arm, demonstrations.theta, demonstrations.targets, shape, numbers)
    loss: Tensor = torch.where(solved, (found - demonstrations.steps).square().sum(-1), 0.0).mean()
    return loss


def row_values(arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the rows at the demonstrations' steps `(*scenes, N, r)`, of reach; negative where broken."""
    rows = shape.rows(arm, demonstrations.theta, numbers)
    values: Tensor = rows.gap + (rows.slope @ demonstrations.steps[..., None])[..., 0]
    return values


def polish(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return where L-BFGS leads, or the start if that is no better."""
    numbers = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [numbers], max_iter=steps, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    scale = 1e-12 + float(loss(numbers).detach())

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(numbers) / scale
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        better = bool(loss(numbers) < loss(start))
    return numbers.detach() if better else start.detach()
