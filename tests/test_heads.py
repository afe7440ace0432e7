"""Labelled heads: what a label means, what an answer depends on, and gradients by finite differences."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from click.testing import CliRunner

from robotics import Circles, PlanarArm, cli_heads
from robotics.cli import main
from robotics.head_training import random_scenes, train_heads
from robotics.ik_qp import task_error
from robotics.models import MLPQP, Heads, HeadsQP, IKStatus, build_model
from robotics.runs import load_run

UNIT = PlanarArm.unit()
NO_CIRCLES = Circles.from_json({"circles": []})
NEAR_LABEL = 0.05  # rad: a start this far outside its sector is still of its kind
SAME = 1e-6  # the same element in another batch: the QP's tolerance, through ten steps
TOLERANCE = 1e-6  # of reach

SMALLEST_SHARE = 0.002  # of uniform joints in the emptiest sector; equal parts of the circle leave some empty


@functools.cache
def trained(heads=8):
    return train_heads(UNIT, heads, hidden=32, steps=150, batch_size=64)


def queries(arm, num, circles, generator):
    return arm.tip(arm.sample(num, generator)), random_scenes(arm, num, circles, generator)


@pytest.mark.parametrize("arm", [UNIT, PlanarArm.duka(), PlanarArm.unit(2), PlanarArm.unit(6)], ids=str)
def test_labels_say_the_elbow_and_the_sector_of_a_posture(arm, generator):
    """Every posture of random joints is in exactly one label, by arithmetic of its own."""
    network = Heads(arm, 8, 4)
    theta = arm.sample(300, generator)
    targets, absolute = arm.tip(theta), theta.sum(-1)
    bend, offset = network.outside_label(theta[:, None].expand(-1, 8, -1), targets)
    inside = (bend == 0) & (offset == 0)
    assert (inside.sum(-1) == 1).all()
    turn = (absolute - torch.atan2(targets[:, 1], targets[:, 0]) + torch.pi) % (2 * torch.pi) - torch.pi
    edges = (network.middles - network.halves).unflatten(0, (-1, network.sectors))
    bends = network.bends[:: network.sectors]
    inner = theta[:, 1] if arm.num_links < 4 else theta[:, 1:-1].sum(-1)
    elbow = (inner > 0).long() if len(bends) == 2 else torch.zeros(300, dtype=torch.int64)
    sector = (turn[:, None] >= edges[elbow]).sum(-1) - 1
    assert torch.equal(inside.long().argmax(-1), elbow * network.sectors + sector)


@pytest.mark.parametrize("arm", [UNIT, PlanarArm.duka(), PlanarArm.unit(2), PlanarArm.unit(6)], ids=str)
def test_sectors_tile_the_circle_and_none_is_empty_whatever_the_limits(arm, generator):
    network = Heads(arm, 8, 4)
    lower, upper = ((network.middles + side * network.halves).unflatten(0, (-1, network.sectors)) for side in (-1, 1))
    assert torch.allclose(lower[:, 0], torch.tensor(-torch.pi, dtype=torch.float64))
    assert torch.allclose(upper[:, -1], torch.tensor(torch.pi, dtype=torch.float64))
    assert torch.allclose(upper[:, :-1], lower[:, 1:])
    widths = (upper - lower)[:, 1:-1]
    assert torch.allclose(widths, widths[:, :1])
    theta = arm.sample(20_000, generator)
    bend, offset = network.outside_label(theta[:, None].expand(-1, 8, -1), arm.tip(theta))
    shares = ((bend == 0) & (offset == 0)).double().mean(0)
    assert (shares > SMALLEST_SHARE).all()


def test_a_single_head_has_no_label(generator):
    network = Heads(UNIT, 1, 4)
    theta = UNIT.sample(50, generator)
    bend, offset = network.outside_label(theta[:, None], UNIT.tip(theta))
    assert not bend.any()
    assert not offset.any()


def test_a_bend_that_limits_allow_in_name_only_has_its_sectors():
    arm = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((-1.0, 1.0), (-1e-12, 2.0), (-1.0, 1.0)))
    network = Heads(arm, 4, 4)
    assert network.bends.tolist() == [-1, -1, 1, 1]
    assert network.middles.isfinite().all()
    assert (network.halves > 0).all()


def test_the_best_head_counts_most_in_the_loss(generator):
    targets, scene = queries(UNIT, 10, 2, generator)
    network = Heads(UNIT, 4, 8)
    starts = network(targets, scene)
    cost = network.cost(starts, targets, scene).sort(-1).values
    weights = 0.6 ** torch.arange(4, dtype=torch.float64)
    expected = (cost * weights / weights.sum()).sum(-1).mean()
    assert torch.allclose(network.loss(starts, targets, scene), expected)
    assert network.loss(starts, targets, scene) < cost.mean()


def test_starts_of_trained_heads_have_their_labels_and_point_at_the_target(generator):
    theta = UNIT.sample(300, generator)
    targets = UNIT.tip(theta)
    near = targets.norm(dim=-1) < 2  # further out the last link cannot point back
    with torch.no_grad():
        starts = trained()(targets[near], NO_CIRCLES)
        before = Heads(UNIT, 8, 32)(targets[near], NO_CIRCLES)
    bend, offset = trained().outside_label(starts, targets[near])
    assert ((bend < NEAR_LABEL) & (offset < NEAR_LABEL)).double().mean() > 0.85
    error, untrained = (task_error(UNIT, each, targets[near, None]).norm(dim=-1).median() for each in (starts, before))
    assert error < 0.5 * untrained


def test_training_is_repeatable_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second = (train_heads(UNIT, 2, hidden=8, steps=3, seed=4).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state())


def test_answers_are_of_each_target_alone_and_nan_rows_harm_no_other(generator):
    targets, scene = queries(UNIT, 24, 3, generator)
    model = HeadsQP(trained())
    clean = model.answer(targets, scene, TOLERANCE)
    dirty = targets.clone()
    dirty[[3, 17]] = torch.nan
    answer = model.answer(dirty, scene, TOLERANCE)
    others = torch.ones(24, dtype=torch.bool)
    others[[3, 17]] = False
    assert (answer.status[~others] == IKStatus.INVALID_INPUT).all()
    assert answer.theta[~others].isnan().all()
    assert torch.equal(answer.status[others], clean.status[others])
    alone = model.answer(targets[5:6], scene.pick(slice(5, 6)), TOLERANCE)
    for theta, expected in ((answer.theta[others], clean.theta[others]), (alone.theta[0], clean.theta[5])):
        torch.testing.assert_close(theta, expected, rtol=0, atol=SAME, equal_nan=True)
    assert len(model.answer(targets[:0], scene.pick(slice(0, 0))).theta) == 0


def test_circles_count_as_a_set(generator):
    targets, scene = queries(UNIT, 10, 4, generator)
    turned = Circles(scene.centers.flip(-2), scene.radii.flip(-1))
    torch.testing.assert_close(trained()(targets, scene), trained()(targets, turned), rtol=0, atol=1e-12)


def test_the_order_of_heads_does_not_change_what_is_solved(generator, monkeypatch):
    targets, scene = queries(UNIT, 60, 6, generator)
    model = HeadsQP(trained())
    first, used = model.answer_with_heads(targets, scene, TOLERANCE)
    promise = Heads.promise
    monkeypatch.setattr(Heads, "promise", lambda *arguments: -promise(*arguments))
    second, needed = model.answer_with_heads(targets, scene, TOLERANCE)
    assert torch.equal(first.status == IKStatus.SOLVED, second.status == IKStatus.SOLVED)
    assert used.sum() < needed.sum()  # most promising first takes fewer
    solved = first.status == IKStatus.SOLVED
    assert torch.equal(solved, used <= model.most_starts)
    assert solved.double().mean() > 0.9


def test_gradient_through_heads_and_layers_equals_finite_differences(generator):
    targets, scene = queries(UNIT, 5, 2, generator)
    model = HeadsQP(trained(), layers=2)
    weight = model.network.last_layers[3].bias
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    probe = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((model(targets, scene) * probe).sum(), weight)
    step, values = 1e-5, []
    with torch.no_grad():
        for sign in (1, -2, 1):
            weight += sign * step * direction
            values.append((model(targets, scene) * probe).sum())
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-5)


def test_a_start_midway_between_neighbours_joins_no_two_bends(generator):
    network = Heads(UNIT, 8, 4)
    starts = torch.randn(5, 8, 3, generator=generator, dtype=torch.float64)
    between = network.between(starts)
    expected = [(starts[:, h] + starts[:, h + 1]) / 2 for h in (0, 1, 2, 4, 5, 6)]
    assert torch.allclose(between, torch.stack(expected, -2))
    assert HeadsQP(network).most_starts == 14
    assert Heads(UNIT, 1, 4).between(starts[:, :1]).shape == (5, 0, 3)


def test_what_heads_miss_is_tried_from_between_them(generator, monkeypatch):
    """Heads at their wrong ends: a target between two is reached from there alone, and the count says so."""
    targets, scene = queries(UNIT, 40, 3, generator)
    model = HeadsQP(trained())
    answer, used = model.answer_with_heads(targets, scene, TOLERANCE)
    late = ((used > 8) & (used <= model.most_starts)).sum()
    monkeypatch.setattr(Heads, "between", lambda self, starts: starts[..., :0, :])
    without, counted = model.answer_with_heads(targets, scene, TOLERANCE)
    assert (counted[without.status != IKStatus.SOLVED] == model.most_starts + 1).all()
    assert (answer.status == IKStatus.SOLVED).sum() == (without.status == IKStatus.SOLVED).sum() + late


def test_a_model_without_heads_is_the_former_one_and_wrong_numbers_are_named():
    torch.manual_seed(0)
    one = build_model(UNIT, {"model": "mlp-qp", "inputs": "xy", "heads": None, "hidden": 5})
    torch.manual_seed(0)
    former = build_model(UNIT, {"model": "mlp-qp", "inputs": "xy", "hidden": 5})
    assert isinstance(one, MLPQP)
    assert one.config() == former.config()
    target = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert torch.equal(one(target, NO_CIRCLES), former(target, NO_CIRCLES))
    single = build_model(UNIT, {"model": "mlp-qp", "inputs": "xy", "heads": 1, "hidden": 5})
    assert isinstance(single, HeadsQP)
    assert type(build_model(UNIT, single.config())) is HeadsQP
    assert single.answer(target, NO_CIRCLES, TOLERANCE).theta.shape == (1, 3)
    for change in ({"heads": 3}, {"heads": 0}, {"heads": 8.0}, {"heads": True}, {"heads": 8, "network": "unit"}):
        with pytest.raises(ValueError, match="heads: expected"):
            build_model(UNIT, {"model": "mlp-qp", "inputs": "xy"} | change)


def test_heads_are_trained_saved_and_asked_by_the_command_line(tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    data, out = tmp_path / "data", tmp_path / "run"
    assert run("dataset", "--num-samples", 60, "--out", data)[0] == 0
    few = ("--epochs", 1, "--epoch-samples", 20, "--validation-samples", 8, "--hidden", 8)
    code, output = run("train", "--data", data, "--model", "mlp-qp", "--heads", 8, *few, "--out", out)
    assert code == 0, output
    model, _ = load_run(out)
    assert isinstance(model, HeadsQP)
    assert model.network.heads == 8
    again = ("train", "--data", data, "--model", "mlp-qp", "--heads", 4, "--start", out, *few)
    code, output = run(*again, "--out", tmp_path / "other")
    assert code == 2
    assert "heads 4, found 8" in output
    (tmp_path / "targets.csv").write_text("x,y\n2,3\n-1,4\n")
    (tmp_path / "scene.json").write_text('{"circles": [[2.4, 2.6, 0.2]]}')
    files = ("--targets", tmp_path / "targets.csv", "--scene", tmp_path / "scene.json", "--out", tmp_path / "a.csv")
    code, output = run("solve", "--model", out, "--portfolio", *files)
    assert code == 0
    assert "2 SOLVED" in output


def test_heads_for_every_scene_are_trained_without_a_data_set_and_asked_among_any_circles(tmp_path, monkeypatch):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    arm = tmp_path / "arm.json"
    arm.write_text(json.dumps({"circles": [], "arm": UNIT.to_json()}))
    out = tmp_path / "run"
    few = ("--steps", 60, "--hidden", 16, "--layers", 12)
    code, output = run("train-heads", "--arm", arm, *few, "--out", out)
    assert code == 0, output
    model, config = load_run(out)
    assert isinstance(model, HeadsQP)
    assert (model.arm, model.network.heads, model.layers, config["dataset_hash"]) == (UNIT, 8, 12, None)
    expected = train_heads(UNIT, 8, hidden=16, steps=60).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.network.state_dict().items())
    (tmp_path / "targets.csv").write_text("x,y\n1,1\n-2,0.5\n9,9\n")
    for circles in ([], [[0.5, 1.2, 0.2], [-1.0, -1.0, 0.3]]):
        (tmp_path / "scene.json").write_text(json.dumps({"circles": circles}))
        files = ("--targets", tmp_path / "targets.csv", "--scene", tmp_path / "scene.json", "--out", tmp_path / "a.csv")
        code, output = run("solve", "--model", out, *files)
        assert code == 0, output
        assert "2 SOLVED, 1 UNREACHABLE" in output
    for wrong, message in (
        (("--heads", 3), "heads: expected 1 or a multiple of 2"),
        (("--inputs", "xyz"), "inputs: expected one of xy, xytheta"),
        (("--hidden", 0), "hidden: expected a positive integer"),
        (("--layers", 0), "layers: expected a positive integer"),
    ):
        code, output = run("train-heads", "--arm", arm, "--steps", 1, *wrong, "--out", tmp_path / "none")
        assert (code, message in output) == (2, True), output
        assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli_heads, "train_heads", None)  # what cannot be written is said before the training
    code, output = run("train-heads", "--arm", arm, "--out", tmp_path / "file")
    assert (code, "expected a folder" in output) == (2, True), output
