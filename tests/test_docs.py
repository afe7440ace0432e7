"""The documentation is executable, as the README is: its Python blocks run, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
# A block that starts with `import torch` is a whole program; others are sketches and signatures.
BLOCKS = [
    pytest.param(block, id=f"{path.stem}: {block.splitlines()[1]}")
    for path in DOCS
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    if block.startswith("import torch\n")
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_of_the_documentation_runs(block):
    run = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_the_links_of_the_documentation_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link
