"""What the peers in torch share: tensors made once, a call that is timed, gradients by autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from . import Array, Arrays

Tensors = dict[str, Tensor]
NEARLY_ONE = 1 + 1e-12
Solve = Callable[[Tensors], Tensors]


@final
class TorchLayer:
    """A function of tensors, differentiated in some of them.

    The timed calls alternate between the data and a copy that differs from it in the twelfth digit: a layer in
    training sees new matrices at every step, and no peer shall live from having kept the last ones.

    Args:
        data: arrays that become tensors.
        wanted: names of the leaves.
        v: cotangent of x.
        solve: takes tensors by name, returns x and the multipliers it has.
    """

    def __init__(self, data: Arrays, wanted: tuple[str, ...], v: Array, solve: Solve) -> None:
        self.solve, self.wanted = solve, wanted
        self.constants = {name: torch.from_numpy(value) for name, value in data.items()}
        self.v = torch.from_numpy(v)
        self.sets = itertools.cycle([self.constants, {name: t * NEARLY_ONE for name, t in self.constants.items()}])
        self.leaf_sets = itertools.cycle([self.with_leaves(next(self.sets)) for _ in range(2)])

    def with_leaves(self, tensors: Tensors) -> Tensors:
        """Return the tensors with leaves of their own for what is wanted."""
        return tensors | {name: tensors[name].clone().requires_grad_() for name in self.wanted}

    def forward(self) -> Tensor:
        """Solve without recording a graph."""
        with torch.no_grad():
            return self.solve(next(self.sets))["x"]

    def forward_backward(self) -> tuple[Tensor, ...]:
        """Solve and pull v back."""
        return self.gradients(next(self.leaf_sets))

    def gradients(self, inputs: Tensors) -> tuple[Tensor, ...]:
        """Return the gradients in the leaves."""
        x = self.solve(inputs)["x"]
        return torch.autograd.grad(x, [inputs[name] for name in self.wanted], self.v.reshape(x.shape))

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        with torch.no_grad():
            found = self.solve(self.constants)
        gradients = dict(zip(self.wanted, self.gradients(self.with_leaves(self.constants)), strict=True))
        tensors = found | {f"d{name}": value for name, value in gradients.items()}
        return {name: value.detach().double().numpy() for name, value in tensors.items()}
