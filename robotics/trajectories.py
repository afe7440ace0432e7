"""Tracking: an arm follows a target that moves from tick to tick, through quadratic programs.

In each tick a few certified steps lead from the last posture towards the new target, with the velocity limit as bounds
of every program. The arm then takes the straight joint-space step to the last posture that such a step is proved clear
to; the first one's is by construction. So an arm never jumps to another branch, and where a circle is in the way it
waits or slides.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robotics import oracle
from robotics.angles import principal_angle, wrap_angle
from robotics.arm import PlanarArm
from robotics.checks import check_count, check_one_scene
from robotics.chords import certified_chord
from robotics.ik_qp import build_step, clearance_rows
from robotics.models.answer import in_reach, is_safe
from robotics.obstacles import Circles
from robotics.programs import solve_quietly
from robotics.saddles import leave_saddle
from robotics.search import closest_postures
from robotics.steps import certified_step

LAYERS = 4
TOLERANCE = 1e-6
MOST_STARTS = 16  # of the oracle's intervals, the widest


class TrackStatus(IntEnum):
    """What came of one tick."""

    REACHED = 0
    NOT_REACHED = 1
    HELD_BY_CIRCLE = 2
    HELD_BY_SPEED = 3
    HELD_BY_LIMIT = 4
    OUT_OF_REACH = 5
    INVALID_INPUT = 6

    @property
    def advice(self) -> str:
        """One line: what it means."""
        return _ADVICE[self]


_ADVICE = {
    TrackStatus.REACHED: "the tip is within tolerance of the target",
    TrackStatus.NOT_REACHED: "still on the way: more layers, or more ticks, may get there",
    TrackStatus.HELD_BY_CIRCLE: "a circle is in the way: the arm waits, or slides along it",
    TrackStatus.HELD_BY_SPEED: "the target is faster than the joints",
    TrackStatus.HELD_BY_LIMIT: "a joint is at its limit",
    TrackStatus.OUT_OF_REACH: "the lengths of the links alone keep the target out of reach",
    TrackStatus.INVALID_INPUT: "the target is not a finite number: the arm stays",
}


class Track(NamedTuple):
    """What the arm did in T ticks.

    Attributes:
        start: posture before the first tick, `(*batch, n)` [rad].
        theta: posture after each tick, `(*batch, T, n)` [rad].
        status: `TrackStatus` of each tick, `(*batch, T)`.
        tip_error: distance of tip and target, `(*batch, T)` [m]; NaN where the target is.
        clearance: signed clearance of the whole arm after each tick, `(*batch, T)` [m].
    """

    start: Tensor
    theta: Tensor
    status: Tensor
    tip_error: Tensor
    clearance: Tensor

    @property
    def steps(self) -> Tensor:
        """Change of every joint in each tick, `(*batch, T, n)` [rad]."""
        return torch.cat((self.start[..., None, :], self.theta), -2).diff(dim=-2)


@torch.no_grad()
def track(
    arm: PlanarArm,
    start: Tensor,
    targets: Tensor,
    circles: Circles,
    *,
    speed: float = math.inf,
    layers: int = LAYERS,
    tolerance: float = TOLERANCE,
) -> Track:
    """Follow targets from a posture.

    Args:
        arm: the arm, n links.
        start: postures before the first tick, inside the limits and clear, `(*batch, n)` [rad].
        targets: `(T, 2)` [m] or `(T, 3)` [m, m, rad], the same for the whole batch; the arm stays where one is NaN.
        circles: one scene for all.
        speed: largest change of a joint in one tick [rad].
        layers: certified steps in one tick.
        tolerance: largest tip error of a REACHED target, of reach; for poses also on the orientation [rad].

    Raises:
        ValueError: an argument has another shape or value, or a start is not safe.
    """
    _check(arm, start, targets, circles, speed, layers, tolerance)
    shape, start = start.shape[:-1], start.reshape(-1, arm.num_links)
    theta, postures = start, []
    for target in targets:
        if bool(target.isfinite().all()):
            theta = _tick(arm, theta, target.expand(len(theta), -1), circles, speed, layers)
        postures.append(theta)
    path = torch.stack(postures, 1)
    result = _judge(arm, start, path, targets.expand(len(start), -1, -1), circles, speed, tolerance)
    return Track(*(v.reshape(*shape, *v.shape[1:]) for v in result))


def find_starts(arm: PlanarArm, target: Tensor, circles: Circles) -> Tensor:
    """Return safe postures at a target, `(S, n)` [rad]: of three links one for each branch, else one.

    Where there is none, the nearest that is found, among postures that are clear.

    Args:
        arm: the arm, n links.
        target: `(2|3,)`.
        circles: one scene.

    Raises:
        ValueError: the target is not finite, or no posture is clear.
    """
    if not bool(target.isfinite().all()):
        raise ValueError(f"targets[0]: expected finite numbers to start at, found {target.tolist()}")
    if arm.num_links == 3:
        found = oracle.solve(arm, target[None], circles)
        widest = found.orientation.diff(dim=1)[:, 0].argsort(descending=True)
        postures = found.theta[widest]
        postures = postures[is_safe(arm, postures, circles)][:MOST_STARTS]
        if len(postures):
            return postures
    nearest, error = closest_postures(arm, target[None], circles)
    if not bool(error.isfinite().all()):
        raise ValueError("circles: expected a scene with room for the arm, found no posture that is clear")
    return nearest


def track_best(arm: PlanarArm, targets: Tensor, circles: Circles, **how: Any) -> Track:
    """Follow targets from every start that `find_starts` finds, at once; return the track that reaches most of them.

    Of two that reach as many, the one of the smaller mean error.

    Args:
        arm: the arm, n links.
        targets: `(T, 2|3)`, the first of them finite.
        circles: one scene.
        how: `speed`, `layers` and `tolerance` of `track`.
    """
    if targets.ndim != 2 or not len(targets):
        raise ValueError(f"targets: expected shape (T >= 1, 2) or (T, 3), found {tuple(targets.shape)}")
    tracks = track(arm, find_starts(arm, targets[0], circles), targets, circles, **how)
    reached = (tracks.status == TrackStatus.REACHED).sum(-1)
    error = tracks.tip_error.nanmean(-1).nan_to_num()
    best = int(torch.where(reached == reached.max(), error, torch.inf).argmin())
    return Track(*(v[best] for v in tracks))


def _tick(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, speed: float, layers: int) -> Tensor:
    limits = _limits(arm, theta, speed)
    start = leave_saddle(arm, theta, targets, circles, limits)
    end = on_the_way = certified_step(arm, start, targets, circles, limits=limits)
    bent = (start != theta).any(-1)
    if bool(bent.any()):  # else the step itself is the proof
        end = torch.where((~bent | certified_chord(arm, theta, end, circles))[:, None], end, start)
    for _ in range(layers - 1):
        on_the_way = certified_step(arm, on_the_way, targets, circles, limits=limits)
        clear = certified_chord(arm, theta, on_the_way, circles)
        end = torch.where(clear[:, None], on_the_way, end)
    return end


def _limits(arm: PlanarArm, theta: Tensor, speed: float) -> tuple[Tensor, Tensor]:
    """Return the limits of the arm and of the velocity around postures; round-off stays inside them."""
    lower, upper = arm.limits_tensor(theta)
    change = speed * (1 - 1e-12)
    return torch.maximum(lower, theta - change), torch.minimum(upper, theta + change)


def _judge(
    arm: PlanarArm, start: Tensor, theta: Tensor, targets: Tensor, circles: Circles, speed: float, tolerance: float
) -> Track:
    error = (arm.tip(theta) - targets[..., :2]).norm(dim=-1)
    reached = error <= tolerance * arm.reach
    if targets.shape[-1] == 3:
        reached &= wrap_angle(arm.orientation(theta) - principal_angle(targets[..., 2])).abs() <= tolerance
    status = torch.where(reached, int(TrackStatus.REACHED), int(TrackStatus.NOT_REACHED))
    finite = targets.isfinite().all(-1)
    missed = (~reached & finite).nonzero(as_tuple=True)
    before = torch.cat((start[:, None], theta[:, :-1]), 1)
    status[missed] = _held_by(arm, before[missed], theta[missed], targets[missed], circles, speed)
    far = ~in_reach(arm, targets.flatten(0, 1), tolerance).reshape(finite.shape)
    status[far] = int(TrackStatus.OUT_OF_REACH)
    status[~finite] = int(TrackStatus.INVALID_INPUT)
    return Track(start, theta, status, error, circles.clearance(arm.points(theta), arm.link_radius))


def _held_by(arm: PlanarArm, before: Tensor, theta: Tensor, targets: Tensor, circles: Circles, speed: float) -> Tensor:
    """Ask the program of one more step what stops it: a circle, else the speed, else a limit of a joint."""
    limits = _limits(arm, before, speed)
    problem = build_step(arm, theta, targets, clearance_rows(arm, theta, circles), limits=limits)
    solution = solve_quietly(problem)
    strong = 1e-6 * problem.q.norm(dim=-1)
    at_bound = solution.z_box.abs() > strong[:, None]
    lower, upper = arm.limits_tensor(theta)
    own = torch.where(solution.z_box < 0, limits[0] == lower, limits[1] == upper)
    status = torch.full_like(strong, int(TrackStatus.NOT_REACHED), dtype=torch.int64)
    for verdict, holds in (  # the later, the stronger
        (TrackStatus.HELD_BY_LIMIT, (at_bound & own).any(-1)),
        (TrackStatus.HELD_BY_SPEED, (at_bound & ~own).any(-1)),
        (TrackStatus.HELD_BY_CIRCLE, (solution.z[:, 2 * arm.num_links :] > strong[:, None]).any(-1)),
    ):
        status = torch.where(holds, int(verdict), status)
    return status


def _check(
    arm: PlanarArm, start: Tensor, targets: Tensor, circles: Circles, speed: float, layers: int, tolerance: float
) -> None:
    if targets.ndim != 2 or targets.shape[1] not in (2, 3) or not len(targets) or targets.dtype != torch.float64:
        found = f"{tuple(targets.shape)} in {targets.dtype}"
        raise ValueError(f"targets: expected shape (T >= 1, 2) or (T, 3) in float64, found {found}")
    check_one_scene(circles.centers, circles.radii)
    if start.dtype != torch.float64 or not start.ndim or start.shape[-1] != arm.num_links:
        found = f"{tuple(start.shape)} in {start.dtype}"
        raise ValueError(f"start: expected shape (*batch, {arm.num_links}) in float64, found {found}")
    if not bool(is_safe(arm, start, circles).all()):
        raise ValueError("start: expected postures inside the limits and clear of the circles, found one that is not")
    for name, value in (("speed", speed), ("tolerance", tolerance)):
        if not value > 0:
            raise ValueError(f"{name}: expected a number > 0, found {value}")
    check_count("layers", layers)
