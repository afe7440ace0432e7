"""Arg-max made smooth by entropy: projections in the sense of Kullback and Leibler."""

from __future__ import annotations

import torch
from torch import Tensor

from .elements import Elements
from .simplex import room_within


def soft_argmax(
    scores: Tensor, temperature: float | Tensor = 1.0, total: float | Tensor = 1.0, cap: float | Tensor | None = None
) -> Tensor:
    """Return the entropy-regularised choice among n: softmax, with an optional cap on each share.

    `max scores'x - temperature Σ x log x  s.t.  Σx = total, 0 <= x <= cap`

    Without a cap that is `total softmax(scores / temperature)`. As the temperature falls it tends to the arg-max
    (with `cap = 1`, to the `total` largest), and unlike `project_simplex` it never is exactly zero.

    Args:
        scores: `(*batch, n)`.
        temperature: > 0, a number or `(*batch,)`, in the unit of the scores.
        total: > 0 and at most Σcap, a number or `(*batch,)`.
        cap: > 0, a number or `(*batch, n)`; `inf` or None means "no cap".

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements without an answer.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or numbers out of range.

    Differentiability:
        In all arguments, any order. An entry that just touches its cap counts as below it.

    References:
        Wainwright and Jordan (2008), 3.6; Blondel, Martins and Niculae (2020), Fenchel-Young losses.
    """
    elements = Elements(
        "soft_argmax", scores=(scores, "n"), temperature=(temperature, "1"), total=(total, "1"),
        cap=(torch.inf if cap is None else cap, "n"),
    )  # fmt: skip
    t, mass, ceiling = (elements[name] for name in ("temperature", "total", "cap"))
    elements.require(((t > 0) & t.isfinite()).all(-1), "temperature", "a number > 0")
    elements.require(((mass > 0) & mass.isfinite()).all(-1), "total", "a number > 0")
    elements.require((ceiling > 0).all(-1), "cap", "numbers > 0")
    room = room_within(ceiling, scores.dtype)
    elements.require(mass.squeeze(-1) <= room, "total, cap", "total <= the sum of cap over all entries")
    s, t, mass, ceiling = elements.tensors()
    logits = s / t
    if cap is None:
        return elements.answer(mass * logits.softmax(-1))
    full = _full(logits.detach(), mass.detach(), ceiling.detach())
    rest = mass - torch.where(full, ceiling, 0.0).sum(-1, keepdim=True)
    # Where all are full the softmax is not used, but it must be finite.
    open_logits = torch.where(full & ~full.all(-1, keepdim=True), -torch.inf, logits)
    return elements.answer(torch.where(full, ceiling, rest * open_logits.softmax(-1)))


@torch.no_grad()
def _full(logits: Tensor, total: Tensor, cap: Tensor) -> Tensor:
    """Return which entries are at their cap: those with the largest `exp(logit) / cap`, as many as needed."""
    order = (logits - cap.log()).argsort(dim=-1, descending=True, stable=True)
    falling, caps = logits.gather(-1, order), cap.gather(-1, order)
    # If exactly the first k were full, would the next one exceed its cap?
    rest = total - torch.nn.functional.pad(torch.minimum(caps, total).cumsum(-1)[..., :-1], (1, 0))
    remaining = falling.flip(-1).logcumsumexp(-1).flip(-1)
    exceeds = rest * (falling - remaining).exp() > caps
    count = exceeds.to(torch.int64).cumprod(-1).sum(-1, keepdim=True)
    rank = order.argsort(-1)
    return rank < count
