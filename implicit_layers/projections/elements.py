"""What all projections share: checking arguments, one policy for elements without an answer, one for precision."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ProblemError, warn_solver
from ..transforms import stored


class Elements:
    """The arguments of a projection as a batch of elements that do not see each other, in float64.

    An element without an answer (a point that is not finite, an empty set) becomes NaN with a gradient of zero, and
    one warning counts them: `require` states the conditions, `tensors` puts harmless values (point 0, everything
    else 1) in the place of such elements, `answer` puts NaN there.

    Args:
        caller: for messages.
        arguments: name=(value, core shape in letters), the point first, then the parameters of its set. A parameter
            is a tensor `(*batch, *core)`, a number, or None. Core `"1"`: one value per element, `(*batch,)`, which
            comes out as `(*batch, 1)`. Core `"n"`: a number or a scalar tensor serves for all entries.
    """

    def __init__(self, caller: str, **arguments: tuple[Any, str]) -> None:
        given = {name: pair for name, pair in arguments.items() if pair[0] is not None}
        self._caller, self._names = caller, list(arguments)
        self._numbers = {name for name, (value, _) in given.items() if not isinstance(value, Tensor)}
        self._failures: list[tuple[str, Tensor]] = []
        self._clean = False  # known to have no element without an answer
        self._sizes = {"1": 1}
        name, (point, core) = self._names[0], arguments[self._names[0]]
        self._dtype = _check_point(name, point)
        tensors = {k: _to_tensor(k, v, name, point, c) for k, (v, c) in given.items()}
        for k, (_, c) in given.items():
            tensors[k] = self._fit(k, tensors[k], c)
        self._batch = _batch_shape(tensors, {k: c for k, (_, c) in given.items()})
        self._values = {
            k: tensors[k].expand(*self._batch, *(self._sizes[letter] for letter in c)) for k, (_, c) in given.items()
        }
        self.require(self._values[name].isfinite().flatten(-len(core)).all(-1), name, "finite entries")

    def __getitem__(self, name: str) -> Tensor:
        """Return an argument as it was given, broadcast: to state conditions with."""
        return self._values[name]

    def require(self, holds: Tensor, names: str, expected: str) -> None:
        """Ask for a condition `(*batch,)` on arguments; comparisons with NaN do not hold.

        Raises:
            ProblemError: it fails for arguments that are numbers, the same for every element.
        """
        certain = set(names.split(", ")) <= self._numbers and not torch.compiler.is_compiling()
        if certain and not stored(holds).all():
            values = ", ".join(f"{float(stored(self._values[name]).flatten()[0]):g}" for name in names.split(", "))
            raise ProblemError(f"{names}: expected {expected}, got {values}")
        self._failures.append((f"{names}: expected {expected}", ~holds))

    def tensors(self) -> list[Any]:
        """Return the arguments to compute with, in the order of declaration."""
        values = [self._values.get(name) for name in self._names]
        self.invalid = functools.reduce(torch.logical_or, (failed for _, failed in self._failures))
        if not torch.compiler.is_compiling():
            self._clean = not bool(stored(self.invalid).any())
            if self._clean:
                return values
            self._report()
        harmless = [0.0] + [1.0] * (len(values) - 1)
        return [v if v is None else self._replaced(v, other) for v, other in zip(values, harmless, strict=True)]

    def answer(self, value: Tensor) -> Tensor:
        """Return a result with NaN where there is none, in the dtype of the point."""
        return (value if self._clean else self._replaced(value, torch.nan)).to(self._dtype)

    def _replaced(self, value: Tensor, other: float) -> Tensor:
        mask = self.invalid.reshape(*self.invalid.shape, *(1,) * (value.ndim - self.invalid.ndim))
        return torch.where(mask, other, value)

    def _report(self) -> None:
        invalid = stored(self.invalid)
        reasons = dict.fromkeys(reason for reason, failed in self._failures if stored(failed).any())
        where = tuple(invalid.nonzero()[0].tolist())
        warn_solver(
            f"{self._caller}: {int(invalid.sum())} of {invalid.numel()} elements have no answer and become NaN "
            f"(first: element {where[0] if len(where) == 1 else where}); " + "; ".join(reasons)
        )

    def _fit(self, name: str, value: Tensor, core: str) -> Tensor:
        """Check the core shape; a letter seen for the first time takes the size found."""
        if core == "n" and value.ndim == 0 and "n" in self._sizes:
            value = value.expand(self._sizes["n"])
        found = value.shape[value.ndim - len(core) :]
        known = len(found) == len(core)
        if not known or any(self._sizes.get(c, size) != size for c, size in zip(core, found, strict=True)):
            expected = ", ".join(["*batch", *(str(self._sizes.get(c, c)) for c in core if c != "1")])
            raise ProblemError(f"{name}: expected shape ({expected}), got {tuple(value.shape)}")
        self._sizes.update(zip(core, found, strict=True))
        if name == self._names[0] and 0 in found:
            letters = ", ".join(core)
            raise ProblemError(
                f"{name}: expected shape (*batch, {letters}) without empty dimensions, got {tuple(value.shape)}"
            )
        return value


def _check_point(name: str, point: Any) -> torch.dtype:
    if not isinstance(point, Tensor):
        raise ProblemError(f"{name}: expected a torch.Tensor, got {type(point).__name__}")
    if not point.is_floating_point():
        raise ProblemError(f"{name}: expected a floating-point dtype, got {point.dtype}")
    return point.dtype


def _to_tensor(name: str, value: Any, like_name: str, like: Tensor, core: str) -> Tensor:
    """Lift to float64; a scalar per element gets a dimension of its own."""
    if not isinstance(value, Tensor):
        if len(core) > 1 or isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            kind = "a torch.Tensor" if len(core) > 1 else "a number or a torch.Tensor"
            raise ProblemError(f"{name}: expected {kind}, got {value!r}")
        value = torch.full((), float(value), dtype=torch.float64, device=like.device)
    elif value.dtype != like.dtype or value.device != like.device:
        raise ProblemError(
            f"{name}: expected {like.dtype} on {like.device} like {like_name}, got {value.dtype} on {value.device}"
        )
    lifted: Tensor = value.to(torch.float64)
    return lifted.unsqueeze(-1) if core == "1" else lifted


def _batch_shape(tensors: dict[str, Tensor], cores: dict[str, str]) -> torch.Size:
    batch = torch.Size()
    for name, value in tensors.items():
        leading = value.shape[: value.ndim - len(cores[name])]
        try:
            batch = torch.broadcast_shapes(batch, leading)
        except RuntimeError:
            raise ProblemError(
                f"{name}: expected batch dimensions that broadcast with {tuple(batch)}, got {tuple(leading)}"
            ) from None
    return batch
