"""Proofs that a sparse program has no feasible point, or no least cost: each is the solution of a program itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..interior_point import InteriorPoint
from ..problem import Rows
from .optimum import Optimiser
from .program import Mask, SparseProgram, Vector

OPTIONS = InteriorPoint(eps_abs=1e-11, eps_rel=0.0, max_iter=200)


def farkas(program: SparseProgram) -> Vector | None:
    """Return lam with `R'lam = 0`, `d'lam < 0`, lam >= 0 on inequality rows, or None.

    It is the least `|w|²` with `w = R'lam`, `d'lam = -1`.
    """
    n, index = len(program.q), np.flatnonzero(program.present)
    R, d = program.R[index], program.d[index]
    if not d.any():
        return None
    A = sp.block_array([[R.T, -sp.eye_array(n)], [d[None], None]], format="csr")
    found = _least(len(index), A, np.append(np.zeros(n), -1.0), sp.csr_array((0, len(index) + n)),
                   free=program.equality[index])  # fmt: skip
    lam = np.zeros(len(program.d))
    lam[index] = found[: len(index)]
    lam = np.where(program.equality, lam, np.maximum(lam, 0))
    return lam if program.farkas(lam) else None


def ray(program: SparseProgram) -> Vector | None:
    """Return x with `Px = 0`, `q'x < 0`, `Rx <= 0` (`= 0` on equality rows), or None.

    It is the least `|w|²` with `w = Px`, `q'x = -1`.
    """
    n, q = len(program.q), program.q
    if not q.any():
        return None
    none = sp.csr_array((program.equality.sum(), n))
    A = sp.block_array(
        [[program.P, -sp.eye_array(n)], [q[None], None], [program.R[program.equality], none]], format="csr"
    )
    right = np.concatenate([np.zeros(n), [-1.0], np.zeros(none.shape[0])])
    G = sp.csr_array(sp.hstack([program.R[program.inequality], sp.csr_array((program.inequality.sum(), n))]))
    x = _least(n, A, right, G)[:n]
    return x if program.descent(x) else None


def _least(size: int, A: Any, b: Vector, G: Any, free: Mask | None = None) -> Vector:
    """Return v of the least `|w|²` with `A (v, w) = b`, `G (v, w) <= 0`, v `(size,)` >= 0 except where it is free."""
    total = A.shape[1]
    lower = np.full(total, -np.inf)
    if free is not None:
        lower[:size] = np.where(free, -np.inf, 0.0)
    rows = Rows(total, G.shape[0], A.shape[0], False, True)
    P = sp.csc_array(sp.diags_array((np.arange(total) >= size).astype(float)))
    R = sp.csr_array(sp.vstack([G, A, -sp.eye_array(total)]))
    sides = np.concatenate([np.zeros(rows.m), b, -lower])
    present = np.isfinite(sides)
    equality = rows.equality_mask()
    program = SparseProgram(P, np.zeros(total), R, np.where(present, sides, 0.0), present, equality)
    return Optimiser(P, R, rows, OPTIONS).find(program).x
