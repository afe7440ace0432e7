"""implicit_layers on sparse matrices."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from implicit_layers import InteriorPoint

from ...range_qp import Answer, RangeQP
from .ours import answer, convert


def held(M: Any) -> torch.Tensor:
    """Return a scipy matrix as a sparse tensor."""
    M = M.tocsr()
    ends, columns, values = (torch.from_numpy(v) for v in (M.indptr, M.indices, M.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls this layout a beta state
        return torch.sparse_csr_tensor(ends, columns, values, M.shape, check_invariants=True)


def solve(problem: RangeQP, eps: float) -> Answer:
    """Solve sparsely in float64."""
    return answer(problem, convert(problem, held), InteriorPoint(eps_abs=eps, eps_rel=0, max_iter=1000, core="sparse"))
