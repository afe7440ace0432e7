"""Vectors and matrices that are affine in parameters, as sparse products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .qp.matrices import Coordinates
from .qp.problem import broadcast

Ints = NDArray[np.int64]


class Entries(NamedTuple):
    """Terms of a matrix that is affine in the parameters: `M[row, column]` is the sum of its `value * p[source]`.

    p is all parameters, flattened, one after the other, and the constant 1.
    """

    row: Ints
    column: Ints
    source: Ints
    value: NDArray[np.float64]

    def pick(self, keep: NDArray[Any]) -> Entries:
        """Return some of the terms."""
        return Entries(*(v[keep] for v in self))

    def renumber(self, number: Ints) -> Entries:
        """Return the terms whose row gets a number >= 0, in these rows."""
        row = number[self.row]
        return self._replace(row=row).pick(row >= 0)

    def times(self, factor: Any) -> Entries:
        """Return all terms times a factor."""
        return self._replace(value=self.value * factor)


class AffineMap(nn.Module):
    """A vector that is affine in the parameters; batched only if a parameter that it depends on is.

    Args:
        entries: terms in one column.
        sizes: of the parameters.
        size: of the vector.
    """

    row: Tensor
    source: Tensor
    value: Tensor
    constant: Tensor | None

    def __init__(self, entries: Entries, sizes: Sequence[int], size: int) -> None:
        super().__init__()
        ends = np.cumsum([0, *sizes])
        owner = np.searchsorted(ends[1:], entries.source, side="right")
        self.uses, self.size = np.unique(owner[owner < len(sizes)]).tolist(), size
        # Where the parameters in use, and the constant after them, start in the vector of these alone.
        start = np.zeros(len(sizes) + 1, dtype=np.int64)
        start[[*self.uses, len(sizes)]] = np.cumsum([0, *(sizes[i] for i in self.uses)])
        source = entries.source - ends[owner] + start[owner]
        for name, v in (("row", entries.row), ("source", source), ("value", entries.value)):
            self.register_buffer(name, torch.from_numpy(v), persistent=False)
        # What depends on no parameter is evaluated here, once.
        self.register_buffer(
            "constant", None if self.uses else self._evaluate(self.value.new_ones(1)), persistent=False
        )

    def _evaluate(self, p: Tensor) -> Tensor:
        return Coordinates(self.row, self.source, (self.size, p.shape[-1])).times(self.value, p)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AffineMap:
        # The problem's constants follow the module to its device; its precision is not theirs.
        super()._apply(lambda v: v.to(fn(v.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the vector `(*batch, size)` for all parameters, each `(*batch, its size)` in float64."""
        if self.constant is not None:
            return self.constant
        used = [parts[i] for i in self.uses]
        batch = joint_batch([v.shape[:-1] for v in used])
        one = self.value.new_ones(1)
        return self._evaluate(torch.cat([v.expand(*batch, v.shape[-1]) for v in (*used, one)], -1))


class MatrixMap(nn.Module):
    """A matrix that is affine in the parameters: all its entries, or for a sparse one those that may differ from 0."""

    places: Tensor

    def __init__(self, entries: Entries, sizes: Sequence[int], shape: tuple[int, int], sparse: bool) -> None:
        super().__init__()
        self.shape, self.sparse = shape, sparse
        at, places = entries.row * shape[1] + entries.column, np.arange(0)
        if sparse:
            places, at = np.unique(at, return_inverse=True)
        self.entries = AffineMap(entries._replace(row=at), sizes, len(places) if sparse else shape[0] * shape[1])
        self.register_buffer("places", torch.from_numpy(np.stack(np.divmod(places, shape[1]))), persistent=False)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the matrix `(*batch, m, n)`, or for a sparse one its entries `(*batch, nnz)`."""
        values: Tensor = self.entries(parts)
        return values if self.sparse else values.reshape(*values.shape[:-1], *self.shape)

    def assemble(self, values: Tensor) -> Tensor:
        """Return the sparse matrix with the entries `(nnz,)`."""
        return torch.sparse_coo_tensor(self.places, values, self.shape, is_coalesced=True, check_invariants=False)


class BoundMap(nn.Module):
    """Bounds on those unknowns that `entries` have as rows; the others are bounded by `none`."""

    bounded: Tensor

    def __init__(self, entries: Entries, sizes: Sequence[int], bounded: NDArray[np.bool_], none: float) -> None:
        super().__init__()
        self.values, self.none = AffineMap(entries, sizes, len(bounded)), none
        self.register_buffer("bounded", torch.from_numpy(bounded), persistent=False)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the bounds `(*batch, n)`."""
        return torch.where(self.bounded, self.values(parts), self.none)


def joint_batch(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that batch shapes, known to fit, broadcast to."""
    return reduce(lambda a, b: broadcast(a, b) or (), shapes, ())
