"""The step of inverse kinematics where nothing is in the way: in closed form, with a test that nothing is."""

from __future__ import annotations

from functools import reduce
from operator import add

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
    mu = 0.1 * _sum(e.square().movedim(-1, 0)) + DAMPING
    J = arm.jacobian(theta).movedim((-2, -1), (0, 1)) / arm.reach  # the batch last, as in memory
    if targets.shape[-1] == 3:
        J = torch.cat((J, torch.ones_like(J[:1])))
    eye = torch.eye(len(J), dtype=theta.dtype, device=theta.device).reshape(len(J), len(J), *(1,) * mu.ndim)
    rows = torch.cat((J, mu.sqrt() * eye), 1)
    # The shortest z with [J, sqrt(mu) I] z = -e, of which dtheta is the first part, one row after the other.
    z = torch.zeros_like(rows[0])
    basis: list[tuple[Tensor, Tensor]] = []
    for row, error in zip(rows, e.unbind(-1), strict=True):
        across = row
        for other, inverse in basis:
            across = across - _sum(across * other) * inverse * other
        inverse = 1 / _sum(across.square())
        z = z - (error + _sum(row * z)) * inverse * across
        basis.append((across, inverse))
    return z[: arm.num_links].movedim(0, -1)


def _sum(terms: Tensor) -> Tensor:
    """Sum over the first dimension in one order: that of `Tensor.sum` depends on the size of the batch."""
    return reduce(add, terms.unbind(0))
