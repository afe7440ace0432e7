"""Zeros of many functions of one variable at once."""

from collections.abc import Callable

import torch
from torch import Tensor

_MOST = 60  # bisection alone, from any bracket of numbers of size one, to the last bit


def find_crossing(
    function: Callable[[Tensor, Tensor], Tensor], inside: Tensor, outside: Tensor, width: float = 1e-14
) -> Tensor:
    """Return the last places found with a value >= 0 on the way from there to a place with a value < 0.

    Inverse quadratic interpolation where it is safe, else bisection: the method of Chandrupatla (1997,
    doi 10.1016/S0965-9978(96)00051-8). The bracket always holds a change of sign.

    Args:
        function: Called with indices of problems, (m,), and a place for each, (m,).
        inside: Places with a value >= 0, (M,).
        outside: Other places, (M,); they are the answer where the value is >= 0 there too.
        width: Brackets this narrow are done.
    """
    live = torch.arange(len(inside), device=inside.device)
    a, b = outside, inside  # the two ends, b the latest
    fa, fb = function(live, a), function(live, b)
    result = torch.where(fa >= 0, a, b)
    going = (fa < 0) & ((a - b).abs() > width)
    live, a, b, fa, fb = (part[going] for part in (live, a, b, fa, fb))
    share = torch.full_like(a, 0.5)
    for _ in range(_MOST):
        if not live.numel():
            break
        place = a + share * (b - a)
        value = function(live, place)
        same = (value >= 0) == (fa >= 0)
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = place, value
        result[live] = torch.where(fa >= 0, a, torch.where(fb >= 0, b, result[live]))
        going = (a - b).abs() > width
        live, a, b, c, fa, fb, fc = (part[going] for part in (live, a, b, c, fa, fb, fc))
        share = _share(a, b, c, fa, fb, fc, width)
    return result


def _share(a: Tensor, b: Tensor, c: Tensor, fa: Tensor, fb: Tensor, fc: Tensor, width: float) -> Tensor:
    """Return how far from a to b the next place is."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    safe = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
    quadratic = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    least = 0.5 * width / (b - a).abs()  # not on top of an end, or the bracket would not close
    share = torch.where(safe & quadratic.isfinite(), quadratic, 0.5)
    return share.clamp(least, 1 - least)
