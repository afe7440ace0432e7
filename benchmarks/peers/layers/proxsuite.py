"""proxsuite's QPLayer: ProxQP in a loop over the batch. Two-sided rows; x and multipliers; gradients in float32."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from proxsuite.torch.qplayer import QPFunction

from . import TOLERANCE, Arrays, Task
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("proxsuite", "torch")


@final
class ProxsuiteLayer:
    """Bounds are its two-sided rows with G = I. Other rows have no lower side."""

    def __init__(self, task: Task) -> None:
        function = QPFunction(eps=TOLERANCE, omp_parallel=False)
        none = torch.empty(0, dtype=torch.float64)
        data, self.box = dict(task.data), "lb" in task.data
        if self.box:
            data["G"] = np.tile(np.eye(task.n), (task.batch, 1, 1))
        lower = None if self.box else torch.full(data["h"].shape, -1e20, dtype=torch.float64)

        def solve(t: Tensors) -> Tensors:
            sides = (t["lb"], t["ub"]) if self.box else (lower, t["h"])
            x, y, z = function(t["P"], t["q"], t.get("A", none), t.get("b", none), t["G"], *sides)
            return {"x": x, "y": y, "z_box" if self.box else "z": z}

        self.timed = TorchLayer(data, task.wanted, task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        return self.timed.results()


def prepare(task: Task) -> ProxsuiteLayer:
    """Make tensors of the data."""
    return ProxsuiteLayer(task)
