"""Every rule of differentiation on the same conditions: time, memory and gradient error.

Four problems: a linear fixed point `z = Wz + x`, whose derivative is `(I - W)⁻¹`; the cell of a deep equilibrium model,
`z = tanh(Wz + x)`; ridge regression and logistic regression, each element of the batch with data of its own.

- *Time*: CPU time of forward and of backward on one thread, median of interleaved rounds.
- *Peak memory*: what one forward and backward adds to the resident memory of a process of its own.
- *Gradient error*: relative, all gradients as one vector, against autograd through one dense solve with the Jacobian
  written out by hand at a solution found by plain iteration: code that shares nothing with the package.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from implicit_layers import (
    CG,
    GMRES,
    LBFGS,
    Anderson,
    DenseLU,
    Implicit,
    Neumann,
    Newton,
    OneStep,
    Picard,
    Unrolled,
)

from .differentiation_problems import Leaves, Problem, make
from .measure import in_own_process, interleaved_medians, peak_resident_mib
from .report import markdown_table, write_bytes, write_csv, write_figure


@dataclass(frozen=True)
class Row:
    """One measurement."""

    problem: str
    rule: str
    forward_ms: float
    backward_ms: float
    peak_mib: float
    gradient_error: float


# --- rules ----------------------------------------------------------------------------------------


def rules(minimises: bool) -> dict[str, tuple[Any, Any]]:
    """Return (solver, differentiate) by name."""
    solver = LBFGS() if minimises else Anderson()
    krylov = CG() if minimises else GMRES()
    return {
        "Implicit, DenseLU": (solver, Implicit(linear=DenseLU())),
        f"Implicit, {type(krylov).__name__}": (solver, Implicit(linear=krylov)),
        "Implicit, Neumann, 5 terms": (solver, Implicit(linear=Neumann(terms=5))),
        "Implicit, Neumann, 20 terms": (solver, Implicit(linear=Neumann(terms=20))),
        "OneStep" + (" of Newton" if minimises else ""): (Newton() if minimises else solver, OneStep()),
        f"Unrolled, {type(solver).__name__}": (solver, Unrolled()),
        "Unrolled, Newton" if minimises else "Unrolled, Picard": (Newton() if minimises else Picard(), Unrolled()),
    }


def differentiate(problem: Problem, solve: Callable[[Leaves], Tensor]) -> tuple[list[Tensor], float, float]:
    """Return the gradients of v'w, and the CPU time of forward and backward [s]."""
    leaves = tuple(v.clone().requires_grad_() for v in problem.leaves)
    begin = time.process_time()
    w = solve(leaves)
    middle = time.process_time()
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=w.dtype)
    gradients = torch.autograd.grad((v * w).sum(), leaves)
    return list(gradients), middle - begin, time.process_time() - middle


def peak_memory(name: str, rule: str, n: int, batch: int) -> float:
    """Return the memory [MiB] that one forward and backward adds at its peak; call it in a process of its own."""
    torch.set_num_threads(1)
    small, problem = make(name, 4, 2), make(name, n, batch)
    solver, how = rules(problem.minimises)[rule]
    differentiate(small, lambda leaves: small.solve(leaves, solver, how))
    baseline = peak_resident_mib()
    differentiate(problem, lambda leaves: problem.solve(leaves, solver, how))
    return peak_resident_mib() - baseline


# --- measurement ----------------------------------------------------------------------------------


def measure(name: str, n: int, batch: int, repeats: int, memory: bool = True) -> list[Row]:
    """Return one row for each rule."""
    problem = make(name, n, batch)
    reference = torch.cat([g.flatten() for g in differentiate(problem, problem.reference)[0]])
    choices = rules(problem.minimises)
    seconds: dict[str, list[tuple[float, float]]] = {rule: [] for rule in choices}
    errors: dict[str, float] = {}

    def call(rule: str) -> None:
        solver, how = choices[rule]
        gradients, *times = differentiate(problem, lambda leaves: problem.solve(leaves, solver, how))
        seconds[rule].append((times[0], times[1]))
        found = torch.cat([g.flatten() for g in gradients])
        errors[rule] = float((found - reference).norm() / reference.norm())

    for rule in choices:  # what is loaded on first use
        call(rule)
    seconds = {rule: [] for rule in choices}
    interleaved_medians({rule: partial(call, rule) for rule in choices}, repeats)
    rows = []
    for rule in choices:
        forward, backward = (1e3 * statistics.median(part) for part in zip(*seconds[rule], strict=True))
        peak = in_own_process(peak_memory, name, rule, n, batch) if memory else float("nan")
        rows.append(Row(name, rule, forward, backward, peak, errors[rule]))
    return rows


def run(n: int, batch: int, repeats: int, out: Path, memory: bool = True) -> str:
    """Measure all problems, write `out` with the suffixes .csv, .md and .png, and return the table."""
    torch.set_num_threads(1)
    rows = [row for name in ("linear", "cell", "ridge", "logistic") for row in measure(name, n, batch, repeats, memory)]
    table = describe(rows, n, batch)
    write_csv(Path(f"{out}.csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    write_bytes(Path(f"{out}.md"), table.encode())
    plot(rows, Path(f"{out}.png"))
    return table


def describe(rows: Sequence[Row], n: int, batch: int) -> str:
    """Return the Markdown table."""
    lines = [
        [f"{row.problem}: {row.rule}", f"{row.forward_ms:.1f}", f"{row.backward_ms:.1f}", f"{row.peak_mib:.1f}",
         f"{row.gradient_error:.0e}"]
        for row in rows
    ]  # fmt: skip
    header = ["problem: rule", "forward ms", "backward ms", "peak MiB", "gradient error"]
    return f"n = {n}, batch = {batch}, float64, one thread, CPU time\n\n{markdown_table(header, lines)}\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw error against time, one panel for each problem."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.problem for row in rows))
    figure = Figure(figsize=(3.4 * len(names), 4.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for i, row in enumerate(row for row in rows if row.problem == name):
            axis.loglog(row.forward_ms + row.backward_ms, max(row.gradient_error, 1e-16), "osv^DPX"[i], label=row.rule)
        axis.set(title=name, xlabel="forward + backward [ms]", ylabel="relative error of the gradient")
        axis.legend(fontsize=6)
        axis.grid(alpha=0.3)
    write_figure(path, figure)
