"""What the oracle says of the samples of a data set: ground truth beside every target."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robotics import oracle
from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.obstacles import Circles

NEAR_AN_END = 1e-9  # a sample this close to an interval is in it: both are subject to round-off [rad]


class Labels(NamedTuple):
    """Labels of N samples of a three-link arm.

    Attributes:
        verdict: `oracle.Verdict` of the target, int64 (N,).
        num_intervals: Number of intervals of Θ that answer a position, of postures that answer a pose, int64 (N,).
        elbow: Sign of θ_2 of the sample, -1 or 1, int64 (N,); -1 where it is straight or folded.
        interval: Least and largest Θ of the interval that the sample is in, (N, 2) [rad], the first in (-π, π]; NaN if
            the sample touches a circle.
    """

    verdict: Tensor
    num_intervals: Tensor
    elbow: Tensor
    interval: Tensor


def label(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles) -> Labels:
    """Return the labels of samples, joint angles (N, 3) that reach targets (N, 2) or (N, 3), among some circles."""
    found = oracle.solve(arm, targets, circles)
    bend = wrap_angle(theta[:, 1])
    elbow = torch.where((bend > 0) & (bend < math.pi), 1, -1)
    low, high = found.orientation.unbind(-1)
    offset = (arm.orientation(theta)[found.target] - low + NEAR_AN_END) % math.tau - NEAR_AN_END
    near_straight = bend[found.target].sin().abs() < NEAR_AN_END
    same_elbow = (found.elbow == elbow[found.target]) | near_straight
    mine = (same_elbow & (offset <= high - low + NEAR_AN_END)).nonzero()[:, 0]
    interval = torch.full((len(theta), 2), torch.nan, dtype=torch.float64)
    interval[found.target[mine]] = found.orientation[mine]
    return Labels(found.verdict, found.num_intervals, elbow, interval)
