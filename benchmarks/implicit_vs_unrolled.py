"""The implicit gradient against the unrolled one: time, memory and accuracy over the number of iterations.

Both run the same interior point method on the same batch and differentiate `v'x` with a fixed random v in P, q, G,
h, A and b. Implicit stops at convergence (`max_iter=k` is only a cap); Unrolled puts k iterations on autograd's tape.
Both use the solver in plain torch, since the compiled core cannot be unrolled and would flatter Implicit.

- *Time*: CPU time of forward and backward on one thread; median of rounds in which every (method, k) runs once, in
  random order.
- *Peak memory*: each (method, k) in a process of its own. It builds the problem, warms up on a batch of one with two
  iterations (libraries loaded, buffers made), reads the high-water mark of its resident memory (VmHWM), runs
  forward and backward once at full size, and reads it again: the difference is what the call added at its peak,
  the six gradients included.
- *Gradient error*: relative, over all six gradients together, against autograd through one dense solve with the
  active set from which the problem was built: code that shares nothing with the package. An element that Implicit
  did not solve within k iterations has zero gradient, so it counts as an error of 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from implicit_layers import Implicit, InteriorPoint, QPProblem, SolverWarning, SolveStatus, Unrolled, solve_qp

from .measure import in_own_process, interleaved_medians, peak_resident_mib
from .problem_sets import Known, active_set_solution, known_optimum
from .report import markdown_table, write_bytes, write_csv, write_figure

Method = Literal["implicit", "unrolled"]
METHODS: tuple[Method, ...] = ("implicit", "unrolled")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of the batch of random programs."""

    n: int = 50
    m: int = 50
    p: int = 10
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One measurement."""

    method: Method
    iterations: int
    milliseconds: float
    peak_mib: float
    gradient_error: float
    solved: float


def run(size: Size, iterations: Sequence[int], repeats: int, out: Path) -> str:
    """Measure, write `out` with the suffixes .csv, .png and .md, and return the table.

    Args:
        size: of the programs.
        iterations: the numbers k.
        repeats: rounds of timing.
        out: path without suffix.
    """
    torch.set_num_threads(1)
    rows = measure(size, iterations, repeats)
    table = describe(rows, size)
    write_csv(Path(f"{out}.csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    write_bytes(Path(f"{out}.md"), table.encode())
    plot(rows, size, Path(f"{out}.png"))
    return table


def measure(size: Size, iterations: Sequence[int], repeats: int) -> list[Row]:
    """Return one row for each method and each k."""
    known = known_optimum(**asdict(size))
    keys = [(method, k) for k in iterations for method in METHODS]
    reference = gradients(active_set_solution, known)
    errors, solved = {}, {}
    for method, k in keys:
        found, solved[method, k] = differentiate(method, k, known)
        errors[method, k] = relative_error(found, reference)

    def timed(method: Method, k: int) -> Callable[[], object]:
        return lambda: differentiate(method, k, known)

    times = interleaved_medians({key: timed(*key) for key in keys}, repeats)
    return [
        Row(method, k, 1e3 * times[method, k], in_own_process(peak_memory, method, k, size), errors[method, k],
            solved[method, k])
        for method, k in keys
    ]  # fmt: skip


def gradients(solve: Callable[[QPProblem, Tensor], Tensor], known: Known) -> list[Tensor]:
    """Return the gradients of v'x in P, q, G, h, A, b."""
    leaves = [v.clone().requires_grad_() for v in known.problem if v is not None]
    x = solve(QPProblem(*leaves), known.active)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (v * x).sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def differentiate(method: Method, k: int, known: Known) -> tuple[list[Tensor], float]:
    """Return the gradients by one method with k iterations, and the share of elements that were solved."""
    share = 0.0

    def solve(problem: QPProblem, _: Tensor) -> Tensor:
        nonlocal share
        implicit = method == "implicit"
        solution = solve_qp(
            *problem,
            solver=InteriorPoint(max_iter=k if implicit else 100, core="torch"),
            differentiate=Implicit() if implicit else Unrolled(iterations=k),
        )
        share = float((solution.status == SolveStatus.SOLVED).double().mean())
        return solution.x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)  # few iterations do not converge: that is being measured
        return gradients(solve, known), share


def relative_error(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return |found - reference| / |reference|, all gradients taken as one vector."""
    a, b = (torch.cat([v.flatten() for v in vectors]) for vectors in (found, reference))
    return float((a - b).norm() / b.norm())


def peak_memory(method: Method, k: int, size: Size) -> float:
    """Return the memory [MiB] that one forward and backward adds at its peak; call it in a process of its own."""
    torch.set_num_threads(1)
    known = known_optimum(**asdict(size))
    single = known_optimum(**asdict(size) | {"batch": 1})
    differentiate(method, 2, single)
    baseline = peak_resident_mib()
    differentiate(method, k, known)
    return peak_resident_mib() - baseline


def describe(rows: Sequence[Row], size: Size) -> str:
    """Return the Markdown table: one line for each k."""
    found = {(row.method, row.iterations): row for row in rows}
    lines = []
    for k in sorted({row.iterations for row in rows}):
        a, b = found["implicit", k], found["unrolled", k]
        lines.append(
            [k, f"{a.milliseconds:.1f}", f"{b.milliseconds:.1f}", f"{a.peak_mib:.0f}", f"{b.peak_mib:.0f}",
             f"{a.gradient_error:.1e}", f"{b.gradient_error:.1e}", f"{a.solved:.0%}"]
        )  # fmt: skip
    header = ["iterations", "implicit ms", "unrolled ms", "implicit MiB", "unrolled MiB"]
    header += ["implicit error", "unrolled error", "implicit solved"]
    title = f"n = {size.n}, m = {size.m}, p = {size.p}, batch = {size.batch}, float64; "
    title += "CPU time on one thread, forward + backward"
    return f"{title}\n\n{markdown_table(header, lines)}\n"


def plot(rows: Sequence[Row], size: Size, path: Path) -> None:
    """Draw time, peak memory and gradient error against the number of iterations."""
    import matplotlib.pyplot as plt

    panels: list[tuple[str, str]] = [
        ("milliseconds", "CPU time of forward + backward [ms]"),
        ("peak_mib", "peak memory of the call [MiB]"),
        ("gradient_error", "relative error of the gradient"),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (field, label) in zip(axes, panels, strict=True):
        for method, style in zip(METHODS, ("o-", "s--"), strict=True):
            mine = [row for row in rows if row.method == method]
            values = [getattr(row, field) for row in mine]
            axis.plot([row.iterations for row in mine], values, style, markersize=4, label=method)
        axis.set(xlabel="iterations k (implicit: at most k)", ylabel=label)
        axis.grid(alpha=0.3)
        axis.set_yscale("log") if field == "gradient_error" else axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    everything = min((row.iterations for row in rows if row.method == "implicit" and row.solved == 1), default=None)
    if everything is not None:
        axes[2].axvline(everything, color="grey", linestyle=":")
        note = f"implicit: all solved\nwithin k = {everything}\n(unsolved: zero gradient)"
        axes[2].annotate(note, (everything, 0.15), (6, 0), xycoords=("data", "axes fraction"),
                         textcoords="offset points", color="dimgrey", fontsize=9)  # fmt: skip
    figure.suptitle(f"{size.batch} QPs with n = {size.n}, m = {size.m}, p = {size.p}; float64, one thread")
    write_figure(path, figure)
    plt.close(figure)
