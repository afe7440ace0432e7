"""The forward pass of a batch of sparse programs, one after the other: check, find, prove, report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ...errors import ProblemError
from ...status import SolveStatus
from ..forward import ASYMMETRY, WARM, WEAK, empty, judged, rounded
from ..interior_point import CURVATURE, InteriorPoint
from ..problem import Layout, Rows
from ..solution import StackedSolution
from .certificates import farkas, ray
from .linear_system import KKT, SparseSolves
from .optimum import PROVED, Optimiser, Optimum
from .program import Mask, Residuals, Scaling, SparseProgram, Vector, build_matrices

NEAR = 1e3  # of the tolerances: what comes this near to an optimum has one, and no certificate that it has none


class Shared(NamedTuple):
    """P and R, of one element or of all, and what follows from them."""

    P: Any
    R: Any
    optimiser: Optimiser
    dominant: bool


def solve_sparse(
    params: tuple[Tensor, ...],
    layout: Layout,
    batch: int,
    warm: tuple[Tensor, ...] = (),
    *,
    solves: SparseSolves,
    options: InteriorPoint,
    strict: bool,
    keep: bool,
) -> StackedSolution:
    """Solve a flat batch; `solves` gets the factors that the backward pass can use, where `keep` says so.

    The other arguments, and what is raised, are those of `qp.forward.solve_flat`.
    """
    rows, dtype = layout.rows, params[0].dtype
    if batch == 0:
        return empty(rows, dtype, params[0].device)
    plain = [v.detach().to(torch.float64) for v in params]
    P, q, C, d = (v.numpy() for v in layout.stack(plain, batch, plain[1]) if v is not None)
    starts = [v.detach().to(torch.float64).numpy() for v in warm]
    report = Report(batch, rows)
    shared: Shared | None = None
    for b in range(batch):
        entries, cost, stacked, sides = (_of(v, b) for v in (P, q, C, d))
        if not _valid(entries, cost, stacked, sides, rows):
            continue
        if shared is None or P.ndim + C.ndim > 2:
            shared = _share(entries, stacked, solves, rows, options)
        program = _program(shared, cost, sides, rows)
        start = _warm(shared, program, *(_of(v, b) for v in starts)) if starts else None
        found = _solve_one(shared, program, rows, start)
        report.write(b, found, program, shared.optimiser.scaling)
        if keep and found.kkt is not None and found.status == SolveStatus.SOLVED:
            solves.kept[b] = (entries, stacked, found.kkt)
            shared.optimiser.give_away()
    return judged(rounded(report.pack(), dtype), torch.from_numpy(d), rows, strict)


class Report:
    """The solution of a batch, element by element; what is not written is invalid input."""

    def __init__(self, batch: int, rows: Rows) -> None:
        self.x = np.full((batch, rows.n), np.nan)
        self.lam, self.s = (np.full((batch, rows.total), np.nan) for _ in range(2))
        self.active, self.touching = (np.zeros((batch, rows.total), dtype=bool) for _ in range(2))
        self.status, self.iterations = np.full(batch, float(SolveStatus.INVALID_INPUT)), np.zeros(batch)
        self.residuals = np.full((3, batch), np.nan)

    def write(self, b: int, found: Optimum, program: SparseProgram, scaling: Scaling) -> None:
        """Write one element."""
        self.status[b], self.iterations[b] = found.status, found.iterations
        if found.status == SolveStatus.INVALID_INPUT:
            return
        slack = np.where(program.inequality, np.maximum(program.slack(found.x), 0), 0.0)
        self.x[b], self.lam[b], self.s[b] = found.x, found.lam, np.where(program.present, slack, np.inf)
        self.active[b] = found.active
        self.touching[b] = found.active | program.inequality & (slack * scaling.E <= WEAK)
        self.residuals[:, b] = found.residuals[:3]

    def pack(self) -> StackedSolution:
        """Return it as tensors."""
        arrays = (self.x, self.lam, self.s, self.active, self.touching, self.status, self.iterations)
        x, lam, s, active, touching, status, iterations = (torch.from_numpy(v) for v in arrays)
        primal, dual, gap = torch.from_numpy(self.residuals)
        return StackedSolution.pack(x, lam, s, active, touching, status, iterations, (primal, dual, gap))


def _of(v: Vector, b: int) -> Vector:
    part: Vector = v if v.ndim == 1 else v[b]
    return part


def _valid(P: Vector, q: Vector, C: Vector, d: Vector, rows: Rows) -> bool:
    sides = d[rows.m : rows.m + rows.p]
    finite = all(np.isfinite(v).all() for v in (P, q, C, sides))
    return finite and not (np.isnan(d) | (d == -np.inf)).any()


def _share(P: Vector, C: Vector, solves: SparseSolves, rows: Rows, options: InteriorPoint) -> Shared:
    place = solves.matrices.places["P"]
    M = sp.csr_array(sp.coo_array((P, (place.row.numpy(), place.column.numpy())), shape=place.shape))
    off = abs(M - M.T).tocoo()
    if off.nnz and off.max() > ASYMMETRY * abs(P).max():
        worst = int(off.data.argmax())
        i, j = sorted((int(off.row[worst]), int(off.col[worst])))
        raise ProblemError(
            f"P: expected a symmetric matrix, got |P[{i}, {j}] - P[{j}, {i}]| = {float(off.data[worst]):.3g}; pass "
            "(P + P.mT) / 2, or both triangles if this is one of them"
        )
    square, R = build_matrices(P, C, solves.matrices, rows)
    optimiser = Optimiser(square, R, rows, options)
    return Shared(square, R, optimiser, _dominates(optimiser.scaled.P))


def _dominates(P: Any) -> bool:
    """Whether the diagonal outweighs the rest of every column: then P has no negative curvature (Gershgorin)."""
    return bool((2 * P.diagonal() >= abs(P).sum(axis=0)).all())


def _curves_upwards(shared: Shared, kkt: KKT | None, held: Mask) -> bool:
    """Whether P has no negative curvature beyond round-off in directions that the rows held leave free."""
    if shared.dominant or (kkt is not None and kkt.curves_upwards()):
        return True
    return KKT(shared.optimiser.scaled, np.where(held, 0.0, np.inf), rho=CURVATURE).curves_upwards()


def _program(shared: Shared, q: Vector, d: Vector, rows: Rows) -> SparseProgram:
    present = np.isfinite(d)
    return SparseProgram(shared.P, q, shared.R, np.where(present, d, 0.0), present, rows.equality_mask())


def _warm(shared: Shared, program: SparseProgram, x: Vector, lam: Vector) -> tuple[Vector, Mask] | None:
    if not (np.isfinite(x).all() and np.isfinite(lam).all()):
        return None
    multipliers, slacks = shared.optimiser.scaled_sides(program, x, lam)
    large = multipliers > WARM * abs(multipliers).max(initial=0)
    holds = (multipliers > WEAK) & ((multipliers > slacks) | large)
    return x, program.equality | program.inequality & holds


def _solve_one(shared: Shared, program: SparseProgram, rows: Rows, warm: tuple[Vector, Mask] | None) -> Optimum:
    nothing = Optimum(np.zeros(rows.n), np.zeros(rows.total), program.equality, Residuals(*[np.nan] * 4),
                      SolveStatus.INVALID_INPUT, 0, None)  # fmt: skip
    crossing = _crossing(program, rows)
    if crossing is not None:
        return nothing._replace(lam=crossing, status=SolveStatus.PRIMAL_INFEASIBLE)
    found = shared.optimiser.find(program, warm)
    if found.residuals.score <= 1:
        upwards = _curves_upwards(shared, found.kkt, found.active)
        return found._replace(status=SolveStatus.SOLVED if upwards else SolveStatus.INVALID_INPUT)
    if found.status not in PROVED and not found.residuals.score <= NEAR:
        found = _prove(shared.optimiser, program, found)
    if found.status == SolveStatus.PRIMAL_INFEASIBLE:
        return found._replace(lam=_normalised(_netted(found.lam, rows), program.d))
    if found.status == SolveStatus.DUAL_INFEASIBLE:
        return found._replace(x=_normalised(found.x, program.q))
    upwards = _curves_upwards(shared, None, np.zeros(rows.total, dtype=bool))
    return found if upwards else found._replace(status=SolveStatus.INVALID_INPUT)


def _prove(optimiser: Optimiser, program: SparseProgram, found: Optimum) -> Optimum:
    """Look for a proof that there is no optimum."""
    scaled = optimiser.scaled_program(program)
    lam = farkas(scaled)
    if lam is not None:
        return found._replace(lam=lam * optimiser.scaling.E, status=SolveStatus.PRIMAL_INFEASIBLE)
    x = ray(scaled)
    return found if x is None else found._replace(x=x * optimiser.scaling.D, status=SolveStatus.DUAL_INFEASIBLE)


def _netted(lam: Vector, rows: Rows) -> Vector:
    """Take from both bounds of a variable what their multipliers have in common: a certificate only gains by it."""
    if not (rows.upper and rows.lower):
        return lam
    both = lam[rows.m + rows.p :].reshape(2, rows.n)
    return np.concatenate([lam[: rows.m + rows.p], (both - both.min(0)).ravel()])


def _normalised(v: Vector, weights: Vector) -> Vector:
    return v / -float(weights @ v)


def _crossing(program: SparseProgram, rows: Rows) -> Vector | None:
    """Return the certificate that a lower bound above its upper one is."""
    if not (rows.upper and rows.lower):
        return None
    k, n = rows.m + rows.p, rows.n
    both = program.present[k : k + n] & program.present[k + n :]
    room = np.where(both, program.d[k : k + n] + program.d[k + n :], np.inf)
    worst = int(room.argmin())
    if not room[worst] < 0:
        return None
    lam = np.zeros(rows.total)
    lam[[k + worst, k + n + worst]] = -1 / room[worst]
    return lam
