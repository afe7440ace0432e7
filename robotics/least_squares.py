"""The task error made small by damped Gauss-Newton steps, without a program: batched, inside joint limits."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import task_error, task_jacobian

DONE = 1e-13  # of reach or rad: below this, steps are round-off


def bounded_step(arm: PlanarArm, theta: Tensor, error: Tensor, damping: Tensor) -> Tensor:
    """Return the step -J'(JJ' + damping I)⁻¹ e, without the joints that it would push beyond a limit they are at.

    Args:
        arm: the arm, n links.
        theta: joint angles `(*batch, n)` [rad], inside the limits.
        error: `task_error` there, `(*batch, 2|3)`.
        damping: λ² `(*batch,)`, of reach squared.

    Returns:
        The step after which the joints are inside the limits, `(*batch, n)` [rad].
    """
    lower, upper = arm.limits_tensor(theta)
    J = task_jacobian(arm, theta, error.shape[-1])
    eye = torch.eye(error.shape[-1], dtype=theta.dtype, device=theta.device)
    for _ in range(2):
        step = -(J.mT @ torch.linalg.solve(J @ J.mT + damping[..., None, None] * eye, error[..., None]))[..., 0]
        blocked = ((theta <= lower) & (step < 0)) | ((theta >= upper) & (step > 0))
        J = torch.where(blocked[..., None, :], 0.0, J)
    inside: Tensor = (theta + step).clamp(lower, upper)
    return inside - theta


def levenberg_marquardt(arm: PlanarArm, theta: Tensor, targets: Tensor, iterations: int) -> Tensor:
    """Return joint angles inside the limits with a smaller task error; circles play no part.

    A step that makes the error larger is not taken, and the damping grows four times; else it falls to a fifth.

    Args:
        arm: the arm, n links.
        theta: starts `(N, n)` [rad], inside the limits.
        targets: `(N, 2|3)`.
        iterations: steps tried at most.
    """
    theta = theta.clone()
    error = task_error(arm, theta, targets)
    damping = 0.1 * error.square().sum(-1)
    for _ in range(iterations):
        live = (error.norm(dim=-1) > DONE).nonzero()[:, 0]
        if not live.numel():
            break
        start, before = theta[live], error[live]
        end = start + bounded_step(arm, start, before, damping[live] + 1e-16)
        after = task_error(arm, end, targets[live])
        better = after.norm(dim=-1) < before.norm(dim=-1)
        theta[live] = torch.where(better[:, None], end, start)
        error[live] = torch.where(better[:, None], after, before)
        damping[live] = torch.where(better, damping[live] / 5, 4 * damping[live].clamp(min=1e-8))
    return theta


def damped_least_squares(
    arm: PlanarArm, theta: Tensor, targets: Tensor, iterations: int, damping: float = 0.02
) -> Tensor:
    """Return joint angles after so many steps of constant damping λ, of reach: the textbook's method.

    Args:
        arm: the arm, n links.
        theta: starts `(N, n)` [rad], inside the limits.
        targets: `(N, 2|3)`.
        iterations: steps taken.
        damping: λ.
    """
    constant = theta.new_full(theta.shape[:1], damping**2)
    for _ in range(iterations):
        theta = theta + bounded_step(arm, theta, task_error(arm, theta, targets), constant)
    return theta
