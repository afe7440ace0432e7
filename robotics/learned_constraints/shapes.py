"""What can be unknown about a scene: a few numbers for each obstacle, and the rows of a step that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.ik_qp import MARGIN, ClearanceRows, clearance_rows
from robotics.obstacles import Circles


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A kind of obstacle.

    Attributes:
        name: what it is called.
        size: numbers for each obstacle.
        rows: from arm, postures `(*batch, n)` and numbers `(*batch, k, size)` to the rows of a step.
        draw: from arm, how many, k and a generator to numbers `(count, k, size)` to start from.
        enlarge: from numbers and a distance [m] to numbers of the obstacle that is so much larger.
        outgrown: from arm and two sets of numbers `(k, size)` to the distance [m] by which the first obstacles must
            grow to contain the second, as far as the arm reaches, `(k,)`; negative where they do by more.
    """

    name: str
    size: int
    rows: Callable[[PlanarArm, Tensor, Tensor], ClearanceRows]
    draw: Callable[[PlanarArm, int, int, torch.Generator], Tensor]
    enlarge: Callable[[Tensor, float], Tensor]
    outgrown: Callable[[PlanarArm, Tensor, Tensor], Tensor]


def circles_of(numbers: Tensor) -> Circles:
    """Return the circles of x, y [m] and log(radius / m), `(*batch, k, 3)`."""
    return Circles(numbers[..., :2], numbers[..., 2].exp())


def _circle_rows(arm: PlanarArm, theta: Tensor, numbers: Tensor) -> ClearanceRows:
    return clearance_rows(arm, theta, circles_of(numbers))


def _draw_circles(arm: PlanarArm, count: int, k: int, generator: torch.Generator) -> Tensor:
    turn, far, size = torch.rand(3, count, k, generator=generator, dtype=torch.float64)
    distance = arm.reach * far.sqrt()
    centers = torch.stack(((2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()), -1) * distance[..., None]
    radii = arm.reach * (0.03 + 0.12 * size)
    return torch.cat((centers, radii.log()[..., None]), -1)


def _enlarge_circles(numbers: Tensor, distance: float) -> Tensor:
    radii = numbers[..., 2:].exp() + distance
    return torch.cat((numbers[..., :2], radii.log()), -1)


def _outgrown_circles(arm: PlanarArm, numbers: Tensor, other: Tensor) -> Tensor:
    apart: Tensor = (numbers[:, :2] - other[:, :2]).norm(dim=-1)
    return apart + other[:, 2].exp() - numbers[:, 2].exp()


def _half_plane_rows(arm: PlanarArm, theta: Tensor, numbers: Tensor) -> ClearanceRows:
    """Rows of walls `n'p >= d` with n = (cos a, sin a), numbers a [rad] and d [m]: all joints but the base stay out."""
    angle, offset = numbers.unbind(-1)
    normal = torch.stack((angle.cos(), angle.sin()), -1)
    points, jacobians = arm.points(theta)[..., 1:, :], arm.point_jacobians(theta)[..., 1:, :, :]
    heights = points @ normal.mT  # (*batch, n, k)
    gap = heights - (offset + arm.link_radius + MARGIN * arm.reach)[..., None, :]
    slope = normal[..., None, :, :] @ jacobians  # (*batch, n, k, n)
    n, k = arm.num_links, numbers.shape[-2]
    end = torch.arange(1, n + 1, device=theta.device).repeat_interleave(k)
    which = torch.arange(k, device=theta.device).repeat(n)
    return ClearanceRows(gap.flatten(-2) / arm.reach, slope.flatten(-3, -2) / arm.reach, end, which)


def _draw_half_planes(arm: PlanarArm, count: int, k: int, generator: torch.Generator) -> Tensor:
    turn, far = torch.rand(2, count, k, generator=generator, dtype=torch.float64)
    return torch.stack((2 * math.pi * turn, -arm.reach * far), -1)  # the base is outside


def _enlarge_half_planes(numbers: Tensor, distance: float) -> Tensor:
    return torch.stack((numbers[..., 0], numbers[..., 1] + distance), -1)


def _outgrown_half_planes(arm: PlanarArm, numbers: Tensor, other: Tensor) -> Tensor:
    turn = wrap_angle(other[:, 0] - numbers[:, 0]).abs()  # moves a point in reach by at most so much across the wall
    return arm.reach * turn + other[:, 1] - numbers[:, 1]


CIRCLES = Shape(
    name="circle", size=3, rows=_circle_rows, draw=_draw_circles, enlarge=_enlarge_circles, outgrown=_outgrown_circles
)
HALF_PLANES = Shape(
    name="half-plane",
    size=2,
    rows=_half_plane_rows,
    draw=_draw_half_planes,
    enlarge=_enlarge_half_planes,
    outgrown=_outgrown_half_planes,
)
