"""Random joint angles of an arm, uniform over the workspace of its tip."""

import math

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.least_squares import levenberg_marquardt

_ORIENTATIONS = 64  # tried for every tip of three links
_STARTS = 8  # for every tip of other arms
_ITERATIONS = 40
_NEAR = 1e-6  # of reach


def workspace_sample(arm: PlanarArm, num: int, generator: torch.Generator) -> Tensor:
    """Return joint angles with tips uniform over the reachable area, (up to num, n) [rad].

    Tips are uniform over the disc of the reach, and those that no posture within the limits is found for are dropped.

    Args:
        arm: An arm of two links or more: the tip of one alone has no area to be uniform on.
        num: Number of tips drawn.
        generator: Source of the random numbers, on the CPU.
    """
    radius = arm.reach * torch.rand(num, 1, generator=generator, dtype=torch.float64).sqrt()
    azimuth = 2 * math.pi * torch.rand(num, 1, generator=generator, dtype=torch.float64)
    if arm.num_links == 3:
        return _by_closed_form(arm, radius, azimuth, generator)
    return _by_least_squares(arm, radius * torch.cat((azimuth.cos(), azimuth.sin()), -1), generator)


def _by_closed_form(arm: PlanarArm, radius: Tensor, azimuth: Tensor, generator: torch.Generator) -> Tensor:
    """Keep for each tip one of its answers within the limits.

    It is drawn among evenly spread orientations with a random offset and both elbows. (One orientation for each tip
    would make tips with many answers more frequent.)
    """
    num = len(radius)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    steps = torch.arange(_ORIENTATIONS) + uniform(num, 1)
    x, y = (radius * azimuth.cos()).expand_as(steps), (radius * azimuth.sin()).expand_as(steps)
    theta, _ = arm.inverse(torch.stack((x, y, 2 * math.pi / _ORIENTATIONS * steps), dim=-1))
    # Limits may lie beyond ±π: take each angle in the turn about the middle of its limits.
    lower, upper = arm.limits_tensor(theta)
    middle = (lower + upper) / 2
    theta = (middle + wrap_angle(theta - middle)).flatten(1, 2)
    allowed = arm.limit_violation(theta) <= 0  # False for the NaN of unreachable poses
    choice = torch.where(allowed, uniform(*allowed.shape), -1.0).argmax(-1)
    rows = allowed.any(-1)
    return theta[torch.arange(num), choice][rows]


def _by_least_squares(arm: PlanarArm, tips: Tensor, generator: torch.Generator) -> Tensor:
    """Keep for each tip the first posture that Levenberg-Marquardt finds from random starts within the limits.

    The posture's own tip then is the target, so how near it came does not matter.
    """
    theta = torch.full((len(tips), arm.num_links), torch.nan, dtype=torch.float64)
    for _ in range(_STARTS):
        starts = arm.sample(len(tips), generator)  # drawn for all, so that a tip's numbers depend on no other tip
        left = theta.isnan().any(-1).nonzero()[:, 0]
        found = levenberg_marquardt(arm, starts[left], tips[left], _ITERATIONS)
        near = (arm.tip(found) - tips[left]).norm(dim=-1) <= _NEAR * arm.reach
        theta[left[near]] = found[near]
    return theta[~theta.isnan().any(-1)]
