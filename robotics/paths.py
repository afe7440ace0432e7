"""Paths of targets, one for each tick: circles, squares, figures of eight, and lines through waypoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.checks import check_choice, check_count, finite_numbers

SHAPES = ("circle", "square", "eight")


def shape_path(
    shape: str, center: tuple[float, float], size: float, ticks: int, orientation: float | None = None
) -> Tensor:
    """Return a closed path, once around, that ends where it starts.

    Args:
        shape: "circle", "square" or "eight", a lying one.
        center: of the shape [m].
        size: radius, half the side, half the width [m].
        ticks: number of targets, at least 2; of a square, at least 5.
        orientation: of the tip, the same all along [rad]; None leaves it free.

    Returns:
        Targets `(ticks, 2)` [m] or `(ticks, 3)` [m, m, rad].

    Raises:
        ValueError: an argument is none of these.
    """
    check_choice("shape", shape, SHAPES)
    x, y = finite_numbers("center", list(center), 2)
    (size,) = finite_numbers("size", [size])
    if size <= 0:
        raise ValueError(f"size: expected a number > 0, found {size}")
    check_count("ticks", ticks, 2)
    if shape == "square":
        corners = ((1, -1), (1, 1), (-1, 1), (-1, -1), (1, -1))
        points = line_path(torch.tensor([(x + size * i, y + size * j) for i, j in corners], dtype=torch.float64), ticks)
    else:
        turn = torch.linspace(0, math.tau, ticks, dtype=torch.float64)
        across, along = (turn.cos(), turn.sin()) if shape == "circle" else (turn.sin(), 0.5 * (2 * turn).sin())
        points = torch.stack((x + size * across, y + size * along), -1)
        points[-1] = points[0]
    if orientation is None:
        return points
    (angle,) = finite_numbers("orientation", [orientation])
    return torch.cat((points, torch.full_like(points[:, :1], angle)), -1)


def line_path(waypoints: Tensor, ticks: int) -> Tensor:
    """Return the straight lines through waypoints, at the same speed all along; each waypoint has a tick of its own.

    One waypoint is stayed at. Orientations turn the shorter way; they have no part in the speed.

    Args:
        waypoints: `(N, 2)` [m] or `(N, 3)` [m, m, rad], in float64.
        ticks: number of targets, at least N.

    Raises:
        ValueError: there is no waypoint, one is not finite, or there are more of them than ticks.
    """
    if waypoints.ndim != 2 or waypoints.shape[1] not in (2, 3) or not len(waypoints):
        raise ValueError(f"waypoints: expected shape (N >= 1, 2) or (N, 3), found {tuple(waypoints.shape)}")
    if waypoints.dtype != torch.float64:
        raise ValueError(f"waypoints: expected float64, found {waypoints.dtype}")
    for row in (~waypoints.isfinite().all(-1)).nonzero()[:1, 0].tolist():
        raise ValueError(f"waypoints[{row}]: expected finite numbers, found {waypoints[row].tolist()}")
    count = len(waypoints)
    check_count("ticks", ticks, count)
    if count == 1:
        return waypoints.expand(ticks, -1).clone()
    if waypoints.shape[1] == 3:
        turns = wrap_angle(waypoints[:, 2].diff())
        angles = torch.cat((waypoints[:1, 2], waypoints[0, 2] + turns.cumsum(0)))
        waypoints = torch.cat((waypoints[:, :2], angles[:, None]), -1)
    lengths = waypoints[:, :2].diff(dim=0).norm(dim=-1)
    way = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    share = way / way[-1] if way[-1] > 0 else torch.linspace(0, 1, count, dtype=torch.float64)
    # One tick for each waypoint, and the others by length.
    own = torch.arange(count) + (share * (ticks - count)).round()
    tick = torch.arange(ticks, dtype=torch.float64)
    line = (torch.searchsorted(own, tick, right=True) - 1).clamp(0, count - 2)
    part = ((tick - own[line]) / (own[line + 1] - own[line]))[:, None]
    return waypoints[line] * (1 - part) + waypoints[line + 1] * part
