"""qpax: an interior point method in JAX, vectorised over the batch and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import qpax.explicit.diff_qp as qpax_diff
import qpax.explicit.pdip as qpax_pdip

from . import TOLERANCE, Arrays, Task, boxes_as_rows, rows_as_boxes, rows_for_boxes

PACKAGES = ("qpax", "jax")
NAMES = ("P", "q", "A", "b", "G", "h")
SMOOTHING = 1e-8  # of its gradient; the default 1e-3 blurs the active set
jax.config.update("jax_enable_x64", True)


@final
class Qpax:
    """Its derivative is that of a barrier problem, so the gradient costs a second, short solve."""

    def __init__(self, task: Task) -> None:
        self.task = task
        data, n, batch = boxes_as_rows(task.data), task.n, task.batch
        data = {"A": np.zeros((batch, 0, n)), "b": np.zeros((batch, 0))} | data
        self.inputs = tuple(jnp.asarray(data[name]) for name in NAMES)
        self.wanted = rows_for_boxes(task.wanted)
        v = jnp.asarray(task.v)

        def all_of(*inputs: Any) -> Any:
            return qpax_pdip.solve_qp(*inputs, solver_tol=TOLERANCE, max_iter=50)

        def loss(inputs: Any) -> Any:
            x = batched(lambda *one: qpax_diff.solve_qp_primal(*one, TOLERANCE, SMOOTHING, 50), batch)(*inputs)
            return jnp.sum(v * x)

        positions = [NAMES.index(name) for name in self.wanted]

        def of_wanted(wanted: Any, inputs: Any) -> Any:
            inputs = list(inputs)
            for position, value in zip(positions, wanted, strict=True):
                inputs[position] = value
            return loss(tuple(inputs))

        self.solve = jax.jit(batched(all_of, batch))
        self.gradient = jax.jit(jax.grad(of_wanted))
        self.leaves = [self.inputs[position] for position in positions]

    def forward(self) -> object:
        """Solve."""
        return jax.block_until_ready(self.solve(*self.inputs))

    def forward_backward(self) -> Any:
        """Solve and differentiate."""
        return jax.block_until_ready(self.gradient(self.leaves, self.inputs))

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        x, _, z, y, *_ = self.solve(*self.inputs)
        gradients = dict(zip(self.wanted, self.forward_backward(), strict=True))
        found = {"x": x, "z": z, "y": y} | {f"d{name}": value for name, value in gradients.items()}
        return rows_as_boxes({name: np.asarray(value) for name, value in found.items()}, self.task.data)


def batched(function: Callable[..., Any], batch: int) -> Callable[..., Any]:
    """Map over the batch; a single problem needs no map."""
    if batch > 1:
        mapped: Callable[..., Any] = jax.vmap(function)
        return mapped
    return lambda *inputs: jax.tree.map(lambda v: jnp.asarray(v)[None], function(*(v[0] for v in inputs)))


def prepare(task: Task) -> Qpax:
    """Hand the data to JAX; it compiles at the first call."""
    return Qpax(task)
