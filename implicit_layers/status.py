"""What became of one element of a batch."""

from __future__ import annotations

from enum import IntEnum


class SolveStatus(IntEnum):
    """Outcome of a solve, per element of the batch. Only SOLVED elements carry a gradient."""

    SOLVED = 0
    MAX_ITER = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    NUMERICAL_ERROR = 4
    INVALID_INPUT = 5

    @property
    def advice(self) -> str:
        """One line: what it means and what to do."""
        return _ADVICE[self]


_ADVICE = {
    SolveStatus.SOLVED: "the conditions hold to tolerance",
    SolveStatus.MAX_ITER: "not converged: raise max_iter, loosen eps_abs/eps_rel or rescale the data",
    SolveStatus.PRIMAL_INFEASIBLE: "no point satisfies the constraints: relax them, or pass infeasible=Elastic(...)",
    SolveStatus.DUAL_INFEASIBLE: "the cost falls without bound: add curvature to P, or bounds",
    SolveStatus.NUMERICAL_ERROR: "the linear algebra broke down: rescale the data or add curvature to P",
    SolveStatus.INVALID_INPUT: "the data hold NaN or an infinity in the wrong place, or P is not positive semidefinite",
}
