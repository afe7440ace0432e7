"""Why not? Causes against brute force and closed forms; every change is applied and judged by other kinematics."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from checker import np_clearance, np_points
from test_cli import refused, run
from test_oracle import np_postures, np_room, scenes
from torch.func import jacrev

from robotics import Circles, PlanarArm
from robotics.explain import explain
from robotics.ik_qp import tip_curvature
from robotics.oracle import Verdict, solve_positions

DUKA, UNIT = PlanarArm.duka(), PlanarArm.unit()
SCENE = [[2.4, 2.6, 0.5], [-1.6, 3.2, 0.6], [0.6, -2.0, 0.6]]
REACHED = 1e-6  # of reach


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def circles(rows):
    return Circles.from_json({"circles": rows})


def applied(arm, target, scene, change):
    """The problem after a change."""
    radii = scene.radii.clone()
    if change.kind == "radius":
        radii[change.which] = change.value
    elif change.kind == "all radii":
        radii = (radii - change.value).clamp(min=1e-9 * arm.reach)
    elif change.kind == "target":
        target = f64(change.value)
    else:
        limits = [list(pair) for pair in arm.limits]
        limits[change.which - 1][0 if change.kind == "lower limit" else 1] = change.value
        arm = replace(arm, limits=tuple(map(tuple, limits)))
    return arm, target, Circles(scene.centers, radii)


def assert_verified(arm, target, scene, change):
    arm, target, scene = applied(arm, target, scene, change)
    theta = np.array(change.theta)
    lower, upper = np.array(arm.limits).T
    assert ((theta >= lower) & (theta <= upper)).all()
    centers, radii = scene.centers.numpy(), scene.radii.numpy()
    assert np_clearance(arm.lengths, theta, centers, radii, arm.link_radius) > 0
    assert np.linalg.norm(np_points(arm.lengths, theta)[-1] - target.numpy()[:2]) <= REACHED * arm.reach
    if len(target) == 3:
        assert abs(math.remainder(theta.sum() - float(target[2]), math.tau)) <= REACHED


def test_changes_of_random_blocked_targets_free_them_and_nine_tenths_of_one_do_not(generator):
    arm, kinds = DUKA, set()
    targets, scene = arm.tip(arm.sample(200, generator)), scenes(arm, 200, 3, generator)
    blocked = (solve_positions(arm, targets, scene).verdict == Verdict.INFEASIBLE).nonzero()[:2, 0].tolist()
    assert blocked
    orientation = np.linspace(-np.pi, np.pi, 5001)[None]
    for i in blocked:
        explanation = explain(arm, targets[i], scene.pick(i))
        assert explanation.proved
        assert {"target", "all radii"} <= {change.kind for change in explanation.changes}
        for change in explanation.changes:
            kinds.add(change.kind)
            assert_verified(arm, targets[i], scene.pick(i), change)
            if change.kind in ("radius", "all radii"):
                value = (
                    scene.radii[i, change.which] - 0.9 * change.size if change.kind == "radius" else 0.9 * change.size
                )
                less = change._replace(value=float(value))
                _, target, small = applied(arm, targets[i], scene.pick(i), less)
                for elbow in (-1, 1):
                    postures = np_postures(arm, target.numpy()[None], orientation, elbow)
                    assert not (np_room(arm, postures, (small.centers.numpy(), small.radii.numpy())) > 0).any()
    assert "radius" in kinds


@pytest.mark.parametrize("target", [[1.0, -4.5], [-1.6, 2.5]])
def test_the_closest_posture_is_as_close_as_any_of_a_dense_grid(target):
    explanation = explain(DUKA, f64(target), circles(SCENE))
    axes = [np.linspace(low, high, 81) for low, high in DUKA.limits]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    rows = np.array(SCENE)
    error = np.linalg.norm(np_points(DUKA.lengths, theta)[:, -1] - target, axis=-1)
    near = np.argsort(error)[:40000]
    safe = np_clearance(DUKA.lengths, theta[near], rows[:, :2], rows[:, 2], 0.0) > 0
    assert safe.any()
    assert not explanation.reached
    assert explanation.tip_error <= error[near][safe].min() + 1e-6
    assert explanation.tip_error >= error[near][safe].min() - 0.2  # the grid's own spacing
    (change,) = [change for change in explanation.changes if change.kind == "target"]
    assert change.size == pytest.approx(explanation.tip_error)
    assert_verified(DUKA, f64(target), circles(SCENE), change)


def test_a_target_inside_a_circle_is_blocked_by_it_and_needs_exactly_the_missing_radius():
    for arm in (DUKA, PlanarArm.unit(6), PlanarArm(lengths=(2.0, 2.0, 2.0), limits=DUKA.limits, link_radius=0.05)):
        scale = arm.reach / 6
        scene = circles([[2.4 * scale, 2.6 * scale, 0.5 * scale], [-1.6 * scale, 3.2 * scale, 0.6 * scale]])
        explanation = explain(arm, scale * f64([2.4, 2.7]), scene)
        assert explanation.proved
        assert not explanation.reached
        first = explanation.blockers[0]
        assert (first.kind, first.which, first.link) == ("circle", 0, arm.num_links)
        assert first.rate == pytest.approx(1, abs=0.01)
        changes = {(change.kind, change.which): change for change in explanation.changes}
        needed = (0.5 - 0.1) * scale + arm.link_radius
        assert changes["radius", 0].size == pytest.approx(needed, abs=1e-5 * arm.reach)
        assert changes["target", -1].size == pytest.approx(needed, abs=1e-5 * arm.reach)
        assert ("radius", 1) not in changes
        for change in explanation.changes:
            assert_verified(arm, scale * f64([2.4, 2.7]), scene, change)


@pytest.mark.parametrize("arm", [DUKA, UNIT, PlanarArm.unit(6)])
def test_a_target_beyond_the_reach_is_freed_by_moving_straight_back(arm):
    target = f64([0.6, 0.8]) * 1.25 * arm.reach
    explanation = explain(arm, target, circles([]))
    assert explanation.proved
    assert explanation.beyond_reach == pytest.approx(0.25 * arm.reach)
    (change,) = explanation.changes
    assert change.kind == "target"
    assert np.allclose(change.value, 0.8 * target, atol=1e-6 * arm.reach)
    assert change.size == pytest.approx(0.25 * arm.reach, rel=1e-9)
    assert "out of reach (proved)" in explanation.lines(circles([]))[0]


def test_inside_the_ring_of_a_long_link_the_target_moves_outwards():
    arm = PlanarArm(lengths=(2.0, 0.5, 0.5), limits=((-3.0, 3.0),) * 2 + ((-3.14, 3.14),))
    explanation = explain(arm, f64([0.4, 0.0]), circles([]))
    assert explanation.beyond_reach == pytest.approx(0.6)
    assert explanation.changes[0].size == pytest.approx(0.6, abs=0.02)  # the limits fold the arm almost


def test_a_limit_gives_way_by_the_angle_that_is_missing():
    arm = PlanarArm.unit(2)
    explanation = explain(arm, f64([0.1, 0.05]), circles([]))
    needed = math.acos((0.1**2 + 0.05**2) / 2 - 1) - math.radians(170)  # the law of cosines
    assert explanation.blockers[0].which == 2
    assert "limit" in explanation.blockers[0].kind
    limits = [change for change in explanation.changes if change.kind != "target"]
    assert {change.which for change in limits} == {2}
    for change in limits:
        assert change.size == pytest.approx(needed, abs=1e-5)
        assert_verified(arm, f64([0.1, 0.05]), circles([]), change)


def test_rates_are_the_slopes_of_the_tip_error():
    target, rows, h = f64([1.2, -4.4]), [[0.9, -3.0, 0.4]], 1e-3
    arm = replace(DUKA, limits=((0.0, 3.0), (-2.0, 0.0), (-1.0, 1.0)))
    explanation = explain(arm, target, circles(rows))
    seen = 0
    for blocker in explanation.blockers:
        if blocker.kind == "circle":
            (x, y, r), more = rows[blocker.which], arm
            less = [[x, y, r - h]]
        else:
            side = blocker.kind == "upper limit"
            limits = [list(pair) for pair in arm.limits]
            limits[blocker.which - 1][side] += h if side else -h
            more, less = replace(arm, limits=tuple(map(tuple, limits))), rows
        gained = explanation.tip_error - explain(more, target, circles(less)).tip_error
        if len(explanation.blockers) == 1 or blocker.kind != "circle":
            assert gained / h == pytest.approx(blocker.rate, rel=0.02, abs=1e-3)
            seen += 1
    assert seen


def test_a_circle_over_the_base_leaves_no_posture_and_says_so():
    scene = circles([[0.0, 0.1, 0.3]])
    explanation = explain(DUKA, f64([2.0, 3.0]), scene)
    assert explanation.theta is None
    assert explanation.proved
    assert any("base" in line for line in explanation.lines(scene))
    (change,) = explanation.changes
    assert change.kind == "radius"
    assert change.value <= 0.1
    assert_verified(DUKA, f64([2.0, 3.0]), scene, change)
    assert json.loads(json.dumps(explanation.to_json(), allow_nan=False))["tip_error"] is None


def test_a_reached_target_needs_no_change():
    for target in ([2.0, 3.5], [2.0, 3.5, 1.0]):
        explanation = explain(DUKA, f64(target), circles(SCENE))
        assert explanation.reached
        assert not explanation.proved
        assert explanation.changes == explanation.blockers == ()
        theta = np.array(explanation.theta)
        assert np.allclose(np_points(DUKA.lengths, theta)[-1], target[:2], atol=1e-9)
        assert "reached" in explanation.lines(circles(SCENE))[0]


def test_a_pose_is_explained_too():
    target, scene = f64([2.0, 3.5, 2.8]), circles(SCENE)
    explanation = explain(DUKA, target, scene)
    assert explanation.proved
    assert {(blocker.kind, blocker.which) for blocker in explanation.blockers} == {
        ("upper limit", 2),
        ("upper limit", 3),
    }
    for change in explanation.changes:
        assert_verified(DUKA, target, scene, change)


@pytest.mark.parametrize("target", [[1.0], [1.0, math.nan], [[1.0, 2.0]], [1.0, math.inf, 0.0]])
def test_a_target_that_is_none_is_named(target):
    with pytest.raises(ValueError, match=r"^target: expected 2 or 3 finite numbers"):
        explain(DUKA, f64(target), circles([]))


def test_the_curvature_of_the_tip_is_its_second_derivative(generator):
    arm = PlanarArm.chain(5)
    theta, force = arm.sample(1, generator)[0], torch.randn(2, generator=generator, dtype=torch.float64)
    hessian = jacrev(jacrev(lambda t: (force * arm.tip(t)).sum() / arm.reach))(theta)
    assert torch.allclose(tip_curvature(arm, theta, force), hessian, rtol=0, atol=1e-13)


def test_the_command_prints_causes_and_changes_and_writes_them(tmp_path):
    (tmp_path / "scene.json").write_text(json.dumps({"circles": SCENE}))
    options = ("--scene", tmp_path / "scene.json", "--out", tmp_path / "why.json")
    lines = run("why", "--target", "2.4,2.7", *options).stdout.splitlines()
    assert lines[0] == "target (2.4, 2.7): blocked (proved)"
    assert any(line.startswith("blocked by circle 0 at (2.4, 2.6)") and "link 3" in line for line in lines)
    assert any(line.startswith("free if the target moves to (2.4, 3.1)") for line in lines)
    stored = json.loads((tmp_path / "why.json").read_text())
    assert stored["blockers"][0]["kind"] == "circle"
    assert {change["kind"] for change in stored["changes"]} == {"target", "radius", "all radii"}
    assert run("why", "--target", "2,3.5", *options).stdout.startswith("target (2, 3.5): reached\n")
    for text in ("2.4", "a,b", "1,2,3,4", ""):
        assert "target: expected x,y or x,y,theta" in refused("why", "--target", text, *options)
    assert "finite" in refused("why", "--target", "nan,1", *options)


def test_a_posture_that_only_touches_a_limit_is_found_though_the_oracle_leaves_it_open():
    # Folded onto the base, θ_2 = -π is at Duka's limit: the closest posture has no error at all.
    target = f64([math.sqrt(2), math.sqrt(2), math.pi / 4])
    for circles in ([], [[2.4, 2.6, 0.5]]):
        found = explain(PlanarArm.duka(), target, Circles.from_json({"circles": circles}))
        assert found.reached
        assert not found.proved
        assert found.changes == found.blockers == ()


@pytest.mark.parametrize("links", [3, 5])
def test_a_pose_whose_wrist_is_out_of_reach_is_proved_to_be_whatever_the_number_of_links(links):
    arm, nothing = PlanarArm.unit(links), Circles.from_json({"circles": []})
    target = f64([links - 0.1, 0.0, 1.0])
    found = explain(arm, target, nothing)
    assert found.proved
    assert found.beyond_reach == pytest.approx(abs(links - 0.1 - np.exp(1j)) - (links - 1))
    assert "reach: the wrist is 0." in "\n".join(found.lines(nothing))
    (change,) = found.changes
    moved = f64(change.value)
    wrist = moved[:2] - f64([math.cos(moved[2]), math.sin(moved[2])])
    assert float(wrist.norm()) <= links - 1 + 1e-6
