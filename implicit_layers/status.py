"""What became of one element of a batch."""

from __future__ import annotations

from enum import IntEnum

from torch import Tensor


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
    SolveStatus.MAX_ITER: "not converged: raise max_iter if that many iterations were used, else loosen "
    "eps_abs/eps_rel or rescale the data",
    SolveStatus.PRIMAL_INFEASIBLE: "no point satisfies the constraints: relax them, or pass infeasible=Elastic(...)",
    SolveStatus.DUAL_INFEASIBLE: "the cost falls without bound: add curvature, or bounds",
    SolveStatus.NUMERICAL_ERROR: "the iteration broke down, stalled or diverged: rescale the data, start nearer to the "
    "solution, loosen eps_abs, or add curvature",
    SolveStatus.INVALID_INPUT: "the data (or f at the first iterate) hold NaN or an infinity in the wrong place, or P "
    "is not positive semidefinite",
}


def describe_failures(caller: str, status: Tensor) -> str:
    """Count the failures of a batch by status, with one line of advice each."""
    parts = []
    for member in SolveStatus:
        where = (status == member).nonzero()
        if len(where) and member is not SolveStatus.SOLVED:
            index = where[0].tolist()
            first = index[0] if len(index) == 1 else tuple(index)
            parts.append(f"{len(where)} {member.name} (first: element {first}; {member.advice})")
    total = int((status != SolveStatus.SOLVED).sum())
    return f"{caller}: {total} of {status.numel()} elements failed: " + "; ".join(parts)
