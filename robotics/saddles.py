"""Saddles of the tip error, as at a stretched arm: no slope leads away from them, a small bend does."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.chords import certified_chord
from robotics.ik_qp import task_error, tip_curvature
from robotics.obstacles import Circles

BEND = 1e-4  # [rad]: certified steps make it about ten times as large, each


def leave_saddle(
    arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, limits: tuple[Tensor, Tensor]
) -> Tensor:
    """Bend postures a little where the tip error has no slope but falls to both sides, as a stretched arm's can.

    Towards the side where it falls more inside the limits; where the way there is not proved clear, the posture stays.
    The arguments are those of `certified_step`.
    """
    J, error = arm.jacobian(theta) / arm.reach, task_error(arm, theta, targets)[..., :2]
    slope = (J.mT @ error[..., None])[..., 0]
    flat = (slope.norm(dim=-1) <= 1e-9 * error.norm(dim=-1)) & (error.norm(dim=-1) > BEND)
    if not bool(flat.any()):
        return theta
    values, vectors = torch.linalg.eigh(J.mT @ J + tip_curvature(arm, theta, error))
    bend = BEND * vectors[..., 0]
    left, right = ((theta + side * bend).clamp(*limits) for side in (1, -1))
    left_error, right_error = (task_error(arm, side, targets).norm(dim=-1) for side in (left, right))
    bent = torch.where((left_error <= right_error)[..., None], left, right)
    leaves = flat & (values[..., 0] < 0) & certified_chord(arm, theta, bent, circles)
    return torch.where(leaves[..., None], bent, theta)
