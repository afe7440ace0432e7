"""A network whose output passes through quadratic programs: one shot, or a sequence of certified steps."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count
from robotics.ik_qp import MARGIN, task_error
from robotics.models.answer import IKAnswer, check_batch
from robotics.models.attempts import Attempts, chunks
from robotics.models.mlp import INPUTS, MLP
from robotics.obstacles import Circles
from robotics.starts import diverse_starts
from robotics.steps import refine, soft_step

MODES = ("one-shot", "sequential")
TRAINED_LAYERS = 2  # the gradient passes through so many layers: after more, the tip error is too small to teach
RETRIES = 8  # other starts for a target that the network's start misses


@final
class MLPQP(nn.Module):
    """Network output, then quadratic programs that keep joint limits and circles while closing the tip error.

    `"one-shot"`: one program around the network's output, with the circles linearised and softened.
    `"sequential"`: `layers` certified steps, each from where the last one ended. A start inside a circle first
    leaves it by softened steps; from then on every step is collision-free along its whole path.

    Args:
        network: the network.
        mode: "one-shot" or "sequential".
        layers: certified steps of an answer.
    """

    def __init__(self, network: MLP, mode: str = "sequential", layers: int = 6) -> None:
        super().__init__()
        check_choice("mode", mode, MODES)
        check_count("layers", layers)
        self.network, self.mode, self.layers = network, mode, layers
        self.arm: PlanarArm = network.arm
        self.inputs: str = network.inputs

    def config(self) -> dict[str, Any]:
        """Return what `build_model` needs to build this model again."""
        name = "mlp-qp" if self.mode == "sequential" else "mlp-qp-oneshot"
        return {**self.network.config(), "model": name, "layers": self.layers}

    def forward(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return joint angles `(*batch, n)` [rad] inside the limits for targets `(*batch, 2|3)`.

        Differentiable in the network's parameters, the targets and the circles, through every program.
        """
        return self._refine(self.network(targets), targets, circles, self.layers)

    def loss(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return the mean task error after the last trained layer plus that of the network alone, of reach.

        The network's own term keeps the start in the basin of the layers; the layers' term, through the programs,
        pays for starts from which limits or circles stop them.
        """
        start = self.network(targets)
        theta = self._refine(start, targets, circles, min(self.layers, TRAINED_LAYERS))
        last, first = (task_error(self.arm, t, targets).norm(dim=-1).mean() for t in (theta, start))
        total: Tensor = last + 0.1 * first
        return total

    @torch.no_grad()
    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`; an unsafe posture is never returned by the sequential model.

        Where the network's start does not lead to the target, further starts are tried: clear postures whose tip
        is near it.
        """
        check_batch(targets, circles, INPUTS[self.inputs], tolerance)
        attempts = Attempts(self.arm, targets, circles, tolerance, first_for_all=True)
        if self.mode == "one-shot":
            for some in chunks(targets.isfinite().all(-1).nonzero()[:, 0]):
                attempts.theta[some] = self(targets[some], circles.pick(some))
            return attempts.answer()
        steps = partial(refine, self.arm, layers=self.layers)
        attempts.attempt(self.network(attempts.aim), steps)
        if len(attempts.left()):
            for again in diverse_starts(self.arm, attempts.aim, circles, RETRIES):
                attempts.attempt(again, steps)
        return attempts.answer()

    def _refine(self, start: Tensor, targets: Tensor, circles: Circles, layers: int) -> Tensor:
        if self.mode == "sequential":
            return refine(self.arm, start, targets, circles, layers)
        lower, upper = self.arm.limits_tensor(start)
        return soft_step(self.arm, start.clamp(lower, upper), targets, circles, MARGIN)
