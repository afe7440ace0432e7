"""implicit_layers.projections.project_simplex: the closed form of one experiment. Takes y = -q, returns x only."""

from __future__ import annotations

from typing import Any

import implicit_layers

from . import Task
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("implicit-layers", "torch")


projections: Any = vars(implicit_layers)["projections"]  # not in every version


def solve(t: Tensors) -> Tensors:
    """Project."""
    return {"x": projections.project_simplex(-t["q"])}


def prepare(task: Task) -> TorchLayer:
    """Make tensors of the data."""
    return TorchLayer({"q": task.data["q"]}, task.wanted, task.v, solve)
