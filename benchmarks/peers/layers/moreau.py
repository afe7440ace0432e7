"""moreau's batched active-set solver in torch: rows in the order equalities, inequalities; dense patterns."""

from __future__ import annotations

from typing import final

import moreau
import numpy as np
import torch
from moreau.torch import Solver
from torch import Tensor

from . import TOLERANCE, Arrays, Task, boxes_as_rows, rows_as_boxes, rows_for_boxes
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("moreau", "torch")


@final
class Moreau:
    """Bounds are rows of a sparse pattern with two entries for each unknown."""

    def __init__(self, task: Task) -> None:
        self.task, n, batch = task, task.n, task.batch
        data = boxes_as_rows(task.data)
        box = "lb" in task.data
        p = data["b"].shape[-1] if "b" in data else 0
        m = data["h"].shape[-1] if "h" in data else 0
        per_row = 1 if box else n
        columns = np.tile(np.arange(n), 2 if box else p + m)
        settings = moreau.Settings(
            solver="active_set", device="cpu", batch_size=batch, enable_grad=True,
            active_set_settings=moreau.ActiveSetSettings(primal_tol=TOLERANCE),
        )  # fmt: skip
        solver = Solver(
            n, p + m,
            torch.arange(n + 1) * n, torch.arange(n).repeat(n),
            torch.arange(p + m + 1) * per_row, torch.from_numpy(columns),
            moreau.Cones(num_zero_cones=p, num_nonneg_cones=m), settings,
        )  # fmt: skip
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(n).expand(batch, 2 * n).contiguous()

        def flat(v: Tensor) -> Tensor:
            return v.reshape(batch, -1) if batch > 1 else v.reshape(-1)

        def stacked(t: Tensors, over: str, under: str) -> Tensor:
            return torch.cat([t[name] for name in (over, under) if name in t], 1)

        def solve(t: Tensors) -> Tensors:
            rows = signs if box else stacked(t, "A", "G")
            found = solver.solve(flat(t["P"]), flat(rows), flat(t["q"]), flat(stacked(t, "b", "h")))
            z = found.z.reshape(batch, p + m)
            return {"x": found.x.reshape(batch, n), "y": z[:, :p], "z": z[:, p:]}

        self.timed = TorchLayer(data, rows_for_boxes(task.wanted), task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        return rows_as_boxes(self.timed.results(), self.task.data)


def prepare(task: Task) -> Moreau:
    """Build the solver of this pattern."""
    return Moreau(task)
