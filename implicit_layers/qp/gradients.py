"""The solution map of a quadratic program and its derivatives, as two implicitly defined maps.

At a solution (x, lam) of the stacked program the conditions F = 0 and their Jacobian J are

    Px + q + R'lam = 0                       J = [ P   R'      ]
    R x - d = 0 on active rows,  lam = 0 on inactive ones       [ R  -diag(c) ],   c = 0 active, inf inactive

J is symmetric, so adjoint and tangent solve the same system; relaxed complementarity s lam = κ puts c = s/lam.

References: Amos and Kolter (2017), OptNet, eq. 6-8; Bambade et al. (2024), QPLayer, for singular J.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..differentiation import Implicit
from ..implicit import MaybeTensors, Tensors, implicit_apply
from .linear_system import solve_linear_system
from .problem import Rows
from .solution import StackedSolution


@dataclass(frozen=True)
class SolutionMap:
    """(P, q, C, d) -> (x, lam) of the stacked program; two more parameters may carry a warm start (x, lam).

    `find(P, q, C, d, rows, batch, warm)` finds the solution: any solver will do.
    """

    rows: Rows
    batch: int
    find: Callable[[Tensor, Tensor, Tensor, Tensor, Rows, int, tuple[Tensor, ...]], StackedSolution]
    rule: Implicit
    core: str = "auto"
    num_unknowns: int = 2
    core_dims: tuple[int, ...] = (2, 1, 2, 1, 1, 1)

    def with_batch(self, batch: int) -> SolutionMap:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Run the solver."""
        P, q, C, d, *warm = params
        return self.find(P, q, C, d, self.rows, self.batch, tuple(warm))

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return (dx, dlam)."""
        out = StackedSolution(*outputs)
        x, lam = self._primal(out), self._multipliers(out)
        dP, dq, dC, dd = dparams[:4]
        rx, rl = _data_tangent(self.rows, x, lam, None if dP is None else _symmetric(dP), dC)
        if dq is not None:
            rx = rx - dq
        if dd is not None:
            rl = rl + dd
        return self._linear_solve(out, params, rx, rl)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of P, q, C, d for cotangents of x and lam."""
        out = StackedSolution(*outputs)
        x, lam = self._primal(out), self._multipliers(out)
        vx, vl = (torch.zeros_like(w) if v is None else v for v, w in zip(cotangents, (x, lam), strict=True))
        ux, ul = self._linear_solve(out, params, vx, vl)
        gP, gC = _data_adjoint(self.rows, (x, lam), (ux, ul), params[0], params[2], needs[0], needs[2])
        gq = _reduce(-ux, params[1]) if needs[1] else None
        gd = _reduce(ul, params[3]) if needs[3] else None
        return (gP, gq, gC, gd, *(None,) * (len(params) - 4))

    def _primal(self, out: StackedSolution) -> Tensor:
        return torch.where(out.solved.unsqueeze(-1), out.x, 0.0)

    def _multipliers(self, out: StackedSolution) -> Tensor:
        return torch.where(out.solved.unsqueeze(-1), out.lam, 0.0)

    def _linear_solve(self, out: StackedSolution, params: Tensors, rx: Tensor, rl: Tensor) -> tuple[Tensor, Tensor]:
        """Solve J u = r with the chosen rule; elements that were not solved get zero."""
        P, _, C, d = params[:4]
        solved = out.solved.unsqueeze(-1)
        rx, rl = torch.where(solved, rx, 0.0), torch.where(solved, rl, 0.0)
        rule = self.rule.gradient
        if rule == "smoothed":
            c = self._relaxed_compliance(out, C, d)
        else:
            held = out.touching if rule == "least_squares" else out.active
            c = torch.where(held, 0.0, torch.inf).to(rx.dtype)
        system = LinearSystem(self.rows, self.batch, rule == "least_squares", self.core)
        ux, ul = implicit_apply(system, P, C, c, rx, rl)
        return ux, ul

    def _relaxed_compliance(self, out: StackedSolution, C: Tensor, d: Tensor) -> Tensor:
        # (s, z) with s z = κ and the same difference s - z as the solution's (Chen-Harker-Kanzow smoothing).
        kappa = self.rule.smoothing
        equality = self.rows.equality(d.device)
        present = d.isfinite() & out.solved.unsqueeze(-1) & ~equality
        x, lam = self._primal(out), self._multipliers(out)
        difference = torch.where(present, d, 0.0) - self.rows.apply(C, torch.where(out.solved.unsqueeze(-1), x, 0.0))
        difference = torch.where(present, difference - lam, 1.0)
        root = (difference * difference + 4 * kappa).sqrt()
        # The larger of the two is free of cancellation, the smaller follows from the product.
        larger = 0.5 * (difference.abs() + root)
        ratio = larger * larger / kappa
        c = torch.where(difference > 0, ratio, 1 / ratio)
        return torch.where(present, c, torch.where(equality, 0.0, torch.inf).to(c.dtype))


@dataclass(frozen=True)
class LinearSystem:
    """(P, C, c, rx, rl) -> u solving `[P R'; R -diag(c)] u = r`; rows with c = inf have u = 0."""

    rows: Rows
    batch: int
    minimum_norm: bool
    core: str = "auto"
    num_unknowns: int = 2
    core_dims: tuple[int, ...] = (2, 2, 1, 1, 1)

    def with_batch(self, batch: int) -> LinearSystem:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Solve in float64, without autograd."""
        dtype = params[3].dtype
        P, C, c, rx, rl = (v.to(torch.float64) for v in params)
        ux, ul = solve_linear_system(P, C, c, rx, rl, self.rows, self.batch, self.minimum_norm, self.core)
        return ux.to(dtype), ul.to(dtype)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return du = J⁻¹ (dr - dJ u)."""
        ux, ul = outputs
        dP, dC, dc, drx, drl = dparams
        rx, rl = _data_tangent(self.rows, ux, ul, None if dP is None else _symmetric(dP), dC)
        if drx is not None:
            rx = rx + drx
        if drl is not None:
            rl = rl + drl
        if dc is not None:
            rl = rl + dc * ul
        return implicit_apply(self, *params[:3], rx, rl)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of P, C, c and both right-hand sides."""
        ux, ul = outputs
        vx, vl = (torch.zeros_like(w) if v is None else v for v, w in zip(cotangents, (ux, ul), strict=True))
        wx, wl = implicit_apply(self, *params[:3], vx, vl)
        gP, gC = _data_adjoint(self.rows, (ux, ul), (wx, wl), params[0], params[1], needs[0], needs[1])
        gc = _reduce(ul * wl, params[2]) if needs[2] else None
        return gP, gC, gc, _reduce(wx, params[3]), _reduce(wl, params[4])


def _data_tangent(rows: Rows, x: Tensor, lam: Tensor, dP: Tensor | None, dC: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return -dJ (x, lam) for a change of the matrices."""
    k = rows.m + rows.p
    rx, rl = torch.zeros_like(x), torch.zeros_like(lam)
    if dP is not None:
        rx = rx - (x.unsqueeze(-2) @ dP).squeeze(-2)
    if dC is not None:
        rx = rx - (lam[..., :k].unsqueeze(-2) @ dC).squeeze(-2)
        change = -(x.unsqueeze(-2) @ dC.mT).squeeze(-2)
        rl = rl + torch.nn.functional.pad(change, (0, rows.total - k))
    return rx, rl


def _data_adjoint(
    rows: Rows,
    w: tuple[Tensor, Tensor],
    u: tuple[Tensor, Tensor],
    P: Tensor,
    C: Tensor,
    needs_P: bool,
    needs_C: bool,
) -> MaybeTensors:
    """Return the gradients of P and C: minus the symmetrised outer products of solution and adjoint."""
    k = rows.m + rows.p
    (x, lam), (ux, ul) = w, u
    gP = gC = None
    if needs_P:
        gP = _symmetric(_outer(-ux, x, P))
    if needs_C:
        gC = _outer(-lam[..., :k], ux, C) + _outer(-ul[..., :k], x, C)
    return gP, gC


def _symmetric(M: Tensor) -> Tensor:
    return 0.5 * (M + M.mT)


def _outer(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    # The gradient of shared data is the sum over the batch: one matrix product, never B outer products.
    return a.mT @ b if like.ndim == 2 else a.unsqueeze(-1) * b.unsqueeze(-2)


def _reduce(g: Tensor, like: Tensor) -> Tensor:
    return g.sum(0) if like.ndim == 1 else g
