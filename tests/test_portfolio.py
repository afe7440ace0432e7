"""Everything in turn: what is feasible is solved, what is called infeasible is, by other kinematics."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from checker import assert_sound, np_clearance
from test_cli import read_answers, run, write_targets
from test_oracle import np_postures, np_room, scenes

from robotics import Circles, PlanarArm
from robotics.models import IKStatus, build_model
from robotics.solvers import LevenbergMarquardt, Portfolio, Stage

UNIT, DUKA = PlanarArm.unit(), PlanarArm.duka()
TOLERANCE = 1e-6


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("arm", [UNIT, DUKA], ids=["unit", "duka"])
def test_three_links_among_six_circles_are_solved_or_proved_infeasible(arm, generator):
    theta, scene = arm.sample(150, generator), scenes(arm, 150, 6, generator)
    targets = arm.tip(theta)
    answer, stage = Portfolio(arm=arm).answer_with_stage(targets, scene, TOLERANCE)
    assert_sound(arm, answer, targets, scene, TOLERANCE)
    assert set(answer.status.tolist()) == {IKStatus.SOLVED, IKStatus.INFEASIBLE}
    room = np_clearance(arm.lengths, theta.numpy(), scene.centers.numpy(), scene.radii.numpy(), arm.link_radius)
    infeasible = (answer.status == IKStatus.INFEASIBLE).numpy()
    assert not (infeasible & (room > 0)).any()
    orientation = np.linspace(-np.pi, np.pi, 4001)[None] + np.zeros((int(infeasible.sum()), 1))
    some = (scene.centers.numpy()[infeasible], scene.radii.numpy()[infeasible])
    for elbow in (-1, 1):
        postures = np_postures(arm, targets.numpy()[infeasible], orientation, elbow)
        assert not (np_room(arm, postures, some) > 0).any()
    assert torch.equal(stage == Stage.NONE, answer.status == IKStatus.INFEASIBLE)


def test_without_the_oracle_nothing_is_proved_and_almost_all_is_solved_all_the_same(generator):
    theta, scene = UNIT.sample(60, generator), scenes(UNIT, 60, 3, generator)
    targets = UNIT.tip(theta)
    sure = Portfolio(arm=UNIT).answer(targets, scene, TOLERANCE)
    tried = Portfolio(arm=UNIT, use_oracle=False, more_starts=8).answer(targets, scene, TOLERANCE)
    assert not (tried.status == IKStatus.INFEASIBLE).any()
    assert_sound(UNIT, tried, targets, scene, TOLERANCE)
    solved = [(answer.status == IKStatus.SOLVED) for answer in (sure, tried)]
    assert not (solved[1] & ~solved[0]).any()
    assert (solved[0] & ~solved[1]).sum() <= 1


def test_six_links_are_solved_by_starts_alone(generator):
    arm = PlanarArm.unit(6)
    theta, scene = arm.sample(60, generator), scenes(arm, 60, 3, generator)
    clear = np_clearance(arm.lengths, theta.numpy(), scene.centers.numpy(), scene.radii.numpy(), 0.0) > 0
    answer = Portfolio(arm=arm, more_starts=4).answer(arm.tip(theta), scene, TOLERANCE)
    assert_sound(arm, answer, arm.tip(theta), scene, TOLERANCE)
    assert (answer.status == IKStatus.SOLVED).numpy()[clear].all()


def test_poses_are_solved_or_proved_infeasible(generator):
    theta, scene = UNIT.sample(60, generator), scenes(UNIT, 60, 3, generator)
    targets = UNIT.pose(theta)
    # One start and three steps leave something to the oracle.
    answer, stage = Portfolio(arm=UNIT, starts=1, layers=3).answer_with_stage(targets, scene, TOLERANCE)
    assert set(answer.status.tolist()) <= {IKStatus.SOLVED, IKStatus.INFEASIBLE}
    assert_sound(UNIT, answer, targets, scene, TOLERANCE)
    assert Stage.ORACLE in stage.tolist()


def test_the_model_is_asked_first_and_what_it_solves_stays(generator):
    targets, scene = DUKA.tip(DUKA.sample(40, generator)), scenes(DUKA, 40, 2, generator)
    model = LevenbergMarquardt(arm=DUKA, restarts=1)
    first = model.answer(targets, scene, TOLERANCE)
    answer, stage = Portfolio(arm=DUKA, model=model).answer_with_stage(targets, scene, TOLERANCE)
    by_model = stage == Stage.MODEL
    assert torch.equal(by_model, first.status == IKStatus.SOLVED)
    assert 0 < by_model.sum() < 40
    assert torch.equal(answer.theta[by_model], first.theta[by_model])


def test_softened_steps_pass_where_certified_ones_are_stopped():
    # From the only start the arm must sweep through the circle: there is no way round for certified steps.
    arm = PlanarArm(lengths=(1.0, 1.0, 0.2), limits=((-1.5, 1.5), (-0.1, 0.1), (-0.1, 0.1)))
    scene = Circles.from_json({"circles": [[1.5, 0.0, 0.3]]})
    portfolio = Portfolio(arm=arm)
    start, target = f64([[-1.0, 0.0, 0.0]]), arm.tip(f64([[1.0, 0.05, 0.02]]))
    certified, soft = (portfolio._refine(stage, start, target, scene) for stage in (Stage.CERTIFIED, Stage.SOFT))
    assert (arm.tip(certified) - target).norm() > 0.5
    assert (arm.tip(soft) - target).norm() < 1e-6
    assert np_clearance(arm.lengths, soft.numpy(), scene.centers.numpy(), scene.radii.numpy(), 0.0) > 0


def test_bad_targets_have_their_status_and_harm_no_neighbour():
    targets = f64([[math.nan, 1.0], [2.0, 3.5], [7.0, 0.0], [2.4, 2.6]])
    scene = Circles.from_json({"circles": [[2.4, 2.6, 0.5]]})
    answer = Portfolio(arm=DUKA).answer(targets, scene)
    expected = [IKStatus.INVALID_INPUT, IKStatus.SOLVED, IKStatus.UNREACHABLE, IKStatus.INFEASIBLE]
    assert answer.status.tolist() == expected
    assert Portfolio(arm=DUKA).answer(targets[:0], scene).theta.shape == (0, 3)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"^starts: expected a positive integer, found 0$"):
        Portfolio(arm=DUKA, starts=0)
    with pytest.raises(ValueError, match=r"^model: expected one of the arm"):
        Portfolio(arm=DUKA, model=LevenbergMarquardt(arm=UNIT))
    config = Portfolio(arm=DUKA, model=build_model(DUKA, {"model": "mlp", "inputs": "xy"})).config()
    assert json.loads(json.dumps(config))["first"]["model"] == "mlp"
    assert dataclasses.replace(Portfolio(arm=DUKA), starts=2).config()["starts"] == 2


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, -1e-3])
def test_a_tolerance_that_means_nothing_is_named(tolerance):
    for solver in (Portfolio(arm=DUKA), LevenbergMarquardt(arm=DUKA)):
        with pytest.raises(ValueError, match=r"^tolerance: expected a finite number >= 0"):
            solver.answer(f64([[2.0, 3.5]]), Circles.from_json({"circles": []}), tolerance)


def test_the_command_solves_or_proves_with_a_portfolio(tmp_path):
    (tmp_path / "scene.json").write_text(json.dumps({"circles": [[2.4, 2.6, 0.5]]}))
    run("dataset", "--num-samples", 40, "--out", tmp_path / "data")
    run("train", "--data", tmp_path / "data", "--epochs", 1, "--hidden", 4, "--out", tmp_path / "run")
    targets = write_targets(tmp_path / "targets.csv", [[2.0, 3.5], [2.4, 2.6], [4.0, 1.0]])
    files = ("--targets", targets, "--scene", tmp_path / "scene.json", "--out", tmp_path / "angles.csv")
    run("solve", "--model", tmp_path / "run", *files, "--portfolio")
    rows = read_answers(tmp_path / "angles.csv")
    assert [row["status"] for row in rows] == ["SOLVED", "INFEASIBLE", "SOLVED"]
    assert rows[1]["theta_1"] == ""
