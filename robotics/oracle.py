"""Ground truth for three links: all postures at a target, and proofs that there is none.

A position leaves one degree of freedom, so its answers are intervals of the orientation Θ for each elbow. They are
found by subdivision of the curves of `robotics.self_motion`: a cell is *blocked* if some limit or some circle forbids
all of it, *free* if nothing can forbid any of it, both by exact ranges, and is halved otherwise. So no interval is
missed, however narrow, and INFEASIBLE is a proof up to round-off. What is neither after the last halving holds an end
of an interval, which is then refined to round-off, or stays undecided.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.angles import principal_angle, wrap_angle
from robotics.arm import PlanarArm
from robotics.bisection import find_crossing
from robotics.obstacles import Circles
from robotics.subdivision import ROUND_OFF, Cells, Curves, joined, places, subdivide

PLACES = 5  # looked at in an interval for a posture with much room
CHUNK = 1024  # targets at once, so that a level's numbers stay in the processor's cache


class Verdict(IntEnum):
    """What is known of a target."""

    FEASIBLE = 0
    INFEASIBLE = 1
    UNDECIDED = 2
    INVALID_INPUT = 3

    @property
    def advice(self) -> str:
        """One line: what it means."""
        return _ADVICE[self]


_ADVICE = {
    Verdict.FEASIBLE: "a posture within the limits and clear of the circles is known",
    Verdict.INFEASIBLE: "every posture at the target is proved to break a limit or touch a circle",
    Verdict.UNDECIDED: "no such posture is known, but the last cells could not be proved blocked",
    Verdict.INVALID_INPUT: "the target or its scene is not a finite number",
}


class Solutions(NamedTuple):
    """All answers to N targets, as M intervals sorted by target, elbow and orientation.

    Attributes:
        verdict: `Verdict` of each target, int64 (N,).
        target: Index of the target of each interval, (M,).
        elbow: Sign of θ_2, -1 or 1, int64 (M,); a straight or folded elbow is at the end of an interval of each.
        orientation: Least and largest Θ, (M, 2) [rad]; the first in (-π, π], the second less than a turn further.
        theta: Joint angles (M, 3) [rad], inside the limits, of the posture with the most room of a few in the interval.
    """

    verdict: Tensor
    target: Tensor
    elbow: Tensor
    orientation: Tensor
    theta: Tensor

    @property
    def num_intervals(self) -> Tensor:
        """Number of intervals of each target, (N,)."""
        return torch.bincount(self.target, minlength=len(self.verdict))


def solve_positions(arm: PlanarArm, targets: Tensor, circles: Circles) -> Solutions:
    """Return all postures whose tip is at a position, within the limits and clear of circles along the whole arm.

    Args:
        arm: An arm of three links.
        targets: (N, 2) [m].
        circles: One scene for all targets, or one for each.

    Returns:
        Everything wider than 6e-12 rad, except gaps and further pieces within 6e-6 rad of an end. INFEASIBLE is never
        wrong; UNDECIDED is said where nothing allowed is found, but less than 6e-12 rad could not be excluded.
    """
    _check(arm, targets, circles, 2)
    parts = []
    for first in range(0, max(len(targets), 1), CHUNK):
        chunk = slice(first, first + CHUNK)
        part = _solve_chunk(arm, targets[chunk].double(), circles.pick(chunk))
        parts.append(part._replace(target=part.target + first))
    return Solutions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def solve_poses(arm: PlanarArm, targets: Tensor, circles: Circles) -> Solutions:
    """Return the postures, two at most, at a position and orientation, (N, 3) [m, m, rad]; see `solve_positions`.

    The intervals have no width. A posture closer to a limit or a circle than round-off is not counted, and leaves the
    target UNDECIDED. So does a wrist on the base, where the arm, folded, may turn about it: of these postures the one
    with θ_1 = 0 is looked at, and INFEASIBLE is said only where the limits forbid the fold itself.
    """
    _check(arm, targets, circles, 3)
    targets = targets.double()
    targets = torch.cat((targets[:, :2], principal_angle(targets[:, 2:])), -1)
    theta, reachable = arm.inverse(targets)
    lower, upper = arm.limits_tensor(theta)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    offset = wrap_angle(theta - middle)
    theta = middle + offset
    bend_blur, blur = _pose_blur(arm, targets, theta)
    scene = circles if circles.radii.ndim == 1 else Circles(circles.centers[:, None], circles.radii[:, None])
    clear = scene.clearance(arm.points(theta), arm.link_radius) / arm.reach
    room_1, bend_room, room_3 = torch.where(half < math.pi, half - offset.abs(), torch.inf).unbind(-1)
    room = torch.minimum(torch.minimum(room_1, room_3), clear)
    distance = torch.stack((theta[:, 0], theta[:, 1]), 1).diff(dim=1)[:, 0].abs().amax(-1)
    double = reachable[:, 0] & (distance < bend_blur[:, 0])  # straight or folded: one posture, not two
    allowed = reachable & (torch.minimum(room, bend_room) > 0) & torch.stack((torch.ones_like(double), ~double), -1)
    proved = (~reachable | (room < -blur) | (bend_room < -bend_blur)).all(-1)
    verdict = torch.where(proved, int(Verdict.INFEASIBLE), int(Verdict.UNDECIDED))
    verdict = torch.where(allowed.any(-1), int(Verdict.FEASIBLE), verdict)
    verdict = torch.where(_invalid(targets, circles), int(Verdict.INVALID_INPUT), verdict)
    target, branch = allowed.nonzero(as_tuple=True)
    orientation = wrap_angle(targets[target, 2])
    return Solutions(verdict, target, 2 * branch - 1, torch.stack((orientation,) * 2, -1), theta[target, branch])


def _pose_blur(arm: PlanarArm, targets: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far round-off can be from both postures of a pose: θ_2, and all else, (N, 2) [rad, of reach]."""
    # A round-off of ρ² moves θ_2 by it over l_1 l_2 sin θ_2, and like its root where the arm is straight or folded.
    noise = 1e-14 * arm.reach**2 / (arm.lengths[0] * arm.lengths[1])
    bend = ROUND_OFF + noise / theta[..., 1].sin().abs().clamp(min=math.sqrt(noise))
    # The direction from base to wrist is uncertain by round-off over their distance, and not known where they meet.
    x, y, orientation = targets.unbind(-1)
    wrist = torch.hypot(x - arm.lengths[2] * orientation.cos(), y - arm.lengths[2] * orientation.sin())
    return bend, bend + (ROUND_OFF * arm.reach / wrist)[:, None]


def solve(arm: PlanarArm, targets: Tensor, circles: Circles) -> Solutions:
    """Return all postures at positions (N, 2) or poses (N, 3); see `solve_positions` and `solve_poses`."""
    if targets.ndim == 2 and targets.shape[1] == 3:
        return solve_poses(arm, targets, circles)
    return solve_positions(arm, targets, circles)


def _solve_chunk(arm: PlanarArm, targets: Tensor, circles: Circles) -> Solutions:
    curves = Curves(arm, targets, circles)
    cells = subdivide(curves)
    target, elbow, ends = _runs(curves, cells)
    angles = torch.stack([curves.motion.angle(target, place) for place in ends.unbind(-1)], -1)
    orientation = curves.motion.azimuth[target, None] + angles
    theta = curves.motion.theta(target, elbow, _roomiest(curves, target, elbow, ends))
    verdict = torch.full((len(targets),), int(Verdict.INFEASIBLE), device=targets.device)
    verdict[cells.target[~cells.free]] = int(Verdict.UNDECIDED)
    verdict[target] = int(Verdict.FEASIBLE)
    verdict[_invalid(targets, circles)] = int(Verdict.INVALID_INPUT)
    kept, orientation = _close(curves, target, elbow, ends, orientation)
    turn = orientation[:, :1] - wrap_angle(orientation[:, :1])
    return Solutions(verdict, target[kept], elbow[kept], (orientation - turn)[kept], theta[kept])


def _runs(curves: Curves, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Return target and elbow, (M,), and both ends, as places (M, 2), of every run of allowed cells."""
    ends, after = places(cells), joined(curves, cells)
    middle, is_open = ends.mean(-1), ~cells.free
    allowed = cells.free.clone()
    allowed[is_open] = curves.margin(cells.target[is_open], cells.elbow[is_open], middle[is_open]) >= 0
    goes_on = after.roll(-1)
    first = (allowed & ~(after & allowed.roll(1))).nonzero()[:, 0]
    last = (allowed & ~(goes_on & allowed.roll(-1))).nonzero()[:, 0]
    # From an allowed place to one that is not: the middle of an open neighbour, or the edge to a blocked one.
    edge = torch.cat((ends[first, 0], ends[last, 1]))
    index, neighbour = torch.cat((first, last)), torch.cat((first - 1, last + 1)) % max(len(middle), 1)
    outer = torch.where(torch.cat((after[first], goes_on[last])), middle[neighbour], edge)
    inner = torch.where(cells.free[index], edge, middle[index])
    target, elbow = cells.target[index], cells.elbow[index]
    found = find_crossing(lambda live, place: curves.margin(target[live], elbow[live], place), inner, outer)
    num = len(first)
    return target[:num], elbow[:num], torch.stack((found[:num], found[num:]), -1)


def _roomiest(curves: Curves, target: Tensor, elbow: Tensor, ends: Tensor) -> Tensor:
    """Return of some places between the ends the one farthest from what forbids it, (M,)."""
    shares = torch.linspace(0, 1, PLACES + 2, dtype=ends.dtype, device=ends.device)[1:-1, None]
    candidates = ends[:, 0] + shares * (ends[:, 1] - ends[:, 0])
    rooms = torch.stack([curves.margin(target, elbow, place) for place in candidates])
    best: Tensor = candidates.gather(0, rooms.argmax(0)[None])[0]
    return best


def _close(curves: Curves, target: Tensor, elbow: Tensor, ends: Tensor, orientation: Tensor) -> tuple[Tensor, Tensor]:
    """Join the last run of a curve to the first where the curve is closed, at δ = π; return the runs kept and Θ."""
    kept = torch.ones_like(target, dtype=torch.bool)
    if not len(target):
        return kept, orientation
    curve = 2 * target + (elbow > 0)
    new = torch.ones_like(kept)
    new[1:] = curve[1:] != curve[:-1]
    first = new.nonzero()[:, 0][new.cumsum(0) - 1]  # the first run of the curve of each run
    last = new.roll(-1)
    joined = last & (ends[:, 1] == 1) & (ends[first, 0] == -1) & (curves.motion.last[target] >= math.pi)
    joined &= first != torch.arange(len(target), device=target.device)
    orientation = orientation.clone()
    orientation[joined, 1] = orientation[first[joined], 1] + math.tau
    kept[first[joined]] = False
    return kept, orientation


def _invalid(targets: Tensor, circles: Circles) -> Tensor:
    scene = circles.centers.isfinite().all((-1, -2)) & circles.radii.isfinite().all(-1)
    return ~(targets.isfinite().all(-1) & scene)


def _check(arm: PlanarArm, targets: Tensor, circles: Circles, width: int) -> None:
    if arm.num_links != 3:
        raise ValueError(f"arm: expected 3 links, for which there is a closed form, found {arm.num_links}")
    if targets.ndim != 2 or targets.shape[1] != width or not targets.is_floating_point():
        raise ValueError(f"targets: expected numbers of shape (N, {width}), found {tuple(targets.shape)}")
    if circles.radii.ndim != 1 and circles.radii.shape[:-1] != targets.shape[:1]:
        expected = f"(k,) or ({targets.shape[0]}, k)"
        raise ValueError(f"circles: expected radii of shape {expected}, found {tuple(circles.radii.shape)}")
