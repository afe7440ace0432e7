"""The whole benchmark: processes, cases, report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

import implicit_layers

from . import report
from .cases import EXPERIMENTS, QUICK, SHARED, SWEEP, TABLE, Case
from .environments import LAYERS, OURS, PEERS, Peer
from .machine import describe
from .peak import measure_peak
from .processes import PeerProcess
from .rounds import Budget, Row, contenders_for, mark_wrong_rules, run_case

LIGHT = ("ours", "proxsuite", "moreau", "daqp", "piqp")  # start and answer fast
Log = Callable[[str], object]


def select_cases(names: Sequence[str], quick: bool, experiments: bool) -> list[Case]:
    """Return the cases asked for: by key ("tiny;128") or family ("tiny"); all of a full run if none is named.

    Raises:
        click.UsageError: a name fits no case.
    """
    if quick and not names:
        return QUICK
    everything = [*TABLE, SHARED, *SWEEP, *EXPERIMENTS]
    if not names:
        return [case for case in everything if experiments or case.group != "experiment"]
    unknown = [name for name in names if not any(name in (case.name, case.key) for case in everything)]
    if unknown:
        known = ", ".join(dict.fromkeys(case.name for case in everything))
        raise click.UsageError(f"--cases: expected names of {known}, got {unknown[0]!r}")
    return [case for case in everything if case.name in names or case.key in names]


def select_peers(names: Sequence[str], quick: bool) -> tuple[list[Peer], list[str]]:
    """Return the peers that run (ours is always one of them) and a line for each that is not installed.

    Raises:
        click.UsageError: a name is no peer.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise click.UsageError(f"--peers: expected names of {', '.join(PEERS)}, got {unknown[0]!r}")
    default = LIGHT if quick else tuple(PEERS)
    wanted = [PEERS[name] for name in PEERS if name in (names or default) or name == OURS.name]
    missing = [
        f"{p.title}: not installed (`make bench-peers` builds its environment)" for p in wanted if not p.installed
    ]
    return [peer for peer in wanted if peer.installed], missing


@contextlib.contextmanager
def processes_of(peers: Sequence[Peer]) -> Iterator[dict[str, PeerProcess]]:
    """Yield a process for each peer, and for each variant of ours that this machine and this version can run."""
    with contextlib.ExitStack() as stack:
        found = {peer.name: PeerProcess(peer.python, peer.module) for peer in peers}
        found["ours-expanded"] = PeerProcess(OURS.python, OURS.module)
        if (os.cpu_count() or 1) >= 2:
            found["ours-2-threads"] = PeerProcess(OURS.python, OURS.module, threads=2)
        if hasattr(implicit_layers, "projections"):
            found["ours-projection"] = PeerProcess(OURS.python, f"{LAYERS}.ours_projection")
        for process in found.values():
            stack.enter_context(process)
        yield found


def run(cases: Sequence[Case], peers: Sequence[Peer], notes: Sequence[str], budget: Budget, out: Path, log: Log) -> str:
    """Run the cases and write `out` with the suffixes .csv, .md and _*.png; return the table.

    Files are written after every case, so a run that is stopped leaves what it has.
    """
    rows: list[Row] = []
    peak = measure_peak()
    with processes_of(peers) as processes:
        for case in cases:
            rows += run_case(case, contenders_for(case, processes), budget, log)
            mark_wrong_rules(rows)
            written = report.Report(rows, describe(), notes, budget, peak)
            report.write(written, out)
    tables = (report.main_table(rows), report.main_table(rows, "experiment"))
    return "\n\n".join(table for table in tables if table.count("\n") >= 2)
