"""Scores of answers whose verdicts are known by construction."""

import json
import math

import pytest
import torch

from robotics import Circles, PlanarArm
from robotics.metrics import Metrics, evaluate, score, table, tip_errors
from robotics.models import IKAnswer, build_model

ARM = PlanarArm(lengths=(1.0, 1.0), limits=((-1.0, 2.0), (-1.0, 1.0)))  # reach 2
CIRCLES = Circles.from_json({"circles": [[0.0, 1.0, 0.25]]})
STRAIGHT, UP, BENT, BEYOND = [0.0, 0.0], [math.pi / 2, 0.0], [0.0, 1.0], [0.0, 1.5]  # UP goes through the circle
NONE = [math.nan, math.nan]


def answers(*theta):
    return torch.tensor(theta, dtype=torch.float64)


def at(theta, off=0.0):
    """The tips of the postures, each moved by a share of the reach."""
    return ARM.tip(theta) + torch.tensor([off * ARM.reach, 0.0], dtype=torch.float64)


def scores(theta, targets, circles=CIRCLES):
    return score("m", ARM, theta, targets, circles)


def test_a_safe_answer_on_its_target_is_a_success():
    theta = answers(STRAIGHT, BENT)
    result = scores(theta, at(theta))
    assert (result.num_targets, result.success_1e2, result.success_1e3) == (2, 1.0, 1.0)
    assert (result.median_tip_error, result.p95_tip_error) == (0.0, 0.0)
    assert (result.whole_arm_collision_rate, result.tip_collision_rate, result.limit_violations) == (0.0, 0.0, 0)


@pytest.mark.parametrize(("off", "expected"), [(0.9e-3, (1, 1)), (1.1e-3, (1, 0)), (0.9e-2, (1, 0)), (1.1e-2, (0, 0))])
def test_tip_errors_count_as_shares_of_the_reach(off, expected):
    theta = answers(STRAIGHT)
    result = scores(theta, at(theta, off))
    assert (result.success_1e2, result.success_1e3) == expected
    assert result.median_tip_error == pytest.approx(off)


def test_a_colliding_answer_is_no_success_however_close():
    theta = answers(UP, STRAIGHT)
    result = scores(theta, at(theta))
    assert result.success_1e2 == result.success_1e3 == 0.5
    assert result.whole_arm_collision_rate == 0.5
    assert result.tip_collision_rate == 0.0  # the tip is beyond the circle, at (0, 2)
    assert result.median_tip_error == pytest.approx(0.0, abs=1e-15)


def test_a_tip_in_a_circle_counts_twice():
    theta = answers(UP)
    result = scores(theta, at(theta), Circles.from_json({"circles": [[0.0, 2.0, 0.1]]}))
    assert result.whole_arm_collision_rate == result.tip_collision_rate == 1.0


def test_the_capsule_of_the_links_counts():
    arm = PlanarArm(lengths=ARM.lengths, limits=ARM.limits, link_radius=0.1)
    circles = Circles.from_json({"circles": [[1.0, 0.3, 0.25]]})  # 0.05 above the line of the links
    theta = answers(STRAIGHT)
    assert score("m", ARM, theta, at(theta), circles).whole_arm_collision_rate == 0.0
    assert score("m", arm, theta, at(theta), circles).whole_arm_collision_rate == 1.0


def test_an_answer_beyond_a_limit_is_no_success():
    theta = answers(BEYOND, STRAIGHT, [0.0, math.nextafter(1.0, 2.0)])
    result = scores(theta, at(theta))
    assert result.limit_violations == 2
    assert result.success_1e3 == pytest.approx(1 / 3)


def test_a_missing_answer_is_a_failure_with_an_infinite_error_and_no_collision():
    theta = answers(NONE, UP, STRAIGHT, NONE)
    result = scores(theta, torch.zeros(4, 2, dtype=torch.float64))
    assert result.whole_arm_collision_rate == 0.5  # of the two answers
    assert result.limit_violations == 0
    assert result.median_tip_error == math.inf  # of 1, 1, inf, inf
    assert tip_errors(ARM, theta, torch.zeros(4, 2)).tolist() == pytest.approx([math.inf, 1.0, 1.0, math.inf])


def test_quantiles_are_errors_that_occurred():
    theta = answers(*[STRAIGHT] * 18, NONE, NONE)
    result = scores(theta, at(theta[:1]).expand(20, 2))
    assert result.median_tip_error == 0.0
    assert result.p95_tip_error == math.inf


def test_no_answer_at_all_leaves_no_rate_and_still_a_table_and_a_json_file():
    result = scores(answers(NONE), torch.zeros(1, 2, dtype=torch.float64))
    assert math.isnan(result.whole_arm_collision_rate)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["median_tip_error"] is None
    assert "none" in table([result])
    assert "nan" not in table([result])


def test_without_circles_nothing_collides():
    theta = answers(UP)
    assert scores(theta, at(theta), Circles.from_json({"circles": []})).whole_arm_collision_rate == 0.0


@pytest.mark.parametrize("theta", [torch.zeros(0, 2), torch.zeros(3, 3), torch.zeros(2, 2), torch.zeros(2)])
def test_answers_of_the_wrong_shape_are_an_error(theta):
    with pytest.raises(ValueError, match=r"^theta: expected shape \(N, 2\)"):
        scores(theta, torch.zeros(len(theta) if theta.shape[-1] == 3 else 3 * len(theta), 2))


class Liar:
    """Says of a colliding answer that it is solved."""

    arm = ARM

    def config(self):
        return {"model": "liar"}

    def answer(self, targets, circles, tolerance=1e-3):
        theta = answers(UP).expand(len(targets), 2)
        zero = torch.zeros(len(targets))
        return IKAnswer(theta, zero.long(), zero, zero + 1)


def test_the_geometry_decides_not_the_status():
    result = evaluate(Liar(), at(answers(UP, UP)), CIRCLES)
    assert result.method == "liar"
    assert result.whole_arm_collision_rate == 1.0
    assert result.success_1e2 == 0.0
    assert result.us_per_query > 0


def test_a_model_is_scored_under_its_own_name_or_another():
    model = build_model(ARM, {"model": "mlp", "inputs": "xy", "hidden": 5})
    targets = at(ARM.sample(20, torch.Generator().manual_seed(0)))
    assert evaluate(model, targets, CIRCLES).method == "mlp"
    assert evaluate(model, targets, CIRCLES, "other").method == "other"


def test_the_table_is_aligned():
    row = scores(answers(STRAIGHT), torch.zeros(1, 2, dtype=torch.float64))
    long = Metrics(**row.to_json() | {"method": "a long name", "us_per_query": 123456.0, "limit_violations": 12345})
    lines = table([row, long]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("method")
    assert lines[2].startswith("a long name")
    assert lines[2].endswith("123456")
