"""What a solver is, and what all of them share: restarts, rejection, and modules that may not be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_answer, check_batch, in_reach, is_safe
from robotics.obstacles import Circles


class Solver(Protocol):
    """A way to answer targets; models are solvers too, so that one `metrics.evaluate` scores all."""

    @property
    def arm(self) -> PlanarArm:
        """The arm."""

    def config(self) -> dict[str, Any]:
        """Return the name, under "model", and the options."""

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`; what is not safe is never returned as SOLVED."""


Refine = Callable[[Tensor, Tensor, Circles], Tensor]
"""From starts (m, n), inside the limits, to better joint angles, for m targets and their scenes."""


def answer_with_restarts(
    arm: PlanarArm,
    targets: Tensor,
    circles: Circles,
    tolerance: float,
    starts: Callable[[int], Tensor],
    restarts: int,
    refine: Refine,
) -> IKAnswer:
    """Refine start after start until a safe posture is within tolerance; return the best safe one, or none.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)` in float64.
        circles: the scene, shared or one per target.
        tolerance: largest task error, of reach and rad, that ends the search.
        starts: from the number of a restart to starts `(N, n)`.
        restarts: how many starts are tried.
        refine: what makes of a start something better.
    """
    check_batch(targets, circles, 3 if targets.shape[-1] == 3 else 2)
    aim = torch.where(targets.isfinite().all(-1, keepdim=True), targets, 0.0)
    hopeful = targets.isfinite().all(-1) & in_reach(arm, targets, tolerance)
    best = targets.new_full((len(targets), arm.num_links), torch.nan)
    least = targets.new_full((len(targets),), torch.inf)
    for number in range(restarts):
        left = (hopeful & (least > tolerance)).nonzero()[:, 0]
        if not len(left):
            break
        scene = circles.pick(left)
        theta = refine(starts(number)[left], aim[left], scene)
        error = task_error(arm, theta, aim[left]).norm(dim=-1)
        error = torch.where(is_safe(arm, theta, scene), error, torch.inf)
        better = error < least[left]
        best[left[better]], least[left[better]] = theta[better], error[better]
    return check_answer(arm, best, targets, circles, tolerance)


def closest_point_rows(arm: PlanarArm, theta: Tensor, circles: Circles) -> tuple[Tensor, Tensor]:
    """Return the clearance of every link to every circle and its slope, of reach: `(*batch, n k)`, `(*batch, n k, n)`.

    The slope is that of the closest point, taken as fixed to its link.
    """
    points, jacobians = arm.points(theta), arm.point_jacobians(theta)
    witness = circles.witness(points, arm.link_radius)
    share = witness.t[..., None, None]
    J = (1 - share) * jacobians[..., :-1, None, :, :] + share * jacobians[..., 1:, None, :, :]
    slope = (witness.normal[..., None, :] @ J)[..., 0, :].flatten(-3, -2) / arm.reach
    return witness.clearance.flatten(-2) / arm.reach, slope
