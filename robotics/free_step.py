"""The step of inverse kinematics where nothing is in the way: in closed form, with a test that nothing is."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import DAMPING, MARGIN, TRUST, task_error
from robotics.obstacles import Circles


def free_step(
    arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, limits: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the minimiser of a step's cost without any row, `(*batch, n)`, and where it keeps them all, `(*batch,)`.

    There it solves the program of `build_step` with and without remainder: a point that is best among more points
    than may be chosen, and may be chosen, is best. That no row about a circle is broken is seen from the clearance d:
    a point e of the arm moves by at most sum_{m <= e} l_m |dphi_m|, so the row (C) of a link holds where
    d - margin >= sum_m l_m (|dphi_m| + dphi_m² / 2).

    Args:
        arm: the arm, n links.
        theta: where the step starts, `(*batch, n)` [rad].
        targets: `(*batch, 2|3)`.
        circles: the scene, shared or one per posture.
        limits: see `build_step`.
    """
    step = damped_step(arm, theta, targets)
    lower, upper = arm.limits_tensor(theta) if limits is None else limits
    end, turn = theta + step, step.movedim(-1, 0).cumsum(0).abs()
    holds = ((end >= lower) & (end <= upper)).all(-1) & (turn <= TRUST).all(0)
    if circles.radii.shape[-1]:
        lengths = theta.new_tensor(arm.lengths).reshape(-1, *(1,) * (theta.ndim - 1))
        way = (lengths * (turn + 0.5 * turn.square())).cumsum(0).movedim(0, -1)
        with torch.no_grad():
            room = circles.link_clearance(arm.points(theta), arm.link_radius).amin(-1)
            holds = holds & (room - MARGIN * arm.reach >= way).all(-1)
    return step, holds


def damped_step(arm: PlanarArm, theta: Tensor, targets: Tensor) -> Tensor:
    """Return `-J'(JJ' + mu I)^-1 e`, the minimiser of `1/2 |J dtheta + e|² + mu/2 |dtheta|²`, `(*batch, n)`.

    The rows of [J, sqrt(mu) I] are made orthogonal one after the other, which squares no condition number: the step
    is as exact as J, stretched and folded arms included.
    """
    e = task_error(arm, theta, targets)
    mu = 0.1 * e.square().sum(-1) + DAMPING
    J = list((arm.jacobian(theta) / arm.reach).unbind(-2))
    if targets.shape[-1] == 3:
        J.append(torch.ones_like(J[0]))
    errors, root = e.unbind(-1), mu.sqrt()
    zero = torch.zeros_like(root)
    basis: list[tuple[Tensor, Tensor]] = []  # orthogonal rows, and 1/|row|²
    step = torch.zeros_like(theta)
    for i, row in enumerate(J):
        # The minimum-norm solution of [J, sqrt(mu) I] z = -e is built from one orthogonal row after the other.
        damping = torch.stack([root if j == i else zero for j in range(len(J))], -1)
        long = torch.cat((row, damping), -1)
        for other, inverse in basis:
            long = long - ((long * other).sum(-1) * inverse)[..., None] * other
        basis.append((long, 1 / long.square().sum(-1)))
    z = torch.zeros_like(basis[0][0])
    for i, (long, inverse) in enumerate(basis):
        whole = torch.cat((J[i], torch.stack([root if j == i else zero for j in range(len(J))], -1)), -1)
        z = z - ((errors[i] + (whole * z).sum(-1)) * inverse)[..., None] * long
    return step + z[..., : arm.num_links]
