"""What a root, a fixed point or an arg-min returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class ImplicitSolution(NamedTuple):
    """Solution of a batch of conditions. `w` (and `y`, `z`) are differentiable; the rest is detached.

    Attributes:
        w: the unknowns, structured like `w0`. An element that is not SOLVED holds its last iterate and has zero
            gradient; INVALID_INPUT: NaN.
        status: `SolveStatus` of each element, int64 `(*batch,)`.
        iterations: steps taken, int64 `(*batch,)`.
        residual: largest entry of the condition at w, `(*batch,)`.
        y: multipliers of `eq(w) = 0`, `(*batch, p)`; `None` without `eq`.
        z: multipliers of `ineq(w) <= 0`, >= 0, `(*batch, m)`; `None` without `ineq`.
    """

    w: Any
    status: Tensor
    iterations: Tensor
    residual: Tensor
    y: Tensor | None = None
    z: Tensor | None = None
