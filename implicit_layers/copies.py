"""Copies that vmap makes of a batched condition, and healthy values in place of those of failed elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .implicit import Tensors
from .transforms import everywhere


def over_copies(function: Callable[..., Any], core_dims: Sequence[int], w: Tensor, params: Sequence[Tensor]) -> Any:
    """Evaluate a function of `(w, *params)` for w with a leading dimension of copies; other params may have one too."""
    mapped = [p.ndim > core for p, core in zip(params, core_dims, strict=True)]
    if w.shape[0] == 1:  # the usual case: no transform, no vmap
        value = function(w[0], *(p[0] if has else p for p, has in zip(params, mapped, strict=True)))
        return tuple(v.unsqueeze(0) for v in value) if isinstance(value, tuple) else value.unsqueeze(0)
    return torch.func.vmap(function, in_dims=(0, *(0 if has else None for has in mapped)))(w, *params)


def borrow(v: Tensor, solved: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
    """Replace what is not finite in failed elements of a batched tensor by the values of an element that is solved.

    A cotangent of zero does not stop a NaN: 0 · NaN reaches the gradient of everything the elements share.
    """
    depth = len(batch_shape)
    if not v.is_floating_point() or depth == 0 or v.ndim < depth or v.shape[:depth] != torch.Size(batch_shape):
        return v
    flat = v.reshape(math.prod(batch_shape), math.prod(v.shape[depth:]))
    healthy = flat.gather(0, solved.to(torch.int64).argmax().expand(1, flat.shape[1]))
    return torch.where(solved.unsqueeze(-1) | flat.isfinite(), flat, healthy).reshape(v.shape)


def replace_failed(outputs: Tensors) -> tuple[Tensor, Tensor]:
    """Return w, with failed elements replaced by one that is solved, and the mask of solved elements."""
    w, solved = outputs[:2]
    if everywhere(solved):
        return w, solved
    index = solved.to(torch.int64).argmax(-1)[..., None, None].expand(*w.shape[:-2], 1, w.shape[-1])
    return torch.where(solved.unsqueeze(-1), w, w.detach().gather(-2, index)), solved
