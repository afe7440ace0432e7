"""What a solver is, and what several of them share: restarts with rejection, and rows at the closest points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.models.answer import IKAnswer, check_batch
from robotics.models.attempts import Attempts, Refine
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


@torch.no_grad()
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
    check_batch(targets, circles, 3 if targets.shape[-1] == 3 else 2, tolerance)
    attempts = Attempts(arm, targets, circles, tolerance)
    for number in range(restarts):
        if not len(attempts.left()):
            break
        attempts.attempt(starts(number), refine)
    return attempts.answer()


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
