"""Steps of joint angles towards a target, each through a program: certified, or softened to leave a circle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem, QPSolution, SolverWarning, SolveStatus, solve_qp
from robotics.arm import PlanarArm
from robotics.ik_qp import MARGIN, ClearanceRows, build_step, certified_fraction, clearance_rows, remainder
from robotics.obstacles import Circles

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
    watch: Watch | None = None,
) -> Tensor:
    """Take one step of rows (C): solve without remainder, again with that step's remainder, then shorten.

    Args:
        arm: the arm, n links.
        theta: clear postures inside the limits, `(*batch, n)` [rad].
        targets: `(*batch, 2|3)` [m, m, rad].
        circles: the scene, shared or one per posture.
        curvature: see `build_step`; to get as near as can be to a target that cannot be reached.
        watch: called with the step.

    Returns:
        Joint angles `(*batch, n)` inside the limits; the whole straight path to them is clear of the circles.
    """
    rows = clearance_rows(arm, theta, circles)
    step, z, z_limits, _ = _solve(build_step(arm, theta, targets, rows, curvature=curvature))
    if circles.radii.shape[-1]:
        again = _solve(build_step(arm, theta, targets, rows, remainder(arm, step, rows), curvature=curvature))
        # With the remainder the rows may have no point in common; the first step, shortened, stands then.
        stands = again.solved[..., None]
        step = torch.where(stands, again.x, step)
        z, z_limits = torch.where(stands, again.z, z), torch.where(stands, again.z_box, z_limits)
    lower, upper = arm.limits_tensor(theta)
    step = (theta + step).clamp(lower, upper) - theta  # before the certificate, which is of the step as taken
    fraction = torch.ones_like(step[..., :1])
    if circles.radii.shape[-1]:
        # In contact, round-off in a row must not stop the arm: a tenth of the margin is given up for that.
        allowed = rows._replace(gap=rows.gap + 0.1 * MARGIN)
        fraction = certified_fraction(arm, step, allowed)
        step = step * fraction
    end = (theta + step).clamp(lower, upper)
    if watch is not None:
        n = 2 * arm.num_links
        watch(Step(True, theta, end, fraction[..., 0], MARGIN, rows, z[..., n:], z[..., :n], z_limits))
    return end


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
    x, z, z_box, _ = _solve(build_step(arm, theta, targets, rows, slack_weight=slack_weight))
    lower, upper = arm.limits_tensor(theta)
    n = arm.num_links
    end = (theta + x[..., :n]).clamp(lower, upper)
    if watch is not None:
        whole = torch.ones_like(x[..., 0])
        watch(Step(False, theta, end, whole, margin, rows, z[..., 2 * n :], z[..., : 2 * n], z_box[..., :n]))
    return end


def escape(arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, watch: Watch | None = None) -> Tensor:
    """Lead postures that touch a circle out of it, by softened steps; leave the others alone.

    Those who watch see the postures that are led, alone.
    """
    if not circles.radii.shape[-1]:
        return theta
    for _ in range(ESCAPE_LAYERS):
        clearance = circles.clearance(arm.points(theta.detach()), arm.link_radius)
        inside = (clearance < MARGIN * arm.reach).nonzero(as_tuple=True)
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
    x: Tensor
    z: Tensor
    z_box: Tensor
    solved: Tensor


def _solve(problem: QPProblem) -> _Solved:
    """Solve; a program without solution gives a zero step and zero multipliers."""
    solution = solve_quietly(problem)
    solved = solution.status == SolveStatus.SOLVED
    x, z, z_box = (torch.where(solved[..., None], part, 0.0) for part in (solution.x, solution.z, solution.z_box))
    return _Solved(x, z, z_box, solved)
