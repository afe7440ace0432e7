"""The plain network: targets to joint angles."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_answer, check_batch
from robotics.obstacles import Circles

INPUTS = {"xy": 2, "xytheta": 3}
NETWORKS = ("plain", "clamp", "unit", "penalty")
PENALTY_MARGIN = 1e-2  # of reach: closer to a circle than this costs


@final
class MLP(nn.Module):
    """One hidden layer of sigmoids and a linear output, 3-100-3 or 2-100-3: the network of Duka (2014).

    Positions enter divided by the reach, orientations by pi; the output counts in half ranges from the middle of
    the limits, and nothing keeps it inside them. That is the plain network; the others are what learning alone can do
    about limits and circles:

    - `"clamp"`: answers are cut off at the limits.
    - `"unit"`: two outputs for each joint, whose direction is the angle from the middle of its limits; then cut off.
    - `"penalty"`: the loss has the mean depth of every link in every circle, too.

    Args:
        arm: the arm, n links.
        inputs: "xy" or "xytheta".
        hidden: width of the hidden layer.
        network: "plain", "clamp", "unit" or "penalty".
    """

    def __init__(self, arm: PlanarArm, inputs: str = "xy", hidden: int = 100, network: str = "plain") -> None:
        super().__init__()
        check_choice("inputs", inputs, INPUTS)
        check_count("hidden", hidden)
        check_choice("network", network, NETWORKS)
        self.arm, self.inputs, self.hidden, self.kind = arm, inputs, hidden, network
        self.layers = nn.Sequential(
            nn.Linear(INPUTS[inputs], hidden, dtype=torch.float64),
            nn.Sigmoid(),
            nn.Linear(hidden, arm.num_links * (2 if network == "unit" else 1), dtype=torch.float64),
        )

    def config(self) -> dict[str, Any]:
        """Return what `build_model` needs to build this model again."""
        kind = {"network": self.kind} if self.kind != "plain" else {}
        return {"model": "mlp", "inputs": self.inputs, "hidden": self.hidden, **kind}

    def forward(self, targets: Tensor, circles: Circles | None = None) -> Tensor:
        """Return joint angles `(*batch, n)` [rad] for targets `(*batch, 2|3)`; the circles are not looked at."""
        lower, upper = self.arm.limits_tensor(targets)
        raw: Tensor = self.layers(self.scaled(targets))
        if self.kind == "unit":
            cos, sin = raw.unflatten(-1, (-1, 2)).unbind(-1)
            return 0.5 * (lower + upper) + torch.atan2(sin, cos)
        return 0.5 * (lower + upper) + 0.5 * (upper - lower) * raw

    def scaled(self, targets: Tensor) -> Tensor:
        """Return targets `(*batch, 2|3)` as the first layer takes them: of reach, and of pi."""
        width = INPUTS[self.inputs]
        if targets.shape[-1] != width:
            raise ValueError(f"targets: expected shape (*batch, {width}), found {tuple(targets.shape)}")
        return targets / targets.new_tensor([self.arm.reach, self.arm.reach, torch.pi][:width])

    def loss(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return the mean task error, of reach, plus the mean excess over the limits [rad].

        Through the forward kinematics, not on joint angles: a target has many answers, and their mean is none. The
        second term is all that tells a linear output about the limits. With "penalty", plus the mean over links and
        circles of how far the clearance is below a margin, of reach.
        """
        theta = self(targets, circles)
        error: Tensor = task_error(self.arm, theta, targets).norm(dim=-1)
        loss: Tensor = error.mean() + self.arm.limit_violation(theta).mean()
        if self.kind == "penalty" and circles.radii.shape[-1]:
            clearance = circles.link_clearance(self.arm.points(theta), self.arm.link_radius) / self.arm.reach
            loss = loss + (PENALTY_MARGIN - clearance).clamp(min=0).mean()
        return loss

    @torch.no_grad()
    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)` with the network's output, cut off where its kind says so, and judge it."""
        check_batch(targets, circles, INPUTS[self.inputs], tolerance)
        theta = self(targets)
        if self.kind in ("clamp", "unit"):
            theta = theta.clamp(*self.arm.limits_tensor(theta))
        return check_answer(self.arm, theta, targets, circles, tolerance)
