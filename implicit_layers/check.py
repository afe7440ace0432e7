"""check_gradients: do the derivatives of a layer agree with each other and with finite differences?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from .differentiation import Implicit, Unrolled
from .errors import ProblemError
from .functions import Lifted, lift

ENTRIES = 48  # of each input and of the output, at most; chosen at random beyond
STEP = {torch.float64: 1e-5, torch.float32: 5e-3}  # balance of truncation (its square) and round-off (over it)
FLOOR = 1e-3  # below this share of the largest derivative of all inputs, a difference is round-off
TOLERANCE = {torch.float64: 1e-4, torch.float32: 3e-2}


class Comparison(NamedTuple):
    """How far one witness is from reverse mode, in one input.

    Errors are relative to the largest derivative in that input, or a thousandth of the largest of all.
    """

    input: str
    witness: str
    mean: float
    worst: float
    where: str  # the derivative with the worst error
    reverse: float  # its values
    other: float


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found.

    Attributes:
        rows: one for each input and witness.
        unavailable: witnesses that could not be heard, and why.
        tol: largest relative error that counts as agreement.
    """

    rows: tuple[Comparison, ...]
    unavailable: dict[str, str]
    tol: float

    @property
    def ok(self) -> bool:
        """Whether all witnesses that were heard agree with reverse mode."""
        return all(row.worst <= self.tol for row in self.rows)

    def __str__(self) -> str:
        header = ("input", "reverse mode against", "mean error", "worst", "at", "reverse", "other", "")
        cells = [header] + [
            (r.input, r.witness, f"{r.mean:.1e}", f"{r.worst:.1e}", r.where, f"{r.reverse:.6g}", f"{r.other:.6g}",
             "" if r.worst <= self.tol else "<-- differs")
            for r in self.rows
        ]  # fmt: skip
        widths = [max(len(row[j]) for row in cells) for j in range(len(header))]
        lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        lines += [f"{name}: not available ({reason})" for name, reason in self.unavailable.items()]
        verdict = "agree" if self.ok else "DO NOT agree"
        return "\n".join([*lines, f"derivatives {verdict} to {self.tol:g} (relative to the largest of each input)"])


def check_gradients(
    layer: Any, inputs: Any, *, tol: float | None = None, step: float | None = None, seed: int = 0
) -> GradientReport:
    """Compare a layer's derivatives: reverse mode, forward mode, central finite differences, unrolled or implicit.

    A layer that has a `differentiate` option, or contains modules that have one, is also differentiated by the other
    rule: `Unrolled()`, or `Implicit()` where it unrolls. All floating-point inputs and all parameters of the layer
    are checked, entry by entry; of large ones a random choice of entries. Use float64.

    Args:
        layer: a module or any function; its value is a tensor or a structure of tensors.
        inputs: its argument, or a tuple of its arguments.
        tol: largest relative error; `None`: 1e-4, in float32 3e-2.
        step: of the finite differences; `None`: 1e-5, in float32 5e-3.
        seed: of the choice of entries.

    Returns:
        `GradientReport`: `.ok`, and a table when printed. At a kink (an inequality that is weakly active) finite
        differences disagree with any one-sided derivative: the table tells where.

    Raises:
        ProblemError: the layer gives another value the second time, or nothing that can be differentiated.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    function = _Flat.of(layer, arguments)
    chosen = function.choose(torch.Generator().manual_seed(seed))
    dtype = function.points[0].dtype
    step = STEP.get(dtype, STEP[torch.float32]) if step is None else step
    reverse = _reverse(function, chosen)
    witnesses: dict[str, list[Tensor]] = {}
    unavailable: dict[str, str] = {}
    candidates: dict[str, Callable[[], list[Tensor]]] = {
        "forward mode": lambda: _forward(function, chosen),
        "finite differences": lambda: _finite_differences(function, chosen, step),
    }
    other = _with_other_rule(layer)
    if other is not None:
        name, changed = other
        candidates[name] = lambda: _reverse(_Flat.of(changed, arguments), chosen)
    for name, witness in candidates.items():
        try:
            witnesses[name] = witness()
        except (RuntimeError, NotImplementedError) as error:
            unavailable[name] = " ".join(str(error).split())[:100]
    sizes = [float(v.abs().nan_to_num().max()) if v.numel() else 0.0 for v in reverse]
    rows = [
        _compare(name, function, i, chosen, reverse[i], found[i], FLOOR * max(sizes))
        for i in range(len(function.points))
        for name, found in witnesses.items()
        if reverse[i].numel()
    ]
    limit = TOLERANCE.get(dtype, TOLERANCE[torch.float32]) if tol is None else tol
    return GradientReport(tuple(rows), unavailable, limit)


class _Chosen(NamedTuple):
    rows: list[int]  # entries of the flat output
    labels: list[str]  # their names
    columns: list[list[int]]  # entries of each flat input


@dataclass(frozen=True)
class _Flat:
    """A layer as a function of a list of tensors, parameters first, with one flat output."""

    lifted: Lifted
    first: Any
    names: tuple[str, ...]
    points: tuple[Tensor, ...]  # where it is differentiated
    moving: tuple[int, ...]  # which of the lifted tensors they are

    @staticmethod
    def of(layer: Any, arguments: tuple[Any, ...]) -> _Flat:
        # lift() expects the unknown first; here there is none.
        lifted = lift(_WithoutUnknown(layer) if isinstance(layer, nn.Module) else lambda _, *a: layer(*a), arguments)
        paths = pytree.tree_flatten_with_path(arguments)[0]
        leaves = [f"inputs{pytree.keystr(path)}" for path, leaf in paths if isinstance(leaf, Tensor)]
        own = [name for name, _ in layer.named_parameters()] if isinstance(layer, nn.Module) else []
        names = [*own, *leaves]
        moving = tuple(i for i, v in enumerate(lifted.tensors) if v.is_floating_point())
        if not moving:
            raise ProblemError("inputs: expected at least one floating-point tensor, or a layer with parameters")
        points = tuple(lifted.tensors[i].detach() for i in moving)
        return _Flat(lifted, None, tuple(names[i] for i in moving), points, moving)

    def outputs(self, points: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Return the floating-point outputs with their names."""
        tensors = [v.detach() for v in self.lifted.tensors]
        for i, v in zip(self.moving, points, strict=True):
            tensors[i] = v
        paths = pytree.tree_flatten_with_path(self.lifted.call(self.first, *tensors))[0]
        return [("output" + pytree.keystr(p), v) for p, v in paths if isinstance(v, Tensor) and v.is_floating_point()]

    def __call__(self, points: Sequence[Tensor]) -> Tensor:
        """Return the flat output."""
        return torch.cat([v.reshape(-1) for _, v in self.outputs(points)])

    def choose(self, generator: torch.Generator) -> _Chosen:
        """Choose the entries to look at: of the outputs that can be differentiated, and of each input."""
        points = [v.clone().requires_grad_() for v in self.points]
        named = self.outputs(points)
        if not named or not any(v.requires_grad for _, v in named):
            raise ProblemError("layer: expected a value that depends on the inputs differentiably, got none")
        first = torch.cat([v.reshape(-1) for _, v in named]).detach()
        if not torch.allclose(first, self(points).detach(), equal_nan=True):
            raise ProblemError("layer: expected the same value every time, got another at the second call (dropout?)")
        rows, labels, start = [], [], 0
        for name, v in named:
            if v.requires_grad:
                rows += list(range(start, start + v.numel()))
                labels += [f"{name}{_index(i, v.shape)}" for i in range(v.numel())]
            start += v.numel()
        picked = _pick(len(rows), generator)
        columns = [_pick(v.numel(), generator) for v in self.points]
        return _Chosen([rows[i] for i in picked], [labels[i] for i in picked], columns)


class _WithoutUnknown(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, _: None, *arguments: Any) -> Any:
        return self.layer(*arguments)


def _reverse(function: _Flat, chosen: _Chosen) -> list[Tensor]:
    """Return d output / d input for the chosen entries, `(rows, columns)` for each input."""
    points = [v.clone().requires_grad_() for v in function.points]
    output = function(points)
    jacobians: list[list[Tensor]] = [[] for _ in points]
    for r in chosen.rows:
        gradients = torch.autograd.grad(output[r], points, retain_graph=True, allow_unused=True)
        for i, (g, v) in enumerate(zip(gradients, points, strict=True)):
            full = torch.zeros_like(v) if g is None else g
            jacobians[i].append(full.reshape(-1)[chosen.columns[i]].detach())
    return [torch.stack(rows) if rows else v.new_zeros(0, 0) for rows, v in zip(jacobians, points, strict=True)]


def _forward(function: _Flat, chosen: _Chosen) -> list[Tensor]:
    def slope(i: int, direction: Tensor) -> Tensor:
        with forward_ad.dual_level():
            points = list(function.points)
            points[i] = forward_ad.make_dual(points[i], direction)
            output = function(points)
            tangent = forward_ad.unpack_dual(output).tangent
            return torch.zeros_like(output) if tangent is None else tangent

    return _by_columns(function, chosen, slope)


def _finite_differences(function: _Flat, chosen: _Chosen, step: float) -> list[Tensor]:
    def slope(i: int, direction: Tensor) -> Tensor:
        size = step * max(1.0, float((function.points[i] * direction).abs().sum()))
        ahead, behind = (
            function([v + t * direction if j == i else v for j, v in enumerate(function.points)]) for t in (size, -size)
        )
        return (ahead - behind) / (2 * size)

    with torch.no_grad():
        return _by_columns(function, chosen, slope)


def _by_columns(function: _Flat, chosen: _Chosen, slope: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
    jacobians = []
    for i, v in enumerate(function.points):
        columns = []
        for c in chosen.columns[i]:
            direction = torch.zeros(v.numel(), dtype=v.dtype, device=v.device)
            direction[c] = 1
            columns.append(slope(i, direction.reshape(v.shape))[chosen.rows].detach())
        jacobians.append(torch.stack(columns, -1) if columns else v.new_zeros(len(chosen.rows), 0))
    return jacobians


def _with_other_rule(layer: Any) -> tuple[str, Any] | None:
    """Return the layer with all its `differentiate` options exchanged, if it has one."""
    if not isinstance(layer, nn.Module):
        return None
    changed: Any = copy.deepcopy(layer)
    name = None
    for module in changed.modules():
        rule = getattr(module, "differentiate", None)
        if rule is not None:
            name = "implicit" if isinstance(rule, Unrolled) else "unrolled"
            module.differentiate = Implicit() if isinstance(rule, Unrolled) else Unrolled()
    return None if name is None else (name, changed)


def _compare(
    witness: str, function: _Flat, i: int, chosen: _Chosen, reverse: Tensor, other: Tensor, least: float
) -> Comparison:
    error = (reverse - other).abs()
    error = torch.where(reverse.isnan() & other.isnan(), torch.inf, error).nan_to_num(nan=torch.inf)
    scale = max(float(reverse.abs().nan_to_num().max()), float(other.abs().nan_to_num().max()), least, 1e-30)
    worst = int(error.argmax())
    r, c = divmod(worst, error.shape[1])
    where = f"d {chosen.labels[r]} / d {_index(chosen.columns[i][c], function.points[i].shape)}"
    mean, largest = float(error.mean()) / scale, float(error.max()) / scale
    return Comparison(function.names[i], witness, mean, largest, where, float(reverse[r, c]), float(other[r, c]))


def _pick(count: int, generator: torch.Generator) -> list[int]:
    if count <= ENTRIES:
        return list(range(count))
    picked: list[int] = torch.randperm(count, generator=generator)[:ENTRIES].sort().values.tolist()
    return picked


def _index(i: int, shape: torch.Size) -> str:
    index = []
    for size in reversed(shape):
        index.append(i % size)
        i //= size
    return str(list(reversed(index))) if index else ""
