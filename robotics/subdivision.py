"""Which parts of the self-motion of three links are allowed: proofs by subdivision, then ends to round-off."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.obstacles import Circles
from robotics.self_motion import Ranges, SelfMotion, elbow_ranges

FIRST_LEVEL = 5  # a curve starts as 2^5 cells,
LEVEL = 20  # is cut down to 2^20, of Θ 6e-6 rad at the widest, where free ones end,
LAST_LEVEL = 40  # and to 2^40, 6e-12 rad, where nothing free is known
MOST_CELLS = 4096  # of one target that are neither blocked nor free: more are a curve along a limit, not its ends
ROUND_OFF = 1e-13  # of reach or rad: what is closer to a limit or a circle is neither blocked nor free
_MIDDLE = 2 ** (LAST_LEVEL - 1)
_JUNCTION = -1e-30  # the end of the negative side: as good as zero, with its sign


class Curves:
    """The curves of N targets, one for each elbow, and what limits and circles forbid on them.

    Links 1 and 3 turn about a fixed point, the base and the tip: each circle forbids them one range of angles, exactly.
    Link 2 is at most as far from its middle posture in a cell as the farther of its ends.

    Args:
        arm: An arm of three links.
        targets: (N, 2) [m] in float64.
        circles: One scene for all, or one for each.
    """

    def __init__(self, arm: PlanarArm, targets: Tensor, circles: Circles) -> None:
        self.arm, self.motion = arm, SelfMotion.of(arm, targets)
        self.centers = circles.centers.to(targets).expand(len(targets), -1, 2)
        self.radii = circles.radii.to(targets).expand(len(targets), -1) + arm.link_radius
        ranges = elbow_ranges(arm)
        self.allowed_elbows = [sign for sign in (-1, 1) if ranges[sign]]
        most = max(map(len, ranges.values()))
        padded = [ranges[sign] + [(math.inf, -math.inf)] * (most - len(ranges[sign])) for sign in (-1, 1)]
        self.bends = targets.new_tensor(padded).reshape(2, most, 2)
        self.forbidden = [
            forbidden_angles(targets.new_zeros(len(targets), 2), arm.lengths[0], self.centers, self.radii),
            forbidden_angles(targets, -arm.lengths[2], self.centers, self.radii),
        ]
        covered = torch.stack([half.isposinf().any(-1) for _, half in self.forbidden]).any(0)
        finite = self.centers.isfinite().all((-1, -2)) & self.radii.isfinite().all(-1)
        self.possible = self.motion.reachable & ~covered & finite

    def classify(self, target: Tensor, elbow: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return which cells are blocked by one limit or circle as a whole, and which are free of all, (M,) bool."""
        ranges = self.motion.enclose(target, elbow, start, end)
        flat, bent = ranges.elbow[:, None].unbind(-1)
        least, largest = self.bends[(elbow > 0).long()].unbind(-1)
        blocked = ((bent < least - ROUND_OFF) | (flat > largest + ROUND_OFF)).all(-1)
        free = ((flat > least + ROUND_OFF) & (bent < largest - ROUND_OFF)).any(-1)
        room = self._rooms(target, ranges)
        k = self.radii.shape[-1]
        turns = ranges.angles_half.repeat_interleave(torch.tensor([1 + k, 1, k], device=room.device), -1)
        spread = torch.cat((turns, (ranges.moved / self.arm.reach)[:, None].expand(-1, k)), -1)
        blocked |= (room + spread < -ROUND_OFF).any(-1)
        free &= (room - spread > ROUND_OFF).all(-1)
        return blocked, free

    def margin(self, target: Tensor, elbow: Tensor, place: Tensor) -> Tensor:
        """Return a continuous function of the place that is >= 0 where the posture is allowed, (M,)."""
        ranges = self.motion.enclose(target, elbow, place, place)
        bend = ranges.elbow.mean(-1, keepdim=True)
        least, largest = self.bends[(elbow > 0).long()].unbind(-1)
        bend_room = torch.minimum(bend - least, largest - bend).amax(-1)
        return torch.minimum(bend_room, self._rooms(target, ranges).amin(-1))

    def _rooms(self, target: Tensor, ranges: Ranges) -> Tensor:
        """Return the room of θ_1 (1 + k columns), θ_3 (1), Θ (k) [rad] and link 2 (k) [of reach]; < 0 is forbidden."""
        theta_1, theta_3, orientation = ranges.angles[..., None].unbind(-2)
        scene = Circles(self.centers[target], self.radii[target])
        rooms = (
            self._joint_room(0, theta_1),
            self._circle_room(0, target, theta_1),
            self._joint_room(2, theta_3),
            self._circle_room(1, target, orientation),
            scene.link_clearance(ranges.link).flatten(1) / self.arm.reach,
        )
        return torch.cat(rooms, -1)

    def _joint_room(self, joint: int, angle: Tensor) -> Tensor:
        lower, upper = self.arm.limits[joint]
        room = (upper - lower) / 2 - wrap_angle(angle - (lower + upper) / 2).abs()
        return room if upper - lower < math.tau else torch.full_like(room, torch.inf)

    def _circle_room(self, which: int, target: Tensor, angle: Tensor) -> Tensor:
        direction, half = (part[target] for part in self.forbidden[which])
        return wrap_angle(angle - direction).abs() - half


def forbidden_angles(pivot: Tensor, length: float, centers: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Return middle and half width of the angles at which a link that turns about a point touches circles.

    Args:
        pivot: The fixed end, (N, 2) [m].
        length: Of the link [m]; negative if its angle is taken at the other end.
        centers: (N, k, 2) [m].
        radii: With the radius of the link, (N, k) [m].

    Returns:
        Both (N, k) [rad]. The half width is +inf where the pivot itself is in the circle, -inf where the link is too
        short to touch it.
    """
    away = centers - pivot[:, None]
    distance = torch.hypot(away[..., 0], away[..., 1])
    direction = torch.atan2(math.copysign(1, length) * away[..., 1], math.copysign(1, length) * away[..., 0])
    length = abs(length)
    beside = (radii / distance).clamp(max=1.0).asin()  # the link is a tangent ...
    inner, outer = radii.square() - (distance - length).square(), (distance + length).square() - radii.square()
    at_the_end = 2 * torch.atan2(inner.clamp(min=0).sqrt(), outer.clamp(min=0).sqrt())  # ... or its end touches
    half = torch.where(distance.square() - radii.square() <= length**2, beside, at_the_end)
    half = torch.where(distance - length >= radii, -torch.inf, half)
    return direction, torch.where(distance < radii, torch.inf, half)


class Cells(NamedTuple):
    """Cells that are not blocked, in the order of their curves.

    Attributes:
        target: Index of the target, (M,).
        elbow: Sign of θ_2, (M,).
        ends: First and last end, int64 (M, 2), in units of 2^-LAST_LEVEL of a curve.
        free: Whether nothing forbids any of it, (M,) bool; else it is open.
    """

    target: Tensor
    elbow: Tensor
    ends: Tensor
    free: Tensor


def subdivide(curves: Curves) -> Cells:
    """Cut curves into cells until each is blocked or free, or as narrow as 2^-LEVEL of its curve.

    Open cells are then ends of free ones; those without a free neighbour are cut on, down to 2^-LAST_LEVEL.
    """
    possible = curves.possible.nonzero()[:, 0]
    elbows = torch.tensor(curves.allowed_elbows, device=possible.device)
    cells = torch.arange(2**FIRST_LEVEL, device=possible.device)
    target, elbow, cell = torch.cartesian_prod(possible, elbows, cells).unbind(-1)
    found = _in_order(_halve(curves, target, elbow, cell, FIRST_LEVEL, LEVEL))
    run = (~joined(curves, found)).cumsum(0) - 1
    alone = torch.zeros_like(run).index_put((run,), found.free.long(), accumulate=True)[run] == 0
    unit = 2 ** (LAST_LEVEL - LEVEL)
    alone &= found.ends.diff(dim=1)[:, 0] == unit  # not of a crowd
    if not alone.any():
        return found
    rest = [column[~alone] for column in found]
    deeper = _halve(curves, found.target[alone], found.elbow[alone], found.ends[alone, 0] // unit, LEVEL, LAST_LEVEL)
    return _in_order(Cells(*(torch.cat(columns) for columns in zip(rest, deeper, strict=True))))


def joined(curves: Curves, cells: Cells) -> Tensor:
    """Return whether a cell goes on where the one before it ends, (M,) bool."""
    after = torch.zeros_like(cells.free)
    after[1:] = (cells.ends[1:, 0] == cells.ends[:-1, 1]) & (cells.target[1:] == cells.target[:-1])
    after[1:] &= cells.elbow[1:] == cells.elbow[:-1]
    # The two sides meet where δ = 0, unless the wrist cannot get there.
    meet: Tensor = (cells.ends[:, 0] != _MIDDLE) | (curves.motion.first[cells.target] == 0)
    return after & meet


def places(cells: Cells) -> Tensor:
    """Return the ends of cells as places in [-1, 1], (M, 2)."""
    return torch.stack([_place(cells.ends[:, i], LAST_LEVEL, i == 1) for i in (0, 1)], -1)


def _halve(curves: Curves, target: Tensor, elbow: Tensor, cell: Tensor, first: int, last: int) -> Cells:
    """Return what is not blocked of some cells of 2^-first of a curve: free ones, and open ones of 2^-last."""
    found = []
    for level in range(first, last + 1):
        blocked, free = curves.classify(target, elbow, _place(cell, level, False), _place(cell + 1, level, True))
        mixed = ~(blocked | free)
        crowd = torch.bincount(target[mixed], minlength=len(curves.possible)) > MOST_CELLS
        done = free | mixed if level == last else free | (mixed & crowd[target])
        ends = torch.stack((cell, cell + 1), -1)[done] * 2 ** (LAST_LEVEL - level)
        found.append(Cells(target[done], elbow[done], ends, free[done]))
        more = ~(blocked | done)
        target, elbow = (part[more].repeat_interleave(2) for part in (target, elbow))
        cell = torch.stack((2 * cell[more], 2 * cell[more] + 1), -1).flatten()
    return Cells(*(torch.cat(column) for column in zip(*found, strict=True)))


def _in_order(cells: Cells) -> Cells:
    order = ((2 * cells.target + (cells.elbow > 0)) * 2 ** (LAST_LEVEL + 1) + cells.ends[:, 0]).argsort()
    return Cells(*(column[order] for column in cells))


def _place(unit: Tensor, level: int, end: bool) -> Tensor:
    """Return the place in [-1, 1] of the start or the end of a cell of 2^-level of a curve."""
    place: Tensor = unit.double() / 2.0 ** (level - 1) - 1
    return torch.where(place == 0, _JUNCTION, place) if end else place
