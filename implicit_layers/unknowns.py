"""The unknowns of a condition: any pytree of tensors, laid out as one matrix `(B, N)`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import ProblemError


@dataclass(frozen=True)
class Layout:
    """How a pytree of tensors, which share their leading batch dimensions, lies in `(B, N)`."""

    structure: Any
    names: tuple[str, ...]  # of the leaves, for messages
    batch_shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]  # of each leaf without its batch
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(w0: Any, batch_dims: int | None) -> Layout:
        """Read the layout off the first iterate.

        Raises:
            ProblemError: what is wrong with w0.
        """
        paths, structure = pytree.tree_flatten_with_path(w0)
        names = tuple("w0" + pytree.keystr(path) for path, _ in paths)
        leaves = [leaf for _, leaf in paths]
        if not leaves:
            raise ProblemError(f"w0: expected a tensor or a structure of tensors, got {w0!r}")
        for name, leaf in zip(names, leaves, strict=True):
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                found = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise ProblemError(f"{name}: expected a floating-point tensor, got {found}")
        first = leaves[0]
        dims = max(min(leaf.ndim for leaf in leaves) - 1, 0) if batch_dims is None else batch_dims
        most = min(leaf.ndim for leaf in leaves)
        if not isinstance(dims, int) or not 0 <= dims <= most:
            raise ProblemError(f"batch_dims: expected an integer between 0 and {most} or None, got {dims!r}")
        batch = tuple(first.shape[:dims])
        for name, leaf in zip(names, leaves, strict=True):
            if leaf.dtype != first.dtype or leaf.device != first.device:
                raise ProblemError(
                    f"{name}: expected {first.dtype} on {first.device} like {names[0]}, "
                    f"got {leaf.dtype} on {leaf.device}"
                )
            if tuple(leaf.shape[:dims]) != batch:
                raise ProblemError(
                    f"{name}: expected leading batch dimensions {batch} like {names[0]}, got {tuple(leaf.shape)}; "
                    "batch_dims says how many there are"
                )
        shapes = tuple(tuple(leaf.shape[dims:]) for leaf in leaves)
        return Layout(structure, names, batch, shapes, first.dtype, first.device)

    @property
    def batch(self) -> int:
        """Number of elements B."""
        return math.prod(self.batch_shape)

    @property
    def size(self) -> int:
        """Number of unknowns N of one element."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, w: Any) -> Tensor:
        """Return a pytree of this layout as `(B, N)`."""
        leaves = pytree.tree_leaves(w)
        flat = [v.reshape(self.batch, math.prod(shape)) for v, shape in zip(leaves, self.shapes, strict=True)]
        return flat[0] if len(flat) == 1 else torch.cat(flat, -1)

    def unflatten(self, w: Tensor) -> Any:
        """Return `(B, N)` as the pytree."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = [w] if len(sizes) == 1 else list(w.split(sizes, -1))
        leaves = [v.reshape((*self.batch_shape, *shape)) for v, shape in zip(parts, self.shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self.structure)

    def handed(self, w: Tensor) -> Any:
        """Return a copy as the pytree, for a function that may work in place."""
        return self.unflatten(w.clone())

    def check_like(self, value: Any, name: str) -> None:
        """Check that a function's value looks like the unknowns.

        Raises:
            ProblemError: which part of it does not.
        """
        leaves, structure = pytree.tree_flatten(value)
        if structure != self.structure:
            raise ProblemError(f"{name}: expected a value structured like w0, {self.structure}, got {structure}")
        for leaf, path, shape in zip(leaves, self.names, self.shapes, strict=True):
            self.check_tensor(leaf, (*self.batch_shape, *shape), name + path.removeprefix("w0"), path)

    def check_tensor(self, value: Any, shape: tuple[int, ...], name: str, like: str) -> None:
        """Check shape, dtype and device of one tensor that a function returned.

        Raises:
            ProblemError: what was expected and found.
        """
        if not isinstance(value, Tensor):
            raise ProblemError(f"{name}: expected a value like {like}, a tensor, got {type(value).__name__}")
        if tuple(value.shape) != shape:
            raise ProblemError(f"{name}: expected a value of shape {shape} like {like}, got {tuple(value.shape)}")
        if value.dtype != self.dtype or value.device != self.device:
            raise ProblemError(
                f"{name}: expected a value of {self.dtype} on {self.device} like {like}, "
                f"got {value.dtype} on {value.device}"
            )
