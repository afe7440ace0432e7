"""The machine and the software of a run, for the header of a report."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from .processes import ROOT


def describe() -> list[tuple[str, str]]:
    """Return what a reader needs in order to repeat a run, as name and value."""
    return [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", commit()),
        ("processor", processor()),
        ("cores", str(os.cpu_count())),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("torch", importlib.metadata.version("torch")),
        ("compiled core", core()),
    ]


def processor() -> str:
    """Return the model of the processor, and its widest vector instructions."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    vectors = next((name for name in ("avx512f", "avx2", "avx") if name in flags), platform.machine())
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}; {vectors})"


def commit() -> str:
    """Return the commit, and whether files differ from it."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
                               check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def core() -> str:
    """Return whether our compiled core runs."""
    from implicit_layers import InteriorPoint, ProblemError

    try:
        InteriorPoint(core="native")
    except ProblemError:
        return "not built: plain torch runs"
    return "built"
