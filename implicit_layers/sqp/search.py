"""The line search: how far to go along a step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import choose, times
from .hessian import row_space
from .program import Point, Program, violation
from .step import Step

BACKTRACKS = 40
ARMIJO = 1e-4


def search(program: Program, point: Point, step: Step, running: Tensor) -> tuple[Tensor, Tensor]:
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
        end, accepted, waiting = choose(enough, trial, end), accepted | enough, waiting & ~enough
        if not bool(waiting.any()):
            break
        if attempt == 0:  # from here on along an arc that follows the constraints
            bend = _correction(point, step, c, h, waiting)
            continue
        curvature = reached - start - t * step.slope
        guess = -0.5 * t * t * step.slope / torch.where(curvature > 0, curvature, 1.0)
        guess = torch.where((curvature > 0) & curvature.isfinite(), guess, 0.1 * t)
        t = torch.where(waiting, torch.minimum(torch.maximum(guess, 0.1 * t), 0.5 * t), t)
    return torch.where(accepted, t, 0.0), choose(accepted, end, point.w)


def _correction(point: Point, step: Step, c: Tensor, h: Tensor, waiting: Tensor) -> Tensor:
    """Return the shortest step that undoes, on the rows which hold, what the constraints' curvature did to the step."""
    rows = torch.cat([point.A, torch.where((step.z > 0).unsqueeze(-1), point.G, 0.0)], -2)
    rows = torch.where(waiting[:, None, None], rows, 0.0)  # elements that are NaN stay out of the factorisation
    linear = torch.cat([point.c + times(point.A, step.d), point.h + times(point.G, step.d)], -1)
    off = torch.cat([c, h], -1) - linear
    return -row_space(rows, torch.where(off.isfinite(), off, 0.0))
