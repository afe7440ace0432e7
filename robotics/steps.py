"""Steps of joint angles towards a target, each through a program: certified, or softened to leave a circle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem, QPSolution, SolverWarning, SolveStatus, solve_qp
from robotics.arm import PlanarArm
from robotics.free_step import free_step
from robotics.ik_qp import (
    MARGIN,
    ClearanceRows,
    build_step,
    certified_fraction,
    clearance_rows,
    remainder,
    task_error,
    tip_curvature,
)
from robotics.obstacles import Circles

STILL = 1e-14  # [rad]: the largest change of a joint angle of a step that leads nowhere
CHORD_PIECES = 8  # most parts of a straight path that are proved one after the other
SADDLE_BEND = 1e-4  # [rad]: certified steps make it about ten times as large, each
ESCAPE_LAYERS = 6
ESCAPE_MARGIN = 1e-3  # of reach: a start that leaves a circle keeps this far off, so that it ends strictly outside
ESCAPE_WEIGHT = 10.0


class Step(NamedTuple):
    """A step as it was taken, for those who watch; multipliers are those of the program whose solution it is.

    Attributes:
        certified: whether the rows were hard.
        start: joint angles before it, `(*batch, n)` [rad].
        end: joint angles after it, `(*batch, n)` [rad].
        fraction: share of the program's solution that was taken, `(*batch,)`.
        margin: extra distance in the rows, of reach.
        rows: the rows about circles.
        z_rows: their multipliers, `(*batch, r)`, >= 0.
        z_turns: multipliers of the trust region, dphi <= TRUST then -dphi <= TRUST, `(*batch, 2n)`, >= 0.
        z_limits: multipliers of the limits, `(*batch, n)`; < 0 at the lower, > 0 at the upper.
    """

    certified: bool
    start: Tensor
    end: Tensor
    fraction: Tensor
    margin: float
    rows: ClearanceRows
    z_rows: Tensor
    z_turns: Tensor
    z_limits: Tensor


Watch = Callable[[Step], None]


def certified_step(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool = False,
    limits: tuple[Tensor, Tensor] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Take one step of rows (C): solve without remainder, again with that step's remainder, then shorten.

    Where the minimiser without any row keeps all of them it is the solution of both programs, and none is solved.

    Args:
        arm: the arm, n links.
        theta: clear postures inside the limits, `(*batch, n)` [rad].
        targets: `(*batch, 2|3)` [m, m, rad].
        circles: the scene, shared or one per posture.
        curvature: see `build_step`; to get as near as can be to a target that cannot be reached.
        limits: see `build_step`; theta must be inside them.
        watch: called with the step.

    Returns:
        Joint angles `(*batch, n)` inside the limits; the whole straight path to them is clear of the circles.
    """
    end = _certified_end(arm, theta, targets, circles, curvature, limits)
    if watch is not None:
        watch(_observe(arm, theta, end, targets, circles, curvature, limits))
    return end


def _certified_end(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool,
    limits: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Take a certified step, by programs only where something is in the way."""
    batch = theta.shape[:-1]
    if curvature or not batch or targets.shape[:-1] != batch or circles.radii.shape[:-1] not in ((), batch):
        return _step_by_programs(arm, theta, targets, circles, curvature, limits)
    step, holds = free_step(arm, theta, targets, circles, limits)
    bound = (~holds).nonzero(as_tuple=True)
    if not bound[0].numel():
        return theta + step
    inside = None if limits is None else (limits[0][bound], limits[1][bound])
    end = _step_by_programs(arm, theta[bound], targets[bound], circles.pick(bound), False, inside)
    return torch.where(holds[..., None], theta + step, theta).index_put(bound, end)


def certified_steps(
    theta: Tensor, targets: Tensor, circles: Circles, layers: int, take: Callable[[Tensor, Tensor, Circles], Tensor]
) -> Tensor:
    """Take several steps, each from where the last one ended; without a gradient, finished elements stay.

    Finished is who moved by less than `STILL`, from rest to rest: further steps would do the same, up to round-off.

    Args:
        theta: `(*batch, n)` [rad].
        targets: `(*batch, 2|3)`.
        circles: the scene, shared or one per posture.
        layers: number of steps.
        take: one step, as `certified_step` takes it.
    """
    moving: tuple[Tensor, ...] | None = None
    for layer in range(layers):
        if moving is None:
            here, end = theta, take(theta, targets, circles)
            theta = end
        else:
            here = theta[moving]
            end = take(here, targets[moving], circles.pick(moving))
            theta = theta.index_put(moving, end)
        if layer + 1 < layers and not torch.is_grad_enabled() and theta.ndim > 1:
            moves = ~((end - here).abs().amax(-1) <= STILL)  # a NaN goes on
            moving = moves.nonzero(as_tuple=True) if moving is None else tuple(index[moves] for index in moving)
            if not moving[0].numel():
                break
    return theta


def _step_by_programs(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool,
    limits: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Take a certified step by its two programs; see `certified_step` for the arguments."""
    rows = clearance_rows(arm, theta, circles)
    problem = build_step(arm, theta, targets, rows, curvature=curvature, limits=limits)
    step = _solve(problem).x
    lower, upper = arm.limits_tensor(theta) if limits is None else limits
    if not circles.radii.shape[-1]:
        return (theta + step).clamp(lower, upper)
    step = _with_remainder(arm, step, rows, problem)
    step = (theta + step).clamp(lower, upper) - theta  # before the certificate, which is of the step as taken
    return (theta + step * _certified(arm, step, rows)).clamp(lower, upper)


def _observe(
    arm: PlanarArm,
    theta: Tensor,
    end: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool,
    limits: tuple[Tensor, Tensor] | None,
) -> Step:
    """Describe a certified step by both its programs, solved for everyone: watching must not change the step."""
    rows = clearance_rows(arm, theta, circles)
    build = partial(build_step, arm, theta, targets, rows, curvature=curvature, limits=limits)
    first = last = _solve(build())
    step = first.x
    fraction = torch.ones_like(step[..., 0])
    if circles.radii.shape[-1]:
        last = _solve(build(remainder(arm, step, rows)))
        step = torch.where(last.solved[..., None], last.x, step)
        fraction = _certified(arm, step, rows)[..., 0]
    return Step(True, theta, end, fraction, MARGIN, rows, *_multipliers(arm, last, first))


def _with_remainder(arm: PlanarArm, step: Tensor, rows: ClearanceRows, problem: QPProblem) -> Tensor:
    """Solve again with the remainder of the first program's step, where that step does not keep those rows too.

    Where it does it is the solution: the second program has the same cost and fewer feasible points.
    """
    rem = remainder(arm, step, rows)
    kept = (rows.gap.clamp(min=0) + (rows.slope @ step[..., None])[..., 0] >= rem).all(-1)
    if bool(kept.all()):
        return step
    n = arm.num_links
    tight = torch.cat((problem.h[..., : 2 * n], problem.h[..., 2 * n :] - rem), -1)  # type: ignore[index]
    if not kept.ndim:
        again = _solve(problem._replace(h=tight))
        return torch.where(again.solved[..., None], again.x, step)
    where = (~kept).nonzero(as_tuple=True)
    left = QPProblem(*(None if part is None else part[where] for part in problem._replace(h=tight)))  # type: ignore[arg-type]
    again = _solve(left)
    # With the remainder the rows may have no point in common; the first step, shortened, stands then.
    return step.index_put(where, torch.where(again.solved[..., None], again.x, step[where]))


def leave_saddle(
    arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, limits: tuple[Tensor, Tensor]
) -> Tensor:
    """Bend postures a little where the tip error has no slope but falls to both sides, as a stretched arm's can.

    Towards the side where it falls more inside the limits; where the way there is not proved clear, the posture stays.
    The arguments are those of `certified_step`.
    """
    J, error = arm.jacobian(theta) / arm.reach, task_error(arm, theta, targets)[..., :2]
    slope = (J.mT @ error[..., None])[..., 0]
    flat = (slope.norm(dim=-1) <= 1e-9 * error.norm(dim=-1)) & (error.norm(dim=-1) > SADDLE_BEND)
    if not bool(flat.any()):
        return theta
    values, vectors = torch.linalg.eigh(J.mT @ J + tip_curvature(arm, theta, error))
    bend = SADDLE_BEND * vectors[..., 0]
    left, right = ((theta + side * bend).clamp(*limits) for side in (1, -1))
    left_error, right_error = (task_error(arm, side, targets).norm(dim=-1) for side in (left, right))
    bent = torch.where((left_error <= right_error)[..., None], left, right)
    leaves = flat & (values[..., 0] < 0) & certified_chord(arm, theta, bent, circles)
    return torch.where(leaves[..., None], bent, theta)


def certified_chord(arm: PlanarArm, start: Tensor, end: Tensor, circles: Circles) -> Tensor:
    """Return whether the whole straight joint-space path between two postures is proved clear, `(*batch,)`.

    The rows (C) prove a first part of it; those of the posture there prove more, up to `CHORD_PIECES` parts.

    Args:
        arm: the arm, n links.
        start: clear postures `(*batch, n)` [rad].
        end: where the paths end, `(*batch, n)` [rad].
        circles: the scene, shared or one per path.
    """
    proved = start.new_zeros(*start.shape[:-1], 1)
    if not circles.radii.shape[-1]:
        return proved[..., 0] == 0
    for _ in range(CHORD_PIECES):
        here = start + proved * (end - start)
        fraction = _certified(arm, end - here, clearance_rows(arm, here, circles))
        proved = torch.where(fraction == 1, 1.0, proved + fraction * (1 - proved))
        if bool(((proved == 1) | (fraction == 0)).all()):
            break
    return proved[..., 0] == 1


def _certified(arm: PlanarArm, step: Tensor, rows: ClearanceRows) -> Tensor:
    """Return the certified part of a step; a tenth of the margin is given up, or in contact round-off would stop it."""
    return certified_fraction(arm, step, rows._replace(gap=rows.gap + 0.1 * MARGIN))


def soft_step(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    circles: Circles,
    margin: float,
    slack_weight: float = ESCAPE_WEIGHT,
    watch: Watch | None = None,
) -> Tensor:
    """Take one step whose rows about circles may be broken at a price; see `certified_step` for the arguments."""
    rows = clearance_rows(arm, theta, circles, margin)
    solved = _solve(build_step(arm, theta, targets, rows, slack_weight=slack_weight))
    lower, upper = arm.limits_tensor(theta)
    end = (theta + solved.x[..., : arm.num_links]).clamp(lower, upper)
    if watch is not None:
        whole = torch.ones_like(end[..., 0])
        watch(Step(False, theta, end, whole, margin, rows, *_multipliers(arm, solved)))
    return end


def escape(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, watch: Watch | None = None) -> Tensor:
    """Lead postures that touch a circle out of it, by softened steps; leave the others alone.

    Those who watch see the postures that are led, alone.
    """
    if not circles.radii.shape[-1]:
        return theta
    inside: tuple[Tensor, ...] | None = None
    for _ in range(ESCAPE_LAYERS):
        here = theta if inside is None else theta[inside]
        scene = circles if inside is None else circles.pick(inside)
        touches = scene.clearance(arm.points(here.detach()), arm.link_radius) < MARGIN * arm.reach
        inside = touches.nonzero(as_tuple=True) if inside is None else tuple(index[touches] for index in inside)
        if not inside[0].numel():
            break
        left = soft_step(arm, theta[inside], targets[inside], circles.pick(inside), ESCAPE_MARGIN, watch=watch)
        theta = theta.index_put(inside, left)
    return theta


def solve_quietly(problem: QPProblem) -> QPSolution:
    """Solve; what fails says so in its status alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        return solve_qp(*problem)


class _Solved(NamedTuple):
    x: Tensor  # zero where there is no solution
    z: Tensor
    z_box: Tensor
    solved: Tensor


def _solve(problem: QPProblem) -> _Solved:
    """Solve; a program without solution gives a zero step."""
    solution = solve_quietly(problem)
    solved = solution.status == SolveStatus.SOLVED
    return _Solved(torch.where(solved[..., None], solution.x, 0.0), solution.z, solution.z_box, solved)


def _multipliers(arm: PlanarArm, *programs: _Solved) -> tuple[Tensor, Tensor, Tensor]:
    """Return z_rows, z_turns, z_limits of the first program that has a solution, zeros where none has."""
    z, z_limits = (torch.zeros_like(part) for part in (programs[0].z, programs[0].z_box))
    for program in reversed(programs):
        z = torch.where(program.solved[..., None], program.z, z)
        z_limits = torch.where(program.solved[..., None], program.z_box, z_limits)
    n = arm.num_links
    return z[..., 2 * n :], z[..., : 2 * n], z_limits[..., :n]
