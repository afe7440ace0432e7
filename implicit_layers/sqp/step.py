"""The step: a quadratic program for each element, and where its rows contradict each other, an elastic one."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..algebra import dot, times, transposed_times
from ..errors import SolverWarning
from ..qp.elastic import Elastic
from ..qp.solution import QPSolution
from ..qp.solve import solve_qp
from ..status import SolveStatus
from .hessian import convex, solve_rows
from .program import Point, Program, largest, violation

LARGEST_MULTIPLIER = 1e6  # times the gradient: beyond it, the linearised constraints are about to contradict
LARGEST_PENALTY = 1e5  # times the gradient: where only violations count
NO_PROGRESS = 1e-6  # share of the violation that a step must promise to remove
NEARLY = 1e-6  # violation up to which a point passes for feasible, if not for a solution


class Step(NamedTuple):
    """A direction, the multipliers at its end, and the merit function that it descends on."""

    d: Tensor  # (B, n)
    y: Tensor  # (B, p)
    z: Tensor  # (B, m)
    slope: Tensor  # (B,) of the merit function along d, < 0
    rho: Tensor  # (B,)
    hopeless: Tensor  # (B,) no step reduces the violation


def find_step(program: Program, point: Point, y: Tensor, z: Tensor, rho: Tensor, running: Tensor) -> Step:
    """Solve the quadratic programs of the elements that are still running."""
    index = running.nonzero().squeeze(-1)
    here, rho_here = Point(*(v[index] for v in point)), rho[index]
    H = program.hessian(point.w, y, z)[index]
    # Rows that hold at the solution, as far as one knows: curvature across them is the constraints' affair.
    held = torch.cat([here.A, here.G * (z[index] > -here.h).unsqueeze(-1)], -2)
    stationary = here.g + transposed_times(torch.cat([here.A, here.G], -2), torch.cat([y, z], -1)[index])
    pull = largest(stationary) / (1 + largest(here.w))
    B, stiffness = convex(H, held, pull)
    plain = _solve(B, here)
    size = largest(torch.cat([plain.y, plain.z], -1))
    fine = (plain.status == SolveStatus.SOLVED) & (size <= LARGEST_MULTIPLIER * (1 + largest(here.g)))
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
    left = violation(here.c + times(here.A, d), here.h + times(here.G, d))
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
    size = 1 + largest(here.g)
    weight, most = torch.maximum(rho[index], 10 * size), LARGEST_PENALTY * size
    while True:  # until the price is high enough to matter
        scaled = here._replace(g=here.g / weight.unsqueeze(-1))
        found = _solve(B / weight.reshape(-1, 1, 1), scaled, Elastic(norm="l1", weight=1.0))
        d = torch.where(found.x.isfinite(), found.x, 0.0)
        left = violation(here.c + times(here.A, d), here.h + times(here.G, d))
        poor = left > 0.9 * here.violation
        if not bool((poor & (weight < most)).any()):
            break
        weight = torch.where(poor & (weight < most), 10 * weight, weight)
    hopeless = (left >= (1 - NO_PROGRESS) * here.violation) & (here.violation > NEARLY)
    y, z = (torch.where(v.isfinite(), v, 0.0) * weight.unsqueeze(-1) for v in (found.y, found.z))
    mixed = [old.index_put((index,), new) for old, new in zip(plain, (d, y, z, weight), strict=True)]
    return (*mixed, torch.zeros_like(fine).index_put((index,), hopeless))


def _scatter(index: Tensor, v: Tensor, size: int) -> Tensor:
    return v.new_zeros(size, *v.shape[1:]).index_put((index,), v)
