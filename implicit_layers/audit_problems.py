"""Regular quadratic programs with a known optimum, and how they are put before a layer.

Built backwards: first x, the active rows and their multipliers, then the right-hand sides, and q last, from
`Px + q + G'z + A'y + z_box = 0`. The active rows are independent and every multiplier and slack keeps a distance from
zero, so solution and derivative exist and are unique.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from .algebra import times

Tensors = dict[str, Tensor]

BATCH = 4
MARGIN = 0.3  # least multiplier of an active row and least slack of an inactive one


def same(tensors: Tensors) -> Tensors:
    """Return what was given: nothing to write in another way."""
    return tensors


@final
@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem with a known optimum, and how it is put before a layer.

    Attributes:
        params: arguments of the regular problem by name, each `(BATCH, ...)` or shared.
        known: its optimum x and multipliers z, y, z_box, as far as there are such rows, `(BATCH, ...)`.
        write: from params to the layer's arguments, differentiable.
        read: from the layer's outputs to x, z, y, z_box of the regular problem, differentiable.
        spoiled: the element without a solution, if any: its answer is not compared.
        has_gradient: whether the derivative exists; if not, gradients must be finite and no more.
        differences: whether the arithmetic is fine enough for finite differences.
        looseness: factor on all tolerances.
    """

    params: Tensors
    known: Tensors
    write: Callable[[Tensors], Tensors] = same
    read: Callable[[Tensors], Tensors] = same
    spoiled: int | None = None
    has_gradient: bool = True
    differences: bool = True
    looseness: float = 1.0


def draw_problem(
    generator: Generator,
    *,
    n: int = 6,
    m: int = 0,
    p: int = 0,
    active: int = 0,
    weak: int = 0,
    bounds: int | None = None,
    rank: int | None = None,
    shared: bool = False,
) -> tuple[Tensors, Tensors]:
    """Draw a batch of regular problems backwards from their optima.

    Args:
        generator: of the random numbers.
        n: variables.
        m: inequality rows.
        p: equality rows.
        active: how many of the m rows are active.
        weak: how many of the active rows have a multiplier of zero.
        bounds: how many bounds are active, alternately lower and upper; None for no bounds at all.
        rank: of P; n by default. Below n, rank + p + active + bounds >= n makes x unique.
        shared: whether P, G, A are one for the whole batch.

    Returns:
        The arguments and the optimum, as in `Case.params` and `Case.known`.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    lead = () if shared else (BATCH,)
    basis = _orthonormal(normal(*lead, n, n))
    spectrum = torch.where(torch.arange(n) < (n if rank is None else rank), 1 + 2 * uniform(*lead, n), 0.0)
    P = basis @ (spectrum.unsqueeze(-1) * basis.mT)
    P = 0.5 * (P + P.mT)

    # The rows that hold with equality come first: disturbed orthonormal ones, also beside the active bounds, so that
    # the optimality system is well-conditioned.
    place = uniform(BATCH, n).argsort(-1).argsort(-1)  # the bound of a variable is active where this is < bounds
    free = torch.ones(n) if bounds is None else (place >= bounds).double()
    tight = min(n, p + active)
    rows = torch.nn.functional.normalize(normal(*lead, p + m, n), dim=-1)
    orthonormal = _orthonormal(normal(*lead, n, tight) * free.unsqueeze(-1)).mT
    rows[..., :tight, :] = orthonormal + 0.1 * normal(*lead, tight, n)
    A, G = rows[..., :p, :], rows[..., p:, :]

    index = torch.arange(m)
    z = torch.where((index >= weak) & (index < active), MARGIN + uniform(BATCH, m), 0.0)
    s = torch.where(index >= active, MARGIN + uniform(BATCH, m), 0.0)
    order = uniform(*lead, m).argsort(-1)
    G = torch.take_along_dim(G, order.unsqueeze(-1), -2)
    z, s = (torch.take_along_dim(v, order.expand(BATCH, m), -1) for v in (z, s))

    x, y = normal(BATCH, n), normal(BATCH, p)
    params, known = {"P": P, "q": -(times(P, x) + times(G.mT, z) + times(A.mT, y))}, {"x": x}
    if m:
        params |= {"G": G, "h": times(G, x) + s}
        known["z"] = z
    if p:
        params |= {"A": A, "b": times(A, x)}
        known["y"] = y
    if bounds is not None:
        lower, upper = (place < bounds) & (place % 2 == 0), (place < bounds) & (place % 2 == 1)
        known["z_box"] = (upper.double() - lower.double()) * (MARGIN + uniform(BATCH, n))
        params["q"] = params["q"] - known["z_box"]
        params["lb"] = x - torch.where(lower, 0.0, MARGIN + uniform(BATCH, n))
        params["ub"] = x + torch.where(upper, 0.0, MARGIN + uniform(BATCH, n))
    return params, known


def _orthonormal(columns: Tensor) -> Tensor:
    Q: Tensor = torch.linalg.qr(columns).Q
    return Q
