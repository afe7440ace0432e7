"""The table as CSV, as Markdown, and as figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from matplotlib.figure import Figure

from ..report import markdown_table, write_bytes, write_csv, write_figure
from .columns import Row
from .tracking import TrackRow

HEADER = ("method", "queries", "≤1e-2", "≤1e-3", "≤1e-6", "median", "p95", "max", "collide", "tip in circle",
          "max depth", "beyond limits", "called infeasible", "wrongly so", "false SOLVED", "µs at 1", "at 100",
          "at 1e4", "modes", "rank 1")  # fmt: skip


def write(rows: Sequence[Row], tracks: Sequence[TrackRow], heading: str, out: Path) -> str:
    """Write CSV and Markdown, whatever rows there are so far, and return the Markdown."""
    write_csv(Path(f"{out}.csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    parts = [heading]
    for cell in dict.fromkeys(row.cell for row in rows):
        mine = [row for row in rows if row.cell == cell]
        parts.append(f"## {cell}\n\nseed {mine[0].seed}, data {mine[0].data}\n\n{_cell_table(mine)}")
    if tracks:
        write_csv(Path(f"{out}_tracking.csv"), [f.name for f in fields(TrackRow)], [astuple(row) for row in tracks])
        parts.append(f"## Tracking Duka's circle\n\n{_track_table(tracks)}")
    text = "\n\n".join(parts) + "\n"
    write_bytes(Path(f"{out}.md"), text.encode())
    return text


def read(out: Path) -> list[Row]:
    """Return the rows of a CSV file that `write` left, or none if there is no file."""
    path = Path(f"{out}.csv")
    if not path.is_file():
        return []
    kinds = {"str": str, "int": int, "float": float}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [Row(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(Row)}) for line in lines]


def _cell_table(rows: Sequence[Row]) -> str:
    lines = [
        [row.method, row.queries, *map(_percent, (row.success_1e2, row.success_1e3, row.success_1e6)),
         *map(_small, (row.median_error, row.p95_error, row.max_error)), _percent(row.collisions),
         _percent(row.tip_collisions), _small(row.max_penetration), row.limit_violations,
         _percent(row.called_infeasible), row.wrong_infeasible, row.false_solved,
         *map(_time, (row.us_1, row.us_100, row.us_10000)), _percent(row.modes), _percent(row.rank_one)]
        for row in rows
    ]  # fmt: skip
    return markdown_table(HEADER, lines)


def _track_table(tracks: Sequence[TrackRow]) -> str:
    header = ("circles, method", "answered", "max tip error", "max joint step [rad]", "colliding steps")
    return markdown_table(
        header,
        [
            [f"{row.scene}, {row.method}", _percent(row.answered), _small(row.max_error), f"{row.max_step:.3f}",
             row.collisions]
            for row in tracks
        ],
    )  # fmt: skip


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.4g} %"


def _small(value: float) -> str:
    return "-" if math.isnan(value) else "0" if value == 0 else f"{value:.0e}"


def _time(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def plot(rows: Sequence[Row], out: Path) -> None:
    """Draw success against time, one panel for each cell of feasible targets, and success at every level."""
    cells = [cell for cell in dict.fromkeys(row.cell for row in rows) if not cell.endswith("infeasible")]
    methods = list(dict.fromkeys(row.method for row in rows))
    if not cells:
        return
    _plot_time(rows, cells, methods, Path(f"{out}_time.png"))
    _plot_success(rows, cells, methods, Path(f"{out}_success.png"))


def _plot_time(rows: Sequence[Row], cells: Sequence[str], methods: Sequence[str], path: Path) -> None:
    columns = min(4, len(cells))
    lines = math.ceil(len(cells) / columns)
    figure = Figure(figsize=(3.6 * columns + 3.4, 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, cell in zip(axes, cells, strict=False):
        for i, method in enumerate(methods):
            for row in (row for row in rows if row.cell == cell and row.method == method):
                time = next((t for t in (row.us_10000, row.us_100, row.us_1) if not math.isnan(t)), math.nan)
                axis.plot(time, 100 * row.success_1e6, _marker(i), color=f"C{i % 10}", label=method)
        axis.set(title=cell, xscale="log", ylim=(-4, 104))
        axis.grid(alpha=0.3)
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    figure.supxlabel("time of a query [µs], largest batch measured")
    figure.supylabel("safe and within 1e-6 of reach [%]")
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=7)
    write_figure(path, figure)


def _plot_success(rows: Sequence[Row], cells: Sequence[str], methods: Sequence[str], path: Path) -> None:
    found = {(row.method, row.cell): row.success_1e6 for row in rows}
    values = [[100 * found.get((method, cell), math.nan) for cell in cells] for method in methods]
    figure = Figure(figsize=(1.1 * len(cells) + 4, 0.3 * len(methods) + 1.8), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            text = "" if math.isnan(value) else "100" if value == 100 else f"{min(value, 99.9):.1f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if value < 60 else "black")
    axis.set_xticks(range(len(cells)), cells, rotation=30, ha="right", fontsize=7)
    axis.set_yticks(range(len(methods)), methods, fontsize=7)
    figure.colorbar(image, label="safe and within 1e-6 of reach [%]")
    write_figure(path, figure)


def _marker(i: int) -> str:
    return "osv^DPX*<>hp"[i // 10 * 4 + i % 4]
