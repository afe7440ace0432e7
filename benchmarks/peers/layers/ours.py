"""implicit_layers: `QPLayer`. Option `expand`: shared data as copies for each element."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from torch import Tensor

from implicit_layers import InteriorPoint, QPLayer, solve_qp

from . import TOLERANCE, Arrays, Task
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("implicit-layers", "torch")
# Absolute, as it is for every peer. Relative to the largest term only round-off is forgiven: without that, large data
# sends the solver after digits that float64 does not hold, and no peer goes there.
SOLVER = InteriorPoint(eps_abs=TOLERANCE, eps_rel=1e-12)


@final
class Ours:
    """The layer is timed; `results` asks `solve_qp`, the same call, for multipliers and iterations."""

    def __init__(self, task: Task) -> None:
        layer = QPLayer(solver=SOLVER)

        def solve(t: Tensors) -> Tensors:
            x: Tensor = layer(**t)
            return {"x": x}

        data = task.data
        if task.options.get("expand"):
            data = {name: expand(name, value, task.batch) for name, value in data.items()}
        self.timed = TorchLayer(data, task.wanted, task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x, multipliers, iterations and gradients."""
        data: dict[str, Any] = dict(self.timed.constants)
        solution = solve_qp(**data, solver=SOLVER)
        found = {name: getattr(solution, name).numpy() for name in ("x", "z", "y", "z_box", "iterations")}
        return found | {name: value for name, value in self.timed.results().items() if name != "x"}


def expand(name: str, value: np.ndarray, batch: int) -> np.ndarray:
    """Copy shared data for each element."""
    shared = value.ndim == (2 if name in "PGA" else 1)
    return np.tile(value, (batch,) + (1,) * value.ndim) if shared else value


def prepare(task: Task) -> Ours:
    """Make tensors of the data."""
    return Ours(task)
