"""Labelled heads for poses: the wrist is their target, the elbow their label, and both answers of a pose come out."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from checker import assert_sound
from click.testing import CliRunner

from benchmarks.ik import poses
from robotics import Circles, PlanarArm
from robotics.angles import wrap_angle
from robotics.cli import main
from robotics.head_training import random_scenes, train_heads
from robotics.ik_qp import task_error
from robotics.models import Heads, HeadsQP, IKStatus, build_model
from robotics.models.answer import is_safe
from robotics.runs import load_run
from robotics.steps import refine
from robotics.training import copy_network

UNIT, DUKA, SIX = PlanarArm.unit(), PlanarArm.duka(), PlanarArm.chain(6)
NO_CIRCLES = Circles.from_json({"circles": []})
TOLERANCE = 1e-6  # of reach and rad
ROUND_OFF = 1e-12  # of sums of ten angles of a few rad
SAME_POSTURE = 1e-3  # rad: two answers within TOLERANCE, the elbow bent by 0.1 rad or more
SAME = 1e-6  # the same element in another batch: the QP's tolerance, through ten steps


@functools.cache
def trained(arm=UNIT, heads=2):
    return train_heads(arm, heads, inputs="xytheta", hidden=32, steps=250, batch_size=64)


def safe_poses(arm, num, circles, generator):
    """Postures clear of a scene each, and the scenes."""
    theta, scene = arm.sample(num, generator), random_scenes(arm, num, circles, generator)
    keep = is_safe(arm, theta, scene)
    return theta[keep], scene.pick(keep)


# --- labels and starts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("arm", "heads"), [(UNIT, 2), (DUKA, 2), (PlanarArm.unit(4), 2), (SIX, 8)], ids=str)
def test_labels_of_a_pose_are_those_of_the_wrist_without_the_last_link(arm, heads, generator):
    """Every posture is in exactly one label, that of the shorter arm, whose bend is the elbow's sign."""
    shorter = PlanarArm(lengths=arm.lengths[:-1], limits=arm.limits[:-1])
    network, expected = Heads(arm, heads, 4, "xytheta"), Heads(shorter, heads, 4)
    theta = arm.sample(300, generator)
    each = theta[:, None].expand(-1, heads, -1)
    outside = network.outside_label(each, arm.pose(theta))
    for found, wanted in zip(outside, expected.outside_label(each[..., :-1], shorter.tip(theta[:, :-1])), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=ROUND_OFF)
    inside = (outside[0] == 0) & (outside[1] == 0)
    assert (inside.sum(-1) == 1).all()
    inner = theta[:, 1:2].sum(-1) if arm.num_links < 5 else theta[:, 1:-2].sum(-1)
    assert torch.equal(network.bends[inside.long().argmax(-1)], inner.sign())


@pytest.mark.parametrize(("arm", "heads"), [(UNIT, 2), (DUKA, 2), (SIX, 4)], ids=str)
def test_every_start_has_the_orientation_and_the_order_is_by_promise(arm, heads, generator):
    network = Heads(arm, heads, 8, "xytheta")
    theta, scene = safe_poses(arm, 40, 2, generator)
    targets = arm.pose(theta)
    with torch.no_grad():
        starts = network(targets, scene)
        ranked = network.ranked(starts, targets, scene)
    assert wrap_angle(arm.orientation(starts) - targets[:, 2:]).abs().max() < ROUND_OFF
    lower, upper = arm.limits_tensor(starts)
    middle = (lower + upper) / 2
    assert ((starts >= lower) & (starts <= upper))[..., 1:-1].all()
    assert ((starts - middle).abs() <= math.pi + ROUND_OFF).all()
    promise = network.promise(ranked, targets, scene)
    assert (promise.diff(dim=-1) >= 0).all()
    same = starts.clamp(lower, upper)[..., None, :, :] == ranked[..., :, None, :]
    assert same.all(-1).any(-1).all()


def test_of_two_exact_postures_the_one_inside_the_limits_promises_more(generator):
    targets = UNIT.pose(UNIT.sample(1000, generator))
    postures, _ = UNIT.inverse(targets)  # one for each elbow, whatever the limits
    inside = UNIT.limit_violation(postures) <= 0
    alone = (inside.sum(-1) == 1) & postures.isfinite().all(-1).all(-1)
    promise = Heads(UNIT, 2, 8, "xytheta").promise(postures, targets, NO_CIRCLES)[alone]
    assert alone.sum() > 50
    assert torch.equal(promise.argmin(-1), inside[alone].long().argmax(-1))
    assert promise.amin(-1).max() < 1e-12 < 1e-6 < promise.amax(-1).median()


def test_each_head_leads_to_its_own_of_the_two_postures(generator):
    theta = UNIT.sample(400, generator)
    targets = UNIT.pose(theta)
    bent = theta[:, 1].sin().abs() > 0.1
    with torch.no_grad():
        starts = trained()(targets, NO_CIRCLES)
        head = (theta[:, 1] > 0).long()
        own = starts[torch.arange(400), head]
        found = refine(UNIT, own, targets, NO_CIRCLES, 10)
    near = (wrap_angle(found - theta).abs().amax(-1) < SAME_POSTURE)[bent]
    assert near.double().mean() > 0.95


# --- cost, answers, training ----------------------------------------------------------------------------


@pytest.mark.parametrize(("arm", "heads"), [(UNIT, 2), (SIX, 4)], ids=str)
def test_gradient_of_the_cost_equals_finite_differences(arm, heads, generator):
    network = Heads(arm, heads, 8, "xytheta")
    theta, scene = safe_poses(arm, 12, 3, generator)
    targets = arm.pose(theta)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(network.cost(network(targets, scene), targets, scene).sum(), parameters)
    directions = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in parameters]
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for each, direction in zip(parameters, directions, strict=True):
                each += sign * step * direction
            values.append(network.cost(network(targets, scene), targets, scene).sum())
    slope = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions, strict=True))
    assert abs(slope) > 0.1
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arm", "heads"), [(UNIT, 2), (DUKA, 2), (SIX, 4)], ids=str)
def test_poses_of_safe_postures_are_solved_and_answers_are_sound(arm, heads, generator):
    model = HeadsQP(trained(arm, heads))
    theta, scene = safe_poses(arm, 80, 3, generator)
    targets = arm.pose(theta)
    answer, used = model.answer_with_heads(targets, scene, TOLERANCE)
    assert_sound(arm, answer, targets, scene, TOLERANCE)
    solved = answer.status == IKStatus.SOLVED
    assert torch.equal(solved, used <= heads)
    assert solved.double().mean() > 0.95
    assert (answer.status != IKStatus.UNREACHABLE).all()


def test_nan_poses_harm_no_other_and_no_pose_is_a_batch(generator):
    theta, scene = safe_poses(UNIT, 30, 2, generator)
    targets = UNIT.pose(theta)
    model = HeadsQP(trained())
    clean, dirty = model.answer(targets, scene, TOLERANCE), targets.clone()
    dirty[2, 2], dirty[7] = torch.nan, torch.inf
    answer = model.answer(dirty, scene, TOLERANCE)
    assert answer.status[[2, 7]].tolist() == [IKStatus.INVALID_INPUT] * 2
    others = torch.ones(len(targets), dtype=torch.bool)
    others[[2, 7]] = False
    torch.testing.assert_close(answer.theta[others], clean.theta[others], rtol=0, atol=SAME, equal_nan=True)
    assert len(model.answer(targets[:0], scene.pick(slice(0, 0))).theta) == 0


def test_training_on_poses_makes_the_error_small(generator):
    targets = UNIT.pose(UNIT.sample(300, generator))
    before = Heads(UNIT, 2, 32, "xytheta")
    error, untrained = (
        task_error(UNIT, each.ranked(each(targets, NO_CIRCLES), targets, NO_CIRCLES)[:, 0], targets)
        .norm(dim=-1)
        .median()
        for each in (trained(), before)
    )
    assert error < 0.35 * untrained


# --- bad input, files -----------------------------------------------------------------------------------


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"^inputs: expected one of xy, xytheta, found 'theta'$"):
        Heads(UNIT, 2, 8, "theta")
    with pytest.raises(ValueError, match=r"^inputs: expected one of xy, xytheta, found None$"):
        build_model(UNIT, {"model": "mlp-qp", "inputs": None, "heads": 2})
    with pytest.raises(ValueError, match=r"^arm: expected 3 links or more for poses, found 2$"):
        Heads(PlanarArm.unit(2), 2, 8, "xytheta")
    with pytest.raises(ValueError, match=r"^heads: expected .*multiple of 2, .* found 3$"):
        Heads(UNIT, 3, 8, "xytheta")
    for inputs, width, given in (("xytheta", 3, 2), ("xy", 2, 3)):
        network, targets = Heads(UNIT, 2, 8, inputs), torch.zeros(4, given, dtype=torch.float64)
        expected = rf"^targets: expected shape \(\*batch, {width}\), found \(4, {given}\)$"
        with pytest.raises(ValueError, match=expected):
            network(targets, NO_CIRCLES)
        with pytest.raises(ValueError, match=rf"^targets: expected shape \(N, {width}\)"):
            HeadsQP(network).answer(targets, NO_CIRCLES)


def test_config_round_trips_and_weights_of_other_inputs_are_refused():
    model = build_model(UNIT, {"model": "mlp-qp", "inputs": "xytheta", "heads": 2, "hidden": 8, "layers": 3})
    again = build_model(UNIT, model.config())
    assert isinstance(again, HeadsQP)
    assert again.config() == model.config()
    assert again.inputs == "xytheta"
    copy_network(again, model)
    positions = build_model(UNIT, model.config() | {"inputs": "xy"})
    with pytest.raises(ValueError, match=r"^start: expected a run with inputs xytheta, found xy$"):
        copy_network(model, positions)


def test_pose_heads_are_trained_saved_and_asked_by_the_command_line(tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    (tmp_path / "scene.json").write_text('{"circles": [[2.4, 2.6, 0.2]]}')
    (tmp_path / "poses.csv").write_text("x,y,theta\n2,3,0.2\n-1,4,1.5\n")
    (tmp_path / "points.csv").write_text("x,y\n2,3\n")
    for inputs in ("xytheta", "xy"):
        data, few = tmp_path / f"data-{inputs}", ("--epochs", 1, "--epoch-samples", 20, "--hidden", 8)
        assert run("dataset", "--num-samples", 60, "--inputs", inputs, "--out", data)[0] == 0
        code, output = run("train", "--data", data, "--model", "mlp-qp", "--heads", 2, *few, "--out", tmp_path / inputs)
        assert code == 0, output
    model, _ = load_run(tmp_path / "xytheta")
    assert isinstance(model, HeadsQP)
    assert (model.inputs, model.network.heads) == ("xytheta", 2)
    ask = ("solve", "--model", tmp_path / "xytheta", "--scene", tmp_path / "scene.json", "--out", tmp_path / "a.csv")
    code, output = run(*ask, "--targets", tmp_path / "poses.csv")
    assert code == 0, output
    assert "2 SOLVED" in output
    code, output = run(*ask, "--targets", tmp_path / "points.csv")
    assert code == 2
    assert "expected the columns x,y,theta" in output
    again = ("train", "--data", tmp_path / "data-xytheta", "--model", "mlp-qp", "--heads", 2, "--hidden", 8)
    code, output = run(*again, "--start", tmp_path / "xy", "--out", tmp_path / "other")
    assert code == 2
    assert "inputs xytheta, found xy" in output


def test_the_benchmark_of_poses_counts_tries_and_certifies_at_the_oracles_answers(tmp_path):
    pytest.importorskip("cvxpy")
    rows = poses.measure(arms=("unit",), circles=(2,), num=40, programs=8, steps=5, say=lambda _: None)
    kinds = {row.kind: row for row in rows}
    assert len(kinds) == len(rows) == 6
    for row in rows:
        assert row.solved / row.targets == row.share >= row.first
        assert row.tries >= 1
    assert kinds["SDP, the oracle's answers as anchors, in turn"].share == 1
    assert kinds["random starts"].tries > kinds["SDP, home anchor"].tries == 1
    assert poses.write(rows, tmp_path).read_text().count("\n") == 7
