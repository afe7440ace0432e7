"""How the matrices P, G, A and C = [G; A] are held, and the products with them that derivatives are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Matrices(Protocol):
    """Products with matrices, each shared or batched, and vectors `(B, n)` or `(B, m)`; differentiable operations.

    P counts through its symmetric part, in products as in gradients.
    """

    @property
    def core_dims(self) -> int:
        """Dimensions of what holds a matrix, without its batch."""

    def times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M v."""

    def transpose_times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M'v."""

    def outer(self, name: str, a: Tensor, b: Tensor, like: Tensor) -> Tensor:
        """Return a b' for every element as the matrix `name` is held, summed over the batch where `like` is shared."""


@dataclass(frozen=True)
class DenseMatrices:
    """Matrices `(*, n)` with all their entries."""

    core_dims: int = 2

    def times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M v."""
        M = _symmetric(M) if name == "P" else M.mT
        return (v.unsqueeze(-2) @ M).squeeze(-2)

    def transpose_times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M'v."""
        return self.times(name, M.mT, v)

    def outer(self, name: str, a: Tensor, b: Tensor, like: Tensor) -> Tensor:
        """Return a b'."""
        # The gradient of shared data is the sum over the batch: one matrix product, never B outer products.
        product = a.mT @ b if like.ndim == 2 else a.unsqueeze(-1) * b.unsqueeze(-2)
        return _symmetric(product) if name == "P" else product


DENSE = DenseMatrices()


def _symmetric(M: Tensor) -> Tensor:
    return 0.5 * (M + M.mT)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Where the entries of a sparse matrix are.

    Attributes:
        row, column: int64 `(nnz,)`.
        shape: (rows, columns).
    """

    row: Tensor
    column: Tensor
    shape: tuple[int, int]

    def dense(self, values: Tensor) -> Tensor:
        """Return M for values `(nnz,)`."""
        return values.new_zeros(self.shape).index_put((self.row, self.column), values, accumulate=True)

    def times(self, values: Tensor, v: Tensor) -> Tensor:
        """Return M v for values `(nnz,)` or `(B, nnz)` and v `(B, columns)`."""
        return _gather_sum(values * v[..., self.column], self.row, self.shape[0])

    def transpose_times(self, values: Tensor, v: Tensor) -> Tensor:
        """Return M'v."""
        return _gather_sum(values * v[..., self.row], self.column, self.shape[1])


def _gather_sum(terms: Tensor, place: Tensor, size: int) -> Tensor:
    return terms.new_zeros(*terms.shape[:-1], size).index_add(-1, place, terms)


@dataclass(frozen=True, eq=False)
class SparseMatrices:
    """Matrices held by the values of their entries `(nnz,)`; gradients exist for these entries alone.

    Attributes:
        places: the coordinates of P, C = [G; A], and of G and A where they are.
    """

    places: dict[str, Coordinates]
    core_dims: int = 1

    def times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M v."""
        place = self.places[name]
        product = place.times(M, v)
        return 0.5 * (product + place.transpose_times(M, v)) if name == "P" else product

    def transpose_times(self, name: str, M: Tensor, v: Tensor) -> Tensor:
        """Return M'v."""
        return self.times(name, M, v) if name == "P" else self.places[name].transpose_times(M, v)

    def outer(self, name: str, a: Tensor, b: Tensor, like: Tensor) -> Tensor:
        """Return the entries of a b'."""
        place = self.places[name]
        row, column = place.row, place.column
        entries = a[..., row] * b[..., column]
        if name == "P":
            entries = 0.5 * (entries + a[..., column] * b[..., row])
        return entries.sum(0) if like.ndim == 1 else entries
