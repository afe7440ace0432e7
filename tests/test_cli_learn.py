"""`demonstrate` and `learn-scene`: what was hidden is found, and nobody who solves with it gets into it."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.ik import independent
from robotics import PlanarArm, make_dataset
from robotics.cli import main
from robotics.dataset_config import DatasetConfig
from robotics.files import read_scene
from robotics.learned_constraints import (
    CIRCLES,
    HALF_PLANES,
    Demonstrations,
    demonstrate,
    read_demonstrations,
    write_demonstrations,
)
from robotics.models import MLP, MLPQP
from robotics.obstacles import Circles
from robotics.runs import save_run

HIDDEN = [2.4, 2.6, 0.5]
ARM = PlanarArm.duka()
BODY = independent.Body(np.array(ARM.lengths), *np.array(ARM.limits).T)
NOISE = 1e-3


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a hidden scene, demonstrations with noise, what was learned from them, and a run to solve with."""
    folder = tmp_path_factory.mktemp("learn")
    (folder / "hidden.json").write_text(json.dumps({"circles": [HIDDEN]}))
    options = ("--scene", folder / "hidden.json", "--num", 200, "--noise", NOISE, "--seed", 3)
    run("demonstrate", *options, "--out", folder / "demos.csv")
    learn = ("learn-scene", "--demonstrations", folder / "demos.csv", "--circles", 1, "--tolerance", 5 * NOISE)
    (folder / "said.txt").write_text(run(*learn, "--out", folder / "learned.json"))
    torch.manual_seed(0)
    data = make_dataset(DatasetConfig(arm=ARM, num_samples=20))
    save_run(folder / "run", MLPQP(MLP(ARM, hidden=4)), data, Circles.from_json({"circles": [HIDDEN]}))
    return folder


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_demonstrations_are_the_librarys_to_the_last_bit_and_tell_nothing_but_steps(work):
    rows = rows_of(work / "demos.csv")
    assert list(rows[0]) == ["x", "y", *(f"theta_{i}" for i in (1, 2, 3)), *(f"step_{i}" for i in (1, 2, 3))]
    found = torch.tensor([[float(value) for value in row.values()] for row in rows], dtype=torch.float64)
    hidden = torch.tensor([[*HIDDEN[:2], math.log(HIDDEN[2])]], dtype=torch.float64)
    made = demonstrate(ARM, CIRCLES, hidden, 200, 3, NOISE)
    assert torch.allclose(found, torch.cat((made.targets, made.theta, made.steps), -1), rtol=0, atol=1e-9)


def test_the_learned_scene_is_near_the_hidden_one_and_larger(work):
    circles, arm = read_scene(work / "learned.json")
    assert arm == ARM
    (x, y), radius = circles.centers[0].tolist(), float(circles.radii[0])
    assert math.hypot(x - HIDDEN[0], y - HIDDEN[1]) < 0.01 * HIDDEN[2]
    assert 0 < radius - HIDDEN[2] < 0.05
    said = (work / "said.txt").read_text()
    assert "200 demonstrations, 0 left out, " in said
    assert "circle 0: x 2.39" in said
    assert "IDENTIFIED, active in " in said
    assert "residual 0.001" in said
    assert "margin 0.0" in said
    assert "% show more" in said


def test_nobody_who_solves_with_the_learned_scene_gets_into_the_hidden_circle(work, tmp_path):
    theta = ARM.sample(1000, torch.Generator().manual_seed(1))
    near = ARM.tip(theta)[(ARM.tip(theta) - torch.tensor(HIDDEN[:2])).norm(dim=-1) < 1.5]
    (tmp_path / "targets.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in near.tolist()))
    options = ("--model", work / "run", "--targets", tmp_path / "targets.csv", "--scene", work / "learned.json")
    run("solve", *options, "--portfolio", "--tolerance", 1e-6, "--out", tmp_path / "angles.csv")
    solved = [row for row in rows_of(tmp_path / "angles.csv") if row["theta_1"]]
    assert len(solved) > 40
    theta = np.array([[float(row[f"theta_{i}"]) for i in (1, 2, 3)] for row in solved])
    hidden = np.array([[HIDDEN]])
    assert not independent.unsafe(BODY, theta, hidden).any()
    assert independent.clearance(BODY, theta, hidden).min() < 0.05  # some come close


def test_why_and_track_take_the_learned_scene(work, tmp_path):
    assert "blocked" in run("why", "--target", "2.4,2.6", "--scene", work / "learned.json")
    shape = ("--shape", "circle", "--center", "2,3", "--size", 1, "--ticks", 20)
    run("track", *shape, "--scene", work / "learned.json", "--out", tmp_path / "out")
    theta = [[float(row[f"theta_{i}"]) for i in (1, 2, 3)] for row in rows_of(tmp_path / "out" / "track.csv")]
    steps = np.array(theta)
    assert not independent.unsafe_steps(BODY, steps[:-1], steps[1:], np.array([[HIDDEN]])).any()


def test_a_wall_is_written_as_a_circle_that_covers_what_the_arm_can_reach_of_it(tmp_path):
    arm, (angle, distance) = PlanarArm.unit(), (1.0, -1.2)
    made = demonstrate(arm, HALF_PLANES, torch.tensor([[angle, distance]], dtype=torch.float64), 200)
    write_demonstrations(tmp_path / "demos.csv", made)
    (tmp_path / "arm.json").write_text(json.dumps({"circles": [[9, 9, 1]], "arm": arm.to_json()}))
    options = ("--demonstrations", tmp_path / "demos.csv", "--arm", tmp_path / "arm.json", "--half-planes", 1)
    said = run("learn-scene", *options, "--out", tmp_path / "scene.json")
    assert "half-plane 0: angle of the normal 1, distance -1.2; IDENTIFIED" in said
    circles, _ = read_scene(tmp_path / "scene.json")
    points = 6 * (torch.rand(5000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5)
    points = points[points.norm(dim=-1) <= 3]
    height = points @ torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) - distance
    inside = (points - circles.centers).norm(dim=-1) < circles.radii
    assert inside[height < 0].all()
    assert not inside[height > 2e-3].any()
    assert "blocked" in run("why", "--target=-1.2,-1.6", "--scene", tmp_path / "scene.json")


def test_lines_with_a_nan_are_left_out_and_counted(work, tmp_path):
    lines = (work / "demos.csv").read_text().splitlines()
    lines[5] = ",".join(["nan"] * 8)
    lines[9] = "nan," + lines[9].split(",", 1)[1]
    (tmp_path / "demos.csv").write_text("\n".join(lines))
    options = ("--demonstrations", tmp_path / "demos.csv", "--circles", 1, "--tolerance", 5 * NOISE)
    assert "200 demonstrations, 2 left out" in run("learn-scene", *options, "--out", tmp_path / "scene.json")


def test_an_obstacle_that_is_not_identified_is_an_error_and_nothing_is_written(tmp_path):
    far = torch.tensor([[50.0, 0.0, 0.0]], dtype=torch.float64)
    write_demonstrations(tmp_path / "demos.csv", demonstrate(ARM, CIRCLES, far, 60))
    options = ("--demonstrations", tmp_path / "demos.csv", "--circles", 1, "--out", tmp_path / "scene.json")
    said = run("learn-scene", *options, code=2)
    assert said.startswith("error: circle 0: NOT_ACTIVE, it stopped too few of the steps to show where it is; ")
    assert said.count("\n") == 1
    assert not (tmp_path / "scene.json").exists()
    (tmp_path / "scene.json").write_text("before")
    run("learn-scene", *options, code=2)
    assert (tmp_path / "scene.json").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.csv", "scene.json"]


def header_of(arm):
    joints = range(1, arm.num_links + 1)
    return ",".join(["x", "y", *(f"theta_{i}" for i in joints), *(f"step_{i}" for i in joints)])


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ["line 1", "x,y,theta_1,theta_2,theta_3,step_1,step_2,step_3", "empty file"]),
        (header_of(ARM) + "\n", ["line 2", "one or more demonstrations"]),
        ("x,y,theta_1,theta_2,theta_3,step_1,step_2\n1,2,3,4,5,6,7\n", ["line 1", "expected the header x,y,theta_1"]),
        (header_of(PlanarArm.unit(2)) + "\n1,2,3,4,5,6\n", ["line 1", "theta_3", "found 'x,y,theta_1,theta_2,step_1"]),
        (header_of(ARM) + "\n1,2,3\n", ["line 2", "expected 8 fields"]),
        (header_of(ARM) + "\n1,2,3,4,5,6,7,far\n", ["line 2, column step_3", "far"]),
        (header_of(ARM) + 3 * "\n1,2,3,4,5,.1,.1,.1", ["demonstrations: expected 12 or more finite ones, found 3"]),
        (header_of(ARM) + 20 * "\n1,2,3,4,5,.1,.1,nan", ["demonstrations: expected 12 or more finite ones, found 0"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path, text, fragments):
    (tmp_path / "demos.csv").write_text(text)
    options = ("--demonstrations", tmp_path / "demos.csv", "--circles", 1, "--out", tmp_path / "scene.json")
    said = run("learn-scene", *options, code=2)
    assert said.startswith(f"error: {tmp_path / 'demos.csv'}")
    assert said.count("\n") == 1
    assert all(fragment in said for fragment in fragments), said
    assert not (tmp_path / "scene.json").exists()


def test_mistakes_in_the_options_are_one_line(work, tmp_path):
    learn = ("learn-scene", "--demonstrations", work / "demos.csv", "--out", tmp_path / "scene.json")
    assert "either --circles or --half-planes" in run(*learn, code=2)
    assert "either --circles or --half-planes" in run(*learn, "--circles", 1, "--half-planes", 1, code=2)
    assert "tolerance: expected a finite number > 0" in run(*learn, "--circles", 1, "--tolerance", 0, code=2)
    assert "circles" in run(*learn, "--circles", 0, code=2)
    (tmp_path / "unit.json").write_text(json.dumps({"circles": [], "arm": PlanarArm.unit(2).to_json()}))
    assert "expected the header" in run(*learn, "--circles", 1, "--arm", tmp_path / "unit.json", code=2)
    assert "nowhere.csv" in run("learn-scene", "--demonstrations", "nowhere.csv", "--circles", 1, "--out", "x", code=2)
    make = ("demonstrate", "--out", tmp_path / "demos.csv", "--scene")
    assert "expected one or more circles" in run(*make, tmp_path / "unit.json", code=2)
    assert "noise: expected" in run(*make, tmp_path / "unit.json", "--noise", "nan", code=2)
    (tmp_path / "covered.json").write_text(json.dumps({"circles": [[0, 0, 9]]}))
    assert "leaves room for the arm" in run(*make, tmp_path / "covered.json", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["covered.json", "unit.json"]


def test_poses_are_written_and_read_with_their_column(tmp_path):
    columns = [torch.rand(5, width, dtype=torch.float64) for width in (3, 3, 3)]
    write_demonstrations(tmp_path / "demos.csv", Demonstrations(*columns))
    assert (tmp_path / "demos.csv").read_text().startswith("x,y,theta,theta_1,")
    for found, expected in zip(read_demonstrations(tmp_path / "demos.csv", ARM), columns, strict=True):
        assert torch.equal(found, expected)
