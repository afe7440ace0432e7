"""dQP: DAQP in a loop over the batch, differentiated on its active set."""

from __future__ import annotations

from typing import final

from dqp import dQP

from . import TOLERANCE, Arrays, Task, boxes_as_rows, rows_as_boxes, rows_for_boxes
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("libdqp", "daqp", "qpsolvers", "torch")


@final
class Dqp:
    """A batch of one goes in without a batch dimension, its fastest use. G is mandatory."""

    def __init__(self, task: Task) -> None:
        self.task = task
        settings = dQP.build_settings(solve_type="dense", qp_solver="daqp", eps_abs=TOLERANCE)
        layer = dQP.dQP_layer(settings=settings)
        single = task.batch == 1

        def solve(t: Tensors) -> Tensors:
            given = [t[name][0] if single else t[name] for name in ("P", "q", "G", "h", "A", "b") if name in t]
            x, y, z, *_ = layer(*given)
            found = {"x": x, "z": z} | ({"y": y} if "A" in t else {})
            return {name: v.reshape(task.batch, -1) for name, v in found.items()}

        self.timed = TorchLayer(boxes_as_rows(task.data), rows_for_boxes(task.wanted), task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        return rows_as_boxes(self.timed.results(), self.task.data)


def prepare(task: Task) -> Dqp:
    """Build the layer."""
    return Dqp(task)
