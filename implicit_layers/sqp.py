"""Sequential quadratic programming: a nonlinear program as a sequence of our own quadratic ones, a batch at a time.

    min f(w)  s.t.  c(w) = 0, h(w) <= 0

Each step solves `min 1/2 d'Bd + ∇f'd  s.t.  c + A d = 0, h + G d <= 0`, with B the Hessian of the Lagrangian made
convex, and is shortened until the merit function `f + ρ (|c|_1 + |h₊|_1)` falls; a second-order correction keeps the
merit function from refusing good steps near the solution. Where the linearised constraints contradict each other, the
step pays for violations instead (elastic mode): it leads to a feasible point, or to one of least violation.

References: Nocedal and Wright (2006), chapter 18; Gill, Murray and Saunders (2005), SNOPT, for elastic mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from .errors import SolverWarning
from .iterations.loop import ABSOLUTE, ROUND_OFF, SINGLE, check_options, dot
from .qp.elastic import Elastic
from .qp.solution import QPSolution
from .qp.solve import solve_qp
from .sqp_hessian import convex, row_space, solve_rows
from .status import SolveStatus

LARGEST_MULTIPLIER = 1e6  # times the gradient: beyond it, the linearised constraints are about to contradict
LARGEST_PENALTY = 1e5  # times the gradient: where only violations count
NO_PROGRESS = 1e-6  # share of the violation that a step must promise to remove
NEARLY = 1e-6  # violation up to which a point passes for feasible, if not for a solution
FAR = 1e10  # distance that no minimum has, in units of the first iterate
BACKTRACKS = 40
ARMIJO = 1e-4


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


class Point(NamedTuple):
    """f, c, h and their derivatives at w, flat over the batch."""

    w: Tensor  # (B, n)
    f: Tensor  # (B,)
    c: Tensor  # (B, p)
    h: Tensor  # (B, m)
    g: Tensor  # (B, n)
    A: Tensor  # (B, p, n)
    G: Tensor  # (B, m, n)

    @property
    def violation(self) -> Tensor:
        """|c|_1 + |h₊|_1."""
        return violation(self.c, self.h)


class Step(NamedTuple):
    """A direction, the multipliers at its end, and the merit function that it descends on."""

    d: Tensor  # (B, n)
    y: Tensor  # (B, p)
    z: Tensor  # (B, m)
    slope: Tensor  # (B,) of the merit function along d, < 0
    rho: Tensor  # (B,)
    hopeless: Tensor  # (B,) no step reduces the violation


@dataclass(frozen=True)
class Program:
    """What the method may ask, flat over the batch.

    Attributes:
        values: `(f, c, h)` at w.
        expand: the point at w, with first derivatives.
        hessian: of the Lagrangian at (w, y, z), `(B, n, n)`.
    """

    values: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    expand: Callable[[Tensor], Point]
    hessian: Callable[[Tensor, Tensor, Tensor], Tensor]


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
    status = torch.where(_finite(point), int(SolveStatus.MAX_ITER), int(SolveStatus.INVALID_INPUT))
    far = FAR * (1 + _largest(w))
    iterations, rho = torch.zeros_like(status), torch.zeros_like(point.f)
    residual = torch.full_like(point.f, torch.nan)
    for count in range(options.max_iter + 1):
        residual, limit = _residual(point, y, z, options)
        running = status == SolveStatus.MAX_ITER
        status = torch.where(running & (residual <= limit), int(SolveStatus.SOLVED), status)
        running = status == SolveStatus.MAX_ITER
        status = torch.where(running & (_largest(point.w) > far), int(SolveStatus.DUAL_INFEASIBLE), status)
        running = status == SolveStatus.MAX_ITER
        if count == options.max_iter or not bool(running.any()):
            break
        step = _step(program, point, y, z, rho, running)
        t, new_w = _search(program, point, step, running)
        new = program.expand(new_w)
        moved = running & (t > 0) & _finite(new)
        status = torch.where(running & step.hopeless, int(SolveStatus.PRIMAL_INFEASIBLE), status)
        status = torch.where(running & ~step.hopeless & ~moved, int(SolveStatus.NUMERICAL_ERROR), status)
        point = Point(*(_where(moved, a, b) for a, b in zip(new, point, strict=True)))
        y = _where(moved, step.y, y)
        z = _where(moved, step.z, z)
        rho = torch.where(moved, step.rho, rho)
        iterations = iterations + running
    u = _where(status == SolveStatus.INVALID_INPUT, torch.nan, torch.cat([point.w, y, z], -1))
    return Optimum(u, status == SolveStatus.SOLVED, status, iterations, residual)


def violation(c: Tensor, h: Tensor) -> Tensor:
    """Return |c|_1 + |h₊|_1 `(B,)`."""
    return c.abs().sum(-1) + h.clamp(min=0).sum(-1)


def _residual(point: Point, y: Tensor, z: Tensor, options: SQP) -> tuple[Tensor, Tensor]:
    """Return the largest entry of the KKT conditions, and how small it must be."""
    rows, multipliers = torch.cat([point.A, point.G], -2), torch.cat([y, z], -1)
    stationary = point.g + _transposed(rows, multipliers)
    parts = torch.cat([stationary, point.c, torch.minimum(z, -point.h)], -1)
    terms = torch.maximum(point.g.abs(), _transposed(rows.abs(), multipliers.abs())).amax(-1)
    dtype = point.f.dtype
    eps_abs = ABSOLUTE.get(dtype, SINGLE) if options.eps_abs is None else options.eps_abs
    eps_rel = ROUND_OFF * torch.finfo(dtype).eps if options.eps_rel is None else options.eps_rel
    return parts.abs().amax(-1), eps_abs + eps_rel * terms


def _step(program: Program, point: Point, y: Tensor, z: Tensor, rho: Tensor, running: Tensor) -> Step:
    """Solve the quadratic programs of the elements that are still running."""
    index = running.nonzero().squeeze(-1)
    here, rho_here = Point(*(v[index] for v in point)), rho[index]
    H = program.hessian(point.w, y, z)[index]
    # Rows that hold at the solution, as far as one knows: curvature across them is the constraints' affair.
    held = torch.cat([here.A, here.G * (z[index] > -here.h).unsqueeze(-1)], -2)
    stationary = here.g + _transposed(torch.cat([here.A, here.G], -2), torch.cat([y, z], -1)[index])
    pull = _largest(stationary) / (1 + _largest(here.w))
    B, stiffness = convex(H, held, pull)
    plain = _solve(B, here)
    size = _largest(torch.cat([plain.y, plain.z], -1))
    fine = (plain.status == SolveStatus.SOLVED) & (size <= LARGEST_MULTIPLIER * (1 + _largest(here.g)))
    # Powell's rule: the penalty stays above the multipliers and forgets what was once too large.
    weight = torch.where(fine, torch.maximum(1.1 * size, 0.5 * (rho_here + size)), rho_here)
    d, found_y, found_z = plain.x, plain.y, plain.z
    hopeless = torch.zeros_like(fine)
    if not bool(fine.all()):
        B = convex(H, torch.zeros_like(held), pull)[0]  # rows that are violated do not hold
        d, found_y, found_z, weight, hopeless = _elastic(B, here, rho_here, fine, (d, found_y, found_z, weight))
        stiffness = torch.where(fine, stiffness, 0.0)
    # B has added curvature on the rows that hold: their multipliers have paid for it.
    if bool((stiffness > 0).any()):
        shift = (stiffness.unsqueeze(-1) * solve_rows(held, d)).split([found_y.shape[-1], found_z.shape[-1]], -1)
        found_y, found_z = found_y + shift[0], torch.where(found_z > 0, (found_z + shift[1]).clamp(min=0), 0.0)
    left = violation(here.c + _times(here.A, d), here.h + _times(here.G, d))
    slope = dot(here.g, d) - weight * (here.violation - left)
    parts = (d, found_y, found_z, slope, weight, hopeless)
    return Step(*(_scatter(index, v, running.shape[0]) for v in parts))


def _solve(B: Tensor, point: Point, infeasible: Elastic | None = None) -> QPSolution:
    pairs = [(point.G, -point.h), (point.A, -point.c)]
    G, h, A, b = (v if pair[1].shape[-1] else None for pair in pairs for v in pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)  # handled here, element by element
        return solve_qp(B, point.g, G, h, A, b, infeasible=infeasible)


def _elastic(
    B: Tensor, point: Point, rho: Tensor, fine: Tensor, plain: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Replace the steps of elements that are not `fine` by those that pay for violations."""
    index = (~fine).nonzero().squeeze(-1)
    here, B = Point(*(v[index] for v in point)), B[index]
    size = 1 + _largest(here.g)
    weight, most = torch.maximum(rho[index], 10 * size), LARGEST_PENALTY * size
    while True:  # until the price is high enough to matter
        scaled = here._replace(g=here.g / weight.unsqueeze(-1))
        found = _solve(B / weight.reshape(-1, 1, 1), scaled, Elastic(norm="l1", weight=1.0))
        d = torch.where(found.x.isfinite(), found.x, 0.0)
        left = violation(here.c + _times(here.A, d), here.h + _times(here.G, d))
        poor = left > 0.9 * here.violation
        if not bool((poor & (weight < most)).any()):
            break
        weight = torch.where(poor & (weight < most), 10 * weight, weight)
    hopeless = (left >= (1 - NO_PROGRESS) * here.violation) & (here.violation > NEARLY)
    y, z = (torch.where(v.isfinite(), v, 0.0) * weight.unsqueeze(-1) for v in (found.y, found.z))
    mixed = [old.index_put((index,), new) for old, new in zip(plain, (d, y, z, weight), strict=True)]
    return (*mixed, torch.zeros_like(fine).index_put((index,), hopeless))


def _search(program: Program, point: Point, step: Step, running: Tensor) -> tuple[Tensor, Tensor]:
    """Shorten steps until the merit function falls enough; return their lengths, 0 where none did, and their ends."""
    start = point.f + step.rho * point.violation
    noise = 10 * torch.finfo(start.dtype).eps * (point.f.abs() + step.rho * point.violation)

    def merit(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, c, h = program.values(w)
        return f + step.rho * violation(c, h), c, h

    t, bend, end = torch.ones_like(start), torch.zeros_like(step.d), point.w + step.d
    waiting = running & ~step.hopeless & step.d.isfinite().all(-1)
    accepted = torch.zeros_like(waiting)
    for attempt in range(BACKTRACKS):
        trial = point.w + t.unsqueeze(-1) * (step.d + t.unsqueeze(-1) * bend)
        reached, c, h = merit(trial)
        enough = waiting & (reached <= start + ARMIJO * t * step.slope + noise)
        end, accepted, waiting = _where(enough, trial, end), accepted | enough, waiting & ~enough
        if not bool(waiting.any()):
            break
        if attempt == 0:  # from here on along an arc that follows the constraints
            bend = _correction(point, step, c, h, waiting)
            continue
        curvature = reached - start - t * step.slope
        guess = -0.5 * t * t * step.slope / torch.where(curvature > 0, curvature, 1.0)
        guess = torch.where((curvature > 0) & curvature.isfinite(), guess, 0.1 * t)
        t = torch.where(waiting, torch.minimum(torch.maximum(guess, 0.1 * t), 0.5 * t), t)
    return torch.where(accepted, t, 0.0), _where(accepted, end, point.w)


def _correction(point: Point, step: Step, c: Tensor, h: Tensor, waiting: Tensor) -> Tensor:
    """Return the shortest step that undoes, on the rows which hold, what the constraints' curvature did to the step."""
    rows = torch.cat([point.A, torch.where((step.z > 0).unsqueeze(-1), point.G, 0.0)], -2)
    rows = torch.where(waiting[:, None, None], rows, 0.0)  # elements that are NaN stay out of the factorisation
    linear = torch.cat([point.c + _times(point.A, step.d), point.h + _times(point.G, step.d)], -1)
    off = torch.cat([c, h], -1) - linear
    return -row_space(rows, torch.where(off.isfinite(), off, 0.0))


def _finite(point: Point) -> Tensor:
    whole = [v.flatten(1).isfinite().all(-1) for v in point if v.ndim > 1]
    return torch.stack([point.f.isfinite(), *whole]).all(0)


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.sum(-1)


def _times(M: Tensor, x: Tensor) -> Tensor:
    return (M @ x.unsqueeze(-1)).squeeze(-1)


def _transposed(M: Tensor, x: Tensor) -> Tensor:
    return (x.unsqueeze(-2) @ M).squeeze(-2)


def _where(mask: Tensor, a: Tensor | float, b: Tensor) -> Tensor:
    return torch.where(mask.reshape(*mask.shape, *(1,) * (b.ndim - mask.ndim)), a, b)


def _scatter(index: Tensor, v: Tensor, size: int) -> Tensor:
    return v.new_zeros(size, *v.shape[1:]).index_put((index,), v)
