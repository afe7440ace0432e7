"""Clarabel: homogeneous-embedding interior point method; sparse, one-sided rows."""

from __future__ import annotations

import time

import clarabel
import numpy as np
import scipy.sparse as sp

from ...range_qp import Answer, RangeQP


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve with equalities in the zero cone and finite sides of rows and bounds in the nonnegative cone."""
    n = len(problem.q)
    rows = sp.vstack([problem.A, sp.identity(n)]).tocsr()
    l, u = np.concatenate([problem.l, problem.lb]), np.concatenate([problem.u, problem.ub])  # noqa: E741
    equal = l == u
    upper, lower = np.isfinite(u) & ~equal, np.isfinite(l) & ~equal
    C = sp.vstack([rows[equal], rows[upper], -rows[lower]]).tocsc()
    d = np.concatenate([u[equal], u[upper], -l[lower]])
    cones = [clarabel.ZeroConeT(int(equal.sum())), clarabel.NonnegativeConeT(int(upper.sum() + lower.sum()))]
    P = sp.triu(problem.P).tocsc()
    start = time.process_time()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_feas = settings.tol_gap_abs = eps
    settings.tol_gap_rel = 0.0
    settings.max_iter = 1000
    solution = clarabel.DefaultSolver(P, problem.q, C, d, cones, settings).solve()
    seconds = time.process_time() - start
    z = np.asarray(solution.z)
    y = np.zeros(len(u))
    y[equal] = z[: equal.sum()]
    y[upper] += z[equal.sum() : equal.sum() + upper.sum()]
    y[lower] -= z[equal.sum() + upper.sum() :]
    k = len(problem.u)
    return Answer(np.asarray(solution.x), y[:k], y[k:], str(solution.status), solution.iterations, seconds)
