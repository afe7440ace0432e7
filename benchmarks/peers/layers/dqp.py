"""dQP: DAQP in a loop over the batch, differentiated on its active set."""

from __future__ import annotations

from typing import final

import torch
from dqp import dQP
from torch import Tensor

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


def prepare(task: Task) -> Dqp | TorchLayer:
    """Build the layer; without a P the task is the projection of one vector on the simplex."""
    return Dqp(task) if "P" in task.data else sparse_projection(task)


def sparse_projection(task: Task) -> TorchLayer:
    """Build its authors' experiment: P = I, x >= 0, sum x = 1, sparse, on PIQP (ProxQP and OSQP are slower here)."""
    n = task.n
    diagonal, row, ones = torch.arange(n), torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.float64)
    P, G = csc(diagonal, diagonal, ones, n), csc(diagonal, diagonal, -ones, n)
    A = csc(row, diagonal, ones, 1)
    settings = dQP.build_settings(solve_type="sparse", qp_solver="piqp", eps_abs=TOLERANCE, empty_batch=False)
    layer = dQP.dQP_layer(settings=settings)

    def solve(t: Tensors) -> Tensors:
        x, *_ = layer(P, t["q"][0], G, torch.zeros_like(ones), A, ones[:1])
        return {"x": x.reshape(1, n)}

    return TorchLayer(task.data, task.wanted, task.v, solve)


def csc(rows: Tensor, columns: Tensor, values: Tensor, height: int) -> Tensor:
    """Make a sparse matrix in the format that dQP asks for."""
    size = (height, len(columns))
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, size=size).to_sparse_csc()
