"""What all tests share: one thread, fixed random numbers, and the way to data outside the repository."""

from __future__ import annotations

import zlib
from pathlib import Path

import hypothesis
import pytest
import torch

from implicit_layers.qp import native

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


def pytest_generate_tests(metafunc):
    """Run every test of the quadratic programs on both cores: what holds for one holds for the other."""
    if metafunc.module.__name__.startswith("test_qp_") and "core" not in metafunc.fixturenames:
        metafunc.fixturenames.append("core")
    if "core" in metafunc.fixturenames:
        metafunc.parametrize("core", ["native", "torch"], indirect=True)


@pytest.fixture
def core(request, monkeypatch) -> str:
    """The solver's core: the compiled one, or plain torch as on a machine without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(native, "available", lambda *tensors: False)
    elif native.library() is None:
        pytest.skip("the compiled core was not built here (no compiler)")
    return request.param
