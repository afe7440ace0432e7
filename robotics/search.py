"""Postures at a target without a network: the oracle's for three links, else certified steps from many starts."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics import oracle
from robotics.arm import PlanarArm
from robotics.ik_qp import task_error
from robotics.models.answer import is_safe
from robotics.obstacles import Circles
from robotics.steps import refine

REACHED = 1e-9  # of reach, or rad: certified steps converge quadratically, to round-off, where they do
STEPS = 30
STARTS = 64
FEW_STARTS = 8  # beside postures that were at the target before it was made a little harder


def find_postures(
    arm: PlanarArm, targets: Tensor, circles: Circles, starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return a safe posture at each target, and whether there can be one.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)` in float64.
        circles: the scene, shared or one per target.
        starts: more postures to start from, `(m, n)` [rad], where the search needs any.

    Returns:
        theta: `(N, n)` [rad]; NaN where none was found.
        proved: `(N,)` bool; whether theta is NaN and the oracle has proved that there is none.
    """
    if arm.num_links == 3:
        return _of_the_oracle(arm, targets, circles)
    theta, error = closest_postures(arm, targets, circles, starts, STARTS if starts is None else FEW_STARTS)
    found = torch.where((error <= REACHED)[:, None], theta, torch.nan)
    return found, torch.zeros(len(targets), dtype=torch.bool)


def closest_postures(
    arm: PlanarArm, targets: Tensor, circles: Circles, starts: Tensor | None = None, num: int = STARTS
) -> tuple[Tensor, Tensor]:
    """Return the safe posture nearest to each target that certified steps find, and its task error.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)` in float64.
        circles: the scene, shared or one per target.
        starts: postures to start from besides random ones, `(m, n)` [rad].
        num: number of random ones.

    Returns:
        theta: `(N, n)` [rad]; NaN where no posture that is clear of the circles was found.
        error: `(N,)`, of reach and rad; infinite there.
    """
    several = arm.sample(num, torch.Generator().manual_seed(0)).to(targets)
    if starts is not None:
        several = torch.cat((several, starts))
    count = len(several)
    scene = circles if circles.radii.ndim == 1 else circles.pick(torch.arange(len(targets)).repeat_interleave(count))
    aim, theta = targets.repeat_interleave(count, 0), several.repeat(len(targets), 1)
    theta = refine(arm, theta, aim, scene, STEPS)
    error = task_error(arm, theta, aim).norm(dim=-1)
    error = torch.where(is_safe(arm, theta, scene), error, torch.inf).reshape(-1, count)
    least, best = error.min(-1)
    theta = theta.reshape(-1, count, arm.num_links)[torch.arange(len(targets)), best]
    return torch.where(least.isfinite()[:, None], theta, torch.nan), least


def _of_the_oracle(arm: PlanarArm, targets: Tensor, circles: Circles) -> tuple[Tensor, Tensor]:
    found = oracle.solve(arm, targets, circles)
    theta = torch.full((len(targets), 3), torch.nan, dtype=torch.float64)
    width = found.orientation.diff(dim=1)[:, 0]
    safe = is_safe(arm, found.theta, circles.pick(found.target))
    for index in width.argsort().tolist():  # the widest last: it stays
        if safe[index]:
            theta[found.target[index]] = found.theta[index]
    return theta, found.verdict == oracle.Verdict.INFEASIBLE
