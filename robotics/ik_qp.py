"""The quadratic programs of inverse kinematics among circles: built here, solved elsewhere.

Every row about a circle comes from a half-plane that separates a link from it. With the closest point of link i,
n = (c* - o)/|c* - o|, and R = r + rho + margin, both end points e of the link must satisfy

    n'(p_e - o) + n'J_e dtheta  >=  R + 1/2 sum_{m <= e} l_m dphi_m²                                    (C)

Then the link is outside the circle at theta + dtheta and along the whole straight joint-space step: n supports the
link, so both ends start in the half-plane; the second-order remainder of p_e is at most the last term; and a segment
whose ends lie in a half-plane lies in it. Lengths are divided by the arm's reach throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem
from robotics.angles import principal_angle, wrap_angle
from robotics.arm import PlanarArm
from robotics.obstacles import Circles

DAMPING = 1e-8  # least weight of the square of the step beside that of the task error
TRUST = 0.5  # largest change of an absolute link angle in one step [rad]
MARGIN = 1e-8  # kept to circles, in reach: ten times the QP's tolerance, or round-off would break the certificate


class ClearanceRows(NamedTuple):
    """Rows `gap + slope dtheta >= remainder` of (C), divided by reach; r = (2n - 1) k of them.

    Attributes:
        gap: `n'(p_e - o) - R`, `(*batch, r)`; >= 0 if the posture is clear.
        slope: `n'J_e`, `(*batch, r, n)` [1/rad].
        end: index e >= 1 of the point of each row, `(r,)`.
        circle: index of the circle of each row, `(r,)`.
    """

    gap: Tensor
    slope: Tensor
    end: Tensor
    circle: Tensor


def clearance_rows(arm: PlanarArm, theta: Tensor, circles: Circles, margin: float = MARGIN) -> ClearanceRows:
    """Linearise the clearance of both ends of every link to every circle.

    The base end of link 1 does not move and gives no row. The normal stays attached to the graph: detaching it
    makes the gradient with respect to the circles wrong.

    Args:
        arm: the arm, n links.
        theta: joint angles `(*batch, n)` [rad].
        circles: k circles, shared or one scene per arm.
        margin: extra distance, of the reach.
    """
    points = arm.points(theta)
    jacobians = arm.point_jacobians(theta)
    normal = circles.witness(points, arm.link_radius).normal
    centers = circles.centers.to(points)[..., None, :, :]
    radius = circles.radii.to(points)[..., None, :] + arm.link_radius + margin * arm.reach
    gaps, slopes = [], []
    for p, J in ((points[..., :-1, :], jacobians[..., :-1, :, :]), (points[..., 1:, :], jacobians[..., 1:, :, :])):
        gaps.append((normal * (p[..., None, :] - centers)).sum(-1) - radius)
        slopes.append(normal @ J)
    n, k = arm.num_links, circles.radii.shape[-1]
    # (*batch, link, end, circle): the first k rows belong to the base.
    gap = torch.stack(gaps, -2).flatten(-3)[..., k:] / arm.reach
    slope = torch.stack(slopes, -3).flatten(-4, -2)[..., k:, :] / arm.reach
    link = torch.arange(n, device=theta.device)
    end = torch.stack((link, link + 1), -1).repeat_interleave(k, -1).flatten()[k:]
    return ClearanceRows(gap, slope, end, torch.arange(k, device=theta.device).repeat(2 * n)[k:])


def remainder(arm: PlanarArm, step: Tensor, rows: ClearanceRows) -> Tensor:
    """Return the bound `1/2 sum_{m <= e} l_m dphi_m²` on the second-order term of each row, `(*batch, r)`, of reach."""
    lengths = torch.tensor(arm.lengths, dtype=step.dtype, device=step.device)
    sums = (0.5 * lengths * step.cumsum(-1).square()).cumsum(-1) / arm.reach
    return sums[..., rows.end - 1]


def certified_fraction(arm: PlanarArm, step: Tensor, rows: ClearanceRows) -> Tensor:
    """Return the largest s in [0, 1] for which the path theta + t step, t in [0, s], is certified, `(*batch, 1)`.

    Along the path a row holds `a + t b - t² rem`, concave in t with a >= 0 at the start, so it stays non-negative
    up to its positive root.
    """
    rem = remainder(arm, step, rows)
    a = rows.gap.clamp(min=0)
    b = (rows.slope @ step[..., None])[..., 0]
    short = a + b - rem < 0  # implies rem > 0 or b < 0
    # The root in the form 2a / (sqrt(b² + 4 rem a) - b) has no cancellation where it is small (b < 0) ...
    root = (b.square() + 4 * rem * a).clamp(min=torch.finfo(a.dtype).tiny).sqrt()
    falling = 2 * a / torch.where(short & (b < 0), root - b, 1.0)
    # ... and (b + sqrt(...)) / (2 rem) has none where b >= 0; rem > 0 there, since a + b < rem.
    rising = (b + root) / torch.where(short & (b >= 0), 2 * rem, 1.0)
    fraction = torch.where(short, torch.where(b < 0, falling, rising), 1.0)
    return torch.nn.functional.pad(fraction, (0, 1), value=1.0).amin(-1, keepdim=True).clamp(0, 1)


def share_taken(arm: PlanarArm, step: Tensor, rows: ClearanceRows) -> Tensor:
    """Return `certified_fraction` with a tenth of the margin given up, or in contact round-off would stop the arm."""
    return certified_fraction(arm, step, rows._replace(gap=rows.gap + 0.1 * MARGIN))


def task_error(arm: PlanarArm, theta: Tensor, targets: Tensor) -> Tensor:
    """Return (tip - target)/reach, and the wrapped orientation error [rad] if targets hold one, `(*batch, 2|3)`."""
    error = (arm.tip(theta) - targets[..., :2]) / arm.reach
    if targets.shape[-1] == 2:
        return error
    turn = wrap_angle(arm.orientation(theta) - principal_angle(targets[..., 2]))
    return torch.cat((error, turn[..., None]), -1)


def task_jacobian(arm: PlanarArm, theta: Tensor, width: int) -> Tensor:
    """Return the Jacobian of `task_error` for targets of this width, `(*batch, width, n)` [1/rad]."""
    J = arm.jacobian(theta) / arm.reach
    return J if width == 2 else torch.cat((J, torch.ones_like(J[..., :1, :])), -2)


def tip_curvature(arm: PlanarArm, theta: Tensor, force: Tensor) -> Tensor:
    """Return force' d²tip/dtheta² / reach, `(*batch, n, n)`, for a constant force `(*batch, 2)`.

    Joints j and k turn the tip about the farther of them, so the second derivative is minus the lever from there.
    """
    points = arm.points(theta)
    lever = (force[..., None, :] * (points[..., -1:, :] - points[..., :-1, :])).sum(-1) / arm.reach
    joint = torch.arange(arm.num_links, device=theta.device)
    farther: Tensor = lever[..., torch.maximum(joint[:, None], joint)]
    return -farther


def _convex_part(matrix: Tensor) -> Tensor:
    """Return the symmetric matrix with its eigenvalues raised to 1e-8."""
    values, vectors = torch.linalg.eigh(matrix)
    raised: Tensor = vectors @ (values.clamp(min=1e-8)[..., None] * vectors.mT)
    return raised


def build_step(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    rows: ClearanceRows,
    remainder: Tensor | None = None,
    *,
    slack_weight: float | None = None,
    curvature: bool = False,
    limits: tuple[Tensor, Tensor] | None = None,
) -> QPProblem:
    """Build the program of one step: damped least squares on the task inside limits, trust region and rows.

        min  1/2 |J dtheta + e|² + mu/2 |dtheta|² [+ kappa 1'sigma + eps/2 |sigma|²]
        s.t. limits,  |dphi_m| <= TRUST,  gap + slope dtheta [+ sigma of the circle] >= remainder

    with mu = 0.1 |e|² + 1e-8. The task is never a hard equality: it may be out of reach.

    Args:
        arm: the arm, n links.
        theta: where the step starts, `(*batch, n)` [rad], inside the limits.
        targets: `(*batch, 2)` [m] or `(*batch, 3)` [m, m, rad].
        rows: from `clearance_rows`; starts that are not clear are held to no further penetration.
        remainder: bound on the second-order terms, `(*batch, r)`; None is zero.
        slack_weight: kappa; None makes the rows hard and dtheta = 0 feasible.
        curvature: whether the cost has the second derivative of the task error too, as far as it is convex: slower to
            build, and much faster where an error stays.
        limits: (lower, upper), each `(*batch, n)` [rad], in place of the arm's own, to hold them and velocities.

    Returns:
        Variables dtheta `(*batch, n)`, followed by one slack per circle if `slack_weight` is given.
    """
    n = arm.num_links
    J, e = task_jacobian(arm, theta, targets.shape[-1]), task_error(arm, theta, targets)
    mu = 0.1 * e.square().sum(-1) + DAMPING
    eye = torch.eye(n, dtype=theta.dtype, device=theta.device)
    P = J.mT @ J + mu[..., None, None] * eye
    if curvature:
        P = _convex_part(P + tip_curvature(arm, theta, e[..., :2]))
    q = (J.mT @ e[..., None])[..., 0]
    lower, upper = arm.limits_tensor(theta) if limits is None else limits
    lb, ub = lower - theta, upper - theta
    batch = theta.shape[:-1]
    turn = torch.ones_like(eye).tril().expand(*batch, n, n)  # dphi = turn dtheta
    gap = rows.gap if slack_weight is not None else rows.gap.clamp(min=0)
    if remainder is not None:
        gap = gap - remainder
    G = torch.cat((turn, -turn, -rows.slope), -2)
    h = torch.cat((torch.full((*batch, 2 * n), TRUST, dtype=theta.dtype, device=theta.device), gap), -1)
    if slack_weight is None:
        return QPProblem(P, q, G, h, lb=lb, ub=ub)
    k = int(rows.circle.max()) + 1 if rows.circle.numel() else 0
    pick = torch.nn.functional.one_hot(rows.circle, k).to(theta) if k else theta.new_zeros(0, 0)
    columns = torch.cat((theta.new_zeros(2 * n, k), -pick)).expand(*batch, -1, k)
    P = torch.nn.functional.pad(P, (0, k, 0, k)) + torch.diag_embed(
        torch.cat((theta.new_zeros(n), theta.new_full((k,), 1e-6)))
    )
    q = torch.nn.functional.pad(q, (0, k), value=slack_weight)
    lb, ub = torch.nn.functional.pad(lb, (0, k)), torch.nn.functional.pad(ub, (0, k), value=torch.inf)
    return QPProblem(P, q, torch.cat((G, columns), -1), h, lb=lb, ub=ub)
