"""The witnesses of check_gradients: a layer's Jacobian by reverse mode, forward mode and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from .errors import ProblemError
from .functions import Lifted, lift

ENTRIES = 48  # of each input and of the output, at most; chosen at random beyond


class Chosen(NamedTuple):
    """The entries of the Jacobian that are looked at."""

    rows: list[int]  # entries of the flat output
    labels: list[str]  # their names
    columns: list[list[int]]  # entries of each flat input


@dataclass(frozen=True)
class FlatLayer:
    """A layer as a function of a list of tensors, parameters first, with one flat output."""

    lifted: Lifted
    first: Any
    names: tuple[str, ...]
    points: tuple[Tensor, ...]  # where it is differentiated
    moving: tuple[int, ...]  # which of the lifted tensors they are

    @staticmethod
    def of(layer: Any, arguments: tuple[Any, ...]) -> FlatLayer:
        """Read the inputs and parameters off a layer and its arguments.

        Raises:
            ProblemError: there is nothing to differentiate in.
        """
        # lift() expects the unknown first; here there is none.
        lifted = lift(_WithoutUnknown(layer) if isinstance(layer, nn.Module) else lambda _, *a: layer(*a), arguments)
        paths = pytree.tree_flatten_with_path(arguments)[0]
        leaves = [f"inputs{pytree.keystr(path)}" for path, leaf in paths if isinstance(leaf, Tensor)]
        own = [name for name, _ in layer.named_parameters()] if isinstance(layer, nn.Module) else []
        names = [*own, *leaves]
        moving = tuple(i for i, v in enumerate(lifted.tensors) if v.is_floating_point())
        if not moving:
            raise ProblemError("inputs: expected at least one floating-point tensor, or a layer with parameters")
        points = tuple(lifted.tensors[i].detach() for i in moving)
        return FlatLayer(lifted, None, tuple(names[i] for i in moving), points, moving)

    def outputs(self, points: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Return the floating-point outputs with their names."""
        tensors = [v.detach() for v in self.lifted.tensors]
        for i, v in zip(self.moving, points, strict=True):
            tensors[i] = v
        paths = pytree.tree_flatten_with_path(self.lifted.call(self.first, *tensors))[0]
        return [("output" + pytree.keystr(p), v) for p, v in paths if isinstance(v, Tensor) and v.is_floating_point()]

    def __call__(self, points: Sequence[Tensor]) -> Tensor:
        """Return the flat output."""
        return torch.cat([v.reshape(-1) for _, v in self.outputs(points)])

    def choose(self, generator: torch.Generator) -> Chosen:
        """Choose the entries to look at: of the outputs that can be differentiated, and of each input."""
        points = [v.clone().requires_grad_() for v in self.points]
        named = self.outputs(points)
        if not named or not any(v.requires_grad for _, v in named):
            raise ProblemError("layer: expected a value that depends on the inputs differentiably, got none")
        first = torch.cat([v.reshape(-1) for _, v in named]).detach()
        if not torch.allclose(first, self(points).detach(), equal_nan=True):
            raise ProblemError("layer: expected the same value every time, got another at the second call (dropout?)")
        rows, labels, start = [], [], 0
        for name, v in named:
            if v.requires_grad:
                rows += list(range(start, start + v.numel()))
                labels += [f"{name}{label(i, v.shape)}" for i in range(v.numel())]
            start += v.numel()
        picked = _pick(len(rows), generator)
        columns = [_pick(v.numel(), generator) for v in self.points]
        return Chosen([rows[i] for i in picked], [labels[i] for i in picked], columns)


class _WithoutUnknown(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, _: None, *arguments: Any) -> Any:
        return self.layer(*arguments)


def reverse(function: FlatLayer, chosen: Chosen) -> list[Tensor]:
    """Return d output / d input for the chosen entries, `(rows, columns)` for each input."""
    points = [v.clone().requires_grad_() for v in function.points]
    output = function(points)
    jacobians: list[list[Tensor]] = [[] for _ in points]
    for r in chosen.rows:
        gradients = torch.autograd.grad(output[r], points, retain_graph=True, allow_unused=True)
        for i, (g, v) in enumerate(zip(gradients, points, strict=True)):
            full = torch.zeros_like(v) if g is None else g
            jacobians[i].append(full.reshape(-1)[chosen.columns[i]].detach())
    return [torch.stack(rows) if rows else v.new_zeros(0, 0) for rows, v in zip(jacobians, points, strict=True)]


def forward(function: FlatLayer, chosen: Chosen) -> list[Tensor]:
    """Return the same by dual numbers, one input entry at a time."""

    def slope(i: int, direction: Tensor) -> Tensor:
        with forward_ad.dual_level():
            points = list(function.points)
            points[i] = forward_ad.make_dual(points[i], direction)
            output = function(points)
            tangent = forward_ad.unpack_dual(output).tangent
            return torch.zeros_like(output) if tangent is None else tangent

    return _by_columns(function, chosen, slope)


def finite_differences(function: FlatLayer, chosen: Chosen, step: float) -> list[Tensor]:
    """Return the same by central differences; the step is relative where the entry is larger than 1."""

    def slope(i: int, direction: Tensor) -> Tensor:
        size = step * max(1.0, float((function.points[i] * direction).abs().sum()))
        ahead, behind = (
            function([v + t * direction if j == i else v for j, v in enumerate(function.points)]) for t in (size, -size)
        )
        return (ahead - behind) / (2 * size)

    with torch.no_grad():
        return _by_columns(function, chosen, slope)


def _by_columns(function: FlatLayer, chosen: Chosen, slope: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    jacobians = []
    for i, v in enumerate(function.points):
        columns = []
        for c in chosen.columns[i]:
            direction = torch.zeros(v.numel(), dtype=v.dtype, device=v.device)
            direction[c] = 1
            columns.append(slope(i, direction.reshape(v.shape))[chosen.rows].detach())
        jacobians.append(torch.stack(columns, -1) if columns else v.new_zeros(len(chosen.rows), 0))
    return jacobians


def _pick(count: int, generator: torch.Generator) -> list[int]:
    if count <= ENTRIES:
        return list(range(count))
    picked: list[int] = torch.randperm(count, generator=generator)[:ENTRIES].sort().values.tolist()
    return picked


def label(i: int, shape: torch.Size) -> str:
    """Return entry i of a flattened tensor as an index of the tensor."""
    index = []
    for size in reversed(shape):
        index.append(i % size)
        i //= size
    return str(list(reversed(index))) if index else ""
