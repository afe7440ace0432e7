"""ProxQP: proximal augmented Lagrangian, dense interface with two-sided rows and boxes."""

from __future__ import annotations

import time

import numpy as np
from proxsuite import proxqp

from ...range_qp import Answer, RangeQP


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve with the dense interface."""
    equal = problem.l == problem.u
    P, rows = problem.P.toarray(), problem.A.toarray()
    A, C = rows[equal], rows[~equal]
    l, u = problem.l, problem.u  # noqa: E741
    start = time.process_time()
    solver = proxqp.dense.QP(len(problem.q), len(A), len(C), True)
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = eps
    settings.eps_rel = settings.eps_duality_gap_rel = 0.0
    settings.check_duality_gap = True
    settings.eps_primal_inf = settings.eps_dual_inf = 1e-15  # its default 1e-4 calls feasible problems infeasible
    solver.init(P, problem.q, A, u[equal], C, l[~equal], u[~equal], problem.lb, problem.ub)
    solver.solve()
    seconds = time.process_time() - start
    result = solver.results
    y = np.zeros(len(u))
    y[equal], y[~equal] = result.y, result.z[: len(C)]
    return Answer(result.x, y, result.z[len(C) :], result.info.status.name, result.info.iter, seconds)
