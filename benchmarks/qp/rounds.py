"""One case: every contender prepared and judged, then timed against the others in interleaved rounds."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from ..peers.layers import Arrays
from . import reference
from .cases import Case
from .environments import PEERS
from .judge import Accuracy, accuracy
from .processes import PeerError, PeerProcess
from .summary import takes_part

PHASES = ("forward", "forward_backward")
# Ours once more, by kind of case: names of processes, and titles.
TWO_THREADS = {"ours-2-threads": "ours, 2 threads"}
VARIANTS: dict[str, dict[str, str | None]] = {
    "shared": {"ours": "ours, P and G shared", "ours-expanded": "ours, P and G copied for each element"},
    "simplex": {"ours-projection": "ours, project_simplex"},
    "projection": {"ours-projection": "ours, project_simplex", "dqp": "dQP (sparse, PIQP)"},
}
OPTIONS: dict[str, dict[str, Any]] = {"ours-expanded": {"expand": True}}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much time a case may take.

    Attributes:
        rounds: in which every contender is timed once.
        seconds: of timing for each contender and case [s]; a slower one takes part in fewer rounds, at least one.
        timeout: longest time of one command (warm-up, one sample, results) [s]; who needs longer is left out.
        sample: shortest time of a sample [s]; shorter calls are repeated within it.
        clock: "wall"; or "cpu" on a machine that others use, where one thread's wall time says little (a contender
            with more threads is always timed by the wall clock).
    """

    rounds: int = 15
    seconds: float = 3.0
    timeout: float = 20.0
    sample: float = 0.02
    clock: Literal["wall", "cpu"] = "wall"


@dataclass(frozen=True)
class Contender:
    """A peer with its process and options."""

    name: str
    title: str
    process: PeerProcess
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """What one contender did in one case; times in seconds for the whole batch, by round."""

    case: Case
    name: str
    title: str
    forward: dict[int, float] = field(default_factory=dict)
    forward_backward: dict[int, float] = field(default_factory=dict)
    cpu_share: list[float] = field(default_factory=list)
    accuracy: Accuracy | None = None
    iterations: list[int] = field(default_factory=list)
    peak_mib: float = float("nan")
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    wrong_rule: bool = False

    @property
    def counts(self) -> bool:
        """Whether its times may be compared: answer and derivative are right."""
        return self.accuracy is not None and self.accuracy.correct and not self.wrong_rule


def mark_wrong_rules(rows: Sequence[Row]) -> None:
    """Mark a contender in all cases of a size if its derivative is wrong in one of them although its answer is right.

    A batch of one may hide a wrong rule: at a vertex, say, half of the terms vanish.
    """

    def size(row: Row) -> tuple[object, ...]:
        return row.name, row.case.kind, row.case.n, row.case.m, row.case.p

    wrong = {size(row) for row in rows if row.accuracy is not None and row.accuracy.wrong_rule}
    for row in rows:
        row.wrong_rule = size(row) in wrong


def contenders_for(case: Case, processes: Mapping[str, PeerProcess]) -> list[Contender]:
    """Return who runs in a case: every peer, and ours again with two threads or without sharing."""
    chosen = dict.fromkeys(name for name in processes if name in PEERS) | VARIANTS.get(case.kind, {})
    if case.kind in ("shared", "projection"):
        chosen = VARIANTS[case.kind]
    elif case.batch >= 64 and case.group == "table":
        chosen = chosen | TWO_THREADS
    return [
        Contender(name, title or PEERS[name].title, processes[name], OPTIONS.get(name, {}))
        for name, title in chosen.items()
        if name in processes
    ]


def run_case(case: Case, contenders: Sequence[Contender], budget: Budget, log: Callable[[str], object]) -> list[Row]:
    """Prepare, judge and time every contender; one that fails has a note instead of times."""
    data = reference.draw(case)
    exact = reference.solve(data)
    rows = {c.name: Row(case, c.name, c.title) for c in contenders}
    plans: dict[tuple[str, str], tuple[int, int]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)  # type: ignore[arg-type]
        for contender in contenders:
            log(f"{case.key}: {contender.title}")
            row = rows[contender.name]
            try:
                seconds = prepare(case, contender, path, budget)
                found = results(contender, Path(folder), budget)
                row.versions = contender.process.versions
                row.accuracy = accuracy(data, found, exact)
                row.iterations = [int(k) for k in found.get("iterations", ())]
                plans |= {(contender.name, what): plan(time, len(seconds), budget) for what, time in seconds.items()}
                if case.kind == "shared":
                    row.peak_mib = contender.process.ask("peak", budget.timeout, what="forward_backward")
            except PeerError as error:
                row.note = f"{error}"
                log(f"{case.key}: {contender.title}: {error}")
        time_rounds(case, contenders, rows, plans, budget)
    return list(rows.values())


def prepare(case: Case, contender: Contender, path: Path, budget: Budget) -> dict[str, float]:
    """Hand the data over and warm up."""
    seconds: dict[str, float] = contender.process.ask(
        "prepare", budget.timeout, path=str(path), wanted=case.wanted, options=dict(contender.options)
    )
    return seconds


def results(contender: Contender, folder: Path, budget: Budget) -> Arrays:
    """Fetch the answer and the gradients."""
    path = folder / f"{contender.name}.npz"
    contender.process.ask("results", budget.timeout, path=str(path))
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    os.unlink(path)
    return found


def plan(seconds: float, phases: int, budget: Budget) -> tuple[int, int]:
    """Return how often a call is repeated in a sample, and in how many rounds it takes part."""
    inner = max(1, math.ceil(budget.sample / max(seconds, 1e-7)))
    return inner, max(1, min(budget.rounds, int(budget.seconds / phases / (inner * seconds))))


def time_rounds(
    case: Case,
    contenders: Sequence[Contender],
    rows: Mapping[str, Row],
    plans: Mapping[tuple[str, str], tuple[int, int]],
    budget: Budget,
) -> None:
    """Time everything that has a plan; every round has an order of its own. Only one process computes at a time."""
    order = random.Random(case.key)
    for index in range(budget.rounds):
        for contender in order.sample(list(contenders), len(contenders)):
            row = rows[contender.name]
            due = [w for w in PHASES if takes_part(index, plans.get((row.name, w), (0, 0))[1], budget.rounds)]
            if row.note or not due:
                continue
            try:
                for what in order.sample(due, len(due)):
                    taken = contender.process.ask("time", budget.timeout, what=what, inner=plans[row.name, what][0])
                    getattr(row, what)[index] = taken[budget.clock if contender.process.threads == 1 else "wall"]
                    if contender.process.threads == 1:
                        row.cpu_share.append(taken["cpu"] / taken["wall"])
            except PeerError as error:
                row.note = f"{error}"
