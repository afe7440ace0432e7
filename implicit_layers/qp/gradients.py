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
from .polish import DELTA, RHO, factorise, solve_factor
from .problem import Rows
from .scaling import equilibrate, max_abs
from .solution import StackedSolution

REFINEMENTS = 5
SINGULAR = 1e-7  # relative residual above which the proximal steps did not converge: J is singular
RANK = 1e-11  # eigenvalues below this share of the largest count as zero in the minimum-norm solve


@dataclass(frozen=True)
class SolutionMap:
    """(P, q, C, d) -> (x, lam) of the stacked program; two more parameters may carry a warm start (x, lam).

    `find(P, q, C, d, rows, batch, warm)` finds the solution: any solver will do.
    """

    rows: Rows
    batch: int
    find: Callable[[Tensor, Tensor, Tensor, Tensor, Rows, int, tuple[Tensor, ...]], StackedSolution]
    rule: Implicit
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
        system = LinearSystem(self.rows, self.batch, rule == "least_squares")
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
    num_unknowns: int = 2
    core_dims: tuple[int, ...] = (2, 2, 1, 1, 1)

    def with_batch(self, batch: int) -> LinearSystem:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Solve in float64 by proximal refinement; by eigenvalues where that does not converge."""
        dtype = params[3].dtype
        P, C, c, rx, rl = (
            v.to(torch.float64).expand(self.batch, *v.shape[v.ndim - core :])
            for v, core in zip(params, self.core_dims, strict=True)
        )
        ux, ul = _solve_symmetric(_symmetric(P), C, c, rx, rl, self.rows, self.minimum_norm)
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


def _solve_symmetric(
    P: Tensor, C: Tensor, c: Tensor, rx: Tensor, rl: Tensor, rows: Rows, minimum_norm: bool
) -> tuple[Tensor, Tensor]:
    held = c.isfinite()
    # Congruence with S = diag(sqrt(k) D, E / sqrt(k)) equilibrates the system and keeps it symmetric.
    scaling = equilibrate(P, C, rows)
    root = scaling.k.sqrt()
    Sx, Sl = root * scaling.D, scaling.E / root
    P = P * Sx.unsqueeze(-1) * Sx.unsqueeze(-2)
    C = C * (scaling.E[..., : C.shape[-2]]).unsqueeze(-1) * scaling.D.unsqueeze(-2)
    c = torch.where(held, c, 1.0) * Sl * Sl
    rx, rl = rx * Sx, torch.where(held, rl * Sl, 0.0)
    ux, ul = torch.zeros_like(rx), torch.zeros_like(rl)
    size = torch.maximum(max_abs(rx), max_abs(rl))
    weights = torch.where(held, 1 / (c + DELTA), 0.0)

    def residual(ux: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        ex = rx - (ux.unsqueeze(-2) @ P).squeeze(-2) - rows.transpose(C, ul)
        return ex, torch.where(held, rl - rows.apply(C, ux) + c * ul, 0.0)

    bad = torch.ones_like(size, dtype=torch.bool)
    if not minimum_norm:
        factor = factorise(P, C, rows, weights, P.new_full((P.shape[0], 1), RHO))
        ex, el = rx, rl
        for _ in range(REFINEMENTS):
            dx = solve_factor(factor.L, ex + rows.transpose(C, weights * el))
            nx, nl = ux + dx, ul + weights * (rows.apply(C, dx) - el)
            fx, fl = residual(nx, nl)
            # Keep a step only if it improves: past round-off, steps are noise. Element by element.
            worse = torch.maximum(max_abs(fx), max_abs(fl)) >= torch.maximum(max_abs(ex), max_abs(el))
            stay = worse.unsqueeze(-1)
            ux, ul = torch.where(stay, ux, nx), torch.where(stay, ul, nl)
            ex, el = torch.where(stay, ex, fx), torch.where(stay, el, fl)
            if worse.all():  # an element that stays would stay again: its neighbours do not matter
                break
        error = torch.maximum(max_abs(ex), max_abs(el))
        bad = ~(error <= SINGULAR * size) | ~factor.ok
    bad = bad & (size > 0)
    if bad.any():
        full = _minimum_norm(P[bad], C[bad], c[bad], held[bad], torch.cat([rx, rl], -1)[bad], rows)
        ux, ul = ux.clone(), ul.clone()
        ux[bad], ul[bad] = full[:, : rows.n], full[:, rows.n :]
    zero = (size == 0).unsqueeze(-1)  # also keeps what is not finite in unsolved elements out of the result
    return torch.where(zero, 0.0, ux * Sx), torch.where(zero, 0.0, ul * Sl)


def _minimum_norm(P: Tensor, C: Tensor, c: Tensor, held: Tensor, r: Tensor, rows: Rows) -> Tensor:
    """Return the least-squares solution of least norm of the equilibrated system, by its eigenvalues."""
    batch, n, total = P.shape[0], rows.n, rows.total
    identity = torch.eye(n, dtype=P.dtype, device=P.device).expand(batch, n, n)
    blocks = [C] + [identity] * rows.upper + [-identity] * rows.lower
    R = torch.cat(blocks, -2) * held.unsqueeze(-1)
    J = torch.zeros(batch, n + total, n + total, dtype=P.dtype, device=P.device)
    J[:, :n, :n], J[:, n:, :n], J[:, :n, n:] = P, R, R.mT
    J[:, n:, n:] = torch.diag_embed(torch.where(held, -c, 0.0))
    values, vectors = torch.linalg.eigh(J)
    keep = values.abs() > RANK * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(keep, 1 / torch.where(keep, values, 1.0), 0.0)
    coordinates: Tensor = inverse * (r.unsqueeze(-2) @ vectors).squeeze(-2)
    solution: Tensor = coordinates.unsqueeze(-2) @ vectors.mT
    return solution.squeeze(-2)
