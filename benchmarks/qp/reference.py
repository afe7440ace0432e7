"""The exact answer and its derivative, in numpy: a witness that shares no code with any peer or with ours.

A plain interior point iteration guesses the active set; what counts is what follows. The optimality conditions with
that set are one linear system, solved by LU and refined with residuals in extended precision. If its multipliers of
active rows and its slacks of the others are positive, it is the optimum, whoever guessed; otherwise the rows with the
wrong sign change sides and the system is solved again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..peers.layers import Array, Arrays
from .cases import Case, times

Mask = NDArray[np.bool_]
STRICT = 1e-9  # smallest multiplier or slack of a certified answer: the derivative exists
BLOCKS, SINGLES = 10, 500  # rounds in which all wrong rows change sides, then the first wrong row alone
SOFT = 1e-9  # compliance of the rows while they change sides one by one: dependent ones have multipliers too
PATH_STEPS, PATH_END = 60, 1e-9


@dataclass(frozen=True)
class Rows:
    """The data with a batch dimension each, and bounds written as rows `R x <= r`: G, then I, then -I."""

    P: Array
    q: Array
    R: Array
    r: Array
    A: Array
    b: Array
    m: int

    @classmethod
    def of(cls, data: Arrays) -> Rows:
        """Collect and broadcast the data of a case."""
        batch, n = data["v"].shape
        eye = np.eye(n)
        matrices, sides = [data.get("G", np.zeros((0, n)))], [data.get("h", np.zeros(0))]
        if "lb" in data:
            matrices += [eye, -eye]
            sides += [data["ub"], -data["lb"]]

        def full(value: Array, *shape: int) -> Array:
            return np.broadcast_to(value, (batch, *shape))

        R = np.concatenate([full(v, v.shape[-2], n) for v in matrices], 1)
        r = np.concatenate([full(v, v.shape[-1]) for v in sides], 1)
        A, b = data.get("A", np.zeros((0, n))), data.get("b", np.zeros(0))
        return cls(full(data["P"], n, n), full(data["q"], n), R, r, full(A, A.shape[-2], n), full(b, b.shape[-1]),
                   matrices[0].shape[-2])  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The optimum of each element, and the gradients of `sum(v * x)`.

    Attributes:
        solution: x, z, y and z_box.
        gradients: in P (its symmetric part), q, G, h, A, b, lb, ub, as far as the data has them, one for each element.
        certified: `(B,)`; the others are degenerate or were not found, and are not judged.
    """

    solution: Arrays
    gradients: Arrays
    certified: Mask


def draw(case: Case) -> Arrays:
    """Return the data of a case; a batch of one is a typical program out of 33.

    A single random program may have no active row and then says nothing about gradients in G; the typical one has the
    median number of them.
    """
    if case.batch > 1 or case.n > 100 or case.kind in ("simplex", "projection"):
        return case.draw()
    many = dataclasses.replace(case, batch=33).draw()
    counts = guess_active(Rows.of(many)).sum(-1)
    chosen = int(np.argsort(counts, kind="stable")[len(counts) // 2])
    return {name: value[chosen : chosen + 1].copy() for name, value in many.items()}


def solve(data: Arrays) -> Reference:
    """Solve and differentiate the programs of a case."""
    if "P" not in data:
        return project_on_simplex(data)
    rows = Rows.of(data)
    active = guess_active(rows)
    for flip in range(BLOCKS + 1):
        K = optimality_matrix(rows, active)
        w, x, y, z, slack, wrong = _judge(rows, K, active)
        if not wrong.any() or flip == BLOCKS:
            break
        lost = wrong.any(-1, keepdims=True) & (flip == BLOCKS - 1)  # they go round in circles
        active = np.where(lost, one_by_one(rows), active ^ wrong) if lost.any() else active ^ wrong
    margin = np.where(active, z, slack).min(-1, initial=np.inf)
    certified = (margin > STRICT) & np.isfinite(w).all(-1)
    u = refined_solve(K, np.concatenate([-data["v"], np.zeros_like(w[:, rows.q.shape[1] :])], 1))
    return Reference(_multipliers(x, y, z, rows, data), _gradients(x, y, z, u, rows, data), certified)


def _judge(rows: Rows, K: Array, active: Mask) -> tuple[Array, Array, Array, Array, Array, Mask]:
    """Solve for the active rows; return w and its parts x, y, z, the slacks, and which rows are on the wrong side."""
    w = refined_solve(K, np.concatenate([-rows.q, rows.b, np.where(active, rows.r, 0.0)], 1))
    x, y, z = _split(w, rows)
    slack = rows.r - times(rows.R, x)
    return w, x, y, z, slack, np.where(active, z < 0, slack < 0)


def one_by_one(rows: Rows) -> Mask:
    """Return the active rows of softened programs, found without circles: from none, the first wrong row changes sides.

    References: Murty (1974), Note on a Bard-type scheme for solving the complementarity problem.
    """
    active = np.zeros(rows.r.shape, dtype=bool)
    k = rows.r.shape[1]
    for _ in range(SINGLES):
        K = optimality_matrix(rows, active)
        K[:, -k:, -k:] -= SOFT * active[..., None] * np.eye(k)
        wrong = _judge(rows, K, active)[-1]
        if not wrong.any():
            break
        active = active ^ (wrong & (wrong.cumsum(-1) == 1))
    return active


def project_on_simplex(data: Arrays) -> Reference:
    """Project -q by sorting: x = max(-q - level, 0), and v is centred on the support."""
    y, v = -data["q"], data["v"]
    descending = -np.sort(-y, -1)
    levels = (np.cumsum(descending, -1) - 1) / np.arange(1, y.shape[-1] + 1)
    count = (descending > levels).sum(-1, keepdims=True)
    level = np.take_along_axis(levels, count - 1, -1)
    support = y > level
    mean = np.where(support, v, 0.0).sum(-1, keepdims=True) / count
    certified = np.abs(y - level).min(-1) > STRICT
    return Reference({"x": np.maximum(y - level, 0)}, {"q": -np.where(support, v - mean, 0.0)}, certified)


def guess_active(rows: Rows) -> Mask:
    """Follow the central path with short steps until multipliers and slacks are far apart."""
    batch, k, n = rows.R.shape
    p = rows.A.shape[1]
    x, y = np.zeros((batch, n)), np.zeros((batch, p))
    s, z = np.maximum(rows.r, 1.0), np.ones((batch, k))
    if k == 0:
        return np.zeros((batch, 0), dtype=bool)
    RT, AT = rows.R.swapaxes(-1, -2), rows.A.swapaxes(-1, -2)
    zero = np.broadcast_to(-1e-10 * np.eye(p), (batch, p, p))
    for _ in range(PATH_STEPS):
        dual = times(rows.P, x) + rows.q + times(RT, z) + times(AT, y)
        primal, equal = times(rows.R, x) + s - rows.r, times(rows.A, x) - rows.b
        mu = (s * z).mean(-1, keepdims=True)
        errors = (mu, dual, primal, equal)
        going = np.max([np.abs(v).max(-1, initial=0.0) for v in errors], 0)[:, None] > PATH_END
        if not going.any():
            break
        H = rows.P + RT @ ((z / s)[..., None] * rows.R)
        K = np.concatenate([np.concatenate([H, AT], -1), np.concatenate([rows.A, zero], -1)], 1)
        comp = s * z - 0.1 * mu
        right = np.concatenate([-dual - times(RT, (z * primal - comp) / s), -equal], 1)
        dw = np.nan_to_num(_solve(K, right))
        dx, dy = dw[:, :n], dw[:, n:]
        ds = -primal - times(rows.R, dx)
        dz = -(comp + z * ds) / s
        step = 0.99 * going * np.minimum(_longest(s, ds), _longest(z, dz))
        x, s, z, y = x + step * dx, s + step * ds, z + step * dz, y + step * dy
    return z > s


def _longest(v: Array, dv: Array) -> Array:
    ratio = np.where(dv < 0, -v / np.where(dv < 0, dv, 1.0), np.inf)
    longest: Array = np.minimum(ratio.min(-1, keepdims=True), 1 / 0.99)
    return longest


def optimality_matrix(rows: Rows, active: Mask) -> Array:
    """Return the symmetric matrix of stationarity, Ax = b, active rows, and z = 0 on the others."""
    n, p, k = rows.P.shape[1], rows.A.shape[1], rows.R.shape[1]
    K = np.zeros((len(rows.P), n + p + k, n + p + k))
    held = np.where(active[..., None], rows.R, 0.0)
    K[:, :n, :n] = 0.5 * (rows.P + rows.P.swapaxes(-1, -2))
    K[:, n : n + p, :n], K[:, :n, n : n + p] = rows.A, rows.A.swapaxes(-1, -2)
    K[:, n + p :, :n], K[:, :n, n + p :] = held, held.swapaxes(-1, -2)
    K[:, n + p :, n + p :] = (~active)[..., None] * np.eye(k)
    return K


def refined_solve(K: Array, right: Array) -> Array:
    """Solve K w = right for each element; an element with a singular K becomes NaN."""
    w = _solve(K, right)
    for _ in range(2):
        residual = right.astype(np.longdouble)
        for i in range(len(K)):  # one matrix at a time: extended precision takes twice the memory
            residual[i] -= K[i].astype(np.longdouble) @ w[i].astype(np.longdouble)
        w = w + _solve(K, residual.astype(np.float64))
    return w


def _solve(K: Array, right: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(K, right[..., None])[..., 0])
    except np.linalg.LinAlgError:
        found = np.full(right.shape, np.nan)
        for i in range(len(K)):
            if np.linalg.cond(K[i]) < 1e16:
                found[i] = np.linalg.solve(K[i], right[i])
        return found


def _split(w: Array, rows: Rows) -> tuple[Array, Array, Array]:
    n, p = rows.q.shape[1], rows.b.shape[1]
    return w[:, :n], w[:, n : n + p], w[:, n + p :]


def _multipliers(x: Array, y: Array, z: Array, rows: Rows, data: Arrays) -> Arrays:
    n, m = x.shape[1], rows.m
    box = z[:, m : m + n] - z[:, m + n :] if "lb" in data else np.zeros_like(x)
    return {"x": x, "y": y, "z": z[:, :m], "z_box": box}


def _gradients(x: Array, y: Array, z: Array, u: Array, rows: Rows, data: Arrays) -> Arrays:
    """Return u'(dP x + dq + dA'y + dR'z, dA x - db, dR x - dr), read off for each datum."""
    n, m = x.shape[1], rows.m
    ux, uy, uz = _split(u, rows)

    def outer(a: Array, b: Array) -> Array:
        return a[..., :, None] * b[..., None, :]

    found = {
        "P": 0.5 * (outer(ux, x) + outer(x, ux)), "q": ux,
        "G": outer(z[:, :m], ux) + outer(uz[:, :m], x), "h": -uz[:, :m],
        "A": outer(y, ux) + outer(uy, x), "b": -uy,
        "ub": -uz[:, m : m + n], "lb": uz[:, m + n :],
    }  # fmt: skip
    return {name: value for name, value in found.items() if name in data}
