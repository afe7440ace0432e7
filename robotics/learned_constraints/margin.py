"""How much larger learned obstacles must be: every active demonstration judged by a fit that did not see it.

Leave-one-out residuals of all active demonstrations, with the moves of the fits added (jackknife+).
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.learned_constraints.demonstrations import Demonstrations
from robotics.learned_constraints.losses import polish, row_values, step_loss
from robotics.learned_constraints.shapes import Shape

LEFT_OUT = 50  # most demonstrations that are left out in turn: the first of the active ones
REFIT_STEPS = 8  # of L-BFGS, from the fit to all demonstrations: the optimum without one is near


class Margin(NamedTuple):
    """By how much obstacles must grow, and how often that is not enough.

    Attributes:
        distance: [m]; infinite where too few demonstrations are active.
        held_out: number m of active demonstrations that were left out in turn.
        miss_rate: see `LearnedScene`; one without a margin.
    """

    distance: float
    held_out: int
    miss_rate: float


def leave_one_out(
    arm: PlanarArm, demonstrations: Demonstrations, active: Tensor, shape: Shape, numbers: Tensor
) -> Margin:
    """Return the margin of obstacles that were fitted to all demonstrations.

    The fit without demonstration i is N_i, and s_i >= 0 is the distance by which that demonstration shows N_i too
    small. The margin is the least that the obstacles need to contain every N_i grown by s_i. A further active
    demonstration that shows more is one that beats the s_i of every i, by a fit without either: among m + 1 of one
    distribution that is so for 2/(m + 1) of the time at most, on average over the sets of demonstrations.

    Args:
        arm: The arm.
        demonstrations: N of them, all finite.
        active: The obstacle that stopped each, (N,), -1 where none did.
        shape: Kind of the obstacles.
        numbers: (k, size), fitted to all demonstrations.

    References:
        Barber, Candès, Ramdas, Tibshirani (2021), Predictive inference with the jackknife+, theorem 1, at
        alpha = 1/(m + 1). The rows of two circles that are next to each other are taken to differ by the distance of
        the circles, which neglects how the normals turn.
    """
    stopped = (active >= 0).nonzero()[:, 0][:LEFT_OUT]
    if torch.bincount(active[active >= 0], minlength=len(numbers)).min() <= shape.size:
        return Margin(math.inf, 0, 1.0)
    distance = 0.0
    everyone = torch.arange(len(active))
    for index in stopped:
        rest = demonstrations.pick(everyone[everyone != index])
        refit = polish(partial(step_loss, arm, rest, shape), numbers, REFIT_STEPS)
        shown = row_values(arm, demonstrations.pick(index[None]), shape, refit).min() * arm.reach
        moved = shape.outgrown(arm, numbers, refit)
        distance = max(distance, float((shown.clamp(min=0) + moved).max()))
    return Margin(distance, len(stopped), 2 / (len(stopped) + 1))
