"""A network whose output enters one learned quadratic program, in two builds with the same parameters."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from implicit_layers import OptNetLayer
from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_answer, check_batch
from robotics.models.mlp import INPUTS, MLP
from robotics.models.optnet_cvxpy import solve_by_cvxpylayers
from robotics.obstacles import Circles

BUILDS = {"optnet": "qp", "optnet-cvxpy": "cvxpylayers"}


@final
class OptNetIK(nn.Module):
    """Network output, then one program whose P, G, h, A and b are learned: the model this field starts from.

        x = argmin 1/2 x'Px - u'x  s.t.  Gx <= h, Ax = b,    theta = middle + half range * x_{1..n}

    u is the network's output, in half ranges from the middle of the limits, and nothing else depends on the target:
    P, G, h, A, b are shared by all elements, without copies. One more unknown for each equation, so that equations take
    no freedom from the arm. `P = LL' + eps I`, `h = G z0 + s0`, `b = A z0` with s0 > 0: z0 is feasible whatever is
    learned. At the start P is near I and the first 2n rows are the joint limits, so the program cuts off at them.

    The builds `"qp"` (`OptNetLayer`) and `"cvxpylayers"` (u is a `cvxpy.Parameter` of the problem) have the same
    parameters under the same names: the weights of one load into the other.

    Args:
        network: the network, of any kind but "unit".
        rows: inequalities beyond the 2n that start as the joint limits.
        equations: equalities, and unknowns beyond the n joint angles.
        build: "qp" or "cvxpylayers".

    References:
        Amos and Kolter (2017), OptNet; Agrawal et al. (2019), Differentiable convex optimization layers.
    """

    def __init__(self, network: MLP, rows: int = 4, equations: int = 1, build: str = "qp") -> None:
        super().__init__()
        check_count("rows", rows, 0)
        check_count("equations", equations, 0)
        check_choice("build", build, BUILDS.values())
        if network.kind == "unit":
            raise ValueError("network: expected one output for each joint, found the kind 'unit' with two")
        self.network, self.rows, self.equations, self.build = network, rows, equations, build
        self.arm: PlanarArm = network.arm
        self.inputs: str = network.inputs
        n = self.arm.num_links
        self.program = OptNetLayer(n + equations, 2 * n + rows, equations, dtype=torch.float64)
        with torch.no_grad():  # |x_i| <= 1
            self.program.G[: 2 * n] = 0
            self.program.G[:n, :n], self.program.G[n : 2 * n, :n] = torch.eye(n), -torch.eye(n)

    def config(self) -> dict[str, Any]:
        """Return what `build_model` needs to build this model again."""
        name = next(name for name, build in BUILDS.items() if build == self.build)
        return {**self.network.config(), "model": name, "rows": self.rows, "equations": self.equations}

    def forward(self, targets: Tensor, circles: Circles | None = None) -> Tensor:
        """Return joint angles `(*batch, n)` [rad] for targets `(*batch, 2|3)`; the circles are not looked at.

        Differentiable in the network's parameters, those of the program and the targets.
        """
        lower, upper = self.arm.limits_tensor(targets)
        middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)
        moves = half > 0  # a locked joint has no half range to count in
        u = torch.where(moves, (self.network(targets) - middle) / torch.where(moves, half, 1.0), 0.0)
        q = nn.functional.pad(-u, (0, self.equations))
        x = self.program(q) if self.build == "qp" else solve_by_cvxpylayers(self.program, q)
        return middle + half * x[..., : self.arm.num_links]

    def loss(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return the mean task error, of reach, plus the mean excess over the limits [rad].

        The second term is what holds the learned rows to the limits; nothing tells them of circles.
        """
        theta = self(targets, circles)
        loss: Tensor = task_error(self.arm, theta, targets).norm(dim=-1).mean()
        return loss + self.arm.limit_violation(theta).mean()

    @torch.no_grad()
    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)` with the program's output, and judge it; learned rows promise nothing."""
        check_batch(targets, circles, INPUTS[self.inputs], tolerance)
        finite = targets.isfinite().all(-1, keepdim=True)
        theta = torch.where(finite, self(torch.where(finite, targets, 0.0)), torch.nan)
        return check_answer(self.arm, theta, targets, circles, tolerance)
