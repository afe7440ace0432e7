"""The SLSQP of scipy from random starts, with the clearance of every link to every circle as a constraint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_count, require
from robotics.ik_qp import task_error, task_jacobian
from robotics.models.answer import IKAnswer
from robotics.obstacles import Circles
from robotics.solvers.base import answer_with_restarts, closest_point_rows


@final
@dataclass(frozen=True, kw_only=True)
class SLSQP:
    """A general nonlinear solver: half the squared task error, within limits, clear of the circles.

    Attributes:
        arm: the arm, n links.
        restarts: random starts tried for a target.
        iterations: of each.
        margin: clearance that the constraints ask for, of reach: they are kept to about 1e-8 only.
        seed: seed of the starts.

    References:
        Kraft (1988), DFVLR-FB 88-28.
    """

    arm: PlanarArm
    restarts: int = 10
    iterations: int = 100
    margin: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("restarts", self.restarts)
        check_count("iterations", self.iterations)

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        return {"model": "slsqp", "restarts": self.restarts, "iterations": self.iterations, "seed": self.seed}

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`, one after the other.

        Raises:
            ImportError: scipy is not installed.
        """
        minimize = require("scipy.optimize", "scipy", "robotics").minimize
        generator = torch.Generator().manual_seed(self.seed)

        def refine(starts: Tensor, targets: Tensor, circles: Circles) -> Tensor:
            rows = [
                self._one(minimize, start, target, circles.pick(i))
                for i, (start, target) in enumerate(zip(starts, targets, strict=True))
            ]
            lower, upper = self.arm.limits_tensor(starts)
            return torch.stack(rows).clamp(lower, upper)

        def sample(_: int) -> Tensor:
            return self.arm.sample(len(targets), generator)

        return answer_with_restarts(self.arm, targets, circles, tolerance, sample, self.restarts, refine)

    def _one(self, minimize: Any, start: Tensor, target: Tensor, circles: Circles) -> Tensor:
        arm, width = self.arm, target.shape[-1]

        def cost(x: Any) -> tuple[float, Any]:
            theta = torch.from_numpy(x)
            error = task_error(arm, theta, target)
            slope = error @ task_jacobian(arm, theta, width)
            return 0.5 * float(error @ error), slope.numpy()

        def room(x: Any) -> Any:
            clearance = circles.link_clearance(arm.points(torch.from_numpy(x)), arm.link_radius)
            return (clearance.flatten() / arm.reach - self.margin).numpy()

        def room_slope(x: Any) -> Any:
            return closest_point_rows(arm, torch.from_numpy(x), circles)[1].numpy()

        constraints = [{"type": "ineq", "fun": room, "jac": room_slope}] if circles.radii.numel() else []
        options = {"maxiter": self.iterations, "ftol": 1e-20}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of steps cut off at the bounds
            found = minimize(
                cost,
                start.numpy(),
                jac=True,
                bounds=arm.limits,
                constraints=constraints,
                method="SLSQP",
                options=options,
            )
        return torch.from_numpy(np.nan_to_num(found.x, nan=0.0))
