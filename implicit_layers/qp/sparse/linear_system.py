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
from scipy.sparse.linalg import lsmr
from torch import Tensor

from ...errors import warn_solver
from ..linear_system import SINGULAR
from ..matrices import SparseMatrices
from ..polish import DELTA, RHO
from ..problem import Rows
from .program import Scaling, Vector, build_matrices, equilibrate

REFINEMENTS = 10
LEAST_SQUARES = 1e-12  # tolerances of the iterative method that takes singular systems


class KKT:
    """The system of rows with finite compliance c, scaled and factored.

    Args:
        P: `(n, n)` csc.
        R: `(total, n)` csr.
        c: `(total,)`; rows with `c = inf` are left out.
        scaling: of the program.
    """

    def __init__(self, P: Any, R: Any, c: Vector, scaling: Scaling) -> None:
        root = np.sqrt(scaling.k)
        self.c, self.held = c, np.flatnonzero(np.isfinite(c))
        self.scale = np.concatenate([root * scaling.D, scaling.E[self.held] / root])
        n = P.shape[0]
        self.J = sp.csc_array(_symmetric_scale(_blocks(P, R[self.held], c[self.held]), self.scale))
        shift = np.concatenate([np.full(n, RHO), np.full(len(self.held), -DELTA)])
        self.factor = qdldl.Solver(sp.csc_matrix(sp.triu(self.J + sp.diags_array(shift), format="csc")), upper=True)

    def solve(self, r: Vector, start: Vector | None = None) -> tuple[Vector, float]:
        """Return u for r, both of length n + held, and the largest residual relative to r, in scaled units."""
        r = r * self.scale
        size = abs(r).max(initial=0)
        u = np.zeros_like(r) if start is None else start / self.scale
        left = r - self.J @ u
        error = abs(left).max(initial=0)
        for _ in range(REFINEMENTS):
            nearer = u + self.factor.solve(left)
            rest = r - self.J @ nearer
            now = abs(rest).max(initial=0)
            if not now < error:  # past round-off, steps are noise
                break
            u, left, error = nearer, rest, now
        return u * self.scale, float(error / size) if size else 0.0

    def least_norm(self, r: Vector) -> tuple[Vector, bool]:
        """Return the least-squares solution of least norm in scaled units, and whether it was found."""
        scaled = r * self.scale
        u, stop, *_ = lsmr(self.J, scaled, atol=LEAST_SQUARES, btol=LEAST_SQUARES, conlim=0, maxiter=20 * len(r))
        return u * self.scale, stop != 7  # 7: the iterations ran out


def _blocks(P: Any, R: Any, c: Vector) -> Any:
    return sp.block_array([[P, R.T], [R, sp.diags_array(-c)]], format="csc")


def _symmetric_scale(M: Any, scale: Vector) -> Any:
    return sp.diags_array(scale) @ M @ sp.diags_array(scale)


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
        return KKT(square, R, c, equilibrate(square, R, rows))
