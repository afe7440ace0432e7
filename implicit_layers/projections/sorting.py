"""Soft sorting and ranking: projection onto the permutahedron, the convex hull of all orders of a vector.

The projection of z onto the hull of the orders of w, both sorted, is `z - isotonic(z - w)`, put back into
the order of z: O(n log n), and exactly differentiable because the isotonic regression is.

References: Blondel et al. (2020), Fast differentiable sorting and ranking, eq. 5-6 and proposition 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .elements import Elements
from .isotonic import block_means, find_blocks


def project_permutahedron(point: Tensor, vertex: Tensor) -> Tensor:
    """Return the closest point of the convex hull of all orders of `vertex`.

    Args:
        point: `(*batch, n)`.
        vertex: `(*batch, n)`, in any order.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements that are not finite.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        In both arguments, any order. Ties of the point or of the vertex are split in the order of the entries; a
        face that is only touched counts as inactive.
    """
    elements = Elements("project_permutahedron", point=(point, "n"), vertex=(vertex, "n"))
    elements.require(elements["vertex"].isfinite().all(-1), "vertex", "finite entries")
    return elements.answer(_permutahedron(*elements.tensors()))


def soft_sort(values: Tensor, strength: float | Tensor = 1.0, *, descending: bool = False) -> Tensor:
    """Return the values in soft order: a smooth stand-in for sorting.

    Args:
        values: `(*batch, n)`.
        strength: > 0, a number or `(*batch,)`. Up to 1 / (largest gap between neighbours in the order) the result is
            exactly the sorted values; as it grows, all entries tend to the mean.
        descending: largest first.

    Returns:
        `(*batch, n)`, monotone, with the sum of the values. NaN, and one warning, for elements without an answer.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `strength` is not positive.

    Differentiability:
        In both arguments, any order; ties as in `project_permutahedron`.
    """
    v, eps, elements = _soft("soft_sort", values, strength)
    steps = _places(v) / eps
    return elements.answer(_permutahedron(steps.flip(-1) if descending else steps, v))


def soft_rank(values: Tensor, strength: float | Tensor = 1.0, *, descending: bool = False) -> Tensor:
    """Return the soft rank of each value, from 1 to n: exact where values lie `strength` apart.

    Args:
        values: `(*batch, n)`.
        strength: > 0, a number or `(*batch,)`, in the unit of the values; as it grows, all ranks tend to (n + 1) / 2.
        descending: rank 1 is the largest.

    Returns:
        `(*batch, n)`, with sum n (n + 1) / 2. NaN, and one warning, for elements without an answer.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `strength` is not positive.

    Differentiability:
        In both arguments, any order; ties as in `project_permutahedron`. Exact ranks have derivative zero.
    """
    v, eps, elements = _soft("soft_rank", values, strength)
    v = v / eps
    return elements.answer(_permutahedron(-v if descending else v, _places(v)))


def _soft(caller: str, values: Tensor, strength: float | Tensor) -> tuple[Tensor, Tensor, Elements]:
    elements = Elements(caller, values=(values, "n"), strength=(strength, "1"))
    eps = elements["strength"]
    elements.require(((eps > 0) & eps.isfinite()).all(-1), "strength", "a number > 0")
    v, eps = elements.tensors()
    return v, eps, elements


def _places(v: Tensor) -> Tensor:
    return torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device).expand(v.shape)


def _permutahedron(z: Tensor, w: Tensor) -> Tensor:
    order = z.detach().argsort(dim=-1, stable=True)
    z_sorted = z.gather(-1, order)
    w_sorted = w.gather(-1, w.detach().argsort(dim=-1, stable=True))
    ones = torch.ones_like(z)
    block = find_blocks((z_sorted - w_sorted).detach(), ones)
    # z - isotonic(z - w), in an order that loses no digits of w where z is large: exact vertices.
    projected = (z_sorted - block_means(z_sorted, ones, block)) + block_means(w_sorted, ones, block)
    return projected.gather(-1, order.argsort(-1))
