"""What a quadratic program returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class QPSolution(NamedTuple):
    """Solution of a batch of quadratic programs: `Px + q + G'z + A'y + z_box = 0` at the optimum.

    `x, z, y, z_box` are differentiable; the rest is detached. Rows that are absent (`G is None`) have length 0.

    Attributes:
        x: primal solution, `(*batch, n)`.
        s: slack `h - Gx >= 0`, `(*batch, m)`; `inf` where `h` is.
        z: multipliers of `Gx <= h`, `>= 0`, `(*batch, m)`.
        y: multipliers of `Ax = b`, free, `(*batch, p)`.
        z_box: multipliers of the bounds, `(*batch, n)`: negative at `lb`, positive at `ub`, 0 between.
        status: `SolveStatus` of each element, int64 `(*batch,)`.
        iterations: factorisations used, int64 `(*batch,)`.
        primal_residual: largest violation of a constraint, `(*batch,)`.
        dual_residual: largest entry of `Px + q + G'z + A'y + z_box`, `(*batch,)`.
        duality_gap: `|x'Px + q'x + h'z + b'y + ub'max(z_box, 0) + lb'min(z_box, 0)|`, `(*batch,)`.
    """

    x: Tensor
    s: Tensor
    z: Tensor
    y: Tensor
    z_box: Tensor
    status: Tensor
    iterations: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    duality_gap: Tensor


class StackedSolution(NamedTuple):
    """Solution of the stacked form, flat over the batch; the first two are differentiable."""

    x: Tensor  # (B, n)
    lam: Tensor  # (B, total)
    s: Tensor  # (B, total)
    active: Tensor  # (B, total) bool: equality rows and rows with lam > s
    touching: Tensor  # (B, total) bool: active rows and weakly active ones
    status: Tensor  # (B,) int64
    iterations: Tensor  # (B,) int64
    primal_residual: Tensor  # (B,)
    dual_residual: Tensor  # (B,)
    duality_gap: Tensor  # (B,)
    kept: Tensor  # (B, K) float64: factors for the backward pass, for the compiled core's own use; K may be 0

    @property
    def solved(self) -> Tensor:
        """Which elements are SOLVED, `(B,)` bool."""
        return self.status == 0
