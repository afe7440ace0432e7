"""Isotonic regression: the closest monotone sequence.

The solution is constant on blocks of neighbours and equals their weighted mean. The blocks are found without autograd
by merging halves; the means are differentiable operations, so derivatives of every order are exact.

Merging: if two neighbouring stretches are solved, the solution of both together pools an end of the left one with a
start of the right one to one value m, the root of the decreasing function

    g(m) = Σ_left w (x - m)₊ - Σ_right w (m - x)₊

and keeps the rest. g at every value of either side follows from running sums: log2(n) passes for every input. Pooling
all adjacent violators at once is faster where it ends soon, as it mostly does, but can need n passes; so it goes first.

References: Barlow et al. (1972); Best and Chakravarti (1990); Blondel et al. (2020), for the derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..transforms import stored
from .elements import Elements

BEHIND = 2.0  # a value behind all others, which are scaled to [0, 1]: never pooled


def isotonic_regression(values: Tensor, weights: Tensor | None = None, *, increasing: bool = True) -> Tensor:
    """Return the monotone sequence of smallest weighted squared distance.

    `min Σ w (x - values)²  s.t.  x_1 <= x_2 <= ... <= x_n`

    Args:
        values: `(*batch, n)`.
        weights: `(*batch, n)`, > 0; None means 1.
        increasing: `x_i <= x_{i+1}`; False turns it round.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements whose values are not finite or whose weights are not
        positive and finite.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        In values and weights, any order. Neighbours that are equal without having to be (ties) count as separate.
    """
    elements = Elements("isotonic_regression", values=(values, "n"), weights=(1.0 if weights is None else weights, "n"))
    w = elements["weights"]
    elements.require(((w > 0) & w.isfinite()).all(-1), "weights", "finite numbers > 0")
    y, w = elements.tensors()
    return elements.answer(isotonic(y, w) if increasing else isotonic(y.flip(-1), w.flip(-1)).flip(-1))


def isotonic(y: Tensor, w: Tensor) -> Tensor:
    """Return the non-decreasing fit to y `(*batch, n)` with weights w `(*batch, n)`."""
    return block_means(y, w, find_blocks(y.detach(), w.detach()))


def block_means(v: Tensor, w: Tensor, block: Tensor) -> Tensor:
    """Return the weighted mean of each entry's block; an entry that is alone stays as it is, to the last digit."""
    zeros = torch.zeros_like(v)
    # About a value of the block's own, so that a common offset costs no digits; in quarters, so that nothing overflows.
    quarter = 0.25 * v
    least = torch.scatter_reduce(zeros, -1, block, quarter.detach(), "amin", include_self=False).gather(-1, block)
    mass = zeros.scatter_add(-1, block, w)
    total = zeros.scatter_add(-1, block, w * (quarter - least))
    return 4.0 * (least + total.gather(-1, block) / mass.gather(-1, block))


@torch.no_grad()
def find_blocks(y: Tensor, w: Tensor) -> Tensor:
    """Return for every entry the number of its block, counted from 0, `(*batch, n)` int64."""
    n = y.shape[-1]
    y = 0.25 * y  # the range of huge values is finite then
    low, high = y.amin(-1, keepdim=True), y.amax(-1, keepdim=True)
    mean = (y - low) / torch.where(high > low, high - low, 1.0)
    mass = w / w.amax(-1, keepdim=True)
    block = torch.arange(n, device=y.device).expand(y.shape)
    # All violators at once: a few rounds on ever fewer blocks settle most inputs; merging halves settles the rest.
    # A compiled graph cannot ask how many blocks are left.
    for _ in range(0 if torch.compiler.is_compiling() else 2 * n.bit_length() + 4):
        starts = _pad(mean[..., :-1] <= mean[..., 1:], (1, 0), True)
        if stored(starts).all():
            return block
        number = starts.to(torch.int64).cumsum(-1) - 1
        block = number.gather(-1, block)
        left = mean[..., : int(stored(number).max()) + 1]
        total = torch.zeros_like(left).scatter_add(-1, number, mass * mean)
        mass = torch.zeros_like(left).scatter_add(-1, number, mass)
        mean = torch.where(mass > 0, total / mass, BEHIND)  # elements with fewer blocks than others
    return _merge_halves(mean, torch.where(mass > 0, mass, 1.0)).gather(-1, block)


def _merge_halves(y: Tensor, w: Tensor) -> Tensor:
    """Return the number of each entry's block, for y within [0, 1] (and BEHIND at the end)."""
    n = y.shape[-1]
    padding = (0, (1 << (n - 1).bit_length()) - n)
    fit, w = _pad(y, padding, BEHIND), _pad(w, padding, 1.0)
    joined = torch.zeros_like(fit, dtype=torch.bool)  # with its left neighbour
    length = 1
    while length < n:
        shape, pairs = (*fit.shape[:-1], -1, 2, length), (*fit.shape[:-1], -1, 2 * length)
        pool = _pooled(fit.reshape(shape), w.reshape(shape)).flatten(-2)
        x, part = fit.reshape(pairs), torch.where(pool, w.reshape(pairs), 0.0)
        mean = (part * x).sum(-1, keepdim=True) / part.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        fit = torch.where(pool, mean, x).flatten(-2)
        joined = joined | _pad(pool[..., 1:] & pool[..., :-1], (1, 0), False).flatten(-2)
        length *= 2
    return (~joined[..., :n]).to(torch.int64).cumsum(-1) - 1


def _pooled(x: Tensor, w: Tensor) -> Tensor:
    """Return which entries of two solved stretches `(..., 2, length)` are pooled when they are merged."""
    left, right = x[..., 0, :].contiguous(), x[..., 1, :].contiguous()
    weight_left, weight_right = w[..., 0, :], w[..., 1, :]

    def from_the_right(v: Tensor) -> Tensor:  # sums over entries i, i+1, ...; then one 0
        return _pad(v.flip(-1).cumsum(-1).flip(-1), (0, 1), 0.0)

    def from_the_left(v: Tensor) -> Tensor:  # sums over entries before i, for i = 0 ... length
        return _pad(v.cumsum(-1), (1, 0), 0.0)

    above, above_mass = from_the_right(weight_left * left), from_the_right(weight_left)
    below, below_mass = from_the_left(weight_right * right), from_the_left(weight_right)

    def g(m: Tensor) -> Tensor:
        i = torch.searchsorted(left, m, right=True)
        j = torch.searchsorted(right, m)
        return above.gather(-1, i) - m * above_mass.gather(-1, i) - (
            m * below_mass.gather(-1, j) - below.gather(-1, j)
        )  # fmt: skip

    # Counts, not masks: what is pooled is an end and a start, whatever rounding does near the root.
    place = torch.arange(left.shape[-1], device=x.device)
    end = place >= (g(left) > 0).sum(-1, keepdim=True)
    start = place < (g(right) >= 0).sum(-1, keepdim=True)
    violated = left[..., -1:] > right[..., :1]
    return torch.stack([end & violated, start & violated], -2)


def _pad(v: Tensor, widths: tuple[int, int], value: float | bool) -> Tensor:
    return torch.nn.functional.pad(v, widths, value=value)
