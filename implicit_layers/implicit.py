"""The implicit function theorem, once, as an autograd function.

A map w(θ) is defined by F(w, θ) = 0. Writing J = ∂F/∂w at the solution,

    forward mode   J dw = -(∂F/∂θ) dθ
    reverse mode   Jᵀu = v,    θ̄ = -(∂F/∂θ)ᵀ u

Both need one linear solve, which is itself an implicitly defined map (J u - v = 0), so derivatives of any order
follow from the same function: the solve is differentiated by the same theorem.

References: Krantz and Parks, The Implicit Function Theorem (2002); Blondel et al. (2022), eq. 2-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

Tensors = tuple[Tensor, ...]
MaybeTensors = tuple[Tensor | None, ...]


class ImplicitMap(Protocol):
    """A batched map from parameters to unknowns, defined by a condition.

    Every parameter is either shared (its core shape) or batched (`batch` in front of its core shape); every
    output has `batch` in front. The first `num_unknowns` outputs of `solve` are differentiable, the rest is
    information that the adjoint may use.
    """

    @property
    def batch(self) -> int:
        """Size of the flat batch."""

    @property
    def num_unknowns(self) -> int:
        """How many of the leading outputs are differentiable."""

    @property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of each parameter without its batch."""

    def with_batch(self, batch: int) -> ImplicitMap:
        """Return the same map for another batch size."""

    def solve(self, *params: Tensor) -> Tensors:
        """Find the unknowns; runs without autograd."""

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return dw = -J⁻¹ (∂F/∂θ) dθ, in differentiable operations."""

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return θ̄ = -(∂F/∂θ)ᵀ J⁻ᵀ v for the parameters in `needs`, in differentiable operations."""


def differentiated_by_transform() -> bool:
    """Whether forward mode or a transform of `torch.func` is at work: then tensors may be more than their values."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def needs_backward(params: Sequence[Tensor]) -> bool:
    """Whether a backward pass may be asked for."""
    return torch.is_grad_enabled() and any([v.requires_grad for v in params])


def implicit_apply(rule: ImplicitMap, *params: Tensor) -> Tensors:
    """Evaluate an implicitly defined map so that every transform of torch differentiates it by the theorem."""
    if differentiated_by_transform():
        outputs: Tensors = _ImplicitFunction.apply(rule, *params)  # type: ignore[no-untyped-call]
        return outputs
    if not needs_backward(params):
        return tuple(rule.solve(*params))  # nobody differentiates: no need to record
    # What Function.apply does when no transform is active, without matching the arguments to a signature (20 us).
    params = tuple([unwrap_if_dead(v) for v in params])
    recorded: Tensors = super(torch.autograd.Function, _ImplicitFunction).apply(rule, *params)  # type: ignore[no-untyped-call]
    return recorded


def _alive(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([unwrap_if_dead(v) if isinstance(v, Tensor) else v for v in values])


class _ImplicitFunction(torch.autograd.Function):
    @staticmethod
    def forward(rule: ImplicitMap, *params: Tensor) -> Tensors:
        return rule.solve(*params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        rule, *params = inputs
        ctx.rule = rule
        ctx.num_params = len(params)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[rule.num_unknowns :])
        ctx.save_for_backward(*params, *output)
        if differentiated_by_transform():
            ctx.save_for_forward(*params, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        # Looked at once: checkpointing computes them again each time. A pullback of torch.func.vjp may be called after
        # its transform has ended: what it saved are then empty shells, which have no storage.
        saved = _alive(ctx.saved_tensors)
        params, outputs = saved[: ctx.num_params], saved[ctx.num_params :]
        used = _alive(cotangents[: ctx.rule.num_unknowns])
        gradients: MaybeTensors = (None,) * ctx.num_params
        if any(v is not None for v in used):
            gradients = ctx.rule.adjoint(outputs, params, used, ctx.needs_input_grad[1:])
        return (None, *gradients)

    @staticmethod
    def jvp(ctx: Any, _: None, *dparams: Tensor | None) -> tuple[Tensor | None, ...]:
        # torch switches forward mode off around this call, which would make forward over forward silently zero;
        # switched on again, this level's own tangents must be taken off the saved tensors.
        with _set_fwd_grad_enabled(True):
            saved = [unpack_dual(v).primal if v.is_floating_point() else v for v in ctx.saved_tensors]
            params, outputs = tuple(saved[: ctx.num_params]), tuple(saved[ctx.num_params :])
            dw: Tensors = ctx.rule.tangent(outputs, params, dparams)
        rest: MaybeTensors = (None,) * (len(outputs) - len(dw))
        return dw + rest

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], rule: ImplicitMap, *params: Tensor
    ) -> tuple[Tensors, tuple[int, ...]]:
        # The map is batched already: the new dimension joins the flat batch.
        size, batch = info.batch_size, rule.batch
        flat = []
        for param, dim, core in zip(params, in_dims[1:], rule.core_dims, strict=False):
            if dim is None and param.ndim == core:  # shared by everything: stays shared
                flat.append(param)
                continue
            joined = param.unsqueeze(0) if dim is None else param.movedim(dim, 0)
            if joined.ndim == core + 1:
                joined = joined.unsqueeze(1)
            shape = joined.shape[joined.ndim - core :]
            flat.append(joined.expand(size, batch, *shape).reshape(size * batch, *shape))
        outputs = implicit_apply(rule.with_batch(size * batch), *flat)
        return tuple(w.reshape(size, batch, *w.shape[1:]) for w in outputs), (0,) * len(outputs)
