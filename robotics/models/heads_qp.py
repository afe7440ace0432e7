"""Labelled heads, each followed by certified steps: the most promising one first, the next where it fails."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from robotics.arm import PlanarArm
from robotics.checks import check_count
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_batch
from robotics.models.attempts import Attempts, chunks
from robotics.models.heads import Heads
from robotics.models.mlp import INPUTS
from robotics.models.mlp_qp import TRAINED_LAYERS
from robotics.obstacles import Circles
from robotics.steps import refine


@final
class HeadsQP(nn.Module):
    """A start of every label, in order of promise, then `layers` certified steps and the exact check.

    The promise of a start is its tip error and its depth in the circles: a closed form, so no order is learned. What
    all heads miss is tried from midway between neighbouring ones, in the same order. There are no random starts: what
    these miss keeps its status.

    Args:
        network: the labelled heads.
        layers: certified steps from each start.
    """

    def __init__(self, network: Heads, layers: int = 10) -> None:
        super().__init__()
        check_count("layers", layers)
        self.network, self.layers = network, layers
        self.arm: PlanarArm = network.arm
        self.inputs: str = network.inputs

    @property
    def most_starts(self) -> int:
        """How many starts there are: the heads, and midway between neighbouring ones."""
        return 2 * self.network.heads - self.network.num_bends

    def config(self) -> dict[str, Any]:
        """Return what `build_model` needs to build this model again."""
        network = {"hidden": self.network.hidden, "heads": self.network.heads}
        return {"model": "mlp-qp", "inputs": self.inputs, **network, "layers": self.layers}

    def forward(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return joint angles `(*batch, n)` [rad] from the most promising head of each target `(*batch, 2|3)`.

        Differentiable in the network's parameters, the targets and the circles; the choice of the head is constant.
        """
        starts = self.network(targets, circles)
        first = self.network.promise(starts.detach(), targets, circles).argmin(-1)
        return refine(self.arm, _chosen(starts, first), targets, circles, self.layers)

    def loss(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return the loss of all heads plus the mean task error of the best one after the trained layers."""
        starts = self.network(targets, circles)
        first = self.network.promise(starts.detach(), targets, circles).argmin(-1)
        theta = refine(self.arm, _chosen(starts, first), targets, circles, min(self.layers, TRAINED_LAYERS))
        error = task_error(self.arm, theta, targets).norm(dim=-1).mean()
        total: Tensor = error + self.network.loss(starts, targets, circles)
        return total

    def starts(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return all starts `(N, S, n)` [rad] of targets `(N, 2|3)` in the order in which they are tried."""
        heads = self.network(targets, circles)
        groups = (heads, self.network.between(heads))
        return torch.cat([self.network.ranked(group, targets, circles) for group in groups], -2)

    @torch.no_grad()
    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`; an unsafe posture is never returned."""
        return self.answer_with_heads(targets, circles, tolerance)[0]

    @torch.no_grad()
    def answer_with_heads(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> tuple[IKAnswer, Tensor]:
        """Answer targets `(N, 2|3)`, and say how many starts each took, int64 (N,).

        Up to H they are heads; those above are midway between two; `most_starts` + 1 means that all failed.
        """
        check_batch(targets, circles, INPUTS[self.inputs], tolerance)
        attempts = Attempts(self.arm, targets, circles, tolerance, first_for_all=True)
        steps = partial(refine, self.arm, layers=self.layers)
        starts = torch.zeros(len(targets), self.network.heads, self.arm.num_links, dtype=torch.float64)
        for some in chunks(torch.arange(len(targets))):
            starts[some] = self.network(attempts.aim[some], circles.pick(some))
        for group in (starts, self.network.between(starts)):
            ranked = group.clone()
            for some in chunks(attempts.left()):
                ranked[some] = self.network.ranked(group[some], attempts.aim[some], circles.pick(some))
            for start in ranked.unbind(-2):
                attempts.attempt(start, steps)
        return attempts.answer(), attempts.took.masked_fill(attempts.took == 0, self.most_starts + 1)


def _chosen(starts: Tensor, head: Tensor) -> Tensor:
    return starts.take_along_dim(head[..., None, None], -2)[..., 0, :]
