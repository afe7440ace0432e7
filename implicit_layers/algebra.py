"""The few operations of batched vectors that everything here is made of."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product of each element's vectors."""
    return (a * b).sum(-1)


def times(M: Tensor, x: Tensor) -> Tensor:
    """Return M x, `(*batch, m)`."""
    product: Tensor = M @ x.unsqueeze(-1)
    return product.squeeze(-1)


def transposed_times(M: Tensor, x: Tensor) -> Tensor:
    """Return M'x, `(*batch, n)`."""
    product: Tensor = x.unsqueeze(-2) @ M
    return product.squeeze(-2)


def choose(mask: Tensor, a: Tensor | float, b: Tensor) -> Tensor:
    """Return a for the elements where the mask `(B,)` holds, b for the others."""
    return torch.where(mask.reshape(*mask.shape, *(1,) * (b.ndim - mask.ndim)), a, b)


def ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0: nothing to scale. Its derivative is finite there, too."""
    zero = b == 0
    return torch.where(zero, 0.0, a / torch.where(zero, 1.0, b))
