"""cvxpylayers on diffcp: the program as a second-order cone program, canonicalised once. x only."""

from __future__ import annotations

from typing import Any, final

import cvxpy as cp
import numpy as np
import torch
from cvxpylayers.torch import CvxpyLayer  # type: ignore[attr-defined]
from torch import Tensor

from . import TOLERANCE, Arrays, Task
from .torch_layer import Tensors, TorchLayer

PACKAGES = ("cvxpylayers", "diffcp", "cvxpy", "torch")


@final
class Cvxpylayers:
    """Its parameter is a square root of P (disciplined parametrised programming allows no other), made by torch."""

    def __init__(self, task: Task) -> None:
        self.task, n = task, task.n
        x = cp.Variable(n)
        shapes = {name: value.shape[1:] for name, value in task.data.items()}
        parameters = {name: cp.Parameter(shape) for name, shape in shapes.items()}
        square = 0.5 * cp.sum_squares(parameters["P"] @ x)  # type: ignore[attr-defined]
        objective = cp.Minimize(square + parameters["q"] @ x)
        constraints = []
        if "G" in shapes:
            constraints.append(parameters["G"] @ x <= parameters["h"])
        if "A" in shapes:
            constraints.append(parameters["A"] @ x == parameters["b"])
        if "lb" in shapes:
            constraints += [x >= parameters["lb"], x <= parameters["ub"]]
        problem = cp.Problem(objective, constraints)
        # Its backward pass is chosen, and its options known, only where a graph is recorded.
        arguments: dict[str, Any] = {"eps": TOLERANCE, "max_iters": 100_000, "n_jobs_forward": 1}
        layer = CvxpyLayer(problem, parameters=list(parameters.values()), variables=[x])

        def solve(t: Tensors) -> Tensors:
            root = torch.linalg.cholesky(t["P"]).mT
            given = arguments | ({"n_jobs_backward": 1} if torch.is_grad_enabled() else {})
            found: Tensor = layer(root, *(t[name] for name in shapes if name != "P"), solver_args=given)[0]
            return {"x": found}

        self.timed = TorchLayer(ordered(task.data), task.wanted, task.v, solve)
        self.forward, self.forward_backward = self.timed.forward, self.timed.forward_backward

    def results(self) -> Arrays:
        """Return x and gradients."""
        return self.timed.results()


def ordered(data: Arrays) -> Arrays:
    """Put P first: parameters are passed by position."""
    return {"P": data["P"], **data}


def prepare(task: Task) -> Cvxpylayers:
    """Canonicalise the program."""
    data = {name: np.ascontiguousarray(value) for name, value in ordered(task.data).items()}
    return Cvxpylayers(Task(data=data, v=task.v, wanted=task.wanted, options=task.options))
