"""Check any differentiable QP layer on problems that break such layers.

    from implicit_layers.audit import audit
    report = audit(my_layer)
    report.ok, report.table()

or `python -m implicit_layers audit --layer my_module:my_layer`. For each family of problems the layer's solution,
multipliers and gradients are compared with a known optimum, with a dense solve on its active rows, and with finite
differences of the layer itself.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from .audit_families import FAMILIES
from .audit_problems import BATCH, Case, Tensors
from .audit_report import AuditReport, AuditRow, Tolerances, judge
from .audit_witnesses import finite_differences, is_shared, kkt_gradients, random_direction, slope_along
from .errors import ProblemError

__all__ = ["FAMILIES", "AuditReport", "AuditRow", "Tolerances", "audit"]

Layer = Callable[..., Any]

OUTPUTS = ("x", "z", "y", "z_box")
EXPLODED = 1e6  # where there is no derivative: more is a singular system inverted, not an answer


def audit(
    layer: Layer,
    *,
    families: Iterable[str] | None = None,
    seed: int = 0,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - frozen
) -> AuditReport:
    """Check a layer that solves `min 1/2 x'Px + q'x  s.t.  Gx <= h, Ax = b, lb <= x <= ub`.

    Args:
        layer: called as `layer(P, q, G, h, A, b)` with batched float64 tensors (float32 in one family), None for what
            is absent, and `lb=, ub=` only where there are bounds. Returns x, or an object with `x` and, if it has
            them, the multipliers `z, y, z_box` with `Px + q + G'z + A'y + z_box = 0, z >= 0` (negative at lb,
            positive at ub).
        families: names from `FAMILIES`; default all.
        seed: of the random problems; a family's problems do not depend on which others run.
        tolerances: above which an error is called wrong.

    Returns:
        A row for each family. Whatever the layer raises is the result of that family, and ends nothing else (short
        of killing the process). Tensors are on the CPU.

    Raises:
        ProblemError: no or unknown families.
    """
    names = list(FAMILIES if families is None else families)
    for name in names:
        if name not in FAMILIES:
            raise ProblemError(f"families: expected names of {', '.join(FAMILIES)}, got {name!r}")
    if not names:
        raise ProblemError("families: expected at least one name, got none")
    return AuditReport(tuple(_examine(layer, name, seed, tolerances) for name in names))


# --- one family -----------------------------------------------------------------------------------


class _WrongOutputError(Exception):
    """The layer returned something of another kind or shape."""


def _examine(layer: Layer, name: str, seed: int, tolerances: Tolerances) -> AuditRow:
    generator = Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63)
    case = FAMILIES[name](generator)
    found: dict[str, Any] = {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for part in _measure(layer, case, generator, caught):
                found.update(part)
    except _WrongOutputError as error:
        found["error"] = str(error)
    except Exception as error:
        while_doing = "gradient " if "x_error" in found else ""
        found["error"] = f"{while_doing}raises {type(error).__name__}: {_one_line(error)}"
    row = AuditRow(family=name, **found)
    return replace(row, problems=judge(row, tolerances, case.looseness))


def _measure(layer: Layer, case: Case, generator: Generator, caught: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield what is measured step by step, so that an exception leaves what was there before it."""
    leaves = {name: v.clone().requires_grad_() for name, v in case.params.items()}
    arguments = case.write(leaves)
    returned = _call(layer, arguments)
    outputs = _outputs(returned, arguments)
    answer = case.read(outputs)
    kept = [i for i in range(BATCH) if i != case.spoiled]
    yield {"x_error": _error(answer["x"][kept], case.known["x"][kept])}
    yield {"finite": bool(answer["x"][kept].isfinite().all()), **_duals(outputs, answer, case, kept)}
    if case.spoiled is not None:
        yield {"silent": not _says_so(returned, outputs["x"], case.spoiled, caught)}

    weights = {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in case.known.items()}
    # A loss over the whole batch: a failed element's share must not harm its neighbours'.
    gradients, largest = _gradients(answer, weights, leaves, arguments)
    if not largest < (math.inf if case.has_gradient else EXPLODED):
        yield {"finite": False}
    if case.has_gradient:
        yield {"gradient_errors": _against_kkt(gradients, weights, case, kept)}
    if case.differences:
        yield {"difference_errors": _against_differences(layer, gradients, weights, case, kept, generator)}


def _call(layer: Layer, arguments: Tensors) -> Any:
    bounds = {name: arguments[name] for name in ("lb", "ub") if name in arguments}
    return layer(*(arguments.get(name) for name in ("P", "q", "G", "h", "A", "b")), **bounds)


def _outputs(returned: Any, arguments: Tensors) -> Tensors:
    """Return x and the multipliers of the rows that there are, in the shapes they must have."""
    q = arguments["q"]
    right = {"x": q, "z": arguments.get("h"), "y": arguments.get("b"), "z_box": arguments.get("lb")}
    outputs: Tensors = {}
    for name, like in right.items():
        v = returned if name == "x" and isinstance(returned, Tensor) else getattr(returned, name, None)
        if like is None or (v is None and name != "x"):
            continue
        if not isinstance(v, Tensor):
            raise _WrongOutputError(f"{name}: expected a torch.Tensor, got {type(v).__name__}")
        expected = (BATCH, like.shape[-1])
        if v.shape != expected or v.dtype != q.dtype:
            raise _WrongOutputError(f"{name}: expected {q.dtype} of shape {expected}, got {v.dtype} {tuple(v.shape)}")
        outputs[name] = v
    return outputs


def _duals(outputs: Tensors, answer: Tensors, case: Case, kept: list[int]) -> dict[str, float]:
    errors = [_error(answer[k][kept], v[kept]) for k, v in case.known.items() if k != "x" and k in answer]
    measured = {"dual_error": max(errors)} if errors else {}
    if "z" in outputs:
        z = outputs["z"][kept].detach()
        measured["dual_sign"] = max(0.0, float(-z.min() / z.abs().max().clamp(min=1)))
    return measured


def _says_so(returned: Any, x: Tensor, spoiled: int, caught: list[Any]) -> bool:
    """Return whether a failure shows: in the values, in a status, or in a warning."""
    status = getattr(returned, "status", None)
    if isinstance(status, Tensor) and status.shape == (BATCH,):
        return bool((status != status[spoiled]).sum() == BATCH - 1)
    warned = any(issubclass(w.category, (UserWarning, RuntimeWarning)) for w in caught)
    return warned or not bool(x[spoiled].isfinite().all())


def _gradients(
    answer: Tensors, weights: Tensors, leaves: Tensors, arguments: Tensors
) -> tuple[dict[str, Tensors], float]:
    """Return d<weights, output>/d(leaf) for each output, and the largest entry at the layer's arguments."""
    gradients, largest = {}, 0.0
    every = [*leaves.values(), *arguments.values()]
    for output in (name for name in weights if name in answer):
        loss = (weights[output] * answer[output]).sum()
        found: Iterable[Tensor | None] = [None] * len(every)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
        values = [torch.zeros_like(v) if g is None else g for v, g in zip(every, found, strict=True)]
        gradients[output] = dict(zip(leaves, values, strict=False))
        entries = torch.cat([g.double().flatten().abs() for g in values])
        largest = max(largest, float(entries.nan_to_num(nan=torch.inf).max()))
    if "P" in leaves:  # a layer may differentiate P's entries one by one or its symmetric part
        gradients = {k: g | {"P": 0.5 * (g["P"] + g["P"].mT)} for k, g in gradients.items()}
    return gradients, largest


def _against_kkt(gradients: dict[str, Tensors], weights: Tensors, case: Case, kept: list[int]) -> dict[str, float]:
    errors = {}
    for output in OUTPUTS:
        if output not in gradients:
            continue
        expected = kkt_gradients(case, {output: weights[output]})
        for name, v in case.params.items():
            pair = (gradients[output][name], expected[name])
            errors[f"d{output}/d{name}"] = _error(*(g if is_shared(name, v) else g[kept] for g in pair))
    return errors


def _against_differences(
    layer: Layer, gradients: dict[str, Tensors], weights: Tensors, case: Case, kept: list[int], generator: Generator
) -> dict[str, float]:
    def losses(params: Tensors) -> Tensors:
        with torch.no_grad():
            arguments = case.write(params)
            answer = case.read(_outputs(_call(layer, arguments), arguments))
            return {k: (weights[k] * answer[k]).sum(-1)[kept] for k in gradients}

    errors = {}
    for name, v in case.params.items():
        direction = random_direction(name, v, generator)
        for output, difference in finite_differences(losses, case.params, name, direction).items():
            slope = slope_along(name, gradients[output][name], direction)
            pair = (slope, difference.sum()) if is_shared(name, v) else (slope[kept], difference)
            errors[f"d{output}/d{name}"] = _error(*pair)
    return errors


def _error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach(), expected.detach()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    return error if math.isfinite(error) else math.inf


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 80 else text[:77] + "..."
