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


def looks_batched(v: Tensor, batch_shape: tuple[int, ...]) -> bool:
    """Return whether a tensor may hold values of each element: a matrix of all elements may look the same."""
    depth = len(batch_shape)
    return v.is_floating_point() and depth > 0 and v.ndim >= depth and v.shape[:depth] == torch.Size(batch_shape)


def borrow(v: Tensor, solved: Tensor, batch_shape: tuple[int, ...], whole: bool = False) -> Tensor:
    """Replace what is not finite (`whole`: all) in failed elements of a batched tensor by values of one that is solved.

    A cotangent of zero does not stop a NaN: 0 · NaN reaches the gradient of everything the elements share.
    """
    if not looks_batched(v, batch_shape):
        return v
    flat = v.reshape(solved.shape[0], math.prod(v.shape[len(batch_shape) :]))
    healthy = flat.gather(0, solved.to(torch.int64).argmax().expand(1, flat.shape[1]))
    kept = solved.unsqueeze(-1) if whole else solved.unsqueeze(-1) | flat.isfinite()
    return torch.where(kept, flat, healthy).reshape(v.shape)


def poison(v: Tensor, solved: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
    """Put NaN into the failed elements of a batched tensor: whatever depends on them shows it."""
    return torch.where(solved.reshape(*batch_shape, *(1,) * (v.ndim - len(batch_shape))), v, torch.nan)


def replace_failed(outputs: Tensors) -> tuple[Tensor, Tensor]:
    """Return w, with failed elements replaced by one that is solved, and the mask of solved elements."""
    w, solved = outputs[:2]
    if everywhere(solved):
        return w, solved
    index = solved.to(torch.int64).argmax(-1)[..., None, None].expand(*w.shape[:-2], 1, w.shape[-1])
    return torch.where(solved.unsqueeze(-1), w, w.detach().gather(-2, index)), solved
