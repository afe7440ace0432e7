"""Runs the benchmark of inverse kinematics, writing what there is after every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from robotics import PlanarArm

from . import report
from .columns import Clock, measure
from .methods import Method, registry
from .networks import CACHE, Budget, Networks
from .queries import make_cell, scene
from .tracking import TICKS, TrackRow, measure_all

TRACK_SCENES = (0, 3)
SHARED = ", on a machine that other processes shared, so caches were not its own"
MOST_TRACKED = 300  # methods that can be asked so many queries are fast enough to follow a path


def select(names: Sequence[str]) -> list[Method]:
    """Return the methods whose names contain one of the words; all of them without words."""
    methods = registry()
    chosen = [m for m in methods if not names or any(name.lower() in m.name.lower() for name in names)]
    unknown = [name for name in names if not any(name.lower() in m.name.lower() for m in methods)]
    if unknown:
        known = ", ".join(m.name for m in methods)
        raise ValueError(f"--methods: expected parts of names of {known}, got {unknown[0]!r}")
    return chosen


def run(
    methods: Sequence[Method],
    cells: Sequence[str],
    queries: int,
    budget: Budget,
    clock: Clock,
    seconds: float,
    out: Path,
    tell: Callable[[str], None],
    cache: Path = CACHE,
    resume: bool = False,
) -> str:
    """Measure every method on every cell, write `out`.csv, .md and figures, and return the Markdown.

    Args:
        methods: Rows.
        cells: Names of cells.
        queries: Most queries of a cell.
        budget: Of training.
        clock: Of the times.
        seconds: Spent on times for each method and cell, about.
        out: Path without suffix.
        tell: Called with a line about each row.
        cache: Folder of trained networks.
        resume: Whether rows of the same data in `out`.csv are kept and not measured again.
    """
    torch.set_num_threads(1)
    heading, begin = describe(queries, budget, clock), time.monotonic()
    rows = report.read(out) if resume else []
    tracks: list[TrackRow] = []
    for name in cells:
        cell = make_cell(name, queries)
        networks = Networks(cell.arm, cell.circles, budget, cache)
        known = {row.method for row in rows if (row.cell, row.data) == (name, cell.hash[:12])}
        for method in (m for m in methods if m.takes(cell.arm) and m.name not in known):
            rows.append(measure(cell, method, networks, queries, clock, seconds))
            report.write(rows, tracks, heading, out)
            share = rows[-1].success_1e6 if cell.feasible else rows[-1].called_infeasible
            tell(f"{time.monotonic() - begin:6.0f} s  {name}  {method.name}: {100 * share:.1f} %")
    duka = PlanarArm.duka()
    for k in TRACK_SCENES:
        networks = Networks(duka, scene(duka, k), budget, cache)
        able = [m for m in methods if m.takes(duka) and m.most >= MOST_TRACKED]
        tracks += measure_all(scene(duka, k), able, networks, min(TICKS, queries))
        report.write(rows, tracks, heading, out)
    report.plot(rows, out)
    return report.write(rows, tracks, heading, out)


def describe(queries: int, budget: Budget, clock: Clock) -> str:
    """Return what the reader must know before the numbers."""
    return f"""# Inverse kinematics, every method on the same queries

Times are {clock} time of one thread, torch {torch.__version__}{SHARED if clock == "cpu" else ""}. At most
{queries} queries a cell, slow methods fewer (column *queries*). A cell is arm, number of circles, kind of targets.
Positions are asked for; Duka's network, the heads for poses, SDP and CIDGIK are asked for poses (x, y, Θ), of postures
that are safe. *SDP, network anchor* is one program, near the most promising head for poses (three links have 2, one for
each elbow; others 8); *in turn* asks the next head where the answer is not *certified*: for three links, 2 programs
less the share that the row above it has certified.
Success is of oracle-feasible targets, with limits and whole links exact. Tip errors, of reach, are over the answers
given, safe or not; so are *collide* and *tip in circle*. *called infeasible* counts INFEASIBLE and UNREACHABLE. *modes*
is the share of the oracle's intervals, of 100 targets, that the method's postures lie in, of all its starts or
restarts; a method of one answer finds one for each target.

Networks: {budget.samples} samples, {budget.epochs} epochs, with programs {budget.layer_epochs} more of
{budget.layer_samples} samples, 100 hidden units, seed {budget.seed}: small budgets. Labelled heads: {budget.head_steps}
steps on scenes of their own, so one network for all cells of an arm. Tracked methods answer each tick
alone; the last rows go on from the last tick's posture."""
