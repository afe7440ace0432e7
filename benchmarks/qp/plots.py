"""Figures of a run: time against batch, time against n, share of the machine's peak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report import write_figure
from .environments import PEERS
from .rounds import Row
from .shares import TARGETS, peak_share, share_rows
from .summary import spread

if TYPE_CHECKING:
    from .report import Report

MARKERS = "osD^v<>Px"
BATCH_FAMILIES = ("tiny", "small", "optnet")


def draw(report: Report, out: Path) -> None:
    """Write the figures for which there is something to draw."""
    families = [name for name in BATCH_FAMILIES if any(row.case.name == name for row in report.rows)]
    if families:
        draw_batch(report.rows, families, Path(f"{out}_batch.png"))
    series = [row for row in report.rows if row.case.group == "sweep" or row.case.key == "optnet;64"]
    if any(row.case.group == "sweep" for row in series):
        draw_size(series, Path(f"{out}_n.png"))
    draw_share(report, Path(f"{out}_peak.png"))


def draw_batch(rows: Sequence[Row], families: Sequence[str], path: Path) -> None:
    """Draw time per program against the batch size, one panel for each family."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(families), figsize=(1.5 + 4 * len(families), 4.6), layout="constrained",
                                squeeze=False)  # fmt: skip
    for axis, name in zip(axes[0], families, strict=True):
        mine = [row for row in rows if row.case.name == name]
        lines(axis, mine, lambda row: row.case.batch, lambda row: 1e6 / row.case.batch)
        case = mine[0].case
        axis.set(title=f"{name}: n = {case.n}, m = {case.m}, p = {case.p}", xlabel="batch")
        axis.set_xticks(
            sorted({row.case.batch for row in mine}), sorted({str(row.case.batch) for row in mine}, key=int)
        )
        axis.minorticks_off()
    axes[0][0].set_ylabel("time per program, forward + backward [µs]")
    legend(figure, axes[0])
    write_figure(path, figure)
    plt.close(figure)


def draw_size(rows: Sequence[Row], path: Path) -> None:
    """Draw the time of a batch against n."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    lines(axis, rows, lambda row: row.case.n, lambda row: 1e3)
    axis.set(title="m = n, p = 0, batch 64", xlabel="n", ylabel="time of the batch, forward + backward [ms]")
    axis.set_xticks(sorted({row.case.n for row in rows}), sorted({str(row.case.n) for row in rows}, key=int))
    axis.minorticks_off()
    legend(figure, [axis])
    write_figure(path, figure)
    plt.close(figure)


def lines(axis: Any, rows: Sequence[Row], x: Any, unit: Any) -> None:
    """Draw one line with quartiles for each peer that differentiates; hollow markers where its answer is wrong."""
    for index, name in enumerate(PEERS):
        mine = sorted((row for row in rows if row.name == name and row.forward_backward), key=x)
        if not mine:
            continue
        spreads = [spread(row.forward_backward) for row in mine]
        positions = [x(row) for row in mine]
        medians, lower, upper = (
            np.array([getattr(s, part) * unit(row) for s, row in zip(spreads, mine, strict=True)])
            for part in ("median", "lower", "upper")
        )
        ours = name == "ours"
        (line,) = axis.plot(positions, medians, "-", color="black" if ours else f"C{index - 1}",
                            linewidth=2.2 if ours else 1.2, zorder=3 if ours else 2)  # fmt: skip
        axis.fill_between(positions, lower, upper, color=line.get_color(), alpha=0.15, linewidth=0)
        for position, median, row in zip(positions, medians, mine, strict=True):
            axis.plot(position, median, MARKERS[index], color=line.get_color(), markersize=6, zorder=4,
                      markerfacecolor=line.get_color() if row.counts else "white")  # fmt: skip
        axis.plot([], [], MARKERS[index] + "-", color=line.get_color(), label=PEERS[name].title)
    axis.set(xscale="log", yscale="log")
    axis.grid(alpha=0.3)


def legend(figure: Any, axes: Sequence[Any]) -> None:
    """Put one legend for all panels outside of them."""
    entries: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    hollow = any(line.get_markerfacecolor() == "white" for axis in axes for line in axis.get_lines())
    title = "hollow: wrong, does not count" if hollow else None
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", frameon=False, title=title)


def draw_share(report: Report, path: Path) -> None:
    """Draw the share of one core's floating-point peak that our solver reaches, with its targets."""
    import matplotlib.pyplot as plt

    rows = share_rows(report.rows)
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    places = np.arange(len(rows))
    axis.bar(places, [100 * peak_share(row, report.peak) for row in rows], width=0.6, color="C0", label="measured")
    for place, row in zip(places, rows, strict=True):
        target = 100 * TARGETS[row.case.n]
        axis.plot([place - 0.4, place + 0.4], [target, target], color="black", label="target" if place == 0 else None)
    axis.set_xticks(places, [f"n = {row.case.n}\n{row.case.key}" for row in rows])
    axis.set(
        ylabel=f"share of {report.peak.flops / 1e9:.0f} Gflop/s [%]",
        ylim=(0, None),
        title="forward pass, one core;\nevery iteration counted as a full factorisation",
    )
    axis.legend(frameon=False)
    write_figure(path, figure)
    plt.close(figure)
