"""Time and memory, measured so that the answer can be believed on a shared machine."""

from __future__ import annotations

import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from .isolation import CallFailedError, IsolatedFunction

Key = TypeVar("Key", bound=Hashable)


def interleaved_medians(functions: Mapping[Key, Callable[[], object]], repeats: int) -> dict[Key, float]:
    """Time functions against each other: every round calls each of them once, in a new order.

    A slow spell of the machine then falls on all of them alike, and the median drops it. What counts is the CPU
    time of the process: with one thread that is the wall time of a machine that nobody else uses.

    Returns:
        The median CPU time of each function [s].
    """
    times: dict[Key, list[float]] = {key: [] for key in functions}
    order = random.Random(0)
    for _ in range(repeats):
        for key in order.sample(list(functions), len(functions)):
            start = time.process_time()
            functions[key]()
            times[key].append(time.process_time() - start)
    return {key: statistics.median(values) for key, values in times.items()}


def peak_resident_mib() -> float:
    """Return the most memory that this process has held in RAM [MiB].

    Linux's VmHWM begins anew with each program; getrusage's maxrss does not: a child inherits its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1024 * 1024 if sys.platform == "darwin" else 1024)


def in_own_process(function: Callable[..., Any], *args: object) -> Any:
    """Call a function of a module in a fresh interpreter (nothing is inherited) and return its result.

    Raises:
        click.ClickException: the process died or did not answer.
    """
    try:
        with IsolatedFunction(function, timeout=600) as call:
            return call(*args)
    except CallFailedError as error:
        raise click.ClickException(f"{function.__name__}{args}: {error}") from error
