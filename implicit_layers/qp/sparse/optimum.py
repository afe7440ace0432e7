"""The optimum of sparse programs that share P and R: an interior point method, and a polish on the active rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...status import SolveStatus
from ..interior_point import PATIENCE, POLISH_TRIES, InteriorPoint
from ..problem import Rows
from .interior_point import TINY, Iterate, Newton
from .linear_system import KKT, ScaledMatrices
from .program import Mask, Residuals, SparseProgram, Vector, equilibrate

STALL = 30  # iterations without a better iterate before giving up
ROUND_OFF = 1e-12  # of the terms of a residual: there iterations wander without coming much lower
PROVED = (SolveStatus.PRIMAL_INFEASIBLE, SolveStatus.DUAL_INFEASIBLE)


class Optimum(NamedTuple):
    """What was found: optimal where `residuals.score <= 1`; else `status` says what came of it.

    Attributes:
        x: `(n,)`, or a ray of unbounded descent.
        lam: multipliers of all rows, `(total,)`, or a certificate that no point is feasible.
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


class Progress:
    """The best iterate so far, and whether better ones are to be expected.

    Attributes:
        best: the iterate.
        merit: whether it is out of tolerance in scaled units, and its score; smaller is better.
        stalled: iterations since.
        exact: iterations in a row with residuals of round-off.
    """

    def __init__(self, point: Iterate) -> None:
        self.best, self.merit, self.stalled, self.exact = point, (True, np.inf), 0, 0

    def record(self, point: Iterate, merit: tuple[bool, float], exact: bool) -> None:
        """Take note of an iterate."""
        self.stalled += 1
        self.exact = self.exact + 1 if exact else 0
        if merit < self.merit:
            self.best, self.merit, self.stalled = point, merit, 0

    @property
    def over(self) -> bool:
        """Whether to give up."""
        patience = PATIENCE if self.merit[1] <= 1 else STALL
        return self.stalled >= patience or min(self.stalled, self.exact) >= PATIENCE


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
        self._last: tuple[Mask, Newton] | None = None

    def find(self, program: SparseProgram, warm: tuple[Vector, Mask] | None = None) -> Optimum:
        """Return the optimum; a warm start (x, active rows) is polished first."""
        tried: list[Mask] = []
        if warm is not None:
            x, active = warm
            polished = self._polish(program, self._judged(program, x, np.zeros(self.rows.total), active), tried)
            if polished.residuals.score <= 1:
                return polished
        found = self._iterate(program, tried)
        if found.kkt is not None or found.status in PROVED:
            return found
        return self._polish(program, found, tried)

    def scaled_program(self, program: SparseProgram) -> SparseProgram:
        """Return the program in the variables `x^ = x / D`, its rows times E, its cost times k."""
        D, E, k = self.scaling
        return replace(program, P=self.scaled.P, q=k * D * program.q, R=self.scaled.R, d=E * program.d)

    def scaled_sides(self, program: SparseProgram, x: Vector, lam: Vector) -> tuple[Vector, Vector]:
        """Return multipliers and slacks in scaled units, where they compare."""
        E, k = self.scaling.E, self.scaling.k
        return lam * k / E, np.maximum(program.slack(x), 0) * E

    def _judged(self, program: SparseProgram, x: Vector, lam: Vector, active: Mask) -> Optimum:
        """Judge a point as `qp.kkt.residuals` does: in the caller's units, and in scaled ones too."""
        D, E, k = self.scaling
        lam = np.where(program.inequality, np.maximum(lam, 0), lam)
        eps_abs, eps_rel = self.options.eps_abs, self.options.eps_rel
        with np.errstate(all="ignore"):
            plain = program.evaluate(x, lam)
            scaled = self.scaled_program(program).evaluate(x / D, lam * k / E)
        # Scaled data are of size 1: there an absolute tolerance is relative, and asks for no digits beyond float64.
        score = max(plain.score(eps_abs, eps_rel), scaled.score(eps_abs, max(eps_abs, eps_rel)))
        return Optimum(x, lam, active, Residuals(*plain.errors, score), SolveStatus.MAX_ITER, 0, None)

    def give_away(self) -> None:
        """Leave the factor of the last answer to its `kkt`: it is not overwritten any more."""
        self._last = None

    def _iterate(self, program: SparseProgram, tried: list[Mask]) -> Optimum:
        """Return a polished answer, a proof that there is none, or the best iterate."""
        eps_abs, eps_rel = self.options.eps_abs, max(self.options.eps_abs, self.options.eps_rel)
        D, E, k = self.scaling
        index, newton = np.flatnonzero(program.present), self._newton(program)
        scaled = self.scaled_program(program).select(index, newton.R)

        def given(point: Iterate) -> Optimum:
            """Return a point in the caller's units."""
            lam, active = np.zeros(self.rows.total), program.equality.copy()
            lam[index] = point.lam * E[index] / k
            active[index] |= point.lam > point.s
            return self._judged(program, point.x * D, lam, active)._replace(iterations=iteration)

        point, last, polishes, iteration = newton.start(scaled.q, scaled.d), None, 0, 0
        progress = Progress(point)
        for iteration in range(self.options.max_iter + 1):
            with np.errstate(all="ignore"):
                evaluation = scaled.evaluate(point.x, point.lam)
            score = evaluation.score(eps_abs, eps_rel)
            if not np.isfinite(score):
                return given(progress.best)._replace(status=SolveStatus.NUMERICAL_ERROR)
            proof = None if score <= 1 or last is None else _proof(newton, scaled, point, last)
            if proof is not None:
                return given(proof[1])._replace(status=proof[0])
            merit = (True, score) if score > 1 else (False, given(point).residuals.score)
            progress.record(point, merit, evaluation.score(TINY, ROUND_OFF) <= 1)
            settled = last is not None and ((point.lam > point.s) != (last.lam > last.s)).sum() <= 1
            if settled and polishes < POLISH_TRIES:
                polished = self._polish(program, given(point), tried, guesses=2)
                if polished.kkt is not None:
                    return polished
                polishes += 1
            if progress.over or (merit[1] <= 1 and newton.separated(point)):
                break
            if iteration < self.options.max_iter:
                point, last = newton.step(point, evaluation.dual, evaluation.violation + point.s), point
        return given(progress.best)

    def _newton(self, program: SparseProgram) -> Newton:
        """Return the steps of programs with these rows; a batch with the same ones shares the order of the factor."""
        if self._last is None or not np.array_equal(self._last[0], program.present):
            R = self.scaled.R[np.flatnonzero(program.present)]
            self._last = program.present, Newton(self.scaled.P, R, program.equality[program.present])
        return self._last[1]

    def _polish(
        self, program: SparseProgram, found: Optimum, tried: list[Mask], guesses: int = POLISH_TRIES
    ) -> Optimum:
        """Solve for the active rows; where signs are wrong, guess again from them. Return the best of all."""
        best, (x, lam, active, *_) = found, found
        for tries in range(1, guesses + 1):
            if any(np.array_equal(active, one) for one in tried):
                break
            tried.append(active)
            kkt = KKT(self.scaled, np.where(active, 0.0, np.inf), self._newton(program).system, program.present)
            u, _ = kkt.solve(np.concatenate([-program.q, program.d[kkt.held]]), np.concatenate([x, lam[kkt.held]]))
            x, lam = u[: self.rows.n], np.zeros_like(lam)
            lam[kkt.held] = u[self.rows.n :]
            wanted = np.where(active, lam > 0, program.slack(x) < 0) & program.inequality | program.equality
            guess = self._judged(program, x, lam, active)
            guess = guess._replace(status=found.status, iterations=found.iterations + tries)
            if guess.residuals.score <= 1:
                return guess._replace(kkt=kkt)
            best = guess if guess.residuals.score < best.residuals.score else best
            lam, active = guess.lam, wanted
        return best


def _proof(newton: Newton, program: SparseProgram, point: Iterate, last: Iterate) -> tuple[SolveStatus, Iterate] | None:
    """Return a status, and an iterate that proves it by its lam or x, if the last step shows that there is none."""
    lam = newton.certificate(point, last, program)
    if lam is not None:
        return SolveStatus.PRIMAL_INFEASIBLE, point._replace(lam=lam)
    ray = point.x - last.x
    return (SolveStatus.DUAL_INFEASIBLE, point._replace(x=ray)) if program.descent(ray) else None
