"""What all tests share: one thread, fixed random numbers, and the way to data outside the repository."""

from __future__ import annotations

import zlib
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=15)
hypothesis.settings.load_profile("deterministic")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def seed(request) -> int:
    """A number of the test's own: the same in every run, another for every test and parameter."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def generator(seed) -> torch.Generator:
    """Random numbers of the test's own."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def shared_data():
    """A function from a folder's name to its path; skips the test where the data is not laid out."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"data set {name} is not at {path}")
        return path

    return find
