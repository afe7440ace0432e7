"""What a quadratic program returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


MEASURES = 5  # status, iterations, primal residual, dual residual, duality gap


class StackedSolution(NamedTuple):
    """Solution of the stacked form, flat over the batch; the first two are differentiable.

    Few tensors, because every one costs a microsecond or two: at batch 1 that is what the time goes into.
    """

    x: Tensor  # (B, n)
    lam: Tensor  # (B, total)
    info: Tensor  # (B, 5 + total + K) float64: the measures, s, and what the compiled core keeps for its backward pass
    flags: Tensor  # (B, 2, total) bool: active rows; rows that touch

    @staticmethod
    def pack(
        x: Tensor,
        lam: Tensor,
        s: Tensor,
        active: Tensor,
        touching: Tensor,
        status: Tensor,
        iterations: Tensor,
        residuals: tuple[Tensor, Tensor, Tensor],
    ) -> StackedSolution:
        """Build a solution from its parts; `residuals` are primal, dual and gap."""
        measures = torch.stack([v.to(torch.float64) for v in (status, iterations, *residuals)], -1)
        info = torch.cat([measures, s.to(torch.float64)], -1)
        return StackedSolution(x, lam, info, torch.stack([active, touching], -2))

    @property
    def status(self) -> Tensor:
        """`SolveStatus` of each element, int64 `(B,)`."""
        return self.info[:, 0].to(torch.int64)

    @property
    def solved(self) -> Tensor:
        """Which elements are SOLVED, bool `(B,)`."""
        return self.info[:, 0] == 0

    @property
    def iterations(self) -> Tensor:
        """Factorisations, int64 `(B,)`."""
        return self.info[:, 1].to(torch.int64)

    @property
    def primal_residual(self) -> Tensor:
        """Largest violation, float64 `(B,)`."""
        return self.info[:, 2]

    @property
    def dual_residual(self) -> Tensor:
        """Largest entry of the gradient of the Lagrangian, float64 `(B,)`."""
        return self.info[:, 3]

    @property
    def duality_gap(self) -> Tensor:
        """Its size, float64 `(B,)`."""
        return self.info[:, 4]

    @property
    def s(self) -> Tensor:
        """Slacks, float64 `(B, total)`."""
        return self.info[:, MEASURES : MEASURES + self.lam.shape[-1]]

    @property
    def active(self) -> Tensor:
        """Equality rows and rows with lam > s, bool `(B, total)`."""
        return self.flags[:, 0]

    @property
    def touching(self) -> Tensor:
        """Active rows and weakly active ones, bool `(B, total)`."""
        return self.flags[:, 1]
