"""Properties that hold for whatever hypothesis draws, over every class of problems the fuzz command knows."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.fuzz import examine
from benchmarks.fuzz_problems import CLASSES, Draw
from implicit_layers import InteriorPoint


# The core is fixed by the test, not drawn: its fixture may stay over all examples.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", CLASSES)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_answer_carries_a_proof_or_an_honest_status_and_a_finite_gradient(kind, seed):
    """SOLVED elements satisfy the optimality conditions, failures carry their certificates, no gradient is NaN."""
    found = examine(CLASSES[kind](Draw(seed, 8)), InteriorPoint())[1]
    assert {name: int(wrong.sum()) for name, wrong in found.items() if wrong.any()} == {}
