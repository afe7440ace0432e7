"""check_gradients: do the derivatives of a layer agree with each other and with finite differences?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .check_witnesses import Chosen, FlatLayer, finite_differences, forward, label, reverse
from .differentiation import Implicit, Unrolled
from .errors import ProblemError

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
    function = FlatLayer.of(layer, arguments)
    chosen = function.choose(torch.Generator().manual_seed(seed))
    dtype = function.points[0].dtype
    step = STEP.get(dtype, STEP[torch.float32]) if step is None else step
    reference = reverse(function, chosen)
    witnesses: dict[str, list[Tensor]] = {}
    unavailable: dict[str, str] = {}
    candidates: dict[str, Callable[[], list[Tensor]]] = {
        "forward mode": lambda: forward(function, chosen),
        "finite differences": lambda: finite_differences(function, chosen, step),
    }
    other = _with_other_rule(layer)
    if other is not None:
        name, changed = other
        candidates[name] = lambda: reverse(FlatLayer.of(changed, arguments), chosen)
    for name, witness in candidates.items():
        try:
            witnesses[name] = witness()
        except (RuntimeError, NotImplementedError, ProblemError) as error:  # ProblemError: the layer has one rule only
            unavailable[name] = " ".join(str(error).split())[:100]
    sizes = [float(v.abs().nan_to_num().max()) if v.numel() else 0.0 for v in reference]
    rows = [
        _compare(name, function, i, chosen, reference[i], found[i], FLOOR * max(sizes))
        for i in range(len(function.points))
        for name, found in witnesses.items()
        if reference[i].numel()
    ]
    limit = TOLERANCE.get(dtype, TOLERANCE[torch.float32]) if tol is None else tol
    return GradientReport(tuple(rows), unavailable, limit)


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
    witness: str, function: FlatLayer, i: int, chosen: Chosen, reverse: Tensor, other: Tensor, least: float
) -> Comparison:
    error = (reverse - other).abs()
    error = torch.where(reverse.isnan() & other.isnan(), torch.inf, error).nan_to_num(nan=torch.inf)
    scale = max(float(reverse.abs().nan_to_num().max()), float(other.abs().nan_to_num().max()), least, 1e-30)
    worst = int(error.argmax())
    r, c = divmod(worst, error.shape[1])
    where = f"d {chosen.labels[r]} / d {label(chosen.columns[i][c], function.points[i].shape)}"
    mean, largest = float(error.mean()) / scale, float(error.max()) / scale
    return Comparison(function.names[i], witness, mean, largest, where, float(reverse[r, c]), float(other[r, c]))
