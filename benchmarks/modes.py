"""Forward mode against reverse mode: time and memory of a whole Jacobian over input and output width.

The layer is a fixed point between two matrices, `w = C z, z = tanh(Wz + B x)`: x has `inputs` entries, w `outputs`. The
Jacobian dw/dx by forward mode takes one tangent for each input, by reverse mode one cotangent for each output.

Time is CPU time on one thread, median of interleaved rounds. Memory is the largest sum of tensors alive at once during
the call, as torch's profiler counts allocations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from implicit_layers import find_fixed_point

from .measure import interleaved_medians
from .report import markdown_table, write_bytes, write_csv, write_figure

MODES: dict[str, Callable[..., Any]] = {"forward": torch.func.jacfwd, "reverse": torch.func.jacrev}


@dataclass(frozen=True)
class Row:
    """One measurement."""

    mode: str
    inputs: int
    outputs: int
    milliseconds: float
    peak_mib: float


def layer(inputs: int, outputs: int, hidden: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the layer and a point."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W, B, C = randn(hidden, hidden), randn(hidden, inputs), randn(outputs, hidden)
    W = 0.5 * W / torch.linalg.matrix_norm(W, 2)

    def cell(z: Tensor, injection: Tensor) -> Tensor:
        return torch.tanh(W @ z + injection)

    def function(x: Tensor) -> Tensor:
        w: Tensor = C @ find_fixed_point(cell, x.new_zeros(hidden), B @ x).w
        return w

    return function, randn(inputs)


def peak_mib(function: Callable[[], object]) -> float:
    """Return the most memory that tensors hold at once during a call, beyond what was there before [MiB]."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    held = largest = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            largest = max(largest, held)
    return largest / 2**20


def measure(widths: Sequence[tuple[int, int]], hidden: int, repeats: int) -> list[Row]:
    """Return one row for each mode and each pair of widths."""
    calls = {}
    for inputs, outputs in widths:
        function, x = layer(inputs, outputs, hidden)
        for mode, transform in MODES.items():
            calls[mode, inputs, outputs] = partial(transform(function), x)
    for call in calls.values():
        call()
    times = interleaved_medians(calls, repeats)
    return [Row(*key, 1e3 * times[key], peak_mib(calls[key])) for key in calls]


def run(hidden: int, repeats: int, out: Path, quick: bool) -> str:
    """Measure, write `out` with the suffixes .csv, .md and .png, and return the table."""
    torch.set_num_threads(1)
    sizes = [1, 4] if quick else [1, 4, 16, 64, 256]
    widths = list(dict.fromkeys([(size, sizes[-1]) for size in sizes] + [(sizes[-1], size) for size in sizes]))
    rows = measure(widths, hidden, repeats)
    table = describe(rows, hidden)
    write_csv(Path(f"{out}.csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    write_bytes(Path(f"{out}.md"), table.encode())
    plot(rows, sizes, Path(f"{out}.png"))
    return table


def describe(rows: Sequence[Row], hidden: int) -> str:
    """Return the Markdown table."""
    found = {(row.mode, row.inputs, row.outputs): row for row in rows}
    lines = []
    for inputs, outputs in dict.fromkeys((row.inputs, row.outputs) for row in rows):
        a, b = (found[mode, inputs, outputs] for mode in MODES)
        lines.append([f"{inputs} -> {outputs}", f"{a.milliseconds:.1f}", f"{b.milliseconds:.1f}",
                      f"{a.peak_mib:.2f}", f"{b.peak_mib:.2f}"])  # fmt: skip
    header = ["inputs -> outputs", "forward ms", "reverse ms", "forward MiB", "reverse MiB"]
    title = f"whole Jacobian of a fixed point with {hidden} unknowns, float64, one thread"
    return f"{title}\n\n{markdown_table(header, lines)}\n"


def plot(rows: Sequence[Row], sizes: Sequence[int], path: Path) -> None:
    """Draw time and memory over the number of inputs and the number of outputs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    wide = sizes[-1]
    for j, (fixed, free) in enumerate((("outputs", "inputs"), ("inputs", "outputs"))):
        for i, (field, label) in enumerate((("milliseconds", "time [ms]"), ("peak_mib", "memory [MiB]"))):
            for mode, style in zip(MODES, ("o-", "s--"), strict=True):
                mine = sorted((getattr(r, free), getattr(r, field)) for r in rows
                              if r.mode == mode and getattr(r, fixed) == wide)  # fmt: skip
                axes[i][j].loglog(*zip(*mine, strict=True), style, label=f"{mode} mode")
            axes[i][j].set(xlabel=f"{free} ({fixed}: {wide})", ylabel=label)
            axes[i][j].grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    write_figure(path, figure)
