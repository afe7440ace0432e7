"""Programs with two-sided rows, as files and most solvers hold them, and the one judge of all answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import scipy.io
import scipy.sparse as sp
from numpy.typing import NDArray

Vector = NDArray[np.float64]
INFINITE = 0.99e20  # 1e20 means infinity; some files hold 9.999999999999998e+19, an infinity that was shifted


class RangeQP(NamedTuple):
    """`min 1/2 x'Px + q'x  s.t.  l <= Ax <= u, lb <= x <= ub`; P and A sparse, infinite sides as ±inf."""

    name: str
    P: Any
    q: Vector
    A: Any
    l: Vector  # noqa: E741 - the files' name
    u: Vector
    lb: Vector
    ub: Vector


class Answer(NamedTuple):
    """What a solver returned: `Px + q + A'y + y_box = 0`, y > 0 where the upper side holds, < 0 at the lower one."""

    x: Vector
    y: Vector
    y_box: Vector
    status: str
    iterations: int
    seconds: float


class Residuals(NamedTuple):
    """Max-norm residuals in the units of the problem as given."""

    primal: float
    dual: float
    gap: float

    @property
    def error(self) -> float:
        """The largest of the three; inf if one of them is not a number."""
        return max(self) if np.isfinite(self).all() else float("inf")


def load(path: Path) -> RangeQP:
    """Read a Maros-Meszaros file: P, q, A, l, u, with the bounds as the last n rows of A if these are an identity.

    Raises:
        click.ClickException: the file cannot be read or does not hold these arrays.
    """
    try:
        data = scipy.io.loadmat(path)
        P, A = (sp.csc_matrix(data[key], dtype=np.float64) for key in ("P", "A"))
        q, lower, upper = (np.asarray(data[key], dtype=np.float64).ravel() for key in ("q", "l", "u"))
    except KeyError as error:
        raise click.ClickException(f"{path}: expected arrays P, q, A, l and u, found no {error}") from error
    except Exception as error:  # scipy raises whatever its parser trips over
        raise click.ClickException(f"{path}: expected a MATLAB file, found: {error}") from error
    lower, upper = np.where(lower <= -INFINITE, -np.inf, lower), np.where(upper >= INFINITE, np.inf, upper)
    n = len(q)
    k = A.shape[0] - n
    lb, ub = np.full(n, -np.inf), np.full(n, np.inf)
    if k >= 0 and (A[k:] != sp.identity(n, format="csc")).nnz == 0:
        A, lower, lb, upper, ub = A[:k], lower[:k], lower[k:], upper[:k], upper[k:]
    return RangeQP(path.stem, P, q, A, lower, upper, lb, ub)


def judge(problem: RangeQP, answer: Answer, dtype: type[np.floating[Any]] = np.float64) -> Residuals:
    """Measure an answer; the same arithmetic for every solver.

    With `np.longdouble` (64 bits of mantissa on x86) the residuals are those of the answer itself; in float64 the
    evaluation adds round-off of its own, which `floor` estimates.
    """
    P, q, C, x, lam, lower, upper = (v.astype(dtype) for v in _stack(problem, answer))
    side = np.where(lam > 0, upper, np.where(lam < 0, lower, 0))
    Cx, Px = C @ x, P @ x
    return Residuals(
        primal=float(np.maximum(lower - Cx, Cx - upper).max(initial=0)),
        dual=float(abs(Px + q + C.T @ lam).max()),
        gap=float(abs((x * Px).sum() + (q * x).sum() + (side * lam).sum())),
    )


def floor(problem: RangeQP, answer: Answer) -> Residuals:
    """Return the round-off of float64 in each residual: machine epsilon times the size of the terms it sums."""
    P, q, C, x, lam, lower, upper = (abs(v) for v in _stack(problem, answer))
    lower, upper = (np.where(np.isfinite(v), v, 0) for v in (lower, upper))
    side = np.where(_stack(problem, answer)[4] > 0, upper, lower)
    eps = float(np.finfo(np.float64).eps)
    return Residuals(
        primal=eps * float((C @ x + np.maximum(lower, upper)).max(initial=0)),
        dual=eps * float((P @ x + q + C.T @ lam).max()),
        gap=eps * float(x @ (P @ x) + q @ x + side @ lam),
    )


def _stack(problem: RangeQP, answer: Answer) -> tuple[Any, Vector, Any, Vector, Vector, Vector, Vector]:
    # A multiplier that pushes against an infinite side proves nothing and is set to zero: its share then shows as
    # a dual residual and not as an infinite gap.
    _, P, q, A, lower, upper, lb, ub = problem
    C = sp.vstack([A, sp.identity(len(q))]).tocsr()
    lower, upper = np.concatenate([lower, lb]), np.concatenate([upper, ub])
    lam = np.concatenate([answer.y, answer.y_box])
    lam = np.where((lam > 0) & np.isinf(upper) | (lam < 0) & np.isinf(lower), 0.0, lam)
    return P.tocsr(), q, C, answer.x, lam, lower, upper
