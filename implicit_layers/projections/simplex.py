"""Simplex, capped simplex and l1 ball: one threshold that is found by sorting.

    min 1/2 |x - v|²  s.t.  Σx = total, 0 <= x <= cap      has      x = clamp(v - τ, 0, cap)

Which entries are free is found once, without autograd. On them τ is a mean, in differentiable operations: exact
derivatives of every order wherever the projection is differentiable, at O(n log n) time and O(n) memory.

References: Held et al. (1974); Duchi et al. (2008), for the l1 ball; Martins and Astudillo (2016), for sparsemax.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .elements import Elements


def project_simplex(point: Tensor, total: float | Tensor = 1.0) -> Tensor:
    """Return the closest point of `{x >= 0, Σx = total}`; with `total = 1`, sparsemax.

    Args:
        point: `(*batch, n)`.
        total: >= 0, a number or `(*batch,)`.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose total is negative.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `total` is negative.

    Differentiability:
        In both arguments, any order. An entry that is just zero (equal to the threshold) counts as free; at
        `total = 0` the derivative is that of a small total.
    """
    elements = Elements("project_simplex", point=(point, "n"), total=(total, "1"))
    elements.require(((elements["total"] >= 0) & elements["total"].isfinite()).all(-1), "total", "a number >= 0")
    v, mass = elements.tensors()
    return elements.answer(simplex(v, mass))


def project_capped_simplex(point: Tensor, total: float | Tensor = 1.0, cap: float | Tensor = 1.0) -> Tensor:
    """Return the closest point of `{0 <= x <= cap, Σx = total}`; with `cap = 1`, a soft choice of `total` entries.

    Args:
        point: `(*batch, n)`.
        total: `0 <= total <= Σcap`, a number or `(*batch,)`.
        cap: >= 0, a number or `(*batch, n)`; `inf` means "no cap".

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose set is empty.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or numbers that leave the set empty.

    Differentiability:
        In all arguments, any order. Entries that just touch a bound count as free.
    """
    elements = Elements("project_capped_simplex", point=(point, "n"), total=(total, "1"), cap=(cap, "n"))
    mass, ceiling = elements["total"], elements["cap"]
    elements.require((ceiling >= 0).all(-1), "cap", "numbers >= 0")
    elements.require(((mass >= 0) & mass.isfinite()).all(-1), "total", "a number >= 0")
    room = room_within(ceiling, point.dtype)
    elements.require(mass.squeeze(-1) <= room, "total, cap", f"total <= the sum of cap over {point.shape[-1]} entries")
    v, mass, ceiling = elements.tensors()
    return elements.answer(_capped_simplex(v, mass, ceiling))


def project_l1_ball(point: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Return the closest point of `{Σ|x| <= radius}`: entries are shrunk, small ones to exactly zero.

    Args:
        point: `(*batch, n)`.
        radius: >= 0, a number or `(*batch,)`; `inf` means the whole space.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose point is not finite or whose radius is negative.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or the number `radius` is negative.

    Differentiability:
        In both arguments, any order. A point on the sphere counts as inside; an entry of the point that is zero
        has derivative zero when the point is outside.
    """
    elements = Elements("project_l1_ball", point=(point, "n"), radius=(radius, "1"))
    elements.require((elements["radius"] >= 0).all(-1), "radius", "a number >= 0")
    v, r = elements.tensors()
    size = v.abs()
    outside = size.sum(-1, keepdim=True) > r
    shrunk = v.sign() * simplex(size, torch.where(outside, r, 0.0))
    return elements.answer(torch.where(outside, shrunk, v))


def room_within(cap: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Σcap `(*batch,)` and as much more as rounding may have taken: ten caps of 0.1 do hold a total of 1."""
    return cap.sum(-1) * (1 + 8 * torch.finfo(dtype).eps)


def simplex(v: Tensor, total: Tensor) -> Tensor:
    """Project v `(*batch, n)` for total `(*batch, 1)`."""
    with torch.no_grad():
        # The threshold that k entries would give; the k-th largest is free as long as it reaches its own.
        # Measured from the largest entry, so that a common offset costs no digits.
        # One that lies further below than the total is never free; how far is nothing to overflow with.
        shifted = (v - v.amax(-1, keepdim=True)).clamp(min=-(2 * total + 1))
        falling = shifted.sort(-1, descending=True).values
        count = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
        threshold = (falling.cumsum(-1) - total) / count
        last = (falling >= threshold).sum(-1, keepdim=True) - 1
        free = shifted >= threshold.gather(-1, last)
    return _spread(v, total, free)


def _spread(v: Tensor, rest: Tensor, free: Tensor) -> Tensor:
    """Return `v - τ` on the free entries, which share `rest`, and 0 elsewhere."""
    count = free.sum(-1, keepdim=True).clamp(min=1)
    # About the largest of them, for the same reason.
    anchor = torch.where(free, v.detach(), -torch.inf).amax(-1, keepdim=True)
    anchor = torch.where(anchor.isfinite(), anchor, 0.0)
    above = torch.where(free, torch.where(free, v, anchor) - anchor, 0.0)
    tau = (above.sum(-1, keepdim=True) - rest) / count
    return torch.where(free, (above - tau).clamp(min=0), 0.0)


def _capped_simplex(v: Tensor, total: Tensor, cap: Tensor) -> Tensor:
    with torch.no_grad():
        entered, full = _capped_sets(v - v.amax(-1, keepdim=True), total, torch.minimum(cap, total + 1))
    rest = total - torch.where(full, cap, 0.0).sum(-1, keepdim=True)
    x = _spread(v, rest, entered & ~full)
    return torch.where(full | (x > cap), cap, x)


def _capped_sets(v: Tensor, total: Tensor, cap: Tensor) -> tuple[Tensor, Tensor]:
    """Return which entries are above zero, and which are at their cap.

    As τ falls, entry i starts to grow at v_i and stops at v_i - cap_i; between these 2n places the mass is linear.
    """
    places, order = torch.cat([v, v - cap], -1).sort(dim=-1, descending=True, stable=True)
    slope = torch.where(order < v.shape[-1], 1.0, -1.0).to(v.dtype).cumsum(-1)
    steps = slope[..., :-1] * (places[..., :-1] - places[..., 1:])
    mass = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    at = ((mass <= total).sum(-1, keepdim=True) - 1).clamp(min=0)
    place = places.gather(-1, at)
    tau = place - (total - mass.gather(-1, at)) / slope.gather(-1, at).clamp(min=1)
    return v >= place, (v - cap >= place) & (v - cap > tau)
