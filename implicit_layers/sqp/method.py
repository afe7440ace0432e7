"""Sequential quadratic programming: a nonlinear program as a sequence of our own quadratic ones, a batch at a time.

    min f(w)  s.t.  c(w) = 0, h(w) <= 0

Each step solves `min 1/2 d'Bd + ∇f'd  s.t.  c + A d = 0, h + G d <= 0`, with B the Hessian of the Lagrangian made
convex, and is shortened until the merit function `f + ρ (|c|_1 + |h₊|_1)` falls; if the full step does not pass, the
search bends along an arc that follows the constraints. Where the linearised constraints contradict each other, the
step pays for violations instead (elastic mode): it leads to a feasible point, or to one of least violation.

References: Nocedal and Wright (2006), chapter 18; Gill, Murray and Saunders (2005), SNOPT, for elastic mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from ..algebra import choose, transposed_times
from ..iterations.loop import ABSOLUTE, ROUND_OFF, SINGLE, check_options
from ..status import SolveStatus
from .program import Point, Program, is_finite, largest
from .search import search
from .step import find_step

FAR = 1e10  # distance that no minimum has, in units of the first iterate


@final
@dataclass(frozen=True, kw_only=True)
class SQP:
    """Sequential quadratic programming with exact second derivatives.

    Args:
        eps_abs: largest entry of the KKT conditions; `None`: 1e-10, in float32 1e-5.
        eps_rel: the same, in units of the terms that the conditions are sums of; `None`: ten units of round-off.
        max_iter: most steps, each of them a quadratic program.
    """

    eps_abs: float | None = None
    eps_rel: float | None = None
    max_iter: int = 100

    def __post_init__(self) -> None:
        check_options(self)  # type: ignore[arg-type]  # the options of an iteration, without its steps


class Optimum(NamedTuple):
    """What `minimise` returns, flat over the batch: as `iterations.loop.Found`, with u = (w, y, z) as the unknowns."""

    u: Tensor  # (B, n + p + m)
    solved: Tensor  # (B,) bool
    status: Tensor  # (B,) int64
    iterations: Tensor  # (B,) int64
    residual: Tensor  # (B,) largest entry of the KKT conditions


@torch.no_grad()
def minimise(program: Program, options: SQP, w: Tensor) -> Optimum:
    """Run the method from w `(B, n)`; every element has its own step length, penalty, end and status."""
    point = program.expand(w)
    y, z = torch.zeros_like(point.c), torch.zeros_like(point.h)
    unit = _unit(point.g, program.hessian(w, y, z))
    program = program.measured_in(unit)
    point = point._replace(f=point.f / unit, g=point.g / unit.unsqueeze(-1))
    status = torch.where(is_finite(point), int(SolveStatus.MAX_ITER), int(SolveStatus.INVALID_INPUT))
    far = FAR * (1 + largest(w))
    iterations, rho = torch.zeros_like(status), torch.zeros_like(point.f)
    residual = torch.full_like(point.f, torch.nan)
    for count in range(options.max_iter + 1):
        residual, limit = _residual(point, y, z, unit, options)
        running = status == SolveStatus.MAX_ITER
        status = torch.where(running & (residual <= limit), int(SolveStatus.SOLVED), status)
        running = status == SolveStatus.MAX_ITER
        status = torch.where(running & (largest(point.w) > far), int(SolveStatus.DUAL_INFEASIBLE), status)
        running = status == SolveStatus.MAX_ITER
        if count == options.max_iter or not bool(running.any()):
            break
        step = find_step(program, point, y, z, rho, running)
        t, new_w = search(program, point, step, running)
        new = program.expand(new_w)
        moved = running & (t > 0) & is_finite(new)
        status = torch.where(running & step.hopeless, int(SolveStatus.PRIMAL_INFEASIBLE), status)
        status = torch.where(running & ~step.hopeless & ~moved, int(SolveStatus.NUMERICAL_ERROR), status)
        point = Point(*(choose(moved, a, b) for a, b in zip(new, point, strict=True)))
        y = choose(moved, step.y, y)
        z = choose(moved, step.z, z)
        rho = torch.where(moved, step.rho, rho)
        iterations = iterations + running
    y, z = y * unit.unsqueeze(-1), z * unit.unsqueeze(-1)
    u = choose(status == SolveStatus.INVALID_INPUT, torch.nan, torch.cat([point.w, y, z], -1))
    return Optimum(u, status == SolveStatus.SOLVED, status, iterations, residual)


def _unit(g: Tensor, H: Tensor) -> Tensor:
    """Return the size of the cost's derivatives at the start `(B,)`: multipliers and penalties are measured in it."""
    size = torch.maximum(largest(g), largest(H.flatten(1)))
    return torch.where((size > 0) & size.isfinite(), size, 1.0)


def _residual(point: Point, y: Tensor, z: Tensor, unit: Tensor, options: SQP) -> tuple[Tensor, Tensor]:
    """Return the largest entry of the KKT conditions of the cost as given, and how small it must be."""
    unit = unit.unsqueeze(-1)
    rows, multipliers = torch.cat([point.A, point.G], -2), torch.cat([y, z], -1)
    stationary = point.g + transposed_times(rows, multipliers)
    parts = torch.cat([unit * stationary, point.c, torch.minimum(unit * z, -point.h)], -1)
    terms = (unit * torch.maximum(point.g.abs(), transposed_times(rows.abs(), multipliers.abs()))).amax(-1)
    dtype = point.f.dtype
    eps_abs = ABSOLUTE.get(dtype, SINGLE) if options.eps_abs is None else options.eps_abs
    eps_rel = ROUND_OFF * torch.finfo(dtype).eps if options.eps_rel is None else options.eps_rel
    return parts.abs().amax(-1), eps_abs + eps_rel * terms
