"""The last digits: iterative refinement of single solutions with residuals in extended precision.

Absolute tolerances below the round-off of a problem's own terms cannot be reached by better iterations, only by better
rounding. The active set is known by then, so the conditions are a linear system: its residual is evaluated in extended
precision and corrected. What remains in the duality gap comes from rounding x and the multipliers to float64; moving
one of them by a few units in the last place takes it away.

Reference: Higham (2002), Accuracy and Stability of Numerical Algorithms, ch. 12.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..status import SolveStatus
from .problem import Rows
from .scaling import equilibrate
from .solution import StackedSolution

Vector = NDArray[Any]

REACH = 1e6  # times the tolerance: answers further off have not found their active set
ROUNDS = 4
NUDGES = 8
CANDIDATES = 12
RANK = 1e-13  # eigenvalues of the equilibrated system below this share of the largest count as zero


class _Score(NamedTuple):
    error: float  # the largest of dual and primal residual and gap
    dual: Vector
    primal: Vector  # R x - d
    gap: float


class _Program:
    """One stacked program in float64 and in extended precision, every row written out."""

    def __init__(self, P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows) -> None:
        n = rows.n
        eye = torch.eye(n, dtype=P.dtype)
        R = torch.cat([C] + [eye] * rows.upper + [-eye] * rows.lower)
        self.present = d.isfinite().numpy()
        self.equality = rows.equality(d.device).numpy()
        data = [0.5 * (P + P.mT), q, R, torch.where(d.isfinite(), d, 0.0)]
        self.double = [v.numpy() for v in data]
        self.extended = [v.astype(np.longdouble) for v in self.double]
        self.scaling = equilibrate(P[None], C[None], rows)

    def score(self, x: Vector, lam: Vector, data: list[Vector]) -> _Score:
        P, q, R, d = data
        x, lam = x.astype(P.dtype), lam.astype(P.dtype)
        Px = P @ x
        dual, primal = Px + q + lam @ R, np.where(self.present, R @ x - d, 0)
        gap = (x * Px).sum() + (q * x).sum() + (d * lam).sum()
        violation = np.where(self.equality, abs(primal), np.maximum(primal, 0))
        error = max(abs(dual).max(), violation.max(initial=0), abs(gap))
        return _Score(float(error), dual, primal, float(gap))

    def rank(self, x: Vector, lam: Vector, target: float) -> tuple[float, float]:
        """Order answers by their error; below the target, by what plain float64 arithmetic makes of it."""
        return max(self.score(x, lam, self.extended).error, target), self.score(x, lam, self.double).error


def refine_unreached(
    found: StackedSolution, P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, eps_abs: float, eps_rel: float
) -> StackedSolution:
    """Refine the elements that miss their tolerance by little; the others stay as they are.

    Args:
        found: what the iteration found, with its residuals on the data as given.
        P: `(n, n)` or `(B, n, n)`.
        q: `(n,)` or `(B, n)`.
        C: `(m+p, n)` or `(B, m+p, n)`.
        d: `(total,)` or `(B, total)`.
        rows: the layout.
        eps_abs: absolute tolerance.
        eps_rel: relative to the largest term of a residual.
    """
    error = torch.stack([found.primal_residual, found.dual_residual, found.duality_gap]).amax(0)
    # A purely absolute tolerance is a demand on the answer as evaluated, so solved elements are measured against it.
    missed = found.status == int(SolveStatus.MAX_ITER)
    hopeful = (missed | found.solved if eps_rel == 0 else missed) & (error > eps_abs) & error.isfinite()
    for b in hopeful.nonzero().squeeze(-1).tolist():
        Pb, qb, Cb, db = (v[b] if v.ndim > core else v for v, core in ((P, 2), (q, 1), (C, 2), (d, 1)))
        x, lam = found.x[b], found.lam[b]
        target = eps_abs + eps_rel * _smallest_size(Pb, qb, Cb, db, rows, x, lam)
        if not target < float(error[b]) < REACH * target:
            continue
        refined = refine(Pb, qb, Cb, db, rows, x, lam, target)
        for old, new in zip(
            (found.x, found.lam, found.s, found.primal_residual, found.dual_residual, found.duality_gap),
            refined,
            strict=True,
        ):
            old[b] = torch.as_tensor(new)
        if max(refined[3:]) <= target:
            found.info[b, 0] = int(SolveStatus.SOLVED)
    return found


def _smallest_size(P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, x: Tensor, lam: Tensor) -> float:
    """Return the smallest of the three sizes that a relative tolerance refers to."""
    right = torch.where(d.isfinite(), d, 0.0)
    dual = max(float(v.abs().max()) for v in (P @ x, q, rows.transpose(C, lam)))
    primal = float(right.abs().max()) if rows.total else 0.0
    return min(dual, primal, abs(float(q @ x)))


def refine(
    P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, x: Tensor, lam: Tensor, target: float
) -> tuple[Tensor, Tensor, Tensor, float, float, float]:
    """Improve one solution until its residuals are at most `target`, or as small as float64 can hold.

    Args:
        P: `(n, n)`.
        q: `(n,)`.
        C: `(m+p, n)`.
        d: `(total,)`.
        rows: the layout.
        x: `(n,)`, close to the solution.
        lam: `(total,)`.
        target: absolute.

    Returns:
        x and lam, never worse than the ones given; the slack; and primal residual, dual residual and gap of the
        result in extended precision.
    """
    program = _Program(P, q, C, d, rows)
    best = (x.numpy(), _netted(lam, rows).numpy())
    error = program.rank(*best, target)
    slack = np.where(program.present, -program.score(*best, program.double).primal, np.inf)
    active = program.present & (program.equality | (best[1] > np.maximum(slack, 0)))
    solve = _factor(program, active)
    now = best
    for _ in range(ROUNDS):
        now = _corrected(program, *now, active, solve)
        if (found := program.rank(*now, target)) < error:
            best, error = now, found
    now = best
    for _ in range(NUDGES):
        if max(error) <= target:
            break
        options = [(program.rank(*option, target), option) for option in _nudges(program, *now, active)]
        if not options:
            break
        found, now = min(options, key=lambda option: option[0])
        if found < error:
            best, error = now, found
    final = program.score(*best, program.extended)
    primal = np.where(program.equality, abs(final.primal), np.maximum(final.primal, 0)).max(initial=0)
    slack = np.where(program.equality, 0, np.where(program.present, np.maximum(-final.primal, 0), np.inf))
    x, lam, s = (torch.from_numpy(v.astype(np.float64)) for v in (*best, slack))
    return x, lam, s, float(primal), float(abs(final.dual).max()), abs(final.gap)


def _netted(lam: Tensor, rows: Rows) -> Tensor:
    """Let only one side of each bound push: the answer holds their difference, which is rounded."""
    box = rows.bounds(lam)
    if box is None or not (rows.upper and rows.lower):
        return lam
    return torch.cat([lam[: rows.m + rows.p], box.clamp(min=0), (-box).clamp(min=0)])


def _factor(program: _Program, active: Vector) -> Any:
    """Return a function that solves `[P R'; R 0] u = r` on the active rows, with least norm if it is singular."""
    P, _, R, _ = program.double
    D, E, k = (v[0].numpy() for v in program.scaling)
    scale = np.concatenate([np.sqrt(k) * D, E[active] / np.sqrt(k)])
    J = np.block([[P, R[active].T], [R[active], np.zeros((active.sum(), active.sum()))]]) * scale * scale[:, None]
    values, vectors = np.linalg.eigh(J)
    keep = abs(values) > RANK * abs(values).max()
    inverse = np.where(keep, 1 / np.where(keep, values, 1), 0)
    return lambda r: scale * (vectors @ (inverse * ((scale * r) @ vectors)))


def _corrected(program: _Program, x: Vector, lam: Vector, active: Vector, solve: Any) -> tuple[Vector, Vector]:
    now = program.score(x, lam, program.extended)
    u = solve(-np.concatenate([now.dual, now.primal[active]]).astype(np.float64))
    lam = np.where(active, lam, 0.0)
    lam[active] += u[len(x) :]
    return x + u[: len(x)], np.where(program.equality, lam, np.maximum(lam, 0))


def _nudges(program: _Program, x: Vector, lam: Vector, active: Vector) -> list[tuple[Vector, Vector]]:
    """Return the moves of one entry that leave the smallest errors, by first-order prediction."""
    P, q, R, d = program.double
    now = program.score(x, lam, program.extended)
    slope_x = 2 * (P @ x) + q
    moves: list[tuple[float, int, float]] = []
    values: Vector
    slopes: Vector
    for size, values, slopes in ((0, x, slope_x), (len(x), lam, np.where(active, d, 0.0))):
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = values - now.gap / slopes
        step = np.where(np.isfinite(moved), moved - values, 0.0)
        if size:
            step = np.where(program.equality | (moved >= 0), step, 0.0)
        for i in np.flatnonzero(step):
            dual = abs(now.dual + (R[i] if size else P[i]) * step[i]).max()
            primal = 0.0 if size else abs(np.where(active, now.primal + R[:, i] * step[i], 0)).max()
            left = abs(now.gap + slopes[i] * step[i])
            moves.append((float(max(dual, primal, left)), size + int(i), float(moved[i])))
    result = []
    for _, place, value in sorted(moves)[:CANDIDATES]:
        both = np.concatenate([x, lam])
        both[place] = value
        result.append((both[: len(x)], both[len(x) :]))
    return result
