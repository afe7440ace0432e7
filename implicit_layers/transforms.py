"""What the toolkit asks torch's transforms: the few places that touch torch's private names.

Under `vmap`, `grad` and `jvp` a tensor is a stack of wrappers around the stored one. Control flow needs the stored
values; a differentiation rule needs directional derivatives that nest in whatever mode is active.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C import _functorch
from torch._compile import _disable_dynamo
from torch._functorch import eager_transforms, pyfunctorch
from torch.autograd import forward_ad

F = TypeVar("F", bound=Callable[..., Any])


def outside_graphs(function: F) -> F:
    """Decorate what `torch.compile` must not trace: it breaks the graph there and runs it as it is."""
    untraced = _disable_dynamo(function)  # imports the compiler at its first call: nobody should wait for that in vain

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        # Where the graph broke earlier, this runs as it is, and the compiler would take up the functions it calls.
        compiles = torch.compiler.is_compiling() or "torch._dynamo" in sys.modules
        return untraced(*args, **options) if compiles else function(*args, **options)

    return cast("F", call)


def somebody_differentiates() -> bool:
    """Return whether a result made now could be asked for its derivative, or is under a transform."""
    return bool(
        torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    )


def unwrapped(v: Tensor) -> Iterator[Tensor]:
    """Yield the tensor and what its wrappers hold, from the outside in."""
    yield v
    while _functorch.is_functorch_wrapped_tensor(v):
        v = _functorch.get_unwrapped(v)
        yield v


def stored(v: Tensor) -> Tensor:
    """Return the tensor inside all wrappers, detached; mapped dimensions are dimensions of it."""
    return list(unwrapped(v))[-1].detach()


def everywhere(mask: Tensor) -> bool:
    """Return whether a mask holds in every element, those of mapped dimensions included."""
    return bool(stored(mask).all())


def is_tracked(v: Tensor) -> bool:
    """Return whether a derivative can be asked through the tensor, at any level of any mode."""
    if v.requires_grad or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(v).tangent is not None):
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    level = pyfunctorch.retrieve_current_functorch_interpreter().level()
    inner = _functorch.get_unwrapped(v) if _functorch.maybe_get_level(v) == level else v
    with pyfunctorch.temporarily_pop_interpreter_stack():  # each level sees its own gradients and tangents only
        return is_tracked(inner)


def is_mapped(v: Tensor) -> bool:
    """Return whether some vmap maps over the tensor."""
    return any(_functorch.is_batchedtensor(inner) for inner in unwrapped(v))


def bare(v: Tensor) -> Tensor:
    """Return one sample of what a tensor stands for: detached, and the first of all that vmap maps over."""
    while _functorch.is_functorch_wrapped_tensor(v):
        inner = _functorch.get_unwrapped(v)
        v = inner.select(_functorch.maybe_get_bdim(v), 0) if _functorch.is_batchedtensor(v) else inner
    return v.detach()


def directional(function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """Return the derivative of a function along a direction; nests in every mode."""
    # Dual numbers are refused to expanded tensors, whose entries share memory.
    primals, tangents = (tuple(v.contiguous() for v in group) for group in (primals, tangents))
    _load_forward_mode()
    if forward_ad._current_level >= 0 and eager_transforms.JVP_NESTING == 0:
        # Dual numbers that were not made by torch.func do not nest: two reverse passes do the same.
        value, pull = cast("Any", torch.func.vjp(function, *primals))
        _, push = cast("Any", torch.func.vjp(pull, torch.zeros_like(value)))
        return cast("Tensor", push(tangents)[0])
    return cast("Tensor", torch.func.jvp(function, primals, tangents)[1])


@functools.cache
def _load_forward_mode() -> None:
    """Let torch load what forward mode needs without its warning about its own use of torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def pullback(function: Callable[..., Tensor], *primals: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the map from cotangents of a function's value to those of its arguments."""
    return value_and_pullback(function, *primals)[1]


def value_and_pullback(
    function: Callable[..., Tensor], *primals: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Return a function's value, and the map from cotangents of it to those of its arguments."""
    value, pull = cast("Any", torch.func.vjp(function, *primals))
    return value, pull


def value_and_gradient(function: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """Return `function(w) (batch,)`, each element's value a function of its own w alone, and the gradient."""

    def total(w: Tensor) -> tuple[Tensor, Tensor]:
        value = function(w)
        return value.sum(), value

    gradient, value = cast("Any", torch.func.grad(total, has_aux=True))(w)
    return value, gradient
