"""One sparse program in numpy's terms: the stacked form of `qp.kkt`, scaled and measured as there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

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
    """As `qp.kkt.Residuals`, of one iterate."""

    primal: float
    dual: float
    gap: float
    score: float


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

    def slack(self, x: Vector) -> Vector:
        """Return `d - R x`, 0 where a row is absent."""
        slack: Vector = (self.d - self.R @ x) * self.present
        return slack

    def measure(self, x: Vector, lam: Vector, eps_abs: float, eps_rel: float) -> Residuals:
        """Evaluate optimality, as `qp.kkt.residuals` does in one of its two units, with the best slack there is."""
        Px, Rx, Rl = self.P @ x, (self.R @ x) * self.present, self.R.T @ lam
        s = np.where(self.inequality, np.maximum(self.d - Rx, 0), 0.0)
        xPx, qx, dl = float(x @ Px), float(self.q @ x), float(self.d @ lam)
        dual, primal, gap = _largest(Px + self.q + Rl), _largest(Rx + s - self.d), abs(xPx + qx + dl)
        score = max(
            dual / (eps_abs + eps_rel * max(map(_largest, (Px, self.q, Rl)))),
            primal / (eps_abs + eps_rel * max(_largest(Rx), _largest(self.d))),
            gap / (eps_abs + eps_rel * max(abs(xPx), abs(qx), abs(dl))),
        )
        return Residuals(primal, dual, gap, score if np.isfinite(score) else np.inf)


def _largest(v: Vector) -> float:
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
    largest = float((p * D[i] * D[j]).max(initial=0))
    if q is not None:
        largest = max(largest, 1e-4 * _largest(q * D))
    factor = 1 / largest if largest > (VANISHED if q is None else TINY_COST) else 1.0
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
