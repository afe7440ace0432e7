"""The README is executable: its Python blocks run, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1])
def test_a_python_block_of_the_readme_runs(block):
    # A process of its own: a newcomer pastes it into an empty file, and warnings are errors here too.
    seeded = "import torch; torch.manual_seed(0)\n" + block  # the same draws every time
    run = subprocess.run([sys.executable, "-W", "error", "-c", seeded], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_readme_has_the_example_up_front():
    assert README.index("```python") < README.index("## ")


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^make ([a-z-]+)", README, re.M))))
def test_a_make_target_of_the_readme_exists(command):
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python -m ((?:robotics|benchmarks|implicit_layers) [a-z-]+)", README)))
)
def test_a_command_of_the_readme_has_help(command):
    module, name = command.split()
    arguments = (
        [sys.executable, "-m", module, name, "--help"] if name[0] != "-" else [sys.executable, "-m", module, name]
    )
    assert subprocess.run(arguments, capture_output=True, check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link):
    assert (ROOT / link).exists()
