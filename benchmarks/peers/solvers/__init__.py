"""One adapter per solver: a `RangeQP` in, an `Answer` out, at the accuracy asked for.

Every adapter uses its solver's best documented interface for such problems and measures the CPU time of set-up and
solve together, without the conversion of formats. `eps` is an absolute tolerance; relative ones are zero.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ...range_qp import Answer, RangeQP

SOLVERS = ("ours", "piqp", "clarabel", "proxqp")
SPARSE_SOLVERS = ("ours_sparse", "piqp_sparse", "clarabel")  # for programs beyond a thousand unknowns


def adapter(name: str) -> Callable[[RangeQP, float], Answer]:
    """Return the function that solves with a solver of `SOLVERS` or `SPARSE_SOLVERS`; imports that solver only."""
    solve: Callable[[RangeQP, float], Answer] = importlib.import_module(f".{name}", __name__).solve
    return solve
