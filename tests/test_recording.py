"""A recording is what the layers did: the same path, and multipliers that satisfy the program's own conditions."""

import math

import numpy as np
import pytest
import torch
from known_way import ARM, CIRCLES, NOTHING, START, TARGET, WAY, numbers
from tolerances import KKT

from robotics import Circles, PlanarArm
from robotics.ik_qp import TRUST, build_step, clearance_rows
from robotics.models import MLP, MLPQP, IKStatus
from robotics.recording import ACTIVE, record, record_best
from robotics.steps import certified_step, escape


def test_the_path_is_that_of_the_steps_themselves():
    theta = START[None]
    for layer in WAY.layers:
        assert torch.equal(layer.start, theta[0])
        theta = certified_step(ARM, theta, TARGET[None], CIRCLES)
        assert torch.equal(layer.end, theta[0])
    assert WAY.status == IKStatus.SOLVED


def test_the_recording_from_a_models_start_is_its_path_to_the_last_bit():
    torch.manual_seed(0)
    model = MLPQP(MLP(ARM, hidden=8), layers=6)
    lower, upper = ARM.limits_tensor(TARGET)
    with torch.no_grad():
        start = model.network(TARGET[None])[0].clamp(lower, upper)
        way = record(ARM, start, TARGET, CIRCLES, 6)
        certified = [layer.end for layer in way.layers if layer.certified]
        assert len(certified) >= 3
        for model.layers, end in enumerate(certified, 1):
            assert torch.equal(model(TARGET[None], CIRCLES)[0], end)


def test_watching_changes_nothing():
    theta, seen = START.expand(4, 3), []
    targets = TARGET.expand(4, 2)
    watched = certified_step(ARM, theta, targets, CIRCLES, watch=seen.append)
    assert torch.equal(watched, certified_step(ARM, theta, targets, CIRCLES))
    assert len(seen) == 1
    assert seen[0].z_rows.shape == (4, 15)


def test_multipliers_balance_the_slope_of_the_cost():
    # P dtheta + q + G'z + z_box = 0 with what was recorded alone, in layers that were not shortened.
    balanced = 0
    for layer in WAY.layers:
        theta = layer.start[None]
        rows = clearance_rows(ARM, theta, CIRCLES)
        problem = build_step(ARM, theta, TARGET[None], rows)
        step = (layer.end - layer.start).numpy()
        if layer.fraction < 1:
            continue
        z = np.array([plane.multipliers for plane in layer.planes]).reshape(3, 3, 2).transpose(0, 2, 1).reshape(-1)
        slope = rows.slope[0].numpy()
        turn = np.tril(np.ones((3, 3)))
        gradient = problem.P[0].numpy() @ step + problem.q[0].numpy()
        residual = gradient - slope.T @ z[3:] + turn.T @ np.array(layer.turns) + np.array(layer.limits)
        assert abs(residual).max() <= 10 * KKT
        balanced += bool(layer.multipliers())
    assert balanced >= 3


def test_active_rows_are_tight_and_the_others_are_not_called_active():
    # The first layer turns links 1 and 3 as far as the trust region allows, and says so.
    first = WAY.layers[0]
    turns = (first.end - first.start).cumsum(-1)
    for i, z in enumerate(first.turns):
        assert (abs(z) > ACTIVE) == (abs(abs(float(turns[i])) - TRUST) < 1e-6)
    assert set(first.multipliers()) == {"link 2, circle 0", "link 1, trust region", "link 3, trust region"}


def test_the_half_planes_hold_their_links_and_not_their_circles_along_the_whole_layer():
    for k, layer in enumerate(WAY.layers):
        for s in np.linspace(0, 1, 21):
            points = ARM.points(WAY.theta(k, s)).numpy()
            for plane in layer.planes:
                normal, (x, y, r) = np.array(plane.normal), CIRCLES.to_json()["circles"][plane.circle]
                assert math.isclose(np.linalg.norm(normal), 1, abs_tol=1e-12)
                assert normal @ (x, y) + r <= plane.offset
                assert (points[plane.link : plane.link + 2] @ normal).min() >= plane.offset - 1e-8


def test_a_limit_that_holds_the_arm_back_has_a_multiplier_with_its_side():
    way = record(ARM, numbers(0.1, -0.5, 0.3), numbers(1.5, -4.8), NOTHING)  # out of reach: θ_1 ends at its limit
    last = way.layers[-1]
    assert float(last.end[0]) == pytest.approx(0, abs=1e-9)
    assert last.limits[0] < 0
    assert "joint 1, lower limit" in last.multipliers()
    assert last.planes == ()
    assert way.to_json()["layers"][-1]["clearance"] is None


def test_a_start_inside_a_circle_is_led_out_by_softened_steps_first():
    inside = numbers(0.9, -0.1, 0.0)
    assert CIRCLES.clearance(ARM.points(inside)) < 0
    way = record(ARM, inside, TARGET, CIRCLES)
    kinds = [layer.certified for layer in way.layers]
    assert kinds[0] is False
    assert kinds == sorted(kinds)
    out = escape(ARM, inside[None], TARGET[None], CIRCLES)[0]
    assert torch.equal(way.layers[kinds.index(True)].start, out)


def test_frames_cover_every_layer_and_end_at_its_end():
    moments = WAY.frames(60)
    assert moments == sorted(moments)
    assert moments[0] == (0, 0.0)
    assert moments[-1] == (len(WAY.layers) - 1, 1.0)
    assert len(moments) <= 61
    for k in range(len(WAY.layers)):
        assert sum(layer == k and s == 1 for layer, s in moments) == 1
    with pytest.raises(ValueError, match="most: expected 14 or more"):
        WAY.frames(13)


def test_an_arm_that_is_at_the_target_already_has_one_layer():
    at = WAY.layers[-1].end
    way = record(ARM, at, ARM.tip(at), CIRCLES)
    assert len(way.layers) == 1
    assert way.frames(2)[-1] == (0, 1.0)


def test_other_starts_are_tried_until_one_leads_there():
    stuck = numbers(2.6, -0.3, -0.5)  # on the other side of circle 1
    assert record(ARM, stuck, TARGET, CIRCLES).status != IKStatus.SOLVED
    assert record_best(ARM, TARGET, CIRCLES, [stuck]).status == IKStatus.SOLVED


@pytest.mark.parametrize("links", [2, 6])
def test_other_arms_are_recorded_too(links):
    arm = PlanarArm.unit(links)
    way = record_best(arm, arm.tip(arm.sample(1, torch.Generator().manual_seed(3))[0]), NOTHING)
    assert way.status == IKStatus.SOLVED


@pytest.mark.parametrize(
    ("start", "target", "message"),
    [
        ([0.0, 0.0], [1.0, 1.0], "start: expected 3 finite joint angles"),
        ([0.0, 0.0, math.nan], [1.0, 1.0], "start: expected 3 finite joint angles"),
        ([0.0, 0.0, 0.0], [1.0], "target: expected x, y or x, y, theta"),
        ([0.0, 0.0, 0.0], [1.0, math.inf], "target: expected x, y or x, y, theta"),
    ],
)
def test_bad_input_is_named(start, target, message):
    with pytest.raises(ValueError, match=message):
        record(ARM, numbers(*start), numbers(*target), CIRCLES)


def test_a_scene_that_leaves_no_posture_is_named():
    everywhere = Circles.from_json({"circles": [[0.0, 0.0, 5.0]]})
    with pytest.raises(ValueError, match="circles: expected a scene that leaves the arm some posture"):
        record_best(ARM, TARGET, everywhere)
