"""The benchmark of inverse kinematics: queries are what they say, columns count right, files are written."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import cli
from benchmarks.ik.columns import measure
from benchmarks.ik.methods import Answered, Method, registry
from benchmarks.ik.networks import QUICK, Networks
from benchmarks.ik.queries import ARMS, DEFAULT_CELLS, SCENES, SINGULAR, all_cells, make_cell, scene
from robotics import oracle
from robotics.models import check_answer


def invoke(*arguments):
    return CliRunner().invoke(cli, ["ik", *map(str, arguments)])


def row_of(cell, theta, candidates=None, certified=None, **how):
    """The row of a method that answers with these joint angles."""

    def build(arm, networks):
        def answer(targets, circles):
            given = theta[: len(targets)]
            return Answered(check_answer(arm, given, targets[: len(given)], circles, 1e-6), certified)

        return answer

    method = Method(name="planted", build=build, candidates=candidates, **how)
    return measure(cell, method, Networks(cell.arm, cell.circles, QUICK), 32, "cpu", 0.0)


# --- queries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("k", SCENES)
def test_scenes_leave_the_base_clear_and_have_radii_as_agreed(arm, k):
    circles, link = scene(ARMS[arm], k), ARMS[arm].reach / ARMS[arm].num_links
    assert circles.radii.shape == (k,)
    assert ((circles.radii >= 0.1 * link) & (circles.radii <= 0.4 * link)).all()
    assert (circles.centers.norm(dim=-1) - circles.radii >= 0.19 * link).all()


def test_cells_are_reproducible_and_their_hash_tells_them_apart():
    first, again, other = (make_cell("unit-3-workspace", 16, seed) for seed in (1, 1, 2))
    assert torch.equal(first.targets, again.targets)
    assert first.hash == again.hash != other.hash
    assert set(DEFAULT_CELLS) <= set(all_cells())


@pytest.mark.parametrize("name", ["duka-3-joints", "unit-6-workspace", "unit-3-near-singular", "unit-3-infeasible"])
def test_the_oracle_agrees_with_the_name_of_a_cell(name):
    cell = make_cell(name, 32)
    expected = oracle.Verdict.INFEASIBLE if name.endswith("infeasible") else oracle.Verdict.FEASIBLE
    assert (cell.truth.verdict == expected).all()
    if name.endswith("singular"):
        poses = oracle.solve_poses(cell.arm, cell.targets, cell.circles)
        assert (poses.theta[:, 1].sin().abs() < SINGULAR + 1e-6).all()


# --- columns --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell():
    return make_cell("unit-3-workspace", 32)


@pytest.fixture(scope="module")
def right(cell):
    theta = torch.full((32, 3), torch.nan, dtype=torch.float64)
    theta[cell.truth.target] = cell.truth.theta
    return theta


def test_right_answers_score_full_and_find_one_mode_each(cell, right):
    row = row_of(cell, right)
    assert (row.success_1e6, row.collisions, row.limit_violations, row.false_solved) == (1, 0, 0, 0)
    assert row.max_error < 1e-12
    assert row.modes == pytest.approx(32 / len(cell.truth.target))
    oracle_method = next(m for m in registry() if "oracle)" in m.name and m.name.startswith("closed"))
    assert row_of(cell, right, candidates=oracle_method.candidates).modes == 1


def test_errors_limits_and_missing_answers_are_counted(cell, right):
    wrong = right.clone()
    wrong[0] = torch.nan
    wrong[1, 0] = cell.arm.limits[0][1] + 0.1
    wrong[2, 2] += 1e-4 if wrong[2, 2] < 0 else -1e-4
    row = row_of(cell, wrong)
    assert row.success_1e6 == 29 / 32
    assert row.success_1e3 == 30 / 32
    assert row.answered == 31 / 32
    assert row.limit_violations == 1
    assert row.max_error > 1e-6


def test_collisions_depth_and_tips_in_circles_are_counted(cell, right):
    wrong = right.clone()
    center, radius = cell.circles.centers[0], cell.circles.radii[0]
    inside, _ = cell.arm.inverse(torch.stack([*center, torch.zeros(())]).double())
    wrong[0] = inside[0] if inside.isfinite().all() else wrong[0]
    row = row_of(cell, wrong)
    assert row.collisions == row.tip_collisions == 1 / 32
    assert row.max_penetration >= float(radius) / cell.arm.reach - 1e-9
    assert row.max_penetration < 1


def test_cells_without_feasible_targets_have_no_success(right):
    row = row_of(make_cell("unit-3-infeasible", 32), right)
    assert math.isnan(row.success_1e6)
    assert row.false_solved == 0


# --- the command ----------------------------------------------------------------------------------------


def test_every_row_that_the_protocol_names_is_there():
    names = " | ".join(m.name for m in registry())
    learnt = (
        "Duka",
        "tip loss",
        "penalty",
        "clamp",
        "one-shot",
        "3 certified",
        "6 certified",
        "10 certified",
        "8 diverse",
    )
    usual = ("squares, 10 ", "squares, 100", "LM, 10 ", "LM, 100", "SLSQP", "differential IK")
    convex = ("order 1, home", "order 1, network", "order 2", "CIDGIK")
    for part in (*learnt, *usual, *convex, "oracle", "portfolio"):
        assert part in names


def test_files_and_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(
        "--quick", "--methods", "oracle),Duka,3 certified,SDP order 1", "--cells", "duka-0-joints", "--out", "a"
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell"] for row in rows} == {"duka-0-joints"}
    assert all(len(row["data"]) == 12 and row["seed"] == "1000" for row in rows)
    text = (tmp_path / "a.md").read_text()
    assert "## duka-0-joints" in text
    assert "Tracking" in text
    before = (tmp_path / "a.csv").read_bytes()
    again = invoke("--quick", "--methods", "Duka", "--cells", "duka-0-joints", "--out", "a", "--resume")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "a.csv").read_bytes() == before  # nothing was measured again
    for suffix in ("_tracking.csv", "_time.png", "_success.png"):
        assert (tmp_path / f"a{suffix}").stat().st_size > 100


@pytest.mark.parametrize(
    ("option", "value"), [("--methods", "nonsense"), ("--cells", "moon-3-joints"), ("--out", "missing/ik")]
)
def test_mistakes_are_named(option, value):
    result = invoke("--quick", option, value)
    assert result.exit_code == 2
    assert f"error: {option}" in result.output
