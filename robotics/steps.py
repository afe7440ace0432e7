"""Steps of joint angles towards a target, each through a program: certified, or softened to leave a circle."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.free_step import free_step
from robotics.ik_qp import MARGIN, build_step, clearance_rows, share_taken
from robotics.obstacles import Circles
from robotics.programs import solve, solve_step
from robotics.step_record import Watch, observe_certified, observe_soft

STILL = 1e-14  # [rad]: the largest change of a joint angle of a step that leads nowhere
ESCAPE_LAYERS = 6
ESCAPE_MARGIN = 1e-3  # of reach: a start that leaves a circle keeps this far off, so that it ends strictly outside
ESCAPE_WEIGHT = 10.0


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
        watch(observe_certified(arm, theta, end, targets, circles, curvature, limits))
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


def certified_steps(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, layers: int) -> Tensor:
    """Take several certified steps, each from where the last one ended; without a gradient, finished elements stay.

    Finished is who moved by less than `STILL`, from rest to rest: further steps would do the same, up to round-off.
    The arguments are those of `certified_step`, and the number of steps.
    """
    moving: tuple[Tensor, ...] | None = None
    for layer in range(layers):
        if moving is None:
            here, end = theta, certified_step(arm, theta, targets, circles)
            theta = end
        else:
            here = theta[moving]
            end = certified_step(arm, here, targets[moving], circles.pick(moving))
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
    rows, _, _, step = solve_step(arm, theta, targets, circles, curvature, limits)
    lower, upper = arm.limits_tensor(theta) if limits is None else limits
    if not circles.radii.shape[-1]:
        return (theta + step).clamp(lower, upper)
    step = (theta + step).clamp(lower, upper) - theta  # before the certificate, which is of the step as taken
    return (theta + step * share_taken(arm, step, rows)).clamp(lower, upper)


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
    solved = solve(build_step(arm, theta, targets, rows, slack_weight=slack_weight))
    lower, upper = arm.limits_tensor(theta)
    end = (theta + solved.x[..., : arm.num_links]).clamp(lower, upper)
    if watch is not None:
        watch(observe_soft(arm, theta, end, margin, rows, solved))
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


def refine(arm: PlanarArm, start: Tensor, targets: Tensor, circles: Circles, layers: int) -> Tensor:
    """Return where certified steps lead from any starts: moved into the limits, and out of circles first.

    Args:
        arm: the arm, n links.
        start: `(*batch, n)` [rad].
        targets: `(*batch, 2|3)`.
        circles: the scene, shared or one per start.
        layers: number of certified steps.

    Returns:
        Joint angles `(*batch, n)` inside the limits; clear of the circles wherever the softened steps led out of them.
    """
    if start.ndim == 1:  # the escape picks elements of a batch
        return refine(arm, start[None], targets[None], circles, layers)[0]
    theta = escape(arm, start.clamp(*arm.limits_tensor(start)), targets, circles)
    return certified_steps(arm, theta, targets, circles, layers)
