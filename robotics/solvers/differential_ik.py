"""Differential inverse kinematics: a velocity program per tick, from home, with one row per link and circle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from implicit_layers import QPProblem, SolveStatus
from robotics.arm import PlanarArm
from robotics.checks import check_count
from robotics.ik_qp import task_error, task_jacobian
from robotics.models.answer import IKAnswer
from robotics.obstacles import Circles
from robotics.programs import solve_quietly
from robotics.solvers.base import answer_with_restarts, closest_point_rows


@final
@dataclass(frozen=True, kw_only=True)
class DifferentialIK:
    """The usual practice of robot control: from one posture, ticks of a damped program until the tip is there.

        min  1/2 |J dtheta + e|² + damping/2 |dtheta|²
        s.t. limits,  |dtheta_j| <= speed,  n'J_c dtheta >= -(clearance - margin)  of every link and circle

    with the Jacobian J_c of the closest point alone: a row that certifies neither the end of a tick nor its path. So
    the answer is checked, and rejected where it collides.

    Attributes:
        arm: the arm, n links.
        ticks: programs solved for a target.
        speed: largest change of a joint in a tick [rad].
        damping: of the joint velocity, of reach squared.
        margin: distance to circles that the rows ask for, of reach.
    """

    arm: PlanarArm
    ticks: int = 100
    speed: float = 0.2
    damping: float = 1e-6
    margin: float = 1e-3

    def __post_init__(self) -> None:
        check_count("ticks", self.ticks)

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        options = {"ticks": self.ticks, "speed": self.speed, "damping": self.damping, "margin": self.margin}
        return {"model": "differential-ik", **options}

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`, each from the middle of the limits."""
        lower, upper = self.arm.limits_tensor(targets)

        def home(_: int) -> Tensor:
            return ((lower + upper) / 2).expand(len(targets), -1)

        return answer_with_restarts(self.arm, targets, circles, tolerance, home, 1, self._track)

    def _track(self, theta: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        for _ in range(self.ticks):
            theta = self._tick(theta, targets, circles)
        return theta

    def _tick(self, theta: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        lower, upper = self.arm.limits_tensor(theta)
        J, e = task_jacobian(self.arm, theta, targets.shape[-1]), task_error(self.arm, theta, targets)
        eye = torch.eye(self.arm.num_links, dtype=theta.dtype, device=theta.device)
        clearance, slope = closest_point_rows(self.arm, theta, circles)
        problem = QPProblem(
            J.mT @ J + self.damping * eye,
            (J.mT @ e[..., None])[..., 0],
            -slope,
            (clearance - self.margin).clamp(min=0),  # a start inside a circle goes no deeper
            lb=(lower - theta).clamp(min=-self.speed),
            ub=(upper - theta).clamp(max=self.speed),
        )
        solution = solve_quietly(problem)
        step = torch.where((solution.status == SolveStatus.SOLVED)[:, None], solution.x, 0.0)
        return (theta + step).clamp(lower, upper)
