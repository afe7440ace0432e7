"""The symmetric system `[P R'; R -diag(c)] u = r` of sparse programs: one factor, and refinement.

The factor is that of the regularised system `[P + rho R'; R -(c + delta)]`, quasi-definite whatever P and R, so any
order of its pivots will do. A step is a refinement: regularisation costs steps and not accuracy.

References: Vanderbei (1995), Symmetric quasidefinite matrices; Stellato et al. (2020), OSQP, for QDLDL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import qdldl
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor

from ...errors import warn_solver
from ..linear_system import SINGULAR
from ..matrices import SparseMatrices
from ..polish import DELTA, RHO
from ..problem import Rows
from .program import Scaling, Vector, build_matrices, equilibrate, scale

REFINEMENTS = 10
LIFTS = (1.0, 1e2, 1e4)  # of the regularisation, where round-off makes a pivot vanish
LEAST_SQUARES = 1e-12  # tolerances of the iterative method that takes singular systems


class ScaledMatrices:
    """P and R in scaled units, where pivots are comparable and regularisation is small.

    Args:
        P: `(n, n)` csc, symmetric.
        R: `(total, n)` csr.
        scaling: of the program.
    """

    def __init__(self, P: Any, R: Any, scaling: Scaling) -> None:
        D, E, k = self.scaling = scaling
        self.P, self.R = scale(P, k * D, D), scale(R, E, D)
        upper = sp.csc_array(sp.triu(self.P, format="csc"))
        self.shifted = sp.csc_array(upper + RHO * sp.eye_array(P.shape[0], format="csc"))


class KKT:
    """The system of rows with finite compliance c, factored.

    Args:
        matrices: P and R, scaled.
        c: `(total,)`, in the caller's units; rows with `c = inf` are left out.
    """

    def __init__(self, matrices: ScaledMatrices, c: Vector) -> None:
        D, E, k = matrices.scaling
        root = np.sqrt(k)
        self.c, self.held, self.n = c, np.flatnonzero(np.isfinite(c)), len(D)
        self.scale = np.concatenate([root * D, E[self.held] / root])
        self.P, self.R = matrices.P, matrices.R[self.held]
        self.compliance = c[self.held] * self.scale[self.n :] ** 2
        self.factor = self._factored(matrices.shifted)

    def _factored(self, shifted: Any) -> Any:
        """Return the factor, or None where no regularisation helps."""
        for lift in LIFTS:
            try:
                return qdldl.Solver(self._quasi_definite(shifted, lift), upper=True)
            except RuntimeError:
                continue
        return None

    def _quasi_definite(self, shifted: Any, lift: float) -> Any:
        """Return the upper triangle of `[P + rho R'; R -(c + delta)]`: columns of P, then one for each row of R."""
        if lift > 1:
            shifted = sp.csc_array(shifted + (lift - 1) * RHO * sp.eye_array(self.n, format="csc"))
        ends = self.R.indptr[1:]
        data = np.insert(self.R.data, ends, -(self.compliance + lift * DELTA))
        indices = np.insert(self.R.indices, ends, self.n + np.arange(len(ends)))
        indptr = np.concatenate([shifted.indptr, shifted.indptr[-1] + ends + np.arange(1, len(ends) + 1)])
        size = self.n + len(ends)
        parts = (np.concatenate([shifted.data, data]), np.concatenate([shifted.indices, indices]), indptr)
        return sp.csc_matrix(parts, shape=(size, size))

    def _times(self, u: Vector) -> Vector:
        ux, ul = u[: self.n], u[self.n :]
        return np.concatenate([self.P @ ux + self.R.T @ ul, self.R @ ux - self.compliance * ul])

    def solve(self, r: Vector, start: Vector | None = None) -> tuple[Vector, float]:
        """Return u for r, both of length n + held, and the largest residual relative to r, in scaled units."""
        if self.factor is None:
            return (np.zeros_like(r) if start is None else start), np.inf
        r = r * self.scale
        size = abs(r).max(initial=0)
        u = np.zeros_like(r) if start is None else start / self.scale
        left = r - self._times(u)
        error = abs(left).max(initial=0)
        for _ in range(REFINEMENTS):
            nearer = u + self.factor.solve(left)
            rest = r - self._times(nearer)
            now = abs(rest).max(initial=0)
            if not now < error:  # past round-off, steps are noise
                break
            u, left, error = nearer, rest, now
        return u * self.scale, float(error / size) if size else 0.0

    def inertia(self) -> int:
        """Return how many pivots are positive: n, unless P has negative curvature where the rows leave room for it."""
        return self.n if self.factor is None else int((self.factor.factors()[1] > 0).sum())

    def least_norm(self, r: Vector) -> tuple[Vector, bool]:
        """Return the least-squares solution of least norm in scaled units, and whether it was found."""
        J = LinearOperator((len(r), len(r)), matvec=self._times, rmatvec=self._times)
        u, stop, *_ = lsmr(J, r * self.scale, atol=LEAST_SQUARES, btol=LEAST_SQUARES, conlim=0, maxiter=20 * len(r))
        return u * self.scale, stop != 7  # 7: the iterations ran out


@dataclass(frozen=True, eq=False)
class SparseSolves:
    """Solves the linear systems of derivatives, with the factors that the forward pass kept where they fit.

    Attributes:
        matrices: coordinates of the entries.
        kept: for elements of the batch: entries of P and C, and the system they were factored in.
    """

    matrices: SparseMatrices
    kept: dict[int, tuple[Vector, Vector, KKT]] = field(default_factory=dict)

    def __call__(
        self, P: Tensor, C: Tensor, c: Tensor, rx: Tensor, rl: Tensor, rows: Rows, batch: int, minimum_norm: bool
    ) -> tuple[Tensor, Tensor]:
        """Solve a batch; arguments as in `qp.linear_system.solve_linear_system`."""
        ux, ul = np.zeros((batch, rows.n)), np.zeros((batch, rows.total))
        failed = 0
        for b in range(batch):
            part = [v.detach().numpy() if v.ndim == 1 else v[b].detach().numpy() for v in (P, C, c, rx, rl)]
            r = np.concatenate(part[3:])
            if not r.any():
                continue
            if not np.isfinite(r).all():
                ux[b], ul[b] = np.nan, np.nan  # NaN for NaN, in this element alone
                continue
            kkt = self._kkt(b, part[0], part[1], part[2], rows)
            r = np.concatenate([part[3], part[4][kkt.held]])
            u, error = kkt.solve(r)
            if minimum_norm or not error <= SINGULAR:
                u, found = kkt.least_norm(r)
                failed += not found
                u = u if found else np.zeros_like(u)
            ux[b], ul[b, kkt.held] = u[: rows.n], u[rows.n :]
        if failed:
            warn_solver(f"solve_qp: the linear system of {failed} gradients did not converge; these are zero")
        return torch.from_numpy(ux), torch.from_numpy(ul)

    def _kkt(self, b: int, P: Vector, C: Vector, c: Vector, rows: Rows) -> KKT:
        if b in self.kept:
            entries, stacked, kkt = self.kept[b]
            if np.array_equal(kkt.c, c) and np.array_equal(entries, P) and np.array_equal(stacked, C):
                return kkt
        square, R = build_matrices(P, C, self.matrices, rows)
        return KKT(ScaledMatrices(square, R, equilibrate(square, R, rows)), c)
