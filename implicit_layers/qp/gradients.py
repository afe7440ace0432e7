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
from functools import partial

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from ..differentiation import Implicit
from ..implicit import MaybeTensors, Tensors, differentiated_by_transform, implicit_apply
from .linear_system import LinearSolve, fused_adjoint, has_fused_adjoint, solve_linear_system
from .matrices import DENSE, Matrices
from .problem import Layout, Rows
from .solution import StackedSolution

Find = Callable[[tuple[Tensor, ...], Layout, int, tuple[Tensor, ...]], StackedSolution]


@dataclass(frozen=True)
class SolutionMap:
    """The arguments named by `layout` -> (x, lam) of the stacked program; two more may carry a warm start (x, lam).

    `find(params, layout, batch, warm)` finds the solution: any solver will do. `linear` solves the linear systems of
    the derivatives; `fused` lets the compiled core do a first-order backward pass in one call.
    """

    layout: Layout
    batch: int
    find: Find
    rule: Implicit
    linear: LinearSolve
    matrices: Matrices = DENSE
    fused: bool = False
    num_unknowns: int = 2

    @property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of each parameter without its batch."""
        return (*self.layout.core_dims, 1, 1)

    def with_batch(self, batch: int) -> SolutionMap:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Run the solver."""
        count = len(self.layout.names)
        return self.find(params[:count], self.layout, self.batch, params[count:])

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return (dx, dlam)."""
        out = StackedSolution(*outputs)
        x, lam = self._primal(out), self._multipliers(out)
        dP, dq, dC, dd = self.layout.stack(dparams, self.batch, x)
        rx, rl = _data_tangent(self.layout.rows, self.matrices, x, lam, dP, dC)
        if dq is not None:
            rx = rx - dq
        if dd is not None:
            rl = rl + dd
        return self._linear_solve(out, self._stack(params), rx, rl)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of the data for cotangents of x and lam."""
        if any(v is not None and is_legacy_batchedtensor(v) for v in cotangents):
            raise NotImplementedError(
                "is_grads_batched=True and vectorize=True go through torch's old vmap, which no solver can follow: use "
                "torch.func.jacrev, or torch.func.vmap over the function that torch.func.vjp returns"
            )
        out, names = StackedSolution(*outputs), self.layout.names
        wanted = tuple(needs[: len(names)])
        if self._at_once(params):
            gradients = self._fused(out, params[: len(names)], (cotangents[0], cotangents[1]), wanted)
        else:
            gradients = self._differentiable(out, params[: len(names)], cotangents, wanted)
        return (*(gradients.get(name) for name in names), *(None,) * (len(params) - len(names)))

    def _at_once(self, params: Tensors) -> bool:
        """Whether nobody differentiates the backward pass, so that the compiled core may do it in one call."""
        return (
            self.fused
            and self.rule.gradient == "exact"
            and self.batch > 0
            and not torch.is_grad_enabled()
            and not differentiated_by_transform()
            and has_fused_adjoint(params)
        )

    def _fused(
        self,
        out: StackedSolution,
        params: Tensors,
        cotangents: tuple[Tensor | None, Tensor | None],
        wanted: tuple[bool, ...],
    ) -> dict[str, Tensor]:
        layout, n = self.layout, self.layout.rows.n
        gradients, u = fused_adjoint(params, layout, self.batch, out, cotangents, wanted)
        if u is not None:
            if u[:, -1].any():
                self._repair(out, params, cotangents, gradients, u)
            ux, ul = u[:, :n], u[:, n:-1]
            x, lam = self._primal(out).to(u.dtype), self._multipliers(out).to(u.dtype)
            shared = tuple(want and name not in gradients for name, want in zip(layout.names, wanted, strict=True))
            gradients |= self._gradients(x, lam, ux, ul, params, shared)
        dtype = params[0].dtype
        return gradients if dtype == torch.float64 else {name: g.to(dtype) for name, g in gradients.items()}

    def _repair(
        self,
        out: StackedSolution,
        params: Tensors,
        cotangents: tuple[Tensor | None, Tensor | None],
        gradients: dict[str, Tensor],
        u: Tensor,
    ) -> None:
        """Take the minimum-norm adjoint of elements whose system is singular; the others keep every digit."""
        index = u[:, -1].nonzero().squeeze(-1)
        core_dims = self.layout.core_dims
        part = tuple(v[index] if v.ndim > core else v for v, core in zip(params, core_dims, strict=False))
        chosen = StackedSolution(*(v[index] for v in out))
        rule = replace(self, batch=len(index))
        P, _, C, _ = rule._stack(part)
        cx, cl = (torch.zeros_like(w) if v is None else v for v, w in zip(cotangents, (out.x, out.lam), strict=True))
        c = torch.where(chosen.active, 0.0, torch.inf)
        P, C, c, vx, vl = (v.to(torch.float64) for v in (P, C, c, cx[index], cl[index]))
        ux, ul = solve_linear_system(P, C, c, vx, vl, self.layout.rows, len(index), True, "torch")
        u[index, :-1] = torch.cat([ux, ul], -1)
        wanted = tuple(name in gradients for name in self.layout.names)
        x, lam = rule._primal(chosen).to(ux.dtype), rule._multipliers(chosen).to(ux.dtype)
        # As if nothing were shared: the parts of shared data are summed by the caller.
        apart = tuple(
            v.expand(len(index), *v.shape) if v.ndim == core else v for v, core in zip(part, core_dims, strict=False)
        )
        for name, g in rule._gradients(x, lam, ux, ul, apart, wanted).items():
            if self.batch == 1:
                gradients[name].copy_(g.reshape(gradients[name].shape))
            else:
                gradients[name][index] = g

    def _differentiable(
        self, out: StackedSolution, params: Tensors, cotangents: MaybeTensors, wanted: tuple[bool, ...]
    ) -> dict[str, Tensor]:
        x, lam = self._primal(out), self._multipliers(out)
        vx, vl = (torch.zeros_like(w) if v is None else v for v, w in zip(cotangents, (x, lam), strict=True))
        ux, ul = self._linear_solve(out, self._stack(params), vx, vl)
        return self._gradients(x, lam, ux, ul, params, wanted)

    def _gradients(
        self, x: Tensor, lam: Tensor, ux: Tensor, ul: Tensor, params: Tensors, wanted: tuple[bool, ...]
    ) -> dict[str, Tensor]:
        """Return the gradients of the wanted parameters from solution and adjoint."""
        shapes = dict(zip(self.layout.names, params, strict=False))
        want = dict(zip(self.layout.names, wanted, strict=False))
        k, gradients = self.layout.rows.m + self.layout.rows.p, {}
        if want["P"]:
            gradients["P"] = self.matrices.outer("P", -ux, x, shapes["P"])
        if want["q"]:
            gradients["q"] = _reduce(-ux, shapes["q"])
        for name, rows in (("G", slice(0, self.layout.rows.m)), ("A", slice(self.layout.rows.m, k))):
            if want.get(name):
                like = shapes[name]
                gradients[name] = self.matrices.outer(name, -lam[..., rows], ux, like)
                gradients[name] = gradients[name] + self.matrices.outer(name, -ul[..., rows], x, like)
        if any(want.get(name) for name in ("h", "b", "lb", "ub")):
            gradients |= {name: g for name, g in self.layout.split(None, ul, params).items() if want[name]}
        return gradients

    def _stack(self, params: Tensors) -> Tensors:
        return self.layout.stack(params, self.batch, params[1])  # type: ignore[return-value]

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
        system = LinearSystem(self.layout.rows, self.batch, rule == "least_squares", self.linear, self.matrices)
        ux, ul = implicit_apply(system, P, C, c, rx, rl)
        return ux, ul

    def _relaxed_compliance(self, out: StackedSolution, C: Tensor, d: Tensor) -> Tensor:
        # (s, z) with s z = κ and the same difference s - z as the solution's (Chen-Harker-Kanzow smoothing).
        kappa = self.rule.smoothing
        equality = self.layout.rows.equality(d.device)
        present = d.isfinite() & out.solved.unsqueeze(-1) & ~equality
        x, lam = self._primal(out), self._multipliers(out)
        Rx = self.layout.rows.with_bounds(self.matrices.times("C", C, x), x)
        difference = torch.where(present, d, 0.0) - Rx
        difference = torch.where(present, difference - lam, 1.0)
        root = (difference * difference + 4 * kappa).sqrt()
        # The larger of the two is free of cancellation, the smaller follows from the product.
        larger = 0.5 * (difference.abs() + root)
        ratio = larger * larger / kappa
        c = torch.where(difference > 0, ratio, 1 / ratio)
        return torch.where(present, c, torch.where(equality, 0.0, torch.inf).to(c.dtype))


def dense_map(layout: Layout, batch: int, find: Find, rule: Implicit, core: str) -> SolutionMap:
    """Return the solution map of programs with dense matrices; core "torch" keeps away from the compiled core."""
    return SolutionMap(layout, batch, find, rule, partial(solve_linear_system, core=core), fused=core != "torch")


@dataclass(frozen=True)
class LinearSystem:
    """(P, C, c, rx, rl) -> u solving `[P R'; R -diag(c)] u = r`; rows with c = inf have u = 0."""

    rows: Rows
    batch: int
    minimum_norm: bool
    linear: LinearSolve
    matrices: Matrices = DENSE
    num_unknowns: int = 2

    @property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of each parameter without its batch."""
        return (self.matrices.core_dims, self.matrices.core_dims, 1, 1, 1)

    def with_batch(self, batch: int) -> LinearSystem:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Solve in float64, without autograd."""
        dtype = params[3].dtype
        P, C, c, rx, rl = (v.to(torch.float64) for v in params)
        ux, ul = self.linear(P, C, c, rx, rl, self.rows, self.batch, self.minimum_norm)
        return ux.to(dtype), ul.to(dtype)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return du = J⁻¹ (dr - dJ u)."""
        ux, ul = outputs
        dP, dC, dc, drx, drl = dparams
        rx, rl = _data_tangent(self.rows, self.matrices, ux, ul, dP, dC)
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
        gP, gC = self._data_adjoint((ux, ul), (wx, wl), params[0], params[1], needs)
        gc = _reduce(ul * wl, params[2]) if needs[2] else None
        return gP, gC, gc, _reduce(wx, params[3]), _reduce(wl, params[4])

    def _data_adjoint(
        self, w: tuple[Tensor, Tensor], u: tuple[Tensor, Tensor], P: Tensor, C: Tensor, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of P and C: minus the symmetrised outer products of solution and adjoint."""
        k, outer = self.rows.m + self.rows.p, self.matrices.outer
        (x, lam), (ux, ul) = w, u
        gP = outer("P", -ux, x, P) if needs[0] else None
        gC = outer("C", -lam[..., :k], ux, C) + outer("C", -ul[..., :k], x, C) if needs[1] else None
        return gP, gC


def _data_tangent(
    rows: Rows, matrices: Matrices, x: Tensor, lam: Tensor, dP: Tensor | None, dC: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return -dJ (x, lam) for a change of the matrices."""
    k = rows.m + rows.p
    rx, rl = torch.zeros_like(x), torch.zeros_like(lam)
    if dP is not None:
        rx = rx - matrices.times("P", dP, x)
    if dC is not None:
        rx = rx - matrices.transpose_times("C", dC, lam[..., :k])
        rl = rl + torch.nn.functional.pad(-matrices.times("C", dC, x), (0, rows.total - k))
    return rx, rl


def _reduce(g: Tensor, like: Tensor) -> Tensor:
    return g.sum(0) if like.ndim == 1 else g
