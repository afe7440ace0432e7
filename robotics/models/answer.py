"""What an inverse kinematics model answers, and the exact check that every answer passes through."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.angles import principal_angle, wrap_angle
from robotics.arm import PlanarArm
from robotics.obstacles import Circles

CHECK_MARGIN = 1e-9  # of reach: an independent check in other arithmetic must come to the same verdict


class IKStatus(IntEnum):
    """Verdict on the answer to one target."""

    SOLVED = 0
    NOT_REACHED = 1
    COLLISION = 2
    LIMIT_VIOLATION = 3
    UNREACHABLE = 4
    INVALID_INPUT = 5
    NO_SAFE_ANSWER = 6
    INFEASIBLE = 7

    @property
    def advice(self) -> str:
        """One line: what it means."""
        return _ADVICE[self]


_ADVICE = {
    IKStatus.SOLVED: "inside the limits, clear along the whole arm, tip within tolerance of the target",
    IKStatus.NOT_REACHED: "safe, but the tip is further from the target than the tolerance",
    IKStatus.COLLISION: "some link touches a circle",
    IKStatus.LIMIT_VIOLATION: "some joint is beyond its limits",
    IKStatus.UNREACHABLE: "the lengths of the links alone keep the target out of reach, whatever limits and circles",
    IKStatus.INVALID_INPUT: "the target is not a finite number",
    IKStatus.NO_SAFE_ANSWER: "no posture found that is inside the limits and clear of the circles",
    IKStatus.INFEASIBLE: "proved: every posture at the target breaks a limit or touches a circle",
}


class IKAnswer(NamedTuple):
    """Answers to N targets.

    Attributes:
        theta: joint angles `(N, n)` [rad]; NaN where there is none.
        status: `IKStatus` of each, int64 `(N,)`.
        tip_error: distance of tip and target `(N,)` [m]; NaN without an answer.
        clearance: signed clearance of the whole arm `(N,)` [m]; NaN without an answer.
    """

    theta: Tensor
    status: Tensor
    tip_error: Tensor
    clearance: Tensor


def is_safe(arm: PlanarArm, theta: Tensor, circles: Circles) -> Tensor:
    """Return whether postures `(*batch, n)` keep limits and circles along the whole arm; False for NaN."""
    clear = circles.clearance(arm.points(theta), arm.link_radius) >= CHECK_MARGIN * arm.reach
    return clear & (arm.limit_violation(theta) == 0)


def check_batch(targets: Tensor, circles: Circles, width: int, tolerance: float) -> None:
    """Raise ValueError unless targets are `(N, width)` in float64, scenes one or N, and the tolerance finite, >= 0."""
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance: expected a finite number >= 0, found {tolerance!r}")
    if targets.ndim != 2 or targets.shape[1] != width or targets.dtype != torch.float64:
        raise ValueError(
            f"targets: expected shape (N, {width}) in float64, found {tuple(targets.shape)} in {targets.dtype}"
        )
    if circles.radii.ndim != 1 and circles.radii.shape[:-1] != targets.shape[:1]:
        expected = f"(k,) or ({targets.shape[0]}, k)"
        raise ValueError(f"circles: expected radii of shape {expected}, found {tuple(circles.radii.shape)}")


def check_answer(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, tolerance: float) -> IKAnswer:
    """Judge postures in closed form, whatever made them.

    Args:
        arm: the arm, n links.
        theta: `(N, n)` [rad].
        targets: `(N, 2)` [m] or `(N, 3)` [m, m, rad].
        circles: the scene, shared or one per target.
        tolerance: largest tip error of a SOLVED answer, of reach; for poses also on the orientation [rad].
    """
    theta, targets = theta.double(), targets.double()  # round-off of float32 would hide a touch
    given = theta.isfinite().all(-1)
    error = (arm.tip(theta) - targets[:, :2]).norm(dim=-1)
    reached = error <= tolerance * arm.reach
    if targets.shape[-1] == 3:
        reached &= wrap_angle(arm.orientation(theta) - principal_angle(targets[:, 2])).abs() <= tolerance
    clearance = circles.clearance(arm.points(theta), arm.link_radius)
    status = torch.where(reached, int(IKStatus.SOLVED), int(IKStatus.NOT_REACHED))
    for verdict, holds in (  # the later, the graver
        (IKStatus.COLLISION, ~(clearance >= CHECK_MARGIN * arm.reach)),
        (IKStatus.LIMIT_VIOLATION, ~(arm.limit_violation(theta) == 0)),
        (IKStatus.NO_SAFE_ANSWER, ~given),
        (IKStatus.UNREACHABLE, ~in_reach(arm, targets, tolerance)),
        (IKStatus.INVALID_INPUT, ~targets.isfinite().all(-1)),
    ):
        status = torch.where(holds, int(verdict), status)
    missing = torch.where(given, 0.0, torch.nan)
    return IKAnswer(theta + missing[:, None], status, error + missing, clearance + missing)


def beyond_reach(arm: PlanarArm, targets: Tensor) -> Tensor:
    """Return how far targets `(N, 2|3)` are outside of what the lengths alone allow `(N,)` [m]; 0 inside.

    All links together get the tip to every position in a ring, and no other. A pose fixes the wrist too, which must be
    in the ring of the links before the last.
    """
    lengths, place = arm.lengths, targets[:, :2]
    if targets.shape[-1] == 3:
        lengths, last = arm.lengths[:-1], arm.lengths[-1]
        angle = principal_angle(targets[:, 2])
        place = place - last * torch.stack((angle.cos(), angle.sin()), -1)
    far, distance = sum(lengths), place.norm(dim=-1)
    inner = max(0.0, 2 * max(lengths, default=0.0) - far)
    beyond: Tensor = torch.maximum(distance - far, inner - distance).clamp(min=0)
    return beyond


def in_reach(arm: PlanarArm, targets: Tensor, tolerance: float) -> Tensor:
    """Return whether the lengths alone allow targets `(N, 2|3)`, up to the tolerance, of reach and rad."""
    turned = arm.lengths[-1] if targets.shape[-1] == 3 else 0.0  # what an error of the orientation moves the wrist by
    return beyond_reach(arm, targets) <= tolerance * (arm.reach + turned)
