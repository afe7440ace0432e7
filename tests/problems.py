"""Quadratic programs built backwards from a chosen answer.

    minimise 1/2 x'Px + q'x   subject to   Gx <= h,  Ax = b,  lb <= x <= ub

First the optimum, the active rows and their multipliers are drawn, then the right-hand sides; q comes last,
from stationarity Px + q + G'z + A'y + z_box = 0. Nothing here imports the package under test.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INF = float("inf")


class Problem(NamedTuple):
    """The arguments of `solve_qp`, in its order."""

    P: Tensor
    q: Tensor
    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lb: Tensor | None = None
    ub: Tensor | None = None


class Known(NamedTuple):
    """A problem and its optimum. The multipliers are the only ones where the active rows are independent."""

    problem: Problem
    x: Tensor
    z: Tensor
    y: Tensor
    z_box: Tensor


def f64(data) -> Tensor:
    """A float64 tensor of literal numbers."""
    return torch.tensor(data, dtype=torch.float64)


def given(problem: Problem) -> list[str]:
    """The names of the arguments that are not None."""
    return [name for name, value in problem._asdict().items() if value is not None]


def mapped(problem: Problem, function) -> Problem:
    """Apply a function to every argument that is not None."""
    return Problem(*(None if value is None else function(value) for value in problem))


def element(problem: Problem, index) -> Problem:
    """One element (or a slice of elements) of a problem whose arguments all carry the batch."""
    return mapped(problem, lambda value: value[index])


def with_element(problem: Problem, index: int, other: Problem) -> Problem:
    """The same batch with one element exchanged."""

    def exchanged(value: Tensor, new: Tensor) -> Tensor:
        value = value.clone()
        value[index] = new
        return value

    return Problem(*(None if v is None else exchanged(v, new) for v, new in zip(problem, other, strict=True)))


def leaves(problem: Problem, names=None) -> Problem:
    """Fresh copies of the arguments; those named (default: all) require a gradient."""
    names = given(problem) if names is None else names
    copies = {
        name: value.detach().clone().requires_grad_(name in names)
        for name, value in problem._asdict().items()
        if value is not None
    }
    return problem._replace(**copies)


def random_direction(problem: Problem, generator: torch.Generator) -> Problem:
    """A random change of every argument: zero where an entry is infinite, symmetric and P S P for P,

    so that a singular P stays positive semidefinite on both sides of it (and the zero of a linear program stays).
    """

    def draw(name: str, value: Tensor) -> Tensor:
        change = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name == "P":
            change = value.detach() @ (change + change.mT) @ value.detach() / 8
        return torch.where(value.isfinite(), change, 0.0)

    return Problem(*(None if v is None else draw(k, v) for k, v in problem._asdict().items()))


def moved(problem: Problem, direction: Problem, step: float) -> Problem:
    """The problem, `step` along a direction."""
    return Problem(*(None if v is None else v.detach() + step * d for v, d in zip(problem, direction, strict=True)))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _orthogonal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64)).Q


def known_optimum(
    seed: int,
    *,
    batch: tuple[int, ...] = (),
    n: int,
    m: int = 0,
    p: int = 0,
    active: float = 0.5,
    weak: int = 0,
    bounds: int | None = None,
    rank: int | None = None,
    margin: float = 0.2,
) -> Known:
    """Draw problems with a known optimum.

    Args:
        seed: Of the generator.
        batch: Leading dimensions of every argument.
        n: Variables.
        m: Inequality rows, of which round(active * m) are active.
        p: Equality rows.
        active: Share of active inequality rows.
        weak: How many of the active rows have a multiplier of zero.
        bounds: How many bounds are active (alternately lower and upper); None for no bounds at all. Of the
            other variables half have two inactive bounds and half have none.
        rank: Of P; default n; 0 is a linear program. Below n the optimum is the only one if rank + p + active
            rows + active bounds >= n and no row is weakly active.
        margin: Least multiplier of an active row and least slack of an inactive one.

    Returns:
        The problem; arguments of zero rows are None. Active rows (at most n of them with the equalities) are
        a disturbed orthogonal system, hence well-conditioned; the eigenvalues of P are 0 or in [1, 3].
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*batch, *shape, generator=generator, dtype=torch.float64)

    rank = n if rank is None else rank
    basis = _orthogonal(*batch, n, n, generator=generator)
    spectrum = torch.where(torch.arange(n) < rank, 1 + 2 * uniform(n), 0.0)
    P = basis @ (spectrum[..., None] * basis.mT)
    P = (P + P.mT) / 2

    # Rows, tight ones first: p equalities, then the active inequalities, then the others.
    num_active = round(active * m)
    rows = normal(p + m, n)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    tight = min(n, p + num_active)
    rows[..., :tight, :] = (_orthogonal(*batch, n, n, generator=generator) + 0.1 * normal(n, n))[..., :tight, :]
    A, G = rows[..., :p, :], rows[..., p:, :]
    index = torch.arange(m)
    z = torch.where((index >= weak) & (index < num_active), margin + uniform(m), 0.0)
    s = torch.where(index >= num_active, margin + uniform(m), 0.0)
    shuffle = uniform(m).argsort(-1)
    G = torch.take_along_dim(G, shuffle[..., None], -2)
    z, s = torch.take_along_dim(z, shuffle, -1), torch.take_along_dim(s, shuffle, -1)

    x, y, z_box = normal(n), normal(p), torch.zeros(*batch, n, dtype=torch.float64)
    lb = ub = None
    if bounds is not None:
        place = uniform(n).argsort(-1).argsort(-1)  # a random numbering of the variables
        at_lb, at_ub = (place < bounds) & (place % 2 == 0), (place < bounds) & (place % 2 == 1)
        bounded = (place < bounds) | (place % 2 == 0)
        z_box = torch.where(at_lb, -1.0, torch.where(at_ub, 1.0, 0.0)) * (margin + uniform(n))
        lb = torch.where(bounded, x - torch.where(at_lb, 0.0, margin + uniform(n)), -INF)
        ub = torch.where(bounded, x + torch.where(at_ub, 0.0, margin + uniform(n)), INF)
    q = -(_times(P, x) + _times(G.mT, z) + _times(A.mT, y) + z_box)
    problem = Problem(
        P,
        q,
        G if m else None,
        _times(G, x) + s if m else None,
        A if p else None,
        _times(A, x) if p else None,
        lb,
        ub,
    )
    return Known(problem, x, z, y, z_box)


REGULAR: dict[str, dict] = {
    "inequalities": {"n": 6, "m": 8},
    "equalities": {"n": 5, "p": 2},
    "bounds": {"n": 6, "bounds": 3},
    "unconstrained": {"n": 4},
    "everything": {"n": 8, "m": 6, "p": 2, "bounds": 2},
    "singular P": {"n": 6, "m": 6, "p": 1, "rank": 3},
    "linear program": {"n": 5, "m": 8, "p": 1},  # 4 of 8 rows active: a vertex
    "one variable": {"n": 1, "m": 2},
}
REGULAR["linear program"]["rank"] = 0


def regular(name: str, seed: int, batch: tuple[int, ...] = ()) -> Known:
    """Problems at which the solution map is differentiable, one class for each name in `REGULAR`."""
    return known_optimum(seed, batch=batch, **REGULAR[name])


def with_duplicates(known: Known) -> Problem:
    """Every constraint row twice: the same feasible set, dependent rows."""
    P, q, G, h, A, b, lb, ub = known.problem
    return Problem(
        P,
        q,
        None if G is None else torch.cat([G, G], -2),
        None if h is None else torch.cat([h, h], -1),
        None if A is None else torch.cat([A, A], -2),
        None if b is None else torch.cat([b, b], -1),
        lb,
        ub,
    )


def without_interior(known: Known) -> Problem:
    """Every equality written as two inequalities: the same feasible set, no strictly feasible point."""
    P, q, G, h, A, b, lb, ub = known.problem
    rows, limits = ([], []) if G is None else ([G], [h])
    return Problem(P, q, torch.cat([*rows, A, -A], -2), torch.cat([*limits, b, -b], -1), None, None, lb, ub)


def badly_scaled(known: Known, seed: int, *, decades: float, rows=True, columns=False, cost=1.0) -> Known:
    """The same problem with rows (and variables) multiplied by 10^t, t uniform in [-decades, decades]."""
    generator = torch.Generator().manual_seed(seed)
    P, q, G, h, A, b, lb, ub = known.problem

    def factors(like: Tensor, wanted: bool) -> Tensor:
        t = decades * (2 * torch.rand(like.shape, generator=generator, dtype=torch.float64) - 1)
        return 10**t if wanted else torch.ones_like(t)

    c = factors(known.x, columns)  # new x = x / c
    r, e = factors(known.z, rows), factors(known.y, rows)
    problem = Problem(
        cost * c[..., :, None] * P * c[..., None, :],
        cost * c * q,
        None if G is None else r[..., :, None] * G * c[..., None, :],
        None if h is None else r * h,
        None if A is None else e[..., :, None] * A * c[..., None, :],
        None if b is None else e * b,
        None if lb is None else lb / c,
        None if ub is None else ub / c,
    )
    return Known(problem, known.x / c, cost * known.z / r, cost * known.y / e, cost * known.z_box * c)


def infeasible(seed: int, *, batch: tuple[int, ...] = (), n: int, m: int, p: int = 0) -> tuple[Problem, Tensor, Tensor]:
    """Problems without a feasible point, and Farkas multipliers z >= 0, y: G'z + A'y = 0, h'z + b'y = -1."""
    known = known_optimum(seed, batch=batch, n=n, m=m, p=p)
    P, q, G, h, A, b, _, _ = known.problem
    generator = torch.Generator().manual_seed(seed + 1)
    z = 0.5 + torch.rand(*batch, m, generator=generator, dtype=torch.float64)
    y = torch.randn(*batch, p, generator=generator, dtype=torch.float64)
    combination = _times(G[..., :-1, :].mT, z[..., :-1])
    value = (h * z)[..., :-1].sum(-1)
    if p:
        combination, value = combination + _times(A.mT, y), value + (b * y).sum(-1)
    G, h = G.clone(), h.clone()
    G[..., -1, :] = -combination / z[..., -1:]
    h[..., -1] = (-1 - value) / z[..., -1]
    return Problem(P, q, G, h, A, b), z, y


def unbounded(seed: int, *, batch: tuple[int, ...] = (), n: int, m: int, p: int = 0) -> tuple[Problem, Tensor]:
    """Feasible problems without a minimum, and a ray d: Pd = 0, Gd <= 0, Ad = 0, q'd = -1."""
    known = known_optimum(seed, batch=batch, n=n, m=m, p=p)
    P, _, G, h, A, _, _, _ = known.problem
    generator = torch.Generator().manual_seed(seed + 1)
    ray = torch.randn(*batch, n, generator=generator, dtype=torch.float64)
    ray = ray / ray.norm(dim=-1, keepdim=True)
    along = ray[..., :, None] * ray[..., None, :]
    off = torch.eye(n, dtype=torch.float64) - along  # projector on what is orthogonal to the ray
    P = off @ P @ off
    # Rows keep their right-hand side at known.x, which therefore stays feasible.
    new_G = G @ off - torch.rand(*batch, m, 1, generator=generator, dtype=torch.float64) * ray[..., None, :]
    new_A = None if A is None else A @ off
    return (
        Problem(
            (P + P.mT) / 2,
            _times(off, known.x) - ray,
            new_G,
            h + _times(new_G - G, known.x),
            new_A,
            None if new_A is None else _times(new_A, known.x),
        ),
        ray,
    )


BARELY = ("equality twice", "inequality twice", "sum of equalities")


def barely_infeasible(kind: str, margin: float, seed: int, n: int = 30, m: int = 40, p: int = 10) -> Problem:
    """A sparse problem with an optimum, but for one more row that contradicts others by the margin."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def thin(*shape):
        return draw(*shape) * (torch.rand(*shape, generator=generator) < 0.3)

    L, G, A, x = thin(n, n // 2), thin(m, n), thin(p, n), draw(n)
    h, b = G @ x + draw(m).relu(), A @ x
    q = -(L @ (L.mT @ draw(n))) - G.mT @ draw(m).relu() - A.mT @ draw(p)
    if kind == "equality twice":
        A, b = torch.cat([A, A[:1]]), torch.cat([b, b[:1] + margin])
    elif kind == "inequality twice":
        G, h = torch.cat([G, -G[:1]]), torch.cat([h, -h[:1] - margin])
    else:
        weight = draw(p)
        A, b = torch.cat([A, weight[None] @ A]), torch.cat([b, (weight @ b)[None] + margin])
    return Problem(L @ L.mT, q, G, h, A, b, None, None)


def slow_descent(seed: int, n: int = 40, m: int = 30, p: int = 6) -> Problem:
    """A sparse problem with feasible points, the cost of which falls without end along a hidden direction, slowly."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def thin(*shape):
        return draw(*shape) * (torch.rand(*shape, generator=generator) < 0.2)

    ray = draw(n)
    ray /= ray.norm()
    off = torch.eye(n, dtype=torch.float64) - torch.outer(ray, ray)
    L, G, A, x, q = off @ thin(n, n // 2), thin(m, n), thin(p, n) @ off, draw(n), draw(n)
    G = torch.where((G @ ray > 0)[:, None], -G, G)
    slope = 10 ** (-3 * torch.rand(1, generator=generator, dtype=torch.float64))
    return Problem(L @ L.mT, off @ q - slope * ray, G, G @ x + draw(m).relu(), A, A @ x, None, None)
