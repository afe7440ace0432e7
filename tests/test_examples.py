"""Every example runs, at reduced size, as a user would start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
REDUCED = {
    "bilevel.py": ["--quick"],
    "deq_digits.py": ["--quick"],
    "regularisers.py": ["--quick"],
    "sudoku.py": ["--epochs", "2"],
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(REDUCED)


@pytest.mark.parametrize("name", REDUCED)
def test_an_example_runs_and_writes_its_figure(name, tmp_path):
    figure = tmp_path / "figure.png"
    command = [sys.executable, "-W", "error", EXAMPLES / name, *REDUCED[name], "--out", figure]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert figure.read_bytes().startswith(b"\x89PNG")
