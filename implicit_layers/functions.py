"""Functions of a condition: with everything they depend on as explicit arguments.

The implicit function theorem differentiates F in its parameters, so it must know them. Parameters of a module are
lifted out of it; a tensor that a closure holds on to cannot be seen from outside, and is an error if it asks for a
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .errors import ProblemError
from .transforms import bare, is_mapped, is_tracked


class Bound(nn.Module):
    """A bound method of a module, as a module: its parameters are the owner's."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.owner = method.__self__
        self.function = method.__func__

    def forward(self, *args: Any) -> Any:
        """Call the method."""
        return self.function(self.owner, *args)


def owned(f: Any) -> Any:
    """Return f, or the module that stands for it where f is a method of one."""
    return Bound(f) if isinstance(getattr(f, "__self__", None), nn.Module) else f


@dataclass(frozen=True)
class Lifted:
    """A function of `(w, *tensors)`; the tensors are the module's parameters, then the leaves of the params.

    Attributes:
        call: the function.
        tensors: the values of its tensors.
        name: of the argument that it came in, for messages.
    """

    call: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    name: str


def lift(f: Any, params: Sequence[Any], name: str = "f") -> Lifted:
    """Make all tensors that f may depend on its arguments.

    Args:
        f: a module, a bound method of a module, or any function `f(w, *params)`.
        params: pytrees; what is not a tensor in them is passed on as it is.
        name: of the argument.

    Raises:
        ProblemError: f cannot be called.
    """
    if not callable(f):
        raise ProblemError(f"{name}: expected a function or a module, got {type(f).__name__}")
    f = owned(f)
    own = list(f.parameters()) if isinstance(f, nn.Module) else []
    places = _places(f, own) if own else {}
    leaves, structure = pytree.tree_flatten(tuple(params))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def call(w: Any, *tensors: Tensor) -> Any:
        filled = list(leaves)
        for i, tensor in zip(where, tensors[len(own) :], strict=True):
            filled[i] = tensor
        arguments = pytree.tree_unflatten(filled, structure)
        if not own:
            return f(w, *arguments)
        values = {name: tensors[i] for name, i in places.items()}
        return torch.func.functional_call(f, values, (w, *arguments), tie_weights=False)

    return Lifted(call, (*own, *(leaves[i] for i in where)), name)


def _places(f: nn.Module, own: Sequence[Tensor]) -> dict[str, int]:
    """Return which of its parameters each name of a module means: tied ones have several, in modules of their own.

    Where one submodule has two names, torch would put the values in twice and, afterwards, the wrong ones back.
    """
    numbers = {id(p): i for i, p in enumerate(own)}
    return {
        f"{prefix}.{name}".removeprefix("."): numbers[id(p)]
        for prefix, module in f.named_modules()
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False)
    }


def check_captures(lifted: Lifted, w: Any) -> None:
    """Evaluate once on arguments without history: what still asks for a gradient was captured.

    Raises:
        ProblemError: a tensor was captured, and what to do.
    """
    with torch.enable_grad():
        value = lifted.call(
            pytree.tree_map_only(Tensor, lambda v: bare(v).clone(), w), *(bare(v) for v in lifted.tensors)
        )
    if any(is_tracked(v) or is_mapped(v) for v in pytree.tree_leaves(value) if isinstance(v, Tensor)):
        raise ProblemError(
            f"{lifted.name}: expected a function of its arguments alone, but it captures a tensor that requires grad "
            "(or that a transform of torch.func follows), whose gradient would be silently zero; pass that tensor as "
            f"one of the params, or make {lifted.name} an nn.Module (or a method of one) whose parameter it is"
        )
