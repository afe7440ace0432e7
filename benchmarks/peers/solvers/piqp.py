"""PIQP: proximal interior point method, dense interface with two-sided rows."""

from __future__ import annotations

import time

import numpy as np
import piqp

from ...range_qp import Answer, RangeQP


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve with the dense interface."""
    equal = problem.l == problem.u
    A = np.asfortranarray(problem.A.toarray()[equal])
    G = np.asfortranarray(problem.A.toarray()[~equal])
    P = np.asfortranarray(problem.P.toarray())
    start = time.process_time()
    solver = piqp.DenseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = eps
    settings.eps_rel = settings.eps_duality_gap_rel = 0.0
    settings.check_duality_gap = True
    settings.max_iter = 1000
    l, u = problem.l, problem.u  # noqa: E741
    solver.setup(P, problem.q, A, u[equal], G, l[~equal], u[~equal], problem.lb, problem.ub)
    status = solver.solve()
    seconds = time.process_time() - start
    result = solver.result
    y = np.zeros(len(u))
    y[equal], y[~equal] = result.y, result.z_u - result.z_l
    return Answer(result.x, y, result.z_bu - result.z_bl, status.name, result.info.iter, seconds)
