"""The programs: random strictly convex ones in the manner of OptNet, and those of published experiments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..peers.layers import Array, Arrays

Kind = Literal["rows", "box", "tight_box", "shared", "simplex", "projection", "bpqp", "two_sided"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch of programs of one size.

    Attributes:
        name: of its family.
        n, m, p: unknowns, inequality rows, equality rows.
        batch: number of programs.
        kind: how they are drawn.
        group: "table", "extra", "sweep" or "experiment": which part of the report it belongs to.
        target: how many times faster than the best peer we want to be, forward and backward.
    """

    name: str
    n: int
    m: int
    p: int = 0
    batch: int = 1
    kind: Kind = "rows"
    group: str = "table"
    target: float | None = None

    @property
    def key(self) -> str:
        """Name and batch: what `--cases` and tables call it."""
        return f"{self.name};{self.batch}"

    @property
    def wanted(self) -> tuple[str, ...]:
        """The data in which to differentiate."""
        if self.kind in ("box", "tight_box"):
            return ("P", "q", "lb", "ub")
        if self.kind in ("simplex", "projection"):
            return ("q",)
        return ("P", "q", *(("G", "h") if self.m else ()), *(("A", "b") if self.p else ()))

    def draw(self) -> Arrays:
        """Return the data and the cotangent v; the same for the same case, in every run."""
        rng = np.random.default_rng([self.n, self.m, self.p, self.batch, sum(map(ord, self.kind))])
        data = DRAW[self.kind](self, rng)
        return data | {"v": rng.standard_normal((self.batch, self.n))}


def _rows(case: Case, rng: np.random.Generator) -> Arrays:
    """P = LL' + 1e-3 I with L uniform, G and A normal, h = G z0 + s0, b = A z0 (OptNet's timing experiment)."""
    n, m, p, batch = case.n, case.m, case.p, case.batch
    L = rng.random((batch, n, n))
    data = {"P": L @ L.swapaxes(-1, -2) + 1e-3 * np.eye(n), "q": rng.standard_normal((batch, n))}
    z0 = rng.standard_normal((batch, n))
    if m:
        data["G"] = rng.standard_normal((batch, m, n))
        data["h"] = times(data["G"], z0) + rng.random((batch, m))
    if p:
        data["A"] = rng.standard_normal((batch, p, n))
        data["b"] = times(data["A"], z0)
    return data


def _box(case: Case, rng: np.random.Generator) -> Arrays:
    """The same P and q, and -1 <= x <= 1."""
    data = _rows(case, rng)
    side = np.ones((case.batch, case.n))
    return {"P": data["P"], "q": data["q"], "lb": -side, "ub": side}


def _tight_box(case: Case, rng: np.random.Generator) -> Arrays:
    """SCQPTH's: P = M'M + 0.01 I, half of M zero; -a/n <= x <= c/n with a and c uniform in [1, 2]."""
    n, batch = case.n, case.batch
    lb, ub = (-1 - rng.random((batch, n))) / n, (1 + rng.random((batch, n))) / n
    return {"P": _half_empty(case, rng), "q": rng.standard_normal((batch, n)), "lb": lb, "ub": ub}


def _half_empty(case: Case, rng: np.random.Generator) -> Array:
    M = rng.standard_normal((case.batch, case.n, case.n)) * (rng.random((case.batch, case.n, case.n)) < 0.5)
    P: Array = M.swapaxes(-1, -2) @ M + 0.01 * np.eye(case.n)
    return P


def _shared(case: Case, rng: np.random.Generator) -> Arrays:
    """One P and one G for the whole batch; q and h of each element."""
    n, m, batch = case.n, case.m, case.batch
    L = rng.random((n, n))
    G = rng.standard_normal((m, n))
    h = rng.standard_normal((batch, n)) @ G.T + rng.random((batch, m))
    return {"P": L @ L.T + 1e-3 * np.eye(n), "q": rng.standard_normal((batch, n)), "G": G, "h": h}


def _simplex(case: Case, rng: np.random.Generator) -> Arrays:
    """Projection of y = -q on the unit simplex: P = I, x >= 0, sum x = 1 (dQP, section 5)."""
    n, batch = case.n, case.batch
    one, zero = np.ones((batch, 1, n)), np.zeros((batch, n))
    P = np.tile(np.eye(n), (batch, 1, 1))
    G = np.tile(-np.eye(n), (batch, 1, 1))
    q = rng.standard_normal((batch, n))
    return {"P": P, "q": q, "G": G, "h": zero, "A": one, "b": np.ones((batch, 1))}


def _projection(case: Case, rng: np.random.Generator) -> Arrays:
    """The same projection at sizes where P would not fit: the data is y = -q alone."""
    return {"q": rng.standard_normal((case.batch, case.n))}


def _bpqp(case: Case, rng: np.random.Generator) -> Arrays:
    """BPQP's: everything uniform in [0, 1], P = R'R + 1e-3 I; one z0 for G and A, so that it is feasible."""
    n, m, p, batch = case.n, case.m, case.p, case.batch
    R = rng.random((batch, n, n))
    G, A, z0 = rng.random((batch, m, n)), rng.random((batch, p, n)), rng.random((batch, n))
    P = R.swapaxes(-1, -2) @ R + 1e-3 * np.eye(n)
    return {"P": P, "q": rng.random((batch, n)), "G": G, "h": times(G, z0), "A": A, "b": times(A, z0)}


def _two_sided(case: Case, rng: np.random.Generator) -> Arrays:
    """SCQPTH's: P as in `_tight_box`; rows l <= Kx <= u with 15 % of K filled, as two rows each."""
    n, half, batch = case.n, case.m // 2, case.batch
    P = _half_empty(case, rng)
    K = rng.standard_normal((batch, half, n)) * (rng.random((batch, half, n)) < 0.15)
    K[..., 0] += np.where((K == 0).all(-1), 1.0, 0.0)  # no empty rows
    sides = rng.random((batch, 2 * half))
    return {"P": P, "q": rng.standard_normal((batch, n)), "G": np.concatenate([-K, K], 1), "h": sides}


DRAW: dict[Kind, Callable[[Case, np.random.Generator], Arrays]] = {
    "rows": _rows, "box": _box, "tight_box": _tight_box, "shared": _shared, "simplex": _simplex,
    "projection": _projection, "bpqp": _bpqp, "two_sided": _two_sided,
}  # fmt: skip


def times(M: Array, v: Array) -> Array:
    """Multiply each matrix with its vector."""
    product: Array = (M @ v[..., None])[..., 0]
    return product


def family(name: str, n: int, m: int, p: int, targets: dict[int, float | None], kind: Kind = "rows") -> list[Case]:
    """Return a case for each batch size."""
    return [Case(name=name, n=n, m=m, p=p, batch=b, kind=kind, target=t) for b, t in targets.items()]


# "Never slower than any peer in any row" is the target 1 where no other is stated.
TABLE = [
    *family("tiny", 3, 8, 0, {1: 3, 128: 10, 1024: 10, 8192: 10}),
    *family("small", 10, 20, 5, {1: 3, 128: 10, 1024: 10}),
    *family("optnet", 100, 100, 0, {1: 1, 64: 4, 128: 4}),
    *family("med-eq", 100, 50, 25, {64: 4}),
    *family("box", 100, 0, 0, {128: 20}, "box"),
    *family("large", 500, 500, 100, {8: 1.5}),
]
SHARED = Case(name="shared", n=100, m=100, batch=128, kind="shared", group="extra")
# n = 100 of this series is optnet;64.
SWEEP = [Case(name=f"n={n}", n=n, m=n, batch=64, group="sweep") for n in (3, 10, 30, 200)]
EXPERIMENTS = [
    *(Case(name=f"simplex n={n}", n=n, m=n, p=1, kind="simplex", group="experiment") for n in (10, 100, 1000)),
    *(Case(name=f"simplex n={n}", n=n, m=n, p=1, kind="projection", group="experiment") for n in (10_000, 100_000)),
    *(Case(name=f"BPQP {n}x{k}", n=n, m=k, p=k, kind="bpqp", group="experiment")
      for n, k in ((10, 5), (50, 10), (100, 20), (500, 100))),
    *(Case(name=f"SCQPTH box n={n}", n=n, m=0, batch=32, kind="tight_box", group="experiment")
      for n in (10, 50, 100, 250)),
    *(Case(name=f"SCQPTH rows n={n}", n=n, m=2 * n, batch=32, kind="two_sided", group="experiment")
      for n in (10, 50, 100, 250)),
]  # fmt: skip
QUICK = [*family("tiny", 3, 8, 0, {1: 3, 128: 10}), *family("small", 10, 20, 5, {1: 3, 128: 10})]
