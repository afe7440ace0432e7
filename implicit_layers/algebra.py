"""The two operations of batched vectors that everything here is made of."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product of each element's vectors."""
    return (a * b).sum(-1)


def ratio(a: Tensor | float, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0: nothing to scale. Its derivative is finite there, too."""
    zero = b == 0
    return torch.where(zero, 0.0, a / torch.where(zero, 1.0, b))
