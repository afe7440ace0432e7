"""qpth: the batched interior point method of OptNet. Rows only, x only; G is mandatory."""

from __future__ import annotations

from typing import final

import torch
from qpth.qp import QPFunction
from torch import Tensor

from . import TOLERANCE, Arrays, Task, boxes_as_rows, rows_as_boxes, rows_for_boxes
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("qpth", "torch")


@final
class Qpth:
    """Its default of 20 iterations is raised, its test of P is switched off as its documentation offers."""

    def __init__(self, task: Task) -> None:
        function = QPFunction(eps=TOLERANCE, verbose=-1, maxIter=50, check_Q_spd=False)
        none = torch.empty(0, dtype=torch.float64)

        def solve(t: Tensors) -> Tensors:
            x: Tensor = function(t["P"], t["q"], t["G"], t["h"], t.get("A", none), t.get("b", none))
            return {"x": x}

        self.task = task
        self.timed = TorchLayer(boxes_as_rows(task.data), rows_for_boxes(task.wanted), task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x and gradients."""
        return rows_as_boxes(self.timed.results(), self.task.data)


def prepare(task: Task) -> Qpth:
    """Make tensors of the data."""
    return Qpth(task)
