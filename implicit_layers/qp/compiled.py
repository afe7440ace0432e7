"""Solution map and adjoint as opaque operators: what torch.compile puts into its graph.

Dynamo does not trace autograd functions with forward mode, and should not trace a solver at all. Everything that is
not a tensor travels in one string.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..differentiation import Implicit
from .forward import solve_flat
from .gradients import SolutionMap, dense_map
from .interior_point import InteriorPoint
from .problem import Layout, Rows
from .solution import MEASURES, StackedSolution


def solve_compiled(
    params: tuple[Tensor, ...], layout: Layout, batch: int, solver: InteriorPoint, rule: Implicit, strict: bool
) -> StackedSolution:
    """Solve the flat programs by one operator of the graph; a warm start (x, lam) may follow the arguments."""
    rows = layout.rows
    sizes = f"{','.join(layout.names)} {rows.n} {rows.m} {rows.p} {int(rows.upper)} {int(rows.lower)} {batch}"
    stopping = (
        f"{solver.eps_abs} {solver.eps_rel} {solver.max_iter} {solver.core} {int(solver.active_set)} {int(strict)}"
    )
    outputs: list[Tensor] = _solve(list(params), f"{sizes} {stopping} {rule.gradient} {rule.smoothing}")
    return StackedSolution(*outputs)


def _decode(spec: str) -> SolutionMap:
    names, n, m, p, upper, lower, batch, *options = spec.split()
    eps_abs, eps_rel, max_iter, core, active_set, strict, gradient, smoothing = options
    layout = Layout(tuple(names.split(",")), Rows(int(n), int(m), int(p), upper == "1", lower == "1"))
    solver: Any = {"eps_abs": float(eps_abs), "eps_rel": float(eps_rel), "max_iter": int(max_iter), "core": core}
    rule: Any = {"gradient": gradient, "smoothing": float(smoothing)}
    method = InteriorPoint(**solver, active_set=active_set == "1")
    find = partial(solve_flat, options=method, strict=strict == "1", keep=False)
    return dense_map(layout, int(batch), find, Implicit(**rule), core)


@torch.library.custom_op("implicit_layers::solve_qp", mutates_args=())
def _solve(params: list[Tensor], spec: str) -> list[Tensor]:
    return [w.contiguous() for w in _decode(spec).solve(*params)]


@_solve.register_fake
def _solve_fake(params: list[Tensor], spec: str) -> list[Tensor]:
    rule = _decode(spec)
    batch, n, total = rule.batch, rule.layout.rows.n, rule.layout.rows.total
    like = params[1].new_empty
    info = like(batch, MEASURES + total, dtype=torch.float64)
    return [like(batch, n), like(batch, total), info, like(batch, 2, total, dtype=torch.bool)]


@torch.library.custom_op("implicit_layers::solve_qp_adjoint", mutates_args=())
def _adjoint(
    params: list[Tensor], outputs: list[Tensor], vx: Tensor | None, vl: Tensor | None, spec: str
) -> list[Tensor]:
    rule = _decode(spec)
    count = len(rule.layout.names)
    gradients = rule.adjoint(tuple(outputs), tuple(params), (vx, vl), (True,) * count)
    return [g.contiguous() for g in gradients[:count] if g is not None]


@_adjoint.register_fake
def _adjoint_fake(
    params: list[Tensor], outputs: list[Tensor], vx: Tensor | None, vl: Tensor | None, spec: str
) -> list[Tensor]:
    count = len(_decode(spec).layout.names)
    return [torch.empty_like(v, memory_format=torch.contiguous_format) for v in params[:count]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    params, ctx.spec = inputs
    ctx.count = len(params)
    ctx.save_for_backward(*params, *output)


def _backward(ctx: Any, cotangents: list[Tensor | None]) -> tuple[list[Tensor | None], None]:
    params, outputs = list(ctx.saved_tensors[: ctx.count]), list(ctx.saved_tensors[ctx.count :])
    vx, vl = cotangents[:2]
    gradients: list[Tensor | None] = [None] * ctx.count
    if vx is not None or vl is not None:
        found = _adjoint(params, outputs, vx, vl, ctx.spec)
        gradients[: len(found)] = found
    return gradients, None


_solve.register_autograd(_backward, setup_context=_setup)
