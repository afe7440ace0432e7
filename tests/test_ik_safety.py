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
from benchmarks.ik.safety_queries import KINDS, TARGETS, draw
from robotics import Circles, PlanarArm, oracle

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


# --- what the package answers ---------------------------------------------------------------------------


def test_nothing_unsafe_is_found_among_hostile_circles():
    found = safety.run(5000, 0, batch=500, progress=False)
    assert safety.violations(found) == 0
    assert found["queries"] == 5000
    for name in ("SOLVED", "UNREACHABLE", "INVALID_INPUT", "INFEASIBLE", "certified steps"):
        assert found[name] > 50, name  # else nothing was asked


def planted(monkeypatch, name, replacement):
    monkeypatch.setattr(safety, name, replacement)
    return safety.run(600, 0, batch=150, progress=False)


def test_steps_without_certificate_are_caught(monkeypatch):
    def rash(arm, theta, targets, circles):
        return (theta + 0.5).clamp(*arm.limits_tensor(theta))

    assert planted(monkeypatch, "certified_step", rash)["unsafe certified steps"] > 10


@pytest.mark.parametrize("what", ["limit", "tip", "infeasible"])
def test_wrong_answers_of_the_portfolio_are_caught(monkeypatch, what):
    class Lying:
        def __init__(self, arm, **options):
            self.arm, self.honest = arm, safety_portfolio(arm=arm, **options)

        def answer(self, targets, circles, tolerance):
            answer = self.honest.answer(targets, circles, tolerance)
            if what == "infeasible":
                lie = answer.status == 0 if self.arm.num_links == 3 else answer.status < 0
                return answer._replace(status=answer.status.masked_fill(lie, 7))
            theta = answer.theta.clone()
            if what == "limit":
                theta[:, 0] = self.arm.limits[0][1] + 1e-6
            else:
                theta[:, -1] += 1e-4
            return answer._replace(theta=theta)

    safety_portfolio = safety.Portfolio
    name = {"limit": "unsafe answers", "tip": "answers off target", "infeasible": "wrong INFEASIBLE"}[what]
    assert planted(monkeypatch, "Portfolio", Lying)[name] > 20


def test_the_queries_are_as_hostile_as_they_say():
    generator = torch.Generator().manual_seed(3)
    batches = [draw(200, generator) for _ in range(40)]
    assert {b.arm.num_links for b in batches} == {2, 3, 4, 5, 6}
    assert {b.circles.radii.shape[1] for b in batches} == set(range(7))
    assert any(b.arm.link_radius > 0 for b in batches)
    assert all(b.targets.isnan().any() for b in batches)
    assert len(KINDS) == 6
    assert len(TARGETS) == 7
    gaps = torch.cat([b.circles.clearance(b.arm.points(b.starts), b.arm.link_radius) / b.arm.reach for b in batches])
    for gap in (1e-9, 2e-8, 1e-6):
        assert ((gaps - gap).abs() < 1e-10).sum() > 10
    rooms = [b.circles.centers.norm(dim=-1) - b.circles.radii - b.arm.link_radius for b in batches]
    base = torch.cat([room.flatten() for room in rooms])
    assert ((base > 0) & (base < 1e-3)).sum() > 10  # almost covers the base
    assert (base < 0).sum() > 10


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
