"""The optimum of sparse programs that share P and R: PIQP, then a polish on the active rows.

References: Schwan et al. (2023), PIQP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import piqp
import scipy.sparse as sp

from ...status import SolveStatus
from ..interior_point import POLISH_TRIES, InteriorPoint
from ..problem import Rows
from .linear_system import KKT, ScaledMatrices
from .program import Mask, Residuals, SparseProgram, Vector, equilibrate

_STATUS = {
    piqp.PIQP_SOLVED: SolveStatus.SOLVED,
    piqp.PIQP_MAX_ITER_REACHED: SolveStatus.MAX_ITER,
    piqp.PIQP_PRIMAL_INFEASIBLE: SolveStatus.PRIMAL_INFEASIBLE,
    piqp.PIQP_DUAL_INFEASIBLE: SolveStatus.DUAL_INFEASIBLE,
}


class Optimum(NamedTuple):
    """What was found: optimal where `residuals.score <= 1`; else `status` says what PIQP thinks of it.

    Attributes:
        x: `(n,)`.
        lam: multipliers of all rows, `(total,)`.
        active: equality rows and rows with a multiplier above their slack, in scaled units.
        kkt: the factored system of the active rows, if the answer was polished.
    """

    x: Vector
    lam: Vector
    active: Mask
    residuals: Residuals
    status: SolveStatus
    iterations: int
    kkt: KKT | None


class Optimiser:
    """Finds optima of programs with the same P and R.

    Args:
        P: `(n, n)` csc, symmetric.
        R: `(total, n)` csr.
        rows: their layout.
        options: tolerances and the most iterations.
    """

    def __init__(self, P: Any, R: Any, rows: Rows, options: InteriorPoint) -> None:
        self.P, self.R, self.rows, self.options = P, R, rows, options
        self.scaling = equilibrate(P, R, rows)
        self.scaled = ScaledMatrices(P, R, self.scaling)

    def find(self, program: SparseProgram, warm: tuple[Vector, Mask] | None = None) -> Optimum:
        """Return the optimum; a warm start (x, active rows) is polished first."""
        if warm is not None:
            x, active = warm
            polished = self._polish(program, x, np.zeros(self.rows.total), active)
            if polished.residuals.score <= 1:
                return polished
        found = self._interior_point(program)
        if not np.isfinite(found.residuals.score):
            return found
        polished = self._polish(program, found.x, found.lam, found.active)
        tries = found.iterations + polished.iterations
        better = polished.residuals.score <= 1 or polished.residuals.score < found.residuals.score
        return (polished if better else found)._replace(status=found.status, iterations=tries)

    def scaled_program(self, program: SparseProgram) -> SparseProgram:
        """Return the program in the variables `x^ = x / D`, its rows times E, its cost times k."""
        D, E, k = self.scaling
        return replace(program, P=self.scaled.P, q=k * D * program.q, R=self.scaled.R, d=E * program.d)

    def scaled_sides(self, program: SparseProgram, x: Vector, lam: Vector) -> tuple[Vector, Vector]:
        """Return multipliers and slacks in scaled units, where they compare."""
        E, k = self.scaling.E, self.scaling.k
        return lam * k / E, np.maximum(program.slack(x), 0) * E

    def _measure(self, program: SparseProgram, x: Vector, lam: Vector) -> Residuals:
        """As `qp.kkt.residuals`: in the caller's units, the score in scaled ones too."""
        D, E, k = self.scaling
        options = self.options
        with np.errstate(all="ignore"):
            plain = program.measure(x, lam, options.eps_abs, options.eps_rel)
            scaled = self.scaled_program(program).measure(x / D, lam * k / E, options.eps_abs, options.eps_rel)
        return plain._replace(score=max(plain.score, scaled.score))

    def _interior_point(self, program: SparseProgram) -> Optimum:
        rows, solver = self.rows, self._solver(program)
        m, k, n = rows.m, rows.m + rows.p, rows.n
        status = _STATUS.get(solver.solve(), SolveStatus.NUMERICAL_ERROR)
        result = solver.result
        box = [result.z_bu] * rows.upper + [result.z_bl] * rows.lower
        x, lam = result.x.copy(), np.concatenate([result.z_u[:m], result.y[: k - m], *(v[:n] for v in box)])
        lam = np.where(program.equality, lam, np.where(program.present, np.maximum(lam, 0), 0.0))
        if not (np.isfinite(x).all() and np.isfinite(lam).all()):  # it diverged: the polish may begin from nothing
            x, lam = np.zeros_like(x), np.zeros_like(lam)
        residuals = self._measure(program, x, lam)
        multipliers, slacks = self.scaled_sides(program, x, lam)
        active = program.equality | program.inequality & (multipliers > slacks)
        return Optimum(x, lam, active, residuals, status, int(result.info.iter), None)

    def _solver(self, program: SparseProgram) -> Any:
        """Return PIQP, set up for one program: after an update of its vectors the last digits hold the one before."""
        rows, d = self.rows, np.where(program.present, program.d, np.inf)
        m, k, n = rows.m, rows.m + rows.p, rows.n
        data: dict[str, Any] = {"P": sp.csc_matrix(self.P), "c": program.q}
        if m:
            data |= {"G": sp.csc_matrix(self.R[:m]), "h_u": d[:m]}
        if rows.p:
            data |= {"A": sp.csc_matrix(self.R[m:k]), "b": d[m:k]}
        if rows.upper:
            data["x_u"] = d[k : k + n]
        if rows.lower:
            data["x_l"] = -d[len(d) - n :]
        solver = piqp.SparseSolver()
        settings = solver.settings
        settings.eps_abs = settings.eps_duality_gap_abs = self.options.eps_abs
        settings.eps_rel = settings.eps_duality_gap_rel = self.options.eps_rel
        settings.check_duality_gap, settings.max_iter = True, self.options.max_iter
        solver.setup(**data)
        return solver

    def _polish(self, program: SparseProgram, x: Vector, lam: Vector, active: Mask) -> Optimum:
        """Solve for the active rows; where signs are wrong, guess again from them."""
        best: Optimum | None = None
        seen: list[Mask] = []
        for tries in range(1, POLISH_TRIES + 1):
            kkt = KKT(self.scaled, np.where(active, 0.0, np.inf))
            right = np.concatenate([-program.q, program.d[kkt.held]])
            u, _ = kkt.solve(right, np.concatenate([x, lam[kkt.held]]))
            x, lam = u[: self.rows.n], np.zeros_like(lam)
            lam[kkt.held] = u[self.rows.n :]
            slack, inequality = program.slack(x), program.inequality
            wanted = np.where(active, lam > 0, slack < 0) & inequality | program.equality
            lam = np.where(inequality, np.maximum(lam, 0), lam)
            residuals = self._measure(program, x, lam)
            if best is None or residuals.score < best.residuals.score:
                best = Optimum(x, lam, active, residuals, SolveStatus.SOLVED, tries, kkt)
            seen.append(active)
            if residuals.score <= 1 or any(np.array_equal(wanted, one) for one in seen):
                break
            active = wanted
        assert best is not None
        return best._replace(iterations=tries)
