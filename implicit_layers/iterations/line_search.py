"""Backtracking along a direction, each element with a step length of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import dot
from ..transforms import everywhere
from .loop import Point, System

SUFFICIENT = 1e-4  # share of the decrease along the tangent that is asked for (Armijo)
HALVINGS = 40
NOISE = 1e-14  # relative to the value: differences below are round-off (float64; scaled for other dtypes)


def backtrack(
    system: System,
    point: Point,
    d: Tensor,
    slope: Tensor,
    length: Tensor | float = 1.0,
    sufficient: float = SUFFICIENT,
) -> tuple[Point, Tensor]:
    """Halve the step until the value falls enough.

    Near a minimum the value's differences drown in round-off; there the slope at the new point decides, by the
    approximate Wolfe condition. The step lengths are constants of autograd.

    Args:
        system: the problem.
        point: where the search begins.
        d: direction `(B, N)`.
        slope: derivative of the value along d `(B,)`, negative.
        length: first step length.
        sufficient: share of the decrease along the tangent that is asked for, less than 1/2.

    Returns:
        The new point, and the step lengths `(B,)`: 0 where none was found.

    References:
        Armijo (1966); Hager and Zhang (2005), eq. 4.1.
    """
    t = torch.ones_like(slope.detach()) * length
    new = system.evaluate(point.w + t.unsqueeze(-1) * d)
    if system.full_steps:
        return new, t
    good = _good_enough(system, point, new, d, slope, t, sufficient)
    if everywhere(good):
        return new, t
    with torch.no_grad():  # the trials that fail must not be on autograd's tape: they may hold infinities
        for k in range(HALVINGS):
            t = torch.where(good, t, 0.5 * t if k < HALVINGS - 1 else 0.0)
            new = system.evaluate(point.w + t.unsqueeze(-1) * d)
            good = good | _good_enough(system, point, new, d, slope, t, sufficient)
            if everywhere(good):
                break
    return system.evaluate(point.w + t.unsqueeze(-1) * d), t


def _good_enough(
    system: System, point: Point, new: Point, d: Tensor, slope: Tensor, t: Tensor, sufficient: float
) -> Tensor:
    armijo = new.value <= point.value + sufficient * t * slope
    noise = NOISE * (torch.finfo(d.dtype).eps / 2.2e-16) * point.value.abs()
    if system.minimises:
        flat = (new.value <= point.value + noise) & (dot(new.residual, d) <= (2 * sufficient - 1) * slope)
        armijo = (armijo & (-t * slope > noise)) | flat
    # An element that is done has nothing to descend; one with a NaN of its own has nothing to wait for.
    return (armijo & new.residual.isfinite().all(-1)) | ~(slope < 0)
