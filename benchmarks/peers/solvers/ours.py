"""implicit_layers: equalities, one-sided rows and bounds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from implicit_layers import InteriorPoint, QPProblem, QPSolution, SolverWarning, SolveStatus, solve_qp

from ...range_qp import Answer, RangeQP, Vector


def dense(M: Any) -> torch.Tensor:
    """Return a scipy matrix with all its entries."""
    return torch.from_numpy(np.ascontiguousarray(M.toarray()))


def convert(problem: RangeQP, held: Callable[[Any], torch.Tensor] = dense) -> QPProblem:
    """Write rows with equal sides as equalities, finite sides of the others as inequalities, fixed x as bounds."""
    equal = problem.l == problem.u
    A = problem.A.tocsr()
    upper, lower = np.isfinite(problem.u) & ~equal, np.isfinite(problem.l) & ~equal

    def tensor(v: Vector) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(v))

    return QPProblem(
        held(problem.P),
        tensor(problem.q),
        held(sp.vstack([A[upper], -A[lower]])),
        tensor(np.concatenate([problem.u[upper], -problem.l[lower]])),
        held(A[equal]),
        tensor(problem.l[equal]),
        tensor(problem.lb),
        tensor(problem.ub),
    )


def convert_back(problem: RangeQP, solution: QPSolution) -> tuple[Vector, Vector, Vector]:
    """Return x and the multipliers of the two-sided rows and of the bounds."""
    equal = problem.l == problem.u
    upper, lower = np.isfinite(problem.u) & ~equal, np.isfinite(problem.l) & ~equal
    x, z, eq, y_box = (v.detach().numpy() for v in (solution.x, solution.z, solution.y, solution.z_box))
    y = np.zeros(len(problem.l))
    y[equal] = eq
    y[upper] += z[: upper.sum()]
    y[lower] -= z[upper.sum() :]
    return x, y, y_box


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve densely in float64."""
    return answer(problem, convert(problem), InteriorPoint(eps_abs=eps, eps_rel=0, max_iter=200))


def answer(problem: RangeQP, given: QPProblem, solver: InteriorPoint) -> Answer:
    """Solve what was converted, and convert the solution back."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = solve_qp(*given, solver=solver)
    seconds = time.process_time() - start
    status = SolveStatus(int(solution.status)).name
    return Answer(*convert_back(problem, solution), status, int(solution.iterations), seconds)
