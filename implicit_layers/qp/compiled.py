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
from .forward import solve_stacked
from .gradients import SolutionMap
from .interior_point import InteriorPoint
from .problem import Rows
from .solution import StackedSolution


def solve_compiled(
    params: tuple[Tensor, ...], rows: Rows, batch: int, solver: InteriorPoint, rule: Implicit, strict: bool
) -> StackedSolution:
    """Solve the stacked program `(P, q, C, d[, warm x, warm lam])` by one operator of the graph."""
    sizes = f"{rows.n} {rows.m} {rows.p} {int(rows.upper)} {int(rows.lower)} {batch}"
    stopping = f"{solver.eps_abs} {solver.eps_rel} {solver.max_iter} {solver.core} {int(strict)}"
    outputs: list[Tensor] = _solve(list(params), f"{sizes} {stopping} {rule.gradient} {rule.smoothing}")
    return StackedSolution(*outputs)


def _decode(spec: str) -> SolutionMap:
    n, m, p, upper, lower, batch, eps_abs, eps_rel, max_iter, core, strict, gradient, smoothing = spec.split()
    rows = Rows(int(n), int(m), int(p), upper == "1", lower == "1")
    solver: Any = {"eps_abs": float(eps_abs), "eps_rel": float(eps_rel), "max_iter": int(max_iter), "core": core}
    rule: Any = {"gradient": gradient, "smoothing": float(smoothing)}
    find = partial(solve_stacked, options=InteriorPoint(**solver), strict=strict == "1")
    return SolutionMap(rows, int(batch), find, Implicit(**rule), core)


@torch.library.custom_op("implicit_layers::solve_qp", mutates_args=())
def _solve(params: list[Tensor], spec: str) -> list[Tensor]:
    return [w.contiguous() for w in _decode(spec).solve(*params)]


@_solve.register_fake
def _solve_fake(params: list[Tensor], spec: str) -> list[Tensor]:
    rule = _decode(spec)
    batch, n, total = rule.batch, rule.rows.n, rule.rows.total
    like, flag = params[1].new_empty, torch.bool
    vectors = [like(batch, n), like(batch, total), like(batch, total)]
    flags = [like(batch, total, dtype=flag), like(batch, total, dtype=flag), like(batch, dtype=flag)]
    counts = [like(batch, dtype=torch.int64), like(batch, dtype=torch.int64)]
    return vectors + flags + counts + [like(batch), like(batch), like(batch)]


@torch.library.custom_op("implicit_layers::solve_qp_adjoint", mutates_args=())
def _adjoint(
    params: list[Tensor], outputs: list[Tensor], vx: Tensor | None, vl: Tensor | None, spec: str
) -> list[Tensor]:
    gradients = _decode(spec).adjoint(tuple(outputs), tuple(params), (vx, vl), (True,) * 4)
    return [g.contiguous() for g in gradients[:4] if g is not None]


@_adjoint.register_fake
def _adjoint_fake(
    params: list[Tensor], outputs: list[Tensor], vx: Tensor | None, vl: Tensor | None, spec: str
) -> list[Tensor]:
    return [torch.empty_like(v, memory_format=torch.contiguous_format) for v in params[:4]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    params, ctx.spec = inputs
    ctx.count = len(params)
    ctx.save_for_backward(*params, *output)


def _backward(ctx: Any, cotangents: list[Tensor | None]) -> tuple[list[Tensor | None], None]:
    params, outputs = list(ctx.saved_tensors[: ctx.count]), list(ctx.saved_tensors[ctx.count :])
    vx, vl = cotangents[:2]
    gradients: list[Tensor | None] = [None] * ctx.count
    if vx is not None or vl is not None:
        gradients[:4] = _adjoint(params, outputs, vx, vl, ctx.spec)
    return gradients, None


_solve.register_autograd(_backward, setup_context=_setup)
