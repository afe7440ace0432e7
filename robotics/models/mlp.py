"""The plain network: targets to joint angles."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from robotics.arm import PlanarArm
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_answer, check_batch
from robotics.obstacles import Circles

INPUTS = {"xy": 2, "xytheta": 3}


@final
class MLP(nn.Module):
    """One hidden layer of sigmoids and a linear output, 3-100-3 or 2-100-3: the network of Duka (2014).

    Positions enter divided by the reach, orientations by pi; the output counts in half ranges from the middle of
    the limits, and nothing keeps it inside them.

    Args:
        arm: the arm, n links.
        inputs: "xy" or "xytheta".
        hidden: width of the hidden layer.
    """

    def __init__(self, arm: PlanarArm, inputs: str = "xy", hidden: int = 100) -> None:
        super().__init__()
        if not isinstance(inputs, str) or inputs not in INPUTS:
            raise ValueError(f"inputs: expected one of {', '.join(INPUTS)}, found {inputs!r}")
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"hidden: expected a positive integer, found {hidden!r}")
        self.arm, self.inputs, self.hidden = arm, inputs, hidden
        self.layers = nn.Sequential(
            nn.Linear(INPUTS[inputs], hidden, dtype=torch.float64),
            nn.Sigmoid(),
            nn.Linear(hidden, arm.num_links, dtype=torch.float64),
        )

    def config(self) -> dict[str, Any]:
        """Return what `build_model` needs to build this model again."""
        return {"model": "mlp", "inputs": self.inputs, "hidden": self.hidden}

    def forward(self, targets: Tensor, circles: Circles | None = None) -> Tensor:
        """Return joint angles `(*batch, n)` [rad] for targets `(*batch, 2|3)`; the circles are not looked at."""
        width = INPUTS[self.inputs]
        if targets.shape[-1] != width:
            raise ValueError(f"targets: expected shape (*batch, {width}), found {tuple(targets.shape)}")
        scale = targets.new_tensor([self.arm.reach, self.arm.reach, torch.pi][:width])
        lower, upper = self.arm.limits_tensor(targets)
        raw: Tensor = self.layers(targets / scale)
        return 0.5 * (lower + upper) + 0.5 * (upper - lower) * raw

    def loss(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return the mean task error, of reach, plus the mean excess over the limits [rad].

        Through the forward kinematics, not on joint angles: a target has many answers, and their mean is none. The
        second term is all that tells a linear output about the limits.
        """
        theta = self(targets, circles)
        error: Tensor = task_error(self.arm, theta, targets).norm(dim=-1)
        return error.mean() + self.arm.limit_violation(theta).mean()

    @torch.no_grad()
    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)` with the network's output as it is, and judge it."""
        check_batch(targets, circles, INPUTS[self.inputs])
        return check_answer(self.arm, self(targets), targets, circles, tolerance)
