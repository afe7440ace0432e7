"""The commands `ik` and `ik-safety` of `python -m benchmarks`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import click

from ..report import RESULTS, write_bytes


@click.command("ik")
@click.option("--methods", default="", help="Comma-separated parts of names; default: all.")
@click.option("--cells", default="", help="Comma-separated, as unit-3-workspace; default: nine of them.")
@click.option("--queries", default=1000, show_default=True, type=click.IntRange(8), help="Most queries of a cell.")
@click.option("--seconds", default=0.6, show_default=True, type=click.FloatRange(0), help="Timing per row [s].")
@click.option("--clock", default="cpu", show_default=True, type=click.Choice(["wall", "cpu"]),
              help="CPU time is for a machine that others use too.")  # fmt: skip
@click.option("--full", is_flag=True, help="All arms, scenes and kinds of targets.")
@click.option("--quick", is_flag=True, help="Three cells, few queries, networks hardly trained: under a minute.")
@click.option("--resume", is_flag=True, help="Keep the rows of the same data that are there already.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "ik", show_default=True,
              help="Path without suffix; .csv, .md, _tracking.csv and _*.png are added.")  # fmt: skip
def ik(
    methods: str, cells: str, queries: int, seconds: float, clock: Literal["wall", "cpu"], full: bool, quick: bool,
    resume: bool, out: Path,
) -> None:  # fmt: skip
    """Inverse kinematics: networks, certified layers, classical solvers and convex programs on the same targets.

    Success, safety, time, modes and tracking. Networks are trained on first use and kept under runs/.
    """
    from .networks import QUICK, Budget
    from .queries import DEFAULT_CELLS, QUICK_CELLS, all_cells
    from .run import run, select

    if not out.parent.is_dir():
        raise click.UsageError(f"--out: expected an existing folder, got {out.parent}")
    chosen = _split(cells) or list(QUICK_CELLS if quick else all_cells() if full else DEFAULT_CELLS)
    unknown = [name for name in chosen if name not in all_cells()]
    if unknown:
        raise click.UsageError(f"--cells: expected names as {', '.join(DEFAULT_CELLS)}, got {unknown[0]!r}")
    try:
        rows = select(_split(methods))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    budget = QUICK if quick else Budget()
    queries, seconds = (min(queries, 16), 0.02) if quick else (queries, seconds)
    run(rows, chosen, queries, budget, clock, seconds, out, lambda line: click.echo(line, err=True), resume=resume)
    click.echo(f"written: {out}.csv, {out}.md, {out}_tracking.csv, {out}_*.png")


@click.command("ik-safety")
@click.option("--count", default=1_000_000, show_default=True, type=click.IntRange(1), help="Queries.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of everything.")
@click.option("--minutes", default=math.inf, type=click.FloatRange(0), help="After which no new batch is begun.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "ik_safety.md",
              show_default=True, help="Markdown file of counts.")  # fmt: skip
@click.pass_context
def ik_safety(context: click.Context, count: int, seed: int, minutes: float, out: Path) -> None:
    """Answers among hostile circles, each judged by an independent check, and certified steps along their length.

    Exit code 1 if one is unsafe, or a verdict is wrong.
    """
    from .safety import describe, run, violations

    if not out.parent.is_dir():
        raise click.UsageError(f"--out: expected a file in an existing folder, got {out}")
    found = run(count, seed, seconds=60 * minutes)
    write_bytes(out, describe(found, seed).encode())
    click.echo(describe(found, seed))
    context.exit(1 if violations(found) else 0)


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
