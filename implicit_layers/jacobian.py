"""Linear maps and Jacobians formed as matrices, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .transforms import directional, value_and_pullback

Product = Callable[[Tensor], Tensor]  # from u `(batch, n)` to J u, each element with a J of its own

PORTION = 2**15  # entries of the vectors that J is applied to at once


def materialise(product: Product, batch: int, size: int, like: Tensor) -> Tensor:
    """Return the matrices `(batch, rows, size)` of a linear map of vectors `(batch, size)`."""
    if size == 0:
        return like.new_zeros(batch, 0, 0)
    basis = torch.eye(size, dtype=like.dtype, device=like.device)
    vectors = basis.unsqueeze(1).expand(size, batch, size)
    # In portions that fit a cache: mapped in one sweep, data that the columns share would be copied for each of them.
    portion = min(size, max(1, PORTION // max(1, batch * size)))
    columns: Tensor = torch.func.vmap(product, chunk_size=portion)(vectors)
    return columns.permute(1, 2, 0)


def jacobian(function: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    """Return the Jacobians `(batch, rows, n)` of a function of w `(batch, n)`, each element a system of its own."""
    rows, pull = value_and_pullback(function, w)
    if rows.shape[1] > w.shape[1]:
        return materialise(lambda u: directional(function, (w,), (u,)), w.shape[0], w.shape[1], w)
    return materialise(lambda v: pull(v)[0], w.shape[0], rows.shape[1], w).mT
