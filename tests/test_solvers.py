"""Solvers to compare with: sound answers, judged by other kinematics, and the success that the usual practice has."""

import importlib
import math

import numpy as np
import pytest
import torch
from checker import assert_sound
from test_oracle import scenes

from robotics import Circles, PlanarArm
from robotics.ik_qp import task_jacobian
from robotics.least_squares import bounded_step, levenberg_marquardt
from robotics.metrics import evaluate
from robotics.models import IKStatus
from robotics.oracle import Verdict, solve
from robotics.solvers import SLSQP, DampedLeastSquares, DifferentialIK, LevenbergMarquardt

DUKA, UNIT = PlanarArm.duka(), PlanarArm.unit()
ARMS = {"duka": DUKA, "unit": UNIT, "six": PlanarArm.chain(6)}
NO_CIRCLES = Circles.from_json({"circles": []})
MAKERS = {
    "damped-least-squares": lambda arm: DampedLeastSquares(arm=arm),
    "levenberg-marquardt": lambda arm: LevenbergMarquardt(arm=arm),
    "slsqp": lambda arm: SLSQP(arm=arm, restarts=3, iterations=60),
    "differential-ik": lambda arm: DifferentialIK(arm=arm),
}
EVERY = pytest.mark.parametrize("name", MAKERS)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@EVERY
@pytest.mark.parametrize("pose", [False, True], ids=["position", "pose"])
@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_answers_are_safe_and_what_is_solved_is_at_its_target(name, arm, pose, generator):
    count = 15 if name == "slsqp" else 60
    theta, scene = arm.sample(count, generator), scenes(arm, count, 3, generator)
    targets = arm.pose(theta) if pose else arm.tip(theta)
    answer = MAKERS[name](arm).answer(targets, scene, 1e-6)
    found = answer.theta.numpy()
    given, solved = ~np.isnan(found).any(-1), (answer.status == IKStatus.SOLVED).numpy()
    assert set(answer.status.tolist()) <= {IKStatus.SOLVED, IKStatus.NOT_REACHED, IKStatus.NO_SAFE_ANSWER}
    assert np.array_equal(given, answer.status.numpy() != IKStatus.NO_SAFE_ANSWER)
    assert_sound(arm, answer, targets, scene, 1e-6)
    assert solved.mean() > (0.1 if pose else 0.6)


@pytest.mark.parametrize("restarts", [10, 40])
def test_least_squares_with_restarts_find_what_the_oracle_says_is_there(restarts, generator):
    theta, scene = UNIT.sample(80, generator), scenes(UNIT, 80, 3, generator)
    targets = UNIT.tip(theta)
    feasible = solve(UNIT, targets, scene).verdict == Verdict.FEASIBLE
    for solver in (LevenbergMarquardt(arm=UNIT, restarts=restarts), DampedLeastSquares(arm=UNIT, restarts=restarts)):
        solved = solver.answer(targets, scene, 1e-6).status == IKStatus.SOLVED
        assert not (solved & ~feasible).any()
        assert (solved & feasible).sum() >= (0.97 if restarts == 10 else 0.99) * feasible.sum()


@EVERY
def test_one_bad_target_leaves_the_others_as_they_are(name, generator):
    solver = MAKERS[name](DUKA)
    targets = DUKA.tip(DUKA.sample(5, generator))
    whole = solver.answer(targets, NO_CIRCLES)
    spoiled = targets.clone()
    spoiled[1], spoiled[3] = torch.nan, f64([7.0, 0.0])
    answer = solver.answer(spoiled, NO_CIRCLES)
    assert answer.status[[1, 3]].tolist() == [IKStatus.INVALID_INPUT, IKStatus.UNREACHABLE]
    for i in (0, 2, 4):
        assert torch.allclose(answer.theta[i], whole.theta[i], rtol=0, atol=1e-9)
    assert solver.answer(targets[:0], NO_CIRCLES).theta.shape == (0, 3)


@EVERY
def test_a_circle_over_the_base_leaves_no_answer(name):
    scene = Circles.from_json({"circles": [[0.0, 0.0, 0.5]]})
    answer = MAKERS[name](DUKA).answer(f64([[2.0, 3.0]]), scene)
    assert answer.status.tolist() == [IKStatus.NO_SAFE_ANSWER]
    assert answer.theta.isnan().all()


@EVERY
def test_a_solver_is_scored_as_a_model_is(name, generator):
    solver = MAKERS[name](UNIT)
    row = evaluate(solver, UNIT.tip(UNIT.sample(10, generator)), NO_CIRCLES)
    assert row.method == name
    assert row.success_1e3 == 1
    assert row.whole_arm_collision_rate == row.limit_violations == 0
    config = solver.config()
    assert config["model"] == name
    assert "arm" not in config


@EVERY
def test_answers_repeat(name, generator):
    targets = UNIT.tip(UNIT.sample(6, generator))
    first, again = (MAKERS[name](UNIT).answer(targets, NO_CIRCLES).theta for _ in range(2))
    assert torch.equal(first, again)


@EVERY
def test_answers_carry_no_gradient(name, generator):
    targets = UNIT.tip(UNIT.sample(2, generator)).requires_grad_()
    assert not any(column.requires_grad for column in MAKERS[name](UNIT).answer(targets, NO_CIRCLES))


def test_a_missing_module_is_named_with_the_way_to_install_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"scipy.*pip install 'implicit-layers\[robotics\]'"):
        SLSQP(arm=UNIT).answer(f64([[1.0, 1.0]]), NO_CIRCLES)


@pytest.mark.parametrize("option", ["restarts", "iterations"])
def test_counts_are_positive_integers(option):
    for solver in (DampedLeastSquares, LevenbergMarquardt, SLSQP):
        with pytest.raises(ValueError, match=rf"^{option}: expected a positive integer, found 0$"):
            solver(arm=UNIT, **{option: 0})
    with pytest.raises(ValueError, match=r"^ticks: expected a positive integer"):
        DifferentialIK(arm=UNIT, ticks=True)


# --- the steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [2, 3])
def test_the_damped_step_minimises_its_own_cost(width, generator):
    arm = PlanarArm.unit(5)
    theta = 0.5 * arm.sample(20, generator)
    error = torch.randn(20, width, generator=generator, dtype=torch.float64)
    damping = 0.1 + torch.rand(20, generator=generator, dtype=torch.float64)
    step = bounded_step(arm, theta, 0.01 * error, damping)
    J = task_jacobian(arm, theta, width)
    gradient = (J.mT @ ((J @ step[..., None])[..., 0] + 0.01 * error)[..., None])[..., 0] + damping[:, None] * step
    assert gradient.abs().max() < 1e-15


def test_a_joint_at_its_limit_leaves_the_step_to_the_others():
    arm = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0)))
    theta = f64([[0.0, 0.2, 0.2]])
    found = levenberg_marquardt(arm, theta, arm.tip(f64([[0.0, -0.5, 0.3]])), 60)
    assert arm.limit_violation(found) == 0
    assert torch.allclose(arm.tip(found), arm.tip(f64([[0.0, -0.5, 0.3]])), atol=1e-9)


def test_levenberg_marquardt_never_makes_a_start_worse(generator):
    arm, starts = UNIT, UNIT.sample(200, generator)
    targets = 4.0 * torch.rand(200, 2, generator=generator, dtype=torch.float64) - 2
    before = (arm.tip(starts) - targets).norm(dim=-1)
    for iterations in (1, 5, 40):
        after = (arm.tip(levenberg_marquardt(arm, starts, targets, iterations)) - targets).norm(dim=-1)
        assert (after <= before + 1e-15).all()
        before = after
    assert before.median() < 1e-12 * math.pi
