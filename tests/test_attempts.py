"""One attempt after the other: who is asked, what is kept, and what the count says."""

import pytest
import torch

from robotics import Circles, PlanarArm
from robotics.models import IKStatus, attempts
from robotics.models.attempts import Attempts

ARM = PlanarArm.unit()
SCENE = Circles.from_json({"circles": [[1.5, 0.0, 0.2]]})
CLEAR = [1.0, 0.5, 0.3]  # a posture off the circle
TOUCHING = [0.0, 0.0, 0.0]  # one that goes through it
TOLERANCE = 1e-6


def postures(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def as_given(start, target, scene):
    return start


def test_only_what_is_safe_and_nearer_is_kept_and_the_first_that_is_near_enough_is_counted():
    answer = postures(CLEAR)
    search = Attempts(ARM, ARM.tip(answer), SCENE, TOLERANCE)
    assert search.error.isinf().all()
    for start, error, took in (
        (postures(TOUCHING), torch.inf, 0),
        (answer + 0.1, None, 0),
        (answer + 0.2, None, 0),
        (answer + 0.01, None, 0),
        (answer, 0.0, 5),
        (answer + 0.3, 0.0, 5),
    ):
        before = search.error.clone()
        search.attempt(start, as_given)
        assert (search.error <= before).all()
        assert search.took.tolist() == [took]
        if error is not None:
            assert search.error.tolist() == pytest.approx([error], abs=1e-15)
    assert torch.equal(search.theta, answer)
    assert search.answer().status.tolist() == [IKStatus.SOLVED]
    assert len(search.left()) == 0


@pytest.mark.parametrize("first_for_all", [False, True])
def test_targets_out_of_reach_are_tried_once_at_most_and_invalid_ones_never(first_for_all):
    targets = torch.tensor([[1.0, 1.0], [9.0, 9.0], [torch.nan, 1.0]], dtype=torch.float64)
    search = Attempts(ARM, targets, SCENE, TOLERANCE, first_for_all=first_for_all)
    assert search.left().tolist() == ([0, 1] if first_for_all else [0])
    search.attempt(postures(CLEAR, CLEAR, CLEAR), as_given)
    assert search.left().tolist() == [0]
    expected = [IKStatus.NOT_REACHED, IKStatus.UNREACHABLE, IKStatus.INVALID_INPUT]
    assert search.answer().status.tolist() == expected
    assert search.theta.isfinite().all(-1).tolist() == [True, first_for_all, False]


def test_parts_change_nothing_and_every_target_has_its_own_scene(generator, monkeypatch):
    theta = ARM.sample(20, generator)
    centers = 3 * torch.rand(20, 2, 2, generator=generator, dtype=torch.float64)
    scene = Circles(centers, torch.full((20, 2), 0.3, dtype=torch.float64))
    found = []
    for size in (3, 100):
        monkeypatch.setattr(attempts, "CHUNK", size)
        search = Attempts(ARM, ARM.tip(theta), scene, TOLERANCE)
        seen = []

        def refine(start, target, own, seen=seen):
            seen.append(len(start))
            assert len(own.radii) == len(start) == len(target)
            return start

        search.attempt(theta, refine)
        assert max(seen) <= size
        assert sum(seen) == 20
        found.append(search)
    assert torch.equal(found[0].took, found[1].took)
    assert torch.equal(found[0].theta.nan_to_num(), found[1].theta.nan_to_num())
    safe = scene.clearance(ARM.points(theta)) > 1e-6
    assert torch.equal(found[0].took == 1, safe)


def test_nobody_is_asked_when_nothing_is_left():
    search = Attempts(ARM, torch.zeros(0, 2, dtype=torch.float64), SCENE, TOLERANCE)
    search.attempt(torch.zeros(0, 3, dtype=torch.float64), lambda *_: pytest.fail("asked for nothing"))
    assert search.tried == 1
    assert len(search.answer().theta) == 0
