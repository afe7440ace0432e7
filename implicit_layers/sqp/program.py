"""A nonlinear program as the method sees it, flat over the batch, and the few operations on batches it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Point(NamedTuple):
    """f, c, h and their derivatives at w, flat over the batch."""

    w: Tensor  # (B, n)
    f: Tensor  # (B,)
    c: Tensor  # (B, p)
    h: Tensor  # (B, m)
    g: Tensor  # (B, n)
    A: Tensor  # (B, p, n)
    G: Tensor  # (B, m, n)

    @property
    def violation(self) -> Tensor:
        """|c|_1 + |h₊|_1."""
        return violation(self.c, self.h)


@dataclass(frozen=True)
class Program:
    """What the method may ask, flat over the batch.

    Attributes:
        values: `(f, c, h)` at w.
        expand: the point at w, with first derivatives.
        hessian: of the Lagrangian at (w, y, z), `(B, n, n)`.
    """

    values: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    expand: Callable[[Tensor], Point]
    hessian: Callable[[Tensor, Tensor, Tensor], Tensor]

    def measured_in(self, unit: Tensor) -> Program:
        """Return the program with the cost, and so the multipliers, in units `(B,)`."""
        column = unit.unsqueeze(-1)

        def values(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            f, c, h = self.values(w)
            return f / unit, c, h

        def expand(w: Tensor) -> Point:
            point = self.expand(w)
            return point._replace(f=point.f / unit, g=point.g / column)

        def hessian(w: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return self.hessian(w, y * column, z * column) / column.unsqueeze(-1)

        return Program(values, expand, hessian)


def violation(c: Tensor, h: Tensor) -> Tensor:
    """Return |c|_1 + |h₊|_1 `(B,)`."""
    return c.abs().sum(-1) + h.clamp(min=0).sum(-1)


def is_finite(point: Point) -> Tensor:
    """Return where all entries are finite `(B,)`."""
    whole = [v.flatten(1).isfinite().all(-1) for v in point if v.ndim > 1]
    return torch.stack([point.f.isfinite(), *whole]).all(0)


def largest(v: Tensor) -> Tensor:
    """Return the largest absolute entry `(B,)`, 0 where there are none."""
    return v.abs().amax(-1) if v.shape[-1] else v.sum(-1)
