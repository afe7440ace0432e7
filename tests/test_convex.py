"""The convex road: rows against the geometry they stand for, exactness where theory and measurement promise it."""

import math

import numpy as np
import pytest
import torch
from checker import assert_sound, np_clearance, np_points
from test_oracle import scenes

from robotics import Circles, PlanarArm
from robotics.head_training import train_heads
from robotics.models import IKStatus

cp = pytest.importorskip("cvxpy")

from robotics.convex import CIDGIK, Relaxation  # noqa: E402
from robotics.convex.chain import Chain, View  # noqa: E402

DUKA, UNIT, SIX = PlanarArm.duka(), PlanarArm.unit(), PlanarArm.chain(6)
FREE = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((-math.pi, math.pi),) * 3)
NO_CIRCLES = Circles.from_json({"circles": []})
GOALS = 40


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def anchors_near(arm, theta, distance, generator):
    """Anchors within a distance [rad] of postures in every joint, inside the limits."""
    noise = 2 * torch.rand(theta.shape, generator=generator, dtype=theta.dtype) - 1
    return (theta + distance * noise).clamp(*arm.limits_tensor(theta))


def clear_goals(arm, count, k, generator):
    """Postures clear of a scene each, and the scenes."""
    theta = arm.sample(20 * count, generator)
    if k == 0:
        return theta[:count], NO_CIRCLES
    scene = scenes(arm, len(theta), k, generator)
    clear = np_clearance(arm.lengths, theta.numpy(), scene.centers.numpy(), scene.radii.numpy(), arm.link_radius) > 0
    keep = torch.from_numpy(clear).nonzero()[:count, 0]
    return theta[keep], scene.pick(keep)


# --- rows -----------------------------------------------------------------------------------------


def numeric(arm, theta, pose, circles=()):
    """A chain with the goal of a posture, and the view of that posture's own positions."""
    chain = Chain(arm, pose, len(circles))
    points = np_points(arm.lengths, theta.numpy())
    target = arm.pose(theta) if pose else arm.tip(theta)
    chain.set_goal(target.numpy(), theta.numpy(), np.array(circles).reshape(-1, 3))
    x = (points[1 : 1 + chain.num_unknown] / arm.reach).ravel()
    return chain, View(1.0, x, np.outer(x, x))


def value(row):
    return float(getattr(row, "value", row))


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize(
    "arm", [DUKA, PlanarArm.chain(4), PlanarArm(lengths=(1.0, 0.7, 0.4), limits=((-1.0, 2.0),) * 3)]
)
def test_rows_of_lengths_and_limits_are_those_of_the_postures_own_angles(arm, pose, generator):
    for theta in (
        2 * math.pi * torch.rand(20, arm.num_links, generator=generator, dtype=torch.float64) - math.pi
    ).unbind():
        chain, view = numeric(arm, theta, pose)
        assert max(abs(value(row)) for row in chain.lengths_of(view)) < 1e-14
        rows = [value(row) for row in chain.limits_of(view)]
        expected = [
            math.cos(float(angle) - (low + high) / 2) - math.cos((high - low) / 2)
            for angle, (low, high) in zip(theta, arm.limits, strict=True)
        ]
        assert len(rows) == arm.num_links if pose else arm.num_links
        assert np.allclose(rows, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pose", [True, False])
def test_rows_of_circles_have_a_multiplier_exactly_where_the_whole_link_is_clear(pose, generator):
    arm, seen = UNIT, set()
    for theta in arm.sample(20, generator):
        circle = [*(3 * torch.rand(2, generator=generator) - 1.5).tolist(), 0.4]
        chain, view = numeric(arm, theta, pose, [circle])
        points = np_points(arm.lengths, theta.numpy())
        multipliers = cp.Variable((chain.num_links, 1))
        for link, row in enumerate(chain.circles_of(view, multipliers)):
            along = points[link] + np.linspace(0, 1, 2001)[:, None] * (points[link + 1] - points[link])
            room = np.linalg.norm(along - circle[:2], axis=-1).min() - circle[2]
            if abs(room) < 0.02:
                continue
            bound, vector = row.args
            possible = False
            for free in np.geomspace(1e-3, 10, 60):
                multipliers.value = np.full((chain.num_links, 1), free)
                possible |= float(bound.value.item()) >= np.linalg.norm(vector.value)
            assert possible == (room > 0)
            seen.add(possible)
    assert seen == {True, False}


def test_too_few_links_have_no_unknown_joint():
    with pytest.raises(ValueError, match=r"^arm: expected 3 links or more for poses, found 2$"):
        Relaxation(arm=PlanarArm.unit(2)).answer(f64([[1.0, 1.0, 0.0]]), NO_CIRCLES)
    assert CIDGIK(arm=PlanarArm.unit(2)).answer(f64([[1.0, 1.0]]), NO_CIRCLES).status.tolist() == [IKStatus.SOLVED]


# --- the relaxation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "k"), [(FREE, 0), (UNIT, 0), (DUKA, 0), (DUKA, 3), (SIX, 0)], ids=["free", "170", "duka", "duka-3", "six"]
)
def test_a_near_anchor_makes_order_one_exact(arm, k, generator):
    theta, scene = clear_goals(arm, GOALS, k, generator)
    targets = arm.pose(theta)
    found = Relaxation(arm=arm).answer_near(anchors_near(arm, theta, 0.1, generator), targets, scene, 1e-6)
    assert_sound(arm, found.answer, targets, scene, 1e-6)
    # Six links within 45 degrees are often near a limit, where the theorem promises nothing.
    assert found.certified.double().mean() >= (0.9 if arm is SIX else 1)
    # The nearest posture to an anchor beside the one that made the goal is that one, if there are but two.
    if arm.num_links == 3:
        straight = theta[:, 1].sin().abs() < 0.2
        assert torch.allclose(found.answer.theta[~straight], theta[~straight], atol=1e-5)


def test_far_anchors_lose_exactness_at_order_one_and_not_at_order_two(generator):
    theta, scene = clear_goals(DUKA, GOALS, 3, generator)
    targets = DUKA.pose(theta)
    home = f64([[math.pi / 2, -math.pi / 2, 0.0]]).expand(GOALS, 3)
    shares = []
    for order in (1, 2):
        found = Relaxation(arm=DUKA, order=order).answer_near(home, targets, scene, 1e-6)
        assert_sound(DUKA, found.answer, targets, scene, 1e-6)
        assert torch.equal(found.certified, (found.ratio < 1e-4) & (found.answer.status == IKStatus.SOLVED))
        shares.append(float(found.certified.double().mean()))
    assert 0.5 < shares[0] < 0.95
    assert shares[1] == 1


def test_where_one_elbow_alone_is_allowed_the_others_anchor_fails_and_the_next_one_is_asked(generator):
    targets = UNIT.pose(UNIT.sample(1500, generator))
    postures, _ = UNIT.inverse(targets)
    largest = postures.abs().amax(-1) - math.radians(170)  # (goals, elbow)
    inside, beyond = (largest < -0.05) & (postures[..., 1].sin().abs() > 0.2), largest > 0.05
    alone = (inside.flip(-1) & beyond).nonzero()[:GOALS]
    targets, wrong = targets[alone[:, 0]], postures[alone[:, 0], alone[:, 1]]
    right = postures[alone[:, 0], 1 - alone[:, 1]]
    anchors = torch.stack((wrong, anchors_near(UNIT, right, 0.1, generator)), 1)
    relaxation = Relaxation(arm=UNIT)
    first = relaxation.answer_near(wrong, targets, NO_CIRCLES, 1e-6)
    found, asked = relaxation.answer_in_turn(anchors, targets, NO_CIRCLES, 1e-6)
    assert len(targets) >= 20
    assert first.certified.double().mean() < 0.5
    assert found.certified.all()
    assert torch.equal(asked, torch.where(first.certified, 1, 2))
    assert_sound(UNIT, found.answer, targets, NO_CIRCLES, 1e-6)
    assert torch.allclose(found.answer.theta, right, atol=1e-5)


def test_anchors_of_pose_heads_are_certified_and_valid(generator):
    theta, scene = clear_goals(UNIT, 100, 3, generator)
    targets = UNIT.pose(theta)
    network = train_heads(UNIT, 2, inputs="xytheta", hidden=32, steps=200, batch_size=64)
    with torch.no_grad():
        anchors = network.ranked(network(targets, scene), targets, scene)
    found, asked = Relaxation(arm=UNIT).answer_in_turn(anchors, targets, scene, 1e-6)
    assert_sound(UNIT, found.answer, targets, scene, 1e-6)
    assert found.certified.double().mean() >= 0.99
    assert asked.double().mean() < 1.2


def test_anchors_in_turn_keep_rows_apart(generator):
    targets = f64([[2.0, 3.5, 0.3], [9.0, 0.0, 0.0], [math.nan, 0.0, 0.0], [2.0, 3.0, 0.2], [2.0, 3.0, 0.2]])
    anchors = DUKA.inverse(targets)[0][:, :1].expand(-1, 3, 3).clone().nan_to_num()
    anchors[3] = math.nan  # no anchor, no answer
    anchors[4, 0] = math.nan
    found, asked = Relaxation(arm=DUKA).answer_in_turn(anchors, targets, NO_CIRCLES)
    expected = [IKStatus.SOLVED, IKStatus.UNREACHABLE, IKStatus.INVALID_INPUT, IKStatus.NO_SAFE_ANSWER, IKStatus.SOLVED]
    assert found.answer.status.tolist() == expected
    assert found.certified.tolist() == [True, False, False, False, True]
    assert asked.tolist() == [1, 1, 1, 3, 2]
    empty, asked = Relaxation(arm=DUKA).answer_in_turn(anchors[:0], targets[:0], NO_CIRCLES)
    assert len(empty.answer.theta) == len(asked) == 0
    for wrong, message in (
        (anchors[:, 0], r"^anchors: expected shape \(N, H, n\) with H >= 1, found \(5, 3\)$"),
        (anchors[:, :0], r"^anchors: expected shape \(N, H, n\) with H >= 1, found \(5, 0, 3\)$"),
        (anchors[:4], r"^anchors: expected shape \(5, 3\), found \(4, 3\)$"),
    ):
        with pytest.raises(ValueError, match=message):
            Relaxation(arm=DUKA).answer_in_turn(wrong, targets, NO_CIRCLES)


def test_positions_have_answers_too(generator):
    theta, scene = clear_goals(UNIT, GOALS, 2, generator)
    targets = UNIT.tip(theta)
    found = Relaxation(arm=UNIT).answer_near(anchors_near(UNIT, theta, 0.02, generator), targets, scene, 1e-6)
    assert_sound(UNIT, found.answer, targets, scene, 1e-6)
    assert found.certified.double().mean() > 0.9


def test_cidgik_reaches_rank_two_and_answers(generator):
    for arm, k in ((UNIT, 0), (UNIT, 3), (SIX, 0)):
        theta, scene = clear_goals(arm, 20, k, generator)
        for targets in (arm.pose(theta), arm.tip(theta)):
            found = CIDGIK(arm=arm).answer_with_rank(targets, scene, 1e-6)
            assert_sound(arm, found.answer, targets, scene, 1e-6)
            assert found.certified.double().mean() >= 0.8


def test_what_cannot_be_reached_has_no_answer_and_harms_no_neighbour(generator):
    targets = f64([[2.0, 3.5], [9.0, 0.0], [math.nan, 0.0], [2.4, 2.6], [4.0, 1.0]])
    scene = Circles.from_json({"circles": [[2.4, 2.6, 0.5]]})
    for solver in (Relaxation(arm=DUKA), CIDGIK(arm=DUKA)):
        status = solver.answer(targets, scene).status.tolist()
        assert status[1:4] == [IKStatus.UNREACHABLE, IKStatus.INVALID_INPUT, IKStatus.NO_SAFE_ANSWER]
    theta = DUKA.sample(2, generator)
    near = Relaxation(arm=DUKA).answer_near(theta, DUKA.tip(theta), NO_CIRCLES)
    assert near.certified.all()


def test_options_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match=r"^order: expected 1 or 2, found 3$"):
        Relaxation(arm=DUKA, order=3)
    with pytest.raises(ValueError, match=r"^rounds: expected a positive integer, found 0$"):
        CIDGIK(arm=DUKA, rounds=0)
