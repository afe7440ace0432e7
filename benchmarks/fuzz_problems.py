"""Random small programs of every class that a QP layer can meet, in batches, with the units to judge them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem

INF = float("inf")


class Units(NamedTuple):
    """`x = c * x_base`, rows multiplied by r (of G) and e (of A), cost by k: the base problem has data of size 1."""

    c: Tensor  # (B, n)
    r: Tensor  # (B, m)
    e: Tensor  # (B, p)
    k: Tensor  # (B, 1)


class Case(NamedTuple):
    """A batch as the solver sees it."""

    problem: QPProblem
    units: Units
    invalid: Tensor  # (B,) bool: holds NaN or an infinity in the wrong place


class Draw:
    """Random numbers for one batch of programs of one size."""

    def __init__(self, seed: int, batch: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = batch
        self.n = self.integer(1, 8)
        self.m = self.integer(1, 10)
        self.p = self.integer(1, max(1, self.n - 1))

    def integer(self, low: int, high: int) -> int:
        """Return one integer in [low, high]."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Return `(B, *shape)` normal numbers."""
        return torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        """Return `(B, *shape)` numbers in [0, 1)."""
        return torch.rand(self.batch, *shape, generator=self.generator, dtype=torch.float64)

    def flag(self, *shape: int, share: float = 0.5) -> Tensor:
        """Return `(B, *shape)` booleans, that share of them true."""
        return self.uniform(*shape) < share

    def powers(self, decades: float, *shape: int) -> Tensor:
        """Return `(B, *shape)` numbers 10^t with t uniform in [-decades, decades]."""
        return 10 ** (decades * (2 * self.uniform(*shape) - 1))


def times(M: Tensor, v: Tensor) -> Tensor:
    """Return M v for a batch."""
    return (M @ v.unsqueeze(-1)).squeeze(-1)


def solvable(draw: Draw, rank: int | None = None, weak: float = 0.0, bounded: float = 0.5) -> QPProblem:
    """Return programs built backwards from an optimum: all parts present, data of size 1."""
    return with_optimum(draw, rank, weak, bounded)[0]


def with_optimum(
    draw: Draw, rank: int | None = None, weak: float = 0.0, bounded: float = 0.5
) -> tuple[QPProblem, Tensor]:
    """Return such programs and their optimum x.

    Args:
        draw: random numbers and sizes.
        rank: of P; None makes P definite with eigenvalues down to 1e-3.
        weak: share of the active rows whose multiplier is zero.
        bounded: share of lower and of upper bounds that exist.
    """
    n, m, p = draw.n, draw.m, draw.p
    factor = draw.normal(n, n if rank is None else rank) / n**0.5
    P = factor @ factor.mT
    if rank is None:
        P = P + torch.diag_embed(1e-3 ** draw.uniform(1).expand(-1, n))
    x, y, G, A = draw.normal(n), draw.normal(p), draw.normal(m, n), draw.normal(p, n)
    z, s = _complementary(draw, m, weak)
    z_upper, s_upper = _complementary(draw, n, weak)
    z_lower, s_lower = _complementary(draw, n, weak)
    has_upper, has_lower = draw.flag(n, share=bounded), draw.flag(n, share=bounded)
    z_box = torch.where(has_upper, z_upper, 0.0) - torch.where(has_lower, z_lower, 0.0)
    q = -(times(P, x) + times(G.mT, z) + times(A.mT, y) + z_box)
    lb, ub = torch.where(has_lower, x - s_lower, -INF), torch.where(has_upper, x + s_upper, INF)
    return QPProblem(P, q, G, times(G, x) + s, A, times(A, x), lb, ub), x


def _complementary(draw: Draw, count: int, weak: float) -> tuple[Tensor, Tensor]:
    active = draw.flag(count)
    z, s = draw.uniform(count), draw.uniform(count)
    return torch.where(active & ~draw.flag(count, share=weak), z, 0.0), torch.where(active, 0.0, s)


def rescale(problem: QPProblem, units: Units) -> QPProblem:
    """Return the same programs in other units."""
    P, q, G, h, A, b, lb, ub = problem
    c, r, e, k = units
    inverse = 1 / c
    return QPProblem(
        k.unsqueeze(-1) * P * inverse.unsqueeze(-1) * inverse.unsqueeze(-2),
        k * q * inverse,
        None if G is None else r.unsqueeze(-1) * G * inverse.unsqueeze(-2),
        None if h is None else r * h,
        None if A is None else e.unsqueeze(-1) * A * inverse.unsqueeze(-2),
        None if b is None else e * b,
        None if lb is None else c * lb,
        None if ub is None else c * ub,
    )


def _in_units(draw: Draw, rows: float = 0.0, columns: float = 0.0, cost: float = 0.0) -> Case:
    units = Units(
        draw.powers(columns, draw.n), draw.powers(rows, draw.m), draw.powers(rows, draw.p), draw.powers(cost, 1)
    )
    return _case(rescale(solvable(draw), units), units)


def _case(problem: QPProblem, units: Units | None = None, invalid: Tensor | None = None) -> Case:
    P, q, G, _, A, *_ = problem
    if units is None:
        r = q.new_ones(len(q), 0) if G is None else torch.ones_like(G[..., 0])
        e = q.new_ones(len(q), 0) if A is None else torch.ones_like(A[..., 0])
        units = Units(torch.ones_like(q), r, e, torch.ones_like(q[:, :1]))
    return Case(problem, units, P.new_zeros(len(q), dtype=torch.bool) if invalid is None else invalid)


def _without(problem: QPProblem, *names: str) -> QPProblem:
    # Without a part, its multipliers' share of stationarity is missing; strong convexity keeps a solution.
    absent: dict[str, Any] = dict.fromkeys(names)
    return problem._replace(**absent)


def _missing(draw: Draw) -> Case:
    pairs = (("G", "h"), ("A", "b"), ("lb",), ("ub",))
    names = [name for pair in pairs if draw.integer(0, 1) for name in pair]
    return _case(_without(solvable(draw), *names))


def _infinite(draw: Draw) -> Case:
    problem = solvable(draw, bounded=0.3)
    assert problem.h is not None
    return _case(problem._replace(h=torch.where(draw.flag(draw.m), INF, problem.h)))


def _repeated(draw: Draw, noise: float) -> Case:
    """Every row twice, the copy turned a little about the optimum, which stays feasible."""
    (P, q, G, h, A, b, lb, ub), x = with_optimum(draw)
    assert G is not None
    assert h is not None
    assert A is not None
    assert b is not None
    dG, dA = noise * draw.normal(draw.m, draw.n), noise * draw.normal(draw.p, draw.n)
    G, h = torch.cat([G, G + dG], -2), torch.cat([h, h + times(dG, x)], -1)
    A, b = torch.cat([A, A + dA], -2), torch.cat([b, b + times(dA, x)], -1)
    return _case(QPProblem(P, q, G, h, A, b, lb, ub))


def _fixed(draw: Draw) -> Case:
    """Bounds that meet, at one entry in three or at all of them, with rows or without: no interior."""
    problem, x = with_optimum(draw, rank=draw.integer(0, draw.n))
    lb, ub = problem.lb, problem.ub
    assert lb is not None
    assert ub is not None
    fixed = draw.flag(draw.n, share=1.0 if draw.integer(0, 1) else 0.3)
    problem = problem._replace(lb=torch.where(fixed, x, lb), ub=torch.where(fixed, x, ub))
    return _case(_without(problem, "G", "h", "A", "b") if draw.integer(0, 1) and bool(fixed.all()) else problem)


def _pairs(draw: Draw) -> Case:
    P, q, G, h, A, b, lb, ub = solvable(draw)
    assert G is not None
    assert h is not None
    assert A is not None
    assert b is not None
    return _case(QPProblem(P, q, torch.cat([G, A, -A], -2), torch.cat([h, b, -b], -1), None, None, lb, ub))


def _infeasible(draw: Draw) -> Case:
    """Rows that contradict each other, equalities that do, or bounds that cross."""
    problem = solvable(draw, rank=draw.integer(0, draw.n))
    G, h, A, b = problem[2:6]
    assert G is not None
    assert h is not None
    assert A is not None
    assert b is not None
    gap = 0.1 + draw.uniform(1)
    kind = draw.integer(0, 2)
    if kind == 0:  # a nonnegative combination of rows, turned around
        z = draw.uniform(draw.m)
        row, limit = times(G.mT, z), (h * z).sum(-1, keepdim=True)
        return _case(problem._replace(G=torch.cat([G, -row.unsqueeze(-2)], -2), h=torch.cat([h, -limit - gap], -1)))
    if kind == 1:
        y = draw.normal(draw.p)
        row, value = times(A.mT, y), (b * y).sum(-1, keepdim=True)
        return _case(problem._replace(A=torch.cat([A, row.unsqueeze(-2)], -2), b=torch.cat([b, value + gap], -1)))
    first = torch.arange(draw.n) == draw.integer(0, draw.n - 1)
    middle = draw.normal(draw.n)
    return _case(problem._replace(lb=torch.where(first, middle + gap, -INF), ub=torch.where(first, middle - gap, INF)))


def _unbounded(draw: Draw) -> Case:
    """A feasible point and a ray along which the cost falls, no row is hit, and P has no curvature."""
    P, _, G, h, A, b, _, _ = solvable(draw)
    assert G is not None
    assert h is not None
    assert A is not None
    assert b is not None
    ray = draw.normal(draw.n)
    ray = ray / ray.norm(dim=-1, keepdim=True)
    along = ray.unsqueeze(-1) * ray.unsqueeze(-2)
    off = torch.eye(draw.n, dtype=torch.float64) - along
    x, slope = draw.normal(draw.n), 0.1 + draw.uniform(1)
    G = G @ off - draw.uniform(draw.m, 1) * ray.unsqueeze(-2)
    A, P = A @ off, off @ P @ off
    lb = torch.where((ray > 0) & draw.flag(draw.n), x - draw.uniform(draw.n), -INF)
    ub = torch.where((ray < 0) & draw.flag(draw.n), x + draw.uniform(draw.n), INF)
    q = times(off, draw.normal(draw.n)) - slope * ray
    return _case(QPProblem(0.5 * (P + P.mT), q, G, times(G, x) + draw.uniform(draw.m), A, times(A, x), lb, ub))


def _not_a_number(draw: Draw) -> Case:
    """Half of the elements hold one NaN, or an infinity where it means nothing; the others must not notice."""
    problem, invalid = solvable(draw), draw.flag()
    names = ("P", "q", "G", "h", "A", "b", "lb", "ub")
    name = names[draw.integer(0, len(names) - 1)]
    values = {"h": -INF, "lb": INF, "ub": -INF}
    value = values.get(name, INF) if draw.integer(0, 1) else float("nan")
    tensor = getattr(problem, name).clone()
    tensor.reshape(draw.batch, -1)[invalid, 0] = value
    return _case(problem._replace(**{name: tensor}), invalid=invalid)


CLASSES: dict[str, Callable[[Draw], Case]] = {
    "strictly convex": lambda draw: _case(solvable(draw)),
    "singular P": lambda draw: _case(solvable(draw, rank=draw.integer(1, draw.n))),
    "linear program": lambda draw: _case(solvable(draw, rank=0)),
    "no constraints": lambda draw: _case(_without(solvable(draw), "G", "h", "A", "b", "lb", "ub")),
    "equalities only": lambda draw: _case(_without(solvable(draw), "G", "h", "lb", "ub")),
    "bounds only": lambda draw: _case(_without(solvable(draw), "G", "h", "A", "b")),
    "missing parts": _missing,
    "infinite entries": _infinite,
    "duplicated rows": lambda draw: _repeated(draw, 0.0),
    "nearly dependent": lambda draw: _repeated(draw, 10.0 ** -draw.integer(5, 12)),
    "equality as pairs": _pairs,
    "fixed variables": _fixed,
    "rows scaled": lambda draw: _in_units(draw, rows=6),
    "columns scaled": lambda draw: _in_units(draw, columns=6),
    "cost scaled": lambda draw: _in_units(draw, cost=6),
    "all scaled": lambda draw: _in_units(draw, rows=3, columns=3, cost=3),
    "weakly active": lambda draw: _case(solvable(draw, weak=0.5)),
    "degenerate LP": lambda draw: _case(solvable(draw, rank=0, weak=0.5)),
    "infeasible": _infeasible,
    "unbounded": _unbounded,
    "not a number": _not_a_number,
}
