"""One sparse program in numpy's terms: the stacked form of `qp.kkt`, scaled and measured as there."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from ..certificates import CERTIFICATE
from ..kkt import ROUND_OFF
from ..matrices import SparseMatrices
from ..problem import Rows
from ..scaling import NEGLIGIBLE, SWEEPS, TINY_COST, VANISHED

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Scaling(NamedTuple):
    """As `qp.scaling.Scaling`, of one program."""

    D: Vector
    E: Vector
    k: float


class Residuals(NamedTuple):
    """As `qp.kkt.Residuals`, of one iterate in the caller's units."""

    primal: float
    dual: float
    gap: float
    score: float


class Evaluation(NamedTuple):
    """Optimality of one iterate: `Px + q + R'lam` and `Rx - d`; primal, dual and gap, and the largest term of each."""

    dual: Vector
    violation: Vector
    errors: tuple[float, float, float]
    sizes: tuple[float, float, float]

    def score(self, eps_abs: float, eps_rel: float) -> float:
        """Return the largest ratio of residual to tolerance, infinite where it is no number."""
        score = max(e / (eps_abs + eps_rel * size) for e, size in zip(self.errors, self.sizes, strict=True))
        return score if np.isfinite(score) else np.inf


@dataclass(frozen=True, eq=False)
class SparseProgram:
    """`min 1/2 x'Px + q'x  s.t.  R x + s = d, s >= 0 on inequality rows`.

    Attributes:
        P: `(n, n)` csc, symmetric.
        q: `(n,)`.
        R: `(total, n)` csr, bounds included: they are rows of one entry.
        d: `(total,)`, 0 where a row is absent.
        present: `(total,)`, False where the right-hand side is infinite.
        equality: `(total,)`.
    """

    P: Any
    q: Vector
    R: Any
    d: Vector
    present: Mask
    equality: Mask

    @property
    def inequality(self) -> Mask:
        """Which rows are inequalities."""
        return self.present & ~self.equality

    def select(self, index: NDArray[np.intp], R: Any) -> SparseProgram:
        """Return the program of some rows, given their matrix."""
        return replace(self, R=R, d=self.d[index], present=self.present[index], equality=self.equality[index])

    @functools.cached_property
    def transposed(self) -> Any:
        """The transpose of R; to make it costs as much as a small product."""
        return self.R.T

    def slack(self, x: Vector) -> Vector:
        """Return `d - R x`, 0 where a row is absent."""
        slack: Vector = (self.d - self.R @ x) * self.present
        return slack

    def evaluate(self, x: Vector, lam: Vector) -> Evaluation:
        """Evaluate optimality, as `qp.kkt.residuals` does in one of its two units, with the best slack there is."""
        Px, Rx, Rl = self.P @ x, (self.R @ x) * self.present, self.transposed @ lam
        dual, violation = Px + self.q + Rl, Rx - self.d
        violated = np.where(self.equality, violation, np.maximum(violation, 0))
        terms = float(x @ Px), float(self.q @ x), float(self.d @ lam)
        errors = largest(violated * self.present), largest(dual), abs(sum(terms))
        sizes = max(map(largest, (Rx, self.d))), max(map(largest, (Px, self.q, Rl))), max(map(abs, terms))
        return Evaluation(dual, violation, errors, sizes)

    def farkas(self, lam: Vector) -> bool:
        """Return whether lam proves that no point is feasible, as `qp.kkt.farkas` does."""
        small = _zero_beside(self.d, lam)
        signs = not (lam[self.inequality] < 0).any()
        return signs and small is not None and largest(self.transposed @ lam) <= small

    def descent(self, x: Vector) -> bool:
        """Return whether x is a ray of unbounded descent, as `qp.kkt.descent` does."""
        small = _zero_beside(self.q, x)
        if small is None:
            return False
        Rx = (self.R @ x) * self.present
        outward = np.where(self.inequality, np.maximum(Rx, 0), Rx)
        return largest(self.P @ x) <= small and largest(outward) <= small


def _zero_beside(v: Vector, w: Vector) -> float | None:
    """Return what counts as zero beside v'w, or None where that is not negative beyond its round-off."""
    value = float(v @ w)
    return CERTIFICATE * -value / max(largest(v), 1.0) if value < -ROUND_OFF * float(abs(v) @ abs(w)) else None


def largest(v: Vector) -> float:
    """Return the largest magnitude, 0 of nothing."""
    return float(abs(v).max(initial=0))


def build_matrices(P: Vector, C: Vector, matrices: SparseMatrices, rows: Rows) -> tuple[Any, Any]:
    """Return the symmetric part of P `(n, n)` csc and all rows R `(total, n)` csr, from entries."""
    square, stacked = (_matrix(values, matrices, name) for values, name in ((P, "P"), (C, "C")))
    eye = sp.eye_array(rows.n, format="csr")
    blocks = [stacked] + [eye] * rows.upper + [-eye] * rows.lower
    return sp.csc_array(0.5 * (square + square.T)), sp.csr_array(sp.vstack(blocks))


def _matrix(values: Vector, matrices: SparseMatrices, name: str) -> Any:
    place = matrices.places[name]
    return sp.csr_array(sp.coo_array((values, (place.row.numpy(), place.column.numpy())), shape=place.shape))


def equilibrate(P: Any, R: Any, rows: Rows, q: Vector | None = None) -> Scaling:
    """Return the scaling of `qp.scaling.equilibrate`."""
    C = R[: rows.m + rows.p]
    i, j, p = _entries(P)
    r, v, c = _entries(C)
    D, E = np.ones(rows.n), np.ones(C.shape[0])
    row = _largest_of(r, c, len(E))
    c = np.where(row[r] > NEGLIGIBLE * row.max(initial=0), c, 0.0)
    for _ in range(SWEEPS):
        Pd, Cd = p * D[i] * D[j], c * E[r] * D[v]
        column = np.maximum(_largest_of(j, Pd, rows.n), _largest_of(v, Cd, rows.n))
        D, E = D / np.sqrt(_nonzero(column)), E / np.sqrt(_nonzero(_largest_of(r, Cd, len(E))))
    top = float((p * D[i] * D[j]).max(initial=0))
    if q is not None:
        top = max(top, 1e-4 * largest(q * D))
    factor = 1 / top if top > (VANISHED if q is None else TINY_COST) else 1.0
    return Scaling(D, np.concatenate([E, *[1 / D] * (rows.upper + rows.lower)]), factor)


def scale(M: Any, left: Vector, right: Vector) -> Any:
    """Return diag(left) M diag(right), in the format of M."""
    outer = np.repeat(np.arange(len(M.indptr) - 1), np.diff(M.indptr))
    row, column = (outer, M.indices) if M.format == "csr" else (M.indices, outer)
    return type(M)((M.data * left[row] * right[column], M.indices, M.indptr), shape=M.shape)


def _entries(M: Any) -> tuple[Any, Any, Vector]:
    M = M.tocoo()
    return M.row, M.col, abs(M.data)


def _largest_of(place: Any, values: Vector, size: int) -> Vector:
    """Return the largest of the non-negative values at each place."""
    out = np.zeros(size)
    np.maximum.at(out, place, values)
    return out


def _nonzero(v: Vector) -> Vector:
    return np.where(v > 0, v, 1.0)
