"""The independent check of inverse kinematics finds what is planted, and nothing in what the package answers."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import cli
from benchmarks.ik import independent, safety
from benchmarks.ik.independent import Body
from benchmarks.ik.safety_queries import KINDS, POSES, TARGETS, draw
from robotics import Circles, PlanarArm, oracle
from robotics.models import IKStatus

BODY = Body(np.array([1.0, 1.0, 1.0]), np.full(3, -2.0), np.full(3, 2.0))
STRAIGHT = np.zeros((1, 3))
BESIDE = np.array([[[1.7, 0.5, 0.4]]])  # 0.1 above the second link of the straight arm


# --- the check itself -----------------------------------------------------------------------------------


def test_the_check_imports_nothing_that_it_judges():
    tree = ast.parse(Path(independent.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} == {"__future__", "math", "typing", "numpy"}


def test_clearance_is_known_beside_a_link_beyond_its_end_and_inside():
    for circle, expected in (([1.7, 0.5, 0.4], 0.1), ([3.3, 0.4, 0.2], 0.3), ([1.5, 0.0, 0.2], -0.2)):
        assert independent.clearance(BODY, STRAIGHT, np.array([[circle]])) == pytest.approx([expected])
    thick = BODY._replace(link_radius=0.06)
    assert independent.clearance(thick, STRAIGHT, BESIDE) == pytest.approx([0.04])


def test_sampled_points_never_see_less_clearance_than_the_exact_test():
    rng = np.random.default_rng(0)
    theta, circles = rng.uniform(-2, 2, (500, 3)), rng.uniform(0.1, 1.0, (500, 4, 3))
    exact, sampled = (f(BODY, theta, circles) for f in (independent.clearance, independent.sampled_clearance))
    assert (sampled >= exact - 1e-12).all()
    assert (sampled - exact).max() < 1 / 32  # half the distance of two points, at most


def test_its_kinematics_are_those_of_the_package():
    arm = PlanarArm.chain(6)
    theta = arm.sample(20, torch.Generator().manual_seed(0))
    points = independent.joints(safety.body_of(arm), theta.numpy())
    assert np.allclose(np.stack((points.real, points.imag), -1), arm.points(theta).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ([0.0, 0.0, 0.0], False),
        ([2.0 + 1e-6, 0.0, 0.0], True),  # over a limit by a millionth
        ([2.0, 0.0, 0.0], False),  # on it
        ([0.25, 0.0, 0.0], True),  # into the circle
        ([math.nan, 0.0, 0.0], True),
    ],
)
def test_planted_postures_are_seen(change, seen):
    assert independent.unsafe(BODY, STRAIGHT + change, BESIDE).tolist() == [seen]


def test_a_step_through_a_circle_is_seen_though_both_ends_are_clear():
    start, end = np.array([[-0.5, 0.0, 0.0]]), np.array([[1.5, 0.0, 0.0]])
    assert not independent.unsafe(BODY, np.concatenate((start, end)), BESIDE).any()
    assert independent.unsafe_steps(BODY, start, end, BESIDE).all()
    assert not independent.unsafe_steps(BODY, start, start + 0.1, BESIDE).any()


def test_a_target_called_infeasible_is_found_by_the_sweep_and_its_posture_is_there():
    targets, scene = np.array([[1.5, 1.0], [3.5, 0.0], [1.7, 0.5]]), np.repeat(BESIDE, 3, 0)
    found, posture = independent.some_posture(BODY, targets, scene)
    assert found.tolist() == [True, False, False]
    assert independent.tip_distance(BODY, posture[:1], targets[:1]) < 1e-12
    assert not independent.unsafe(BODY, posture[:1], BESIDE).any()


def test_a_heading_is_judged_by_its_direction_however_many_turns_it_has():
    for turns in (0, 1, -7, 10**9):
        pose = np.array([[3.0, 0.0, math.tau * turns + 0.25]])
        off = float(np.angle(np.exp(1j * np.float64(pose[0, 2]))))
        assert independent.turn_distance(BODY, STRAIGHT, pose) == pytest.approx(abs(off), abs=1e-12)
        assert independent.off_target(BODY, STRAIGHT, pose, 0.3).tolist() == [False]
        assert independent.off_target(BODY, STRAIGHT, pose, 0.2).tolist() == [True]
    assert independent.off_target(BODY, STRAIGHT, np.array([[3.0, 0.0, math.nan]]), 1.0).tolist() == [True]


def test_lengths_allow_a_pose_where_they_allow_its_wrist():
    poses = np.array([[3.0, 0.0, 0.0], [3.0, 0.0, 0.1], [-1.0, 0.0, 0.0], [-1.001, 0.0, 0.0], [-1.001, 0.0, math.pi]])
    assert independent.within_lengths(BODY, poses).tolist() == [True, False, True, False, True]
    assert independent.within_lengths(BODY, poses[:, :2]).tolist() == [True] * 5
    long = Body(np.array([2.0, 0.5, 1.0]), BODY.lower, BODY.upper)  # its wrist is never nearer than 1.5 m
    assert independent.within_lengths(long, np.array([[1.0, 0.0, 0.0], [2.6, 0.0, 0.0]])).tolist() == [False, True]


@pytest.mark.parametrize("links", [2, 3, 5])
def test_a_pose_called_infeasible_is_found_by_the_search_and_its_posture_is_there(links):
    arm = PlanarArm.unit(links)
    body = safety.body_of(arm)
    theta = arm.sample(60, torch.Generator().manual_seed(0))
    poses = arm.pose(theta).numpy()
    nothing = np.zeros((60, 0, 3))
    found, posture = independent.some_posture_at_pose(body, poses, nothing)
    assert found.mean() == (1 if links < 4 else pytest.approx(1, abs=0.1))
    assert not independent.unsafe(body, posture[found], nothing[found]).any()
    assert not independent.off_target(body, posture[found], poses[found], 1e-12).any()
    circles = np.concatenate((poses[:, :2], np.full((60, 1), 0.1)), -1)[:, None]  # over the tip
    assert not independent.some_posture_at_pose(body, poses, circles)[0].any()


def test_a_wrist_on_the_base_is_turned_all_around():
    # Folded, and nearly straight in joint 3.
    body = Body(np.array([1.0, 1.0, 1.0]), np.array([0.0, -math.pi, -0.1]), np.array([math.pi, 0.0, 0.1]))
    poses = np.array([[math.cos(3), math.sin(3), 3.0], [math.cos(-1), math.sin(-1), -1.0]])
    found, posture = independent.some_posture_at_pose(body, poses, np.zeros((2, 0, 3)))
    assert found.tolist() == [False, True]  # θ_1 is within 0.1 of Θ + π
    assert posture[1, 0] == pytest.approx(math.pi - 1, abs=0.1)


# --- what the package answers ---------------------------------------------------------------------------


def test_nothing_unsafe_is_found_among_hostile_circles():
    found = safety.run(5000, 0, batch=500, progress=False)
    assert safety.violations(found) == 0
    assert found["queries"] == 5000
    assert found["of poses"] == 1500
    for name in ("SOLVED", "UNREACHABLE", "INVALID_INPUT", "INFEASIBLE", "certified steps"):
        assert found[name] > 50, name  # else nothing was asked
    for name in ("MLPQP", "HeadsQP"):
        assert found[f"SOLVED by {name}"] > 1000, name
    assert found["NOT_REACHED by one-shot MLPQP"] > 1000


def planted(monkeypatch, name, replacement, poses):
    monkeypatch.setattr(safety, name, replacement)
    monkeypatch.setattr(safety, "POSES_EVERY", 1 if poses else 10**9)
    found = safety.run(300, 0, batch=100, progress=False)
    assert found["of poses"] == (300 if poses else 0)
    return found


@pytest.mark.parametrize("poses", [False, True])
def test_steps_without_certificate_are_caught(monkeypatch, poses):
    def rash(arm, theta, targets, circles):
        return (theta + 0.5).clamp(*arm.limits_tensor(theta))

    assert planted(monkeypatch, "certified_step", rash, poses)["unsafe certified steps"] > 10


def turned_about_the_tip(arm, theta):
    """Return postures with the tip where it was to second order, but another heading, for three and more links."""
    if arm.num_links == 2:
        return theta
    _, _, V = torch.linalg.svd(arm.jacobian(theta).nan_to_num())
    turn = V[:, 2].sum(-1, keepdim=True)
    return theta + torch.where(turn.abs() > 0.1, 3e-6 * V[:, 2] / turn, 0.0)


COUNTED_AS = {
    "limit": "unsafe answers",
    "tip": "answers off target",
    "turn": "answers off target",
    "infeasible": "wrong INFEASIBLE",
    "unreachable": "wrong UNREACHABLE",
}


@pytest.mark.parametrize(
    ("what", "poses"), [(what, True) for what in COUNTED_AS] + [(what, False) for what in COUNTED_AS if what != "turn"]
)
def test_wrong_answers_of_the_portfolio_are_caught(monkeypatch, what, poses):
    class Lying:
        def __init__(self, arm, **options):
            self.arm, self.honest = arm, safety_portfolio(arm=arm, **options)

        def answer(self, targets, circles, tolerance):
            answer = self.honest.answer(targets, circles, tolerance)
            solved = answer.status == 0
            if what == "infeasible":
                return answer._replace(status=answer.status.masked_fill(solved & (self.arm.num_links == 3), 7))
            if what == "unreachable":
                return answer._replace(status=answer.status.masked_fill(solved, 4))
            theta = answer.theta.clone()
            if what == "limit":
                theta[:, 0] = self.arm.limits[0][1] + 1e-6
            elif what == "tip":
                theta[:, -1] += 1e-4
            elif what == "turn":
                theta = turned_about_the_tip(self.arm, theta)
            return answer._replace(theta=theta)

    safety_portfolio = safety.Portfolio
    assert planted(monkeypatch, "Portfolio", Lying, poses)[COUNTED_AS[what]] > 20


@pytest.mark.parametrize("poses", [False, True])
@pytest.mark.parametrize("name", ["HeadsQP", "MLPQP"])
def test_unsafe_answers_of_a_model_are_caught_though_off_target(monkeypatch, name, poses):
    honest = getattr(safety, name).answer

    def rash(model, targets, circles, tolerance):
        answer = honest(model, targets, circles, tolerance)
        bent = torch.where((answer.status == IKStatus.NOT_REACHED)[:, None], answer.theta + 1.0, answer.theta)
        return answer._replace(theta=bent)

    monkeypatch.setattr(getattr(safety, name), "answer", rash)
    assert planted(monkeypatch, "Portfolio", safety.Portfolio, poses)["unsafe answers"] > 10


def test_the_queries_are_as_hostile_as_they_say():
    generator = torch.Generator().manual_seed(3)
    batches = [draw(200, generator) for _ in range(40)]
    assert {b.arm.num_links for b in batches} == {2, 3, 4, 5, 6}
    assert {b.circles.radii.shape[1] for b in batches} == set(range(7))
    assert any(b.arm.link_radius > 0 for b in batches)
    assert all(b.targets.isnan().any() for b in batches)
    assert len(KINDS) == 7
    assert len(TARGETS) == 8
    gaps = torch.cat([b.circles.clearance(b.arm.points(b.starts), b.arm.link_radius) / b.arm.reach for b in batches])
    for gap in (1e-9, 2e-8, 1e-6):
        assert ((gaps - gap).abs() < 1e-10).sum() > 10
    rooms = [b.circles.centers.norm(dim=-1) - b.circles.radii - b.arm.link_radius for b in batches]
    base = torch.cat([room.flatten() for room in rooms])
    assert ((base > 0) & (base < 1e-3)).sum() > 10  # almost covers the base
    assert (base < 0).sum() > 10


def test_the_poses_are_as_hostile_as_they_say():
    generator = torch.Generator().manual_seed(4)
    batches = [draw(200, generator, poses=True) for _ in range(40)]
    assert len(POSES) == 12
    assert all(b.targets.shape == (200, 3) for b in batches)
    turned = torch.cat([b.targets[:, 2] for b in batches])
    assert (turned.abs() > 1e9).sum() > 50
    assert (turned.abs() == math.pi).sum() > 100
    assert (turned.isnan() | turned.isinf()).sum() > 100
    assert all(b.targets[:, :2].isfinite().all() for b in batches)
    off, known = [], []
    for b in batches:
        bodies, poses = safety.body_of(b.arm), b.targets[b.targets.isfinite().all(-1)].numpy()
        off.append(np.abs(independent._wrist(bodies, poses)) / b.arm.reach)
        known.append(independent.within_lengths(bodies, poses))
    near = np.concatenate(off)
    for low, high in ((-1, 1e-14), (1e-13, 1e-11), (1e-10, 1e-8), (1e-8, 1e-6)):
        assert ((near > low) & (near < high)).sum() > 20
    assert 0.1 < 1 - np.concatenate(known).mean() < 0.4
    limits = [np.array(b.arm.limits) for b in batches]
    assert any((pair[:, 0] == pair[:, 1]).any() for pair in limits)
    assert any((np.diff(pair) > math.tau).any() for pair in limits)
    assert any(len(set(b.arm.lengths)) == 1 for b in batches)


def test_the_command_writes_its_counts_and_leaves_with_zero(tmp_path):
    out = tmp_path / "safety.md"
    result = CliRunner().invoke(cli, ["ik-safety", "--count", "200", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "200 queries, seed 0: 0 violations" in out.read_text()


def test_the_oracle_and_the_sweep_agree_where_both_can_tell():
    arm = PlanarArm.unit()
    circles = Circles.from_json({"circles": [[1.2, 0.6, 0.4], [-0.8, 1.0, 0.3], [0.4, -1.4, 0.5]]})
    targets = 3 * (2 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    verdict = oracle.solve_positions(arm, targets, circles).verdict
    rows = torch.cat((circles.centers, circles.radii[:, None]), -1).numpy()[None].repeat(300, 0)
    found, _ = independent.some_posture(safety.body_of(arm), targets.numpy(), rows)
    assert not (found & (verdict == oracle.Verdict.INFEASIBLE).numpy()).any()
    assert (found == (verdict == oracle.Verdict.FEASIBLE).numpy()).mean() > 0.98
