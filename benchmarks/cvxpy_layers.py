"""Quadratic programs written in cvxpy: our CvxpyLayer beside that of cvxpylayers, both with all gradients."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cvxpy
import numpy as np
import torch
from torch import Tensor

from implicit_layers import CvxpyLayer

from .measure import interleaved_medians
from .report import markdown_table, write_bytes, write_csv

cp: Any = cvxpy  # its functions are exported in ways that type checkers do not see
STEP = 1e-6  # of the finite difference that gradients are compared with
TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}  # of Clarabel, for the reference


class Model(NamedTuple):
    """A problem, the variable that a layer returns, and how its parameters are drawn, one array `(batch, ...)` each."""

    problem: Any
    parameters: list[Any]
    variable: Any
    draw: Callable[[np.random.Generator, int], list[Any]]


def least_squares(m: int = 20, n: int = 10) -> Model:
    """Least squares on the simplex and below it, as in the README."""
    x, A, b = cp.Variable(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0, cp.sum(x) <= 1])
    return Model(problem, [A, b], x, lambda g, k: [g.standard_normal((k, m, n)), g.standard_normal((k, m))])


def portfolio(n: int = 20, factors: int = 3) -> Model:
    """Return against risk in a factor model; no short positions."""
    x, gain, loading = cp.Variable(n), cp.Parameter(n), cp.Parameter((factors, n))
    risk = cp.sum_squares(loading @ x) + 0.1 * cp.sum_squares(x)
    problem = cp.Problem(cp.Maximize(gain @ x - risk), [x >= 0, cp.sum(x) == 1])
    return Model(
        problem, [gain, loading], x, lambda g, k: [g.standard_normal((k, n)), g.standard_normal((k, factors, n))]
    )


def control(horizon: int = 20) -> Model:
    """Bring a double integrator to rest with bounded force, from where it is."""
    x, u, start = cp.Variable((horizon + 1, 2)), cp.Variable(horizon), cp.Parameter(2)
    step = np.array([[1.0, 0.1], [0.0, 1.0]])
    rules = [x[t + 1] == step @ x[t] + np.array([0.005, 0.1]) * u[t] for t in range(horizon)]
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(x) + 0.1 * cp.sum_squares(u)), [x[0] == start, cp.abs(u) <= 1, *rules]
    )
    return Model(problem, [start], u, lambda g, k: [g.standard_normal((k, 2))])


def smoothing(n: int = 200) -> Model:
    """Total variation: the signal near to y that changes seldom."""
    x, y = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + 2 * cp.norm1(cp.diff(x))))
    return Model(problem, [y], x, lambda g, k: [g.standard_normal((k, n)).cumsum(-1)])


MODELS: dict[str, Callable[[], Model]] = {
    "least squares": least_squares,
    "portfolio": portfolio,
    "control": control,
    "smoothing": smoothing,
}


@dataclass(frozen=True)
class Row:
    """One model at one batch size: CPU seconds forward and backward, and errors.

    `error` is the largest difference of the first element's answer from Clarabel's at its tightest; the gradient's is
    relative, of the slope along a random direction, against a central difference of our own answers.
    """

    model: str
    batch: int
    ours: float
    cvxpylayers: float
    error: float
    error_cvxpylayers: float
    gradient_error: float
    gradient_error_cvxpylayers: float


def measure(name: str, batch: int, repeats: int) -> Row:
    """Measure one model."""
    from cvxpylayers.torch import CvxpyLayer as Theirs  # type: ignore[attr-defined]

    model = MODELS[name]()
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(v) for v in model.draw(rng, batch)]
    directions = [torch.from_numpy(rng.standard_normal(v.shape)) for v in values]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cvxpy says of its own solvers
        layers = {"ours": CvxpyLayer, "cvxpylayers": Theirs}
        made = {who: make(model.problem, model.parameters, [model.variable]) for who, make in layers.items()}
        for parameter, v in zip(model.parameters, values, strict=True):
            parameter.value = v[0].numpy()
        model.problem.solve(solver=cp.CLARABEL, **TIGHT)
        reference = torch.from_numpy(np.asarray(model.variable.value))
        weight = torch.from_numpy(rng.standard_normal((batch, *reference.shape)))

        def run(who: str) -> tuple[Tensor, list[Tensor]]:
            leaves = [v.clone().requires_grad_() for v in values]
            (x,) = made[who](*leaves)
            (x * weight).sum().backward()
            return x.detach(), [v.grad for v in leaves if v.grad is not None]

        found = {who: run(who) for who in made}
        times = interleaved_medians({who: partial(run, who) for who in made}, repeats)
        ends = [made["ours"](*(v + t * d for v, d in zip(values, directions, strict=True)))[0] for t in (STEP, -STEP)]
    slope = float(((ends[0] - ends[1]) * weight).sum()) / (2 * STEP)
    errors = [float((found[who][0][0] - reference).abs().max()) for who in made]
    slopes = [float(sum((g * d).sum() for g, d in zip(found[who][1], directions, strict=True))) for who in made]
    gradients = [abs(one - slope) / abs(slope) for one in slopes]
    return Row(name, batch, times["ours"], times["cvxpylayers"], *errors, *gradients)


def run(batches: list[int], repeats: int, out: Path, log: Callable[[str], object]) -> str:
    """Measure all models; write CSV and Markdown, and return the table."""
    torch.set_num_threads(1)
    rows = []
    for name in MODELS:
        for batch in batches:
            rows.append(measure(name, batch, repeats))
            log(f"{name}, batch {batch}: {rows[-1].cvxpylayers / rows[-1].ours:.1f} times faster")
    write_csv(out.with_suffix(".csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    header = ["problem", "batch", "ours [ms]", "cvxpylayers [ms]", "faster", "error of x", "theirs", "of the gradient",
              "theirs"]  # fmt: skip
    cells = [
        [row.model, str(row.batch), f"{row.ours * 1e3:.2f}", f"{row.cvxpylayers * 1e3:.1f}",
         f"{row.cvxpylayers / row.ours:.1f}", *(f"{v:.0e}" for v in astuple(row)[4:])]
        for row in rows
    ]  # fmt: skip
    ratio = statistics.median(row.cvxpylayers / row.ours for row in rows)
    how = f"Forward and backward, CPU time of one core, medians of {repeats} interleaved rounds; median {ratio:.1f}x."
    text = f"{markdown_table(header, cells)}\n\n{how}\n"
    write_bytes(out.with_suffix(".md"), text.encode())
    return text
