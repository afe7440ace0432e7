"""What the peers in torch share: tensors made once, a call that is timed, gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from . import Array, Arrays

Tensors = dict[str, Tensor]
Solve = Callable[[Tensors], Tensors]


@final
class TorchLayer:
    """A function of tensors, differentiated in some of them.

    Args:
        data: arrays that become tensors.
        wanted: names of the leaves.
        v: cotangent of x.
        solve: takes tensors by name, returns x and the multipliers it has.
    """

    def __init__(self, data: Arrays, wanted: tuple[str, ...], v: Array, solve: Solve) -> None:
        self.solve = solve
        self.constants = {name: torch.from_numpy(value) for name, value in data.items()}
        self.leaves = {name: self.constants[name].clone().requires_grad_() for name in wanted}
        self.inputs = self.constants | self.leaves
        self.v = torch.from_numpy(v)

    def forward(self) -> Tensor:
        """Solve without recording a graph."""
        with torch.no_grad():
            return self.solve(self.constants)["x"]

    def forward_backward(self) -> tuple[Tensor, ...]:
        """Solve and pull v back."""
        x = self.solve(self.inputs)["x"]
        return torch.autograd.grad(x, list(self.leaves.values()), self.v.reshape(x.shape))

    def results(self) -> Arrays:
        """Return x, multipliers and gradients."""
        with torch.no_grad():
            found = self.solve(self.constants)
        gradients = dict(zip(self.leaves, self.forward_backward(), strict=True))
        tensors = found | {f"d{name}": value for name, value in gradients.items()}
        return {name: value.detach().double().numpy() for name, value in tensors.items()}
