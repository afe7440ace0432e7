"""The symmetric system `[P R'; R -diag(c)] u = r` of sparse programs: one factor, and refinement.

The factor is that of the regularised system `[P + rho R'; R -(c + delta)]`, quasi-definite whatever P and R, so any
order of its pivots will do. A step is a refinement: regularisation costs steps and not accuracy.

References: Vanderbei (1995), Symmetric quasidefinite matrices; Stellato et al. (2020), OSQP, for QDLDL.
"""

from __future__ import annotations

from collections.abc import Callable
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
from .program import Mask, Scaling, Vector, build_matrices, equilibrate, largest, scale

Map = Callable[[Vector], Vector]

REFINEMENTS = 10
LIFTS = (1.0, 1e2, 1e4)  # of the regularisation, where round-off makes a pivot vanish
LEFT_OUT = 1e30  # compliance of a row that is not there
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


class QuasiDefinite:
    """LDL' factors of `[P + rho I, R'; R, -diag(c)]`, quasi-definite for rho, c > 0 whatever P and R.

    Any order of the pivots will do: it is found at the first factor and serves all others.

    Args:
        P: `(n, n)` csc, symmetric.
        R: `(rows, n)` csr.
    """

    def __init__(self, P: Any, R: Any) -> None:
        self.P, self.R, self.Rt, self.n = P, R, R.T, P.shape[0]
        self.diagonal = P.diagonal()
        whole = abs(P.data).max(initial=0) + 1.0  # a diagonal without a zero, so that all of it is stored
        upper = sp.csc_array(sp.triu(P + whole * sp.eye_array(self.n, format="csc"), format="csc"))
        ends = R.indptr[1:]
        data = np.concatenate([upper.data, np.insert(R.data, ends, 1.0)])
        indices = np.concatenate([upper.indices, np.insert(R.indices, ends, self.n + np.arange(len(ends)))])
        indptr = np.concatenate([upper.indptr, upper.indptr[-1] + ends + np.arange(1, len(ends) + 1)])
        self.size = self.n + len(ends)
        self.matrix = sp.csc_matrix((data, indices, indptr), shape=(self.size, self.size))
        self.last = indptr[1:] - 1  # the diagonal: columns of an upper triangle end there
        self.solver: Any = None

    def factor(self, rho: float, c: Vector) -> bool:
        """Factor anew; return whether no pivot vanished."""
        self.rho, self.c = rho, c
        self.matrix.data[self.last] = np.concatenate([self.diagonal + rho, -c])
        try:
            if self.solver is None:
                self.solver = qdldl.Solver(self.matrix, upper=True)
            else:
                self.solver.update(self.matrix, upper=True)
        except RuntimeError:
            self.solver = None
        return self.solver is not None

    def solve(self, r: Vector) -> Vector:
        """Return u for r, `(n + rows,)`, by the factor alone."""
        u: Vector = self.solver.solve(r)
        return u

    def positive_pivots(self) -> int:
        """Return how many pivots are positive."""
        return int((self.solver.factors()[1] > 0).sum())

    def times(self, u: Vector) -> Vector:
        """Return the matrix times u."""
        ux, ul = u[: self.n], u[self.n :]
        return np.concatenate([self.P @ ux + self.rho * ux + self.Rt @ ul, self.R @ ux - self.c * ul])


def refine(solve: Map, times: Map, r: Vector, u: Vector, steps: int, enough: float = 0.0) -> tuple[Vector, float]:
    """Return u nearer to `times(u) = r` by at most so many steps of a nearby `solve`, and the largest residual left."""
    left = r - times(u) if u.any() else r
    error = largest(left)
    for _ in range(steps):
        if error <= enough:
            break
        nearer = u + solve(left)
        rest = r - times(nearer)
        now = largest(rest)
        if not now < error:  # past round-off, steps are noise
            break
        u, left, error = nearer, rest, now
    return u, error


class KKT:
    """The system of rows with finite compliance c, factored.

    Args:
        matrices: P and R, scaled.
        c: `(total,)`, in the caller's units; rows with `c = inf` are left out.
        factor: of P and more rows of R, overwritten: to find no order anew. By default one is made.
        rows: `(total,)`, which rows `factor` has.
        rho: the first regularisation of P.
    """

    def __init__(
        self,
        matrices: ScaledMatrices,
        c: Vector,
        factor: QuasiDefinite | None = None,
        rows: Mask | None = None,
        rho: float = RHO,
    ) -> None:
        D, E, k = matrices.scaling
        root = np.sqrt(k)
        held = np.isfinite(c)
        self.c, self.held, self.n = c, np.flatnonzero(held), len(D)
        self.scale = np.concatenate([root * D, E[self.held] / root])
        self.P, self.R = matrices.P, matrices.R[self.held]
        self.Rt = self.R.T
        self.compliance = c[self.held] * self.scale[self.n :] ** 2
        self.factor = QuasiDefinite(self.P, self.R) if factor is None else factor
        inside = np.arange(len(self.held)) if rows is None else np.flatnonzero(held[rows])
        self.place = np.concatenate([np.arange(self.n), self.n + inside])
        soft = np.full(self.factor.size - self.n, LEFT_OUT)

        def factored(lift: float) -> bool:
            soft[inside] = self.compliance + lift * DELTA
            return self.factor.factor(lift * rho, soft)

        self.ok = any(factored(lift) for lift in LIFTS)

    def _times(self, u: Vector) -> Vector:
        ux, ul = u[: self.n], u[self.n :]
        return np.concatenate([self.P @ ux + self.Rt @ ul, self.R @ ux - self.compliance * ul])

    def _solve(self, r: Vector) -> Vector:
        whole = np.zeros(self.factor.size)
        whole[self.place] = r
        part: Vector = self.factor.solve(whole)[self.place]
        return part

    def solve(self, r: Vector, start: Vector | None = None) -> tuple[Vector, float]:
        """Return u for r, both of length n + held, and the largest residual relative to r, in scaled units."""
        if not self.ok:
            return (np.zeros_like(r) if start is None else start), np.inf
        r = r * self.scale
        size = largest(r)
        u = np.zeros_like(r) if start is None else start / self.scale
        u, error = refine(self._solve, self._times, r, u, REFINEMENTS)
        return u * self.scale, error / size if size else 0.0

    def curves_upwards(self) -> bool:
        """Return whether P + rho I has no negative curvature in directions that the rows leave free."""
        return not self.ok or self.factor.positive_pivots() == self.n

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
