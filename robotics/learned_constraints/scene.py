"""A learned scene: how sure it is, and how much larger it must be before anything is called safe."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.learned_constraints.shapes import CIRCLES, Shape, circles_of
from robotics.obstacles import Circles

WALL = 1000.0  # of reach: radius of the circle that stands for a wall


class FitStatus(IntEnum):
    """Whether the demonstrations determine an obstacle."""

    IDENTIFIED = 0
    NOT_ACTIVE = 1
    NOT_DETERMINED = 2
    NOT_FITTED = 3

    @property
    def advice(self) -> str:
        """One line: what it means."""
        return {
            FitStatus.IDENTIFIED: "steps that it stopped determine it",
            FitStatus.NOT_ACTIVE: "it stopped too few of the steps to show where it is; demonstrate nearer to it",
            FitStatus.NOT_DETERMINED: "the steps that it stopped leave a direction free; demonstrate from other sides",
            FitStatus.NOT_FITTED: "the residual is above the tolerance; more obstacles, another shape, or noise",
        }[self]


class LearnedScene(NamedTuple):
    """Obstacles as the demonstrations tell them.

    Attributes:
        shape: their kind.
        numbers: `(k, size)`, as the shape takes them.
        status: `FitStatus` of each obstacle, `(k,)`.
        active: the obstacle that stopped each demonstration, -1 where none did, -2 where it was left out, `(N,)`.
        residual: root mean square of the difference of steps [rad].
        margin: distance [m] by which obstacles must grow so that no active demonstration shows them larger than a fit
            without it says; infinite where an obstacle has too few active ones for that.
        held_out: number m of active demonstrations that were left out in turn, each from a fit of its own.
        miss_rate: 2/(m + 1): a further active demonstration of the same distribution shows an obstacle beyond the
            margin at most so often, on average over sets of demonstrations, not for each set (jackknife+).
    """

    shape: Shape
    numbers: Tensor
    status: Tensor
    active: Tensor
    residual: float
    margin: float
    held_out: int
    miss_rate: float

    def enlarged(self) -> Tensor:
        """Return the numbers with the margin added: the scene to solve with.

        Raises:
            ValueError: an obstacle is not identified, or no margin could be set: nothing is called safe then.
        """
        for index, status in enumerate(self.status.tolist()):
            if status != FitStatus.IDENTIFIED:
                raise ValueError(f"{self.shape.name} {index}: {FitStatus(status).name}, {FitStatus(status).advice}")
        if not math.isfinite(self.margin):
            raise ValueError(
                f"margin: expected {self.shape.size + 1} or more active demonstrations of every {self.shape.name}, "
                "so that each can be left out, found fewer"
            )
        return self.shape.enlarge(self.numbers, self.margin)

    def circles(self) -> Circles:
        """Return the circles to solve with, enlarged by the margin; ValueError as from `enlarged`."""
        if self.shape.name != CIRCLES.name:
            raise ValueError(f"circles: expected a scene of circles, found one of the shape {self.shape.name}")
        return circles_of(self.enlarged())

    def scene(self, arm: PlanarArm) -> Circles:
        """Return what to solve with as circles, whatever the shape; ValueError as from `enlarged`.

        A wall becomes a circle of `WALL` times the reach that covers all of it that the arm can reach: 0.05 % of the
        reach too much, straight ahead of the base.
        """
        if self.shape.name == CIRCLES.name:
            return self.circles()
        angle, distance = self.enlarged().unbind(-1)
        radius = WALL * arm.reach
        bulge = radius - math.sqrt(radius**2 - arm.reach**2)
        center = (distance + bulge - radius)[:, None] * torch.stack((angle.cos(), angle.sin()), -1)
        return Circles(center, torch.full_like(distance, radius))
