"""PIQP: proximal interior point method, with two-sided rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import piqp

from ...range_qp import Answer, RangeQP


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve with the dense interface."""
    equal, A = problem.l == problem.u, problem.A.toarray()
    P, A, G = (np.asfortranarray(M) for M in (problem.P.toarray(), A[equal], A[~equal]))
    start = time.process_time()
    return run(problem, piqp.DenseSolver(), P, A, G, eps, start)


def run(problem: RangeQP, solver: Any, P: Any, A: Any, G: Any, eps: float, start: float) -> Answer:
    """Set up either solver and solve: equality rows A, two-sided rows G."""
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = eps
    settings.eps_rel = settings.eps_duality_gap_rel = 0.0
    settings.check_duality_gap = True
    settings.max_iter = 1000
    l, u, equal = problem.l, problem.u, problem.l == problem.u  # noqa: E741
    solver.setup(P, problem.q, A, u[equal], G, l[~equal], u[~equal], problem.lb, problem.ub)
    status = solver.solve()
    seconds = time.process_time() - start
    result = solver.result
    y = np.zeros(len(u))
    y[equal], y[~equal] = result.y, result.z_u - result.z_l
    return Answer(result.x, y, result.z_bu - result.z_bl, status.name, result.info.iter, seconds)
