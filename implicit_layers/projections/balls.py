"""Sets with a formula: box, l2 and linf ball, second-order cone."""

from __future__ import annotations

import torch
from torch import Tensor

from .elements import Elements


def project_box(point: Tensor, lb: float | Tensor | None = None, ub: float | Tensor | None = None) -> Tensor:
    """Return the closest point of `{lb <= x <= ub}`.

    Args:
        point: `(*batch, n)`.
        lb: a number or `(*batch, n)`; `-inf` or None means "no bound".
        ub: a number or `(*batch, n)`; `inf` or None means "no bound".

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose bounds cross.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or numbers `lb > ub`.

    Differentiability:
        In all arguments, any order. An entry on its bound counts as inside: its derivative is the point's.
    """
    elements = Elements(
        "project_box", point=(point, "n"),
        lb=(-torch.inf if lb is None else lb, "n"), ub=(torch.inf if ub is None else ub, "n"),
    )  # fmt: skip
    elements.require((elements["lb"] < torch.inf).all(-1), "lb", "numbers below inf")
    elements.require((elements["ub"] > -torch.inf).all(-1), "ub", "numbers above -inf")
    elements.require((elements["lb"] <= elements["ub"]).all(-1), "lb, ub", "lb <= ub")
    v, low, high = elements.tensors()
    return elements.answer(_clamp(v, low, high))


def project_linf_ball(point: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Return the closest point of `{max|x| <= radius}`.

    Args:
        point: `(*batch, n)`.
        radius: >= 0, a number or `(*batch,)`; `inf` means the whole space.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose radius is negative.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `radius` is negative.

    Differentiability:
        In both arguments, any order. An entry on the surface counts as inside.
    """
    elements = _ball("project_linf_ball", point, radius)
    v, r = elements.tensors()
    return elements.answer(_clamp(v, -r, r))


def project_l2_ball(point: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Return the closest point of `{|x|_2 <= radius}`.

    Args:
        point: `(*batch, n)`.
        radius: >= 0, a number or `(*batch,)`; `inf` means the whole space.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose radius is negative.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `radius` is negative.

    Differentiability:
        In both arguments, any order. A point on the sphere counts as inside, the origin always is.
    """
    elements = _ball("project_l2_ball", point, radius)
    v, r = elements.tensors()
    size = norm(v)
    outside = size > r
    # The branch that is not taken must have a finite derivative too: 0 times inf is NaN.
    scale = torch.where(outside, r, 1.0) / torch.where(outside, size, 1.0)
    return elements.answer(torch.where(outside, v * scale, v))


def project_second_order_cone(point: Tensor) -> Tensor:
    """Return the closest point of `{(t, x): |x|_2 <= t}`.

    Args:
        point: `(*batch, n)`, its first entry t.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite.

    Raises:
        ProblemError: shape or dtype do not fit.

    Differentiability:
        In the point, any order. A point on the cone, its tip included, counts as inside; one on the polar cone
        (`|x| <= -t`) goes to the tip with derivative zero.

    References:
        Parikh and Boyd (2014), Proximal algorithms, 6.3.2.
    """
    elements = Elements("project_second_order_cone", point=(point, "n"))
    (v,) = elements.tensors()
    t, x = v[..., :1], v[..., 1:]
    size = norm(x)
    inside, polar = size <= t, size <= -t
    between = ~(inside | polar)
    # Halves first: the sum of two huge numbers is not.
    height = 0.5 * t + 0.5 * size
    direction = x / torch.where(between, size, 1.0)
    edge = torch.cat([height, height * direction], -1)
    return elements.answer(torch.where(inside, v, torch.where(between, edge, 0.0)))


def norm(v: Tensor) -> Tensor:
    """Return |v|_2 `(*batch, 1)` without overflow; derivatives at the origin are zero."""
    if v.shape[-1] == 0:
        return v.sum(-1, keepdim=True)
    largest = v.detach().abs().amax(-1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1.0)
    squared = (v / unit).square().sum(-1, keepdim=True)
    # In the scaled vector one entry is 1, so nothing but the origin comes near 0.
    return torch.where(largest > 0, unit * torch.where(largest > 0, squared, 1.0).sqrt(), 0.0)


def _ball(caller: str, point: Tensor, radius: float | Tensor) -> Elements:
    elements = Elements(caller, point=(point, "n"), radius=(radius, "1"))
    elements.require((elements["radius"] >= 0).all(-1), "radius", "a number >= 0")
    return elements


def _clamp(v: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # torch.clamp shares the derivative of tensor bounds at ties; here a bound that is only touched has none.
    return torch.where(v < low, low, torch.where(v > high, high, v))
