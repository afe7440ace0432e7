"""The process of one peer: `python -m benchmarks.peers.layers.worker MODULE` in the peer's environment.

It reads one JSON object per line from stdin and answers each with one line on what was stdout when it started; what a
library prints goes to stderr. Arrays travel in .npz files. Nothing runs between two commands.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, final

import numpy as np

from . import Layer, Task

SLOW = 5.0  # [s]; the first call compiles and allocates, a second one finds the caches warm, unless it takes so long


def load_task(path: str, wanted: list[str], options: dict[str, Any]) -> Task:
    """Read what the driver wrote: the data by name, and v."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    v = arrays.pop("v")
    return Task(data=arrays, v=v, wanted=tuple(wanted), options=options)


@final
class Worker:
    """The commands; each takes and returns what JSON can hold."""

    def __init__(self, module: str) -> None:
        self.module = importlib.import_module(module)
        self.layer: Layer | None = None

    def versions(self) -> dict[str, str]:
        """Return the versions of the peer and of what it stands on."""
        return {name: importlib.metadata.version(name) for name in self.module.PACKAGES}

    def prepare(self, path: str, wanted: list[str], options: dict[str, Any]) -> dict[str, float]:
        """Take new data and warm up; return the time of the last call of `forward` and `forward_backward` [s]."""
        self.layer = None
        gc.collect()
        self.layer = layer = self.module.prepare(load_task(path, wanted, options))
        seconds = {}
        for what in ("forward", "forward_backward"):
            if hasattr(layer, what):
                for _ in range(2):
                    seconds[what] = self.time(what, 1)["wall"]
                    if seconds[what] > SLOW:
                        break
        return seconds

    def time(self, what: str, inner: int) -> dict[str, float]:
        """Call `inner` times without a pause and return wall and CPU time of one call [s]."""
        call = self._call(what)
        gc.collect()
        gc.disable()
        try:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(inner):
                call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        finally:
            gc.enable()
        return {"wall": wall / inner, "cpu": cpu / inner}

    def results(self, path: str) -> None:
        """Write x, multipliers and gradients."""
        assert self.layer is not None
        np.savez(path, **self.layer.results())  # type: ignore[arg-type]

    def peak(self, what: str) -> float:
        """Return the memory [MiB] that one call adds at its peak, results included (Linux; NaN elsewhere)."""
        call = self._call(what)
        gc.collect()
        if not Path("/proc/self/clear_refs").exists():
            return float("nan")
        ctypes.CDLL(None).malloc_trim(0)  # free memory that the allocator holds would hide what the call needs
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        kept = call()
        after = _status("VmHWM")
        del kept
        return after - before

    def _call(self, what: str) -> Callable[[], object]:
        assert self.layer is not None
        call: Callable[[], object] = getattr(self.layer, what)
        return call


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def limit_threads(threads: int) -> None:
    """Keep the process on as many cores as it may use: libraries with their own thread pools do not all ask."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def serve(module: str, threads: int, commands: TextIO, replies: TextIO) -> None:
    """Answer commands until stdin ends."""

    def reply(ok: bool, value: object) -> None:
        replies.write(json.dumps({"ok": ok, "value": value}) + "\n")
        replies.flush()

    try:
        worker = Worker(module)
        limit_threads(threads)
        reply(True, worker.versions())
    except Exception as error:
        reply(False, f"{type(error).__name__}: {error}")
        return
    for line in commands:
        command = json.loads(line)
        try:
            reply(True, getattr(worker, command.pop("do"))(**command))
        except Exception as error:
            reply(False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # from here on a print cannot be taken for an answer
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin, private)
