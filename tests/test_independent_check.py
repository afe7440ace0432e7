"""Every model, solver and step among hostile circles, judged by the independent checker, which sees what is planted."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from checker import body_of, judge, limit_excess, np_clearance, rows_of, unsafe_steps

from benchmarks.ik import independent
from benchmarks.ik.safety_queries import draw
from robotics import Circles, PlanarArm, convex, models, oracle, solvers
from robotics.chords import certified_chord
from robotics.convex import CIDGIK, Relaxation
from robotics.ik_qp import MARGIN
from robotics.models import Heads, HeadsQP, IKStatus, build_model
from robotics.paths import line_path
from robotics.solvers import SLSQP, DampedLeastSquares, DifferentialIK, LevenbergMarquardt, Portfolio
from robotics.steps import certified_step, certified_steps, escape
from robotics.trajectories import track

FINE, ROUGH = 1e-6, 0.3  # of reach: what is asked of solvers, and of networks that nobody has trained
CONTACT = 1e-12  # of reach: circles of up to 50 reaches, whose radius is rounded at 1e-14


def built(name, **options):
    def make(arm, inputs):
        torch.manual_seed(0)
        return build_model(arm, {"model": name, "inputs": inputs, "hidden": 20, **options})

    return make


def portfolio_behind_a_network(arm, inputs):
    return Portfolio(arm=arm, model=built("mlp-qp")(arm, inputs), starts=2, more_starts=2)


# Each as (how it is made for an arm and a kind of targets, tolerance, number of targets of each of three arms).
METHODS = {
    "heads": (lambda arm, inputs: HeadsQP(Heads(arm, 4, 20, inputs)), FINE, 150),
    "mlp": (built("mlp"), ROUGH, 300),
    "mlp, penalty": (built("mlp", network="penalty"), ROUGH, 300),
    "mlp, clamp": (built("mlp", network="clamp"), ROUGH, 300),
    "one-shot": (built("mlp-qp-oneshot", network="unit"), ROUGH, 300),
    "sequential": (built("mlp-qp", layers=10), FINE, 150),
    "learned program": (built("optnet"), ROUGH, 300),
    "damped least squares": (lambda arm, _: DampedLeastSquares(arm=arm), FINE, 100),
    "Levenberg-Marquardt": (lambda arm, _: LevenbergMarquardt(arm=arm), FINE, 100),
    "SLSQP": (lambda arm, _: SLSQP(arm=arm, restarts=2, iterations=60), FINE, 8),
    "differential IK": (lambda arm, _: DifferentialIK(arm=arm), FINE, 60),
    "portfolio": (portfolio_behind_a_network, FINE, 150),
    "portfolio without oracle": (lambda arm, _: Portfolio(arm=arm, more_starts=4, use_oracle=False), FINE, 80),
}
CONVEX = {
    "Relaxation": (Relaxation, {}, 4),
    "Relaxation, order 2": (Relaxation, {"order": 2}, 1),
    "CIDGIK": (CIDGIK, {}, 4),
}
LEARNERS = ("mlp", "mlp, penalty", "mlp, clamp", "one-shot", "learned program")  # reach little, untrained


def assert_nothing_is_wrong(arm, answer, targets, scene, tolerance):
    judged = judge(arm, answer, targets, scene, tolerance)
    assert not (judged.unsafe & judged.solved).any()
    assert not (judged.off & judged.solved).any()
    return int(judged.solved.sum())


def test_whatever_answers_is_listed_here():
    """A model or a solver more must be judged too."""
    arm = PlanarArm.duka()
    listed = {type(make(arm, "xy")) for make, *_ in METHODS.values()}
    listed |= {kind for kind, *_ in CONVEX.values()}
    exported = [vars(package)[name] for package in (models, solvers, convex) for name in package.__all__]
    assert listed == {value for value in exported if hasattr(value, "answer") and value is not solvers.Solver}


@pytest.mark.parametrize(("name", "pose"), [(name, pose) for name in METHODS for pose in (False, True)])
def test_what_is_called_solved_is_safe_and_at_its_target(name, pose, generator):
    make, tolerance, count = METHODS[name]
    solved = 0
    for _ in range(3):
        arm, targets, scene, starts = draw(count, generator)
        if pose:
            targets = arm.pose(starts)
        answer = make(arm, "xytheta" if pose else "xy").answer(targets, scene, tolerance)
        solved += assert_nothing_is_wrong(arm, answer, targets, scene, tolerance)
    assert solved >= (1 if name in LEARNERS else 0.1 * 3 * count)  # else nothing was judged


@pytest.mark.skipif(importlib.util.find_spec("cvxpy") is None, reason="semidefinite programs go through cvxpy")
@pytest.mark.parametrize("name", CONVEX)
def test_what_semidefinite_programs_call_solved_is_safe_and_at_its_target(name, generator):
    kind, options, count = CONVEX[name]
    solved = 0
    for arm in (PlanarArm.duka(), PlanarArm.unit()):
        theta = arm.sample(count, generator)
        scene = Circles.from_json({"circles": [[0.4 * arm.reach, 0.4 * arm.reach, 0.1 * arm.reach]]})
        answer = kind(arm=arm, **options).answer(arm.pose(theta), scene, FINE)
        solved += assert_nothing_is_wrong(arm, answer, arm.pose(theta), scene, FINE)
    assert solved or name == "Relaxation, order 2"  # from home, it may find none of two


def test_postures_of_the_oracle_are_safe_and_at_their_targets(generator):
    found = 0
    while found < 200:
        arm, targets, scene, _ = draw(100, generator)
        if arm.num_links == 3:
            known = targets.isfinite().all(-1).nonzero()[:, 0]
            targets, scene = targets[known], scene.pick(known)
            answers = oracle.solve_positions(arm, targets, scene)
            own, theta = answers.target.numpy(), answers.theta.numpy()
            # A target on a circle's edge is reached in contact, all along its interval: round-off says on which side.
            clearance = independent.clearance(body_of(arm), theta, rows_of(scene)[own])
            assert (clearance > -CONTACT * arm.reach).all()
            assert (independent.excess(body_of(arm), theta) <= 0).all()
            assert (independent.tip_distance(body_of(arm), theta, targets.numpy()[own]) < 1e-12 * arm.reach).all()
            found += len(theta)


# --- ways -------------------------------------------------------------------------------------------------


def clear_starts(queries):
    """Those of a batch's starts that are clear, or led out of the circles: steps are certified from there."""
    arm, scene = queries.arm, queries.circles
    aim = torch.where(queries.targets.isfinite(), queries.targets, 0.0)
    theta = escape(arm, queries.starts, aim, scene)
    room = independent.clearance(body_of(arm), theta.numpy(), rows_of(scene))
    clear = torch.from_numpy(room >= MARGIN * arm.reach).nonzero()[:, 0]
    return theta[clear], aim[clear], scene.pick(clear)


@pytest.mark.parametrize("how", ["plain", "pose", "curvature", "speed"])
@torch.no_grad()
def test_certified_steps_of_random_arms_are_safe_all_along(how, generator):
    judged = 0
    for _ in range(5):
        queries = draw(200, generator)
        arm, (theta, targets, scene) = queries.arm, clear_starts(queries)
        if how == "pose":
            targets = torch.cat((targets, 6 * torch.rand(len(targets), 1, generator=generator).double() - 3), -1)
        lower, upper = arm.limits_tensor(theta)
        for _ in range(3):
            near = (torch.maximum(lower, theta - 0.05), torch.minimum(upper, theta + 0.05)) if how == "speed" else None
            end = certified_step(arm, theta, targets, scene, how == "curvature", near)
            moved = (end != theta).any(-1).nonzero()[:, 0]
            assert not unsafe_steps(arm, theta[moved], end[moved], scene.pick(moved)).any()
            assert near is None or (end - theta).abs().max() <= 0.05 + 1e-15
            judged, theta = judged + len(moved), end
    assert judged > 500


@torch.no_grad()
def test_chords_that_are_proved_are_safe_all_along_and_some_that_collide_are_not_proved(generator):
    proved = refused = 0
    for _ in range(10):
        queries = draw(200, generator)
        arm, (theta, targets, scene) = queries.arm, clear_starts(queries)
        end = certified_steps(arm, theta, targets, scene, 4)
        sure = certified_chord(arm, theta, end, scene).nonzero()[:, 0]
        assert not unsafe_steps(arm, theta[sure], end[sure], scene.pick(sure)).any()
        proved, refused = proved + len(sure), refused + len(theta) - len(sure)
    assert proved > 100
    assert refused > 100


def test_tracks_among_hostile_circles_are_safe_all_along(generator):
    tracked = 0
    for _ in range(6):
        queries = draw(40, generator)
        arm, (theta, targets, scene) = queries.arm, clear_starts(queries)
        if not len(theta):
            continue
        one = scene.pick(0)
        path = line_path(torch.cat((arm.tip(theta[:1]), targets[:3])), 20)
        found = track(arm, theta[0], path, one, speed=0.2, layers=2)
        angles = torch.cat((found.start[None], found.theta))
        moved = (angles[1:] != angles[:-1]).any(-1)
        assert not unsafe_steps(arm, angles[:-1][moved], angles[1:][moved], one).any()
        tracked += int(moved.sum())
    assert tracked > 50


# --- what is planted is found -----------------------------------------------------------------------------


def limit(arm, theta, targets, scene):
    beyond = theta.clone()
    beyond[:, 0] = arm.limits[0][1] + 1e-6
    return beyond, targets, scene


def tip(arm, theta, targets, scene):
    return theta, targets + 2e-6 * arm.reach * torch.tensor([1.0, 0.0, 0.0]), scene


def heading(arm, theta, targets, scene):
    return theta, targets + 2e-6 * torch.tensor([0.0, 0.0, 1.0]), scene


def collision(arm, theta, targets, scene):
    """One circle more, a millionth of a link's length over the edge of the middle of each arm's second link."""
    ends = arm.points(theta)[:, 1:3]
    along = ends[:, 1] - ends[:, 0]
    side = torch.stack((-along[:, 1], along[:, 0]), -1) / along.norm(dim=-1, keepdim=True)
    center = ends.mean(1) + (0.05 - 1e-6) * arm.lengths[1] * side
    radii = torch.full((len(theta), 1), 0.05 * arm.lengths[1], dtype=torch.float64)
    return theta, targets, Circles(torch.cat((scene.centers, center[:, None]), 1), torch.cat((scene.radii, radii), 1))


def no_number(arm, theta, targets, scene):
    return theta * torch.nan, targets, scene


@pytest.mark.parametrize(
    ("spoil", "where"),
    [(limit, "unsafe"), (collision, "unsafe"), (no_number, "unsafe"), (tip, "off"), (heading, "off")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_answer_that_is_spoilt_is_seen(spoil, where, generator):
    arm = PlanarArm.duka()
    theta = arm.sample(100, generator)
    targets, nothing = arm.pose(theta), Circles(torch.zeros(100, 0, 2).double(), torch.zeros(100, 0).double())
    honest = Portfolio(arm=arm).answer(targets, nothing, FINE)
    solved = (honest.status == IKStatus.SOLVED).numpy()
    assert solved.mean() > 0.9
    assert assert_nothing_is_wrong(arm, honest, targets, nothing, FINE) == solved.sum()
    theta, goals, scene = spoil(arm, honest.theta, targets, nothing)
    judged = judge(arm, honest._replace(theta=theta), goals, scene, FINE)
    assert getattr(judged, where)[solved].all()
    if spoil is not no_number and spoil is not limit:
        assert not getattr(judged, "off" if where == "unsafe" else "unsafe")[solved].any()


def test_a_step_that_crosses_a_circle_in_its_middle_is_seen_though_both_ends_are_clear(generator):
    for arm in (PlanarArm.unit(2), PlanarArm.duka(), PlanarArm.chain(6)):
        start, end = arm.sample(300, generator), arm.sample(300, generator)
        middle = arm.points((start + end) / 2)
        scene = Circles(middle[:, -2:].mean(1)[:, None], torch.full((300, 1), 0.02 * arm.reach).double())
        ends_clear = torch.ones(300, dtype=torch.bool)
        for theta in (start, end):
            room = np_clearance(arm.lengths, theta.numpy(), scene.centers.numpy(), scene.radii.numpy(), 0.0)
            ends_clear &= torch.from_numpy(room > 0)
        assert ends_clear.double().mean() > 0.5
        crossing = ends_clear.nonzero()[:, 0]
        assert unsafe_steps(arm, start[crossing], end[crossing], scene.pick(crossing)).all()


def test_a_step_that_leaves_the_limits_is_seen(generator):
    arm = PlanarArm.duka()
    start = arm.sample(50, generator)
    end = start.clone()
    end[:, 1] = arm.limits[1][0] - 1e-9
    none = Circles.from_json({"circles": []})
    assert (limit_excess(arm, end) > 0).all()
    assert unsafe_steps(arm, start, end, none).all()
    assert not unsafe_steps(arm, start, start, none).any()
