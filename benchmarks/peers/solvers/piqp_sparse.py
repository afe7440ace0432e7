"""PIQP: proximal interior point method, sparse interface with two-sided rows."""

from __future__ import annotations

import time

import piqp
import scipy.sparse as sp

from ...range_qp import Answer, RangeQP
from .piqp import run


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve with the sparse interface."""
    equal, A = problem.l == problem.u, problem.A.tocsr()
    P, A, G = (sp.csc_matrix(M) for M in (problem.P, A[equal], A[~equal]))
    start = time.process_time()
    return run(problem, piqp.SparseSolver(), P, A, G, eps, start)
