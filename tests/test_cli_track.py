"""The track command: its file is checked by arithmetic of the tests' own, its mistakes are one line."""

import csv
import json
import math
import os
from functools import partial

import numpy as np
import pytest
import test_cli
import torch
from test_cli import CIRCLES, SCENE, run, tip_distance, whole_arm_clearance, within_limits

from robotics import Circles, DatasetConfig, PlanarArm, make_dataset
from robotics.models import build_model
from robotics.runs import load_run
from robotics.training import TrainingConfig, fit

refused = partial(test_cli.refused, "track")
EXPECTED = ["tick", "x", "y", "theta_1", "theta_2", "theta_3", "status", "tip_error", "clearance"]


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(SCENE))
    return path


def rows_of(folder):
    with open(folder / "track.csv", newline="") as file:
        return list(csv.DictReader(file))


def angles(row):
    return [float(row[f"theta_{i + 1}"]) for i in range(3)]


def test_a_tour_of_waypoints_is_written_row_by_row_and_drawn(tmp_path, scene):
    waypoints = tmp_path / "tour.csv"
    waypoints.write_text("x,y\n1.2,4.2\n3.4,3.4\n3.4,1.4\n")
    out = tmp_path / "new" / "tour"
    options = ("--scene", scene, "--ticks", 30, "--speed", 0.15, "--layers", 3, "--out", out)
    result = run("track", "--shape", waypoints, *options)
    assert sorted(os.listdir(out)) == ["track.csv", "track.png"]
    assert (out / "track.png").read_bytes().startswith(b"\x89PNG")
    rows = rows_of(out)
    assert list(rows[0]) == EXPECTED
    assert [int(row["tick"]) for row in rows] == list(range(30))
    reached = [row for row in rows if row["status"] == "REACHED"]
    assert f"{len(reached)} REACHED" in result.stdout
    assert len(reached) > 10
    for row in rows:
        theta = angles(row)
        assert within_limits(theta)
        clearance = whole_arm_clearance(theta, CIRCLES)
        assert 0 < clearance == pytest.approx(float(row["clearance"]), abs=1e-12)
        error = tip_distance(theta, float(row["x"]), float(row["y"]))
        assert error == pytest.approx(float(row["tip_error"]), abs=1e-12)
        assert (error <= 6e-6) == (row["status"] == "REACHED")
    steps = np.diff([angles(row) for row in rows], axis=0)
    assert abs(steps).max() <= 0.15 + 1e-12


def test_a_single_waypoint_is_stayed_at(tmp_path):
    (tmp_path / "one.csv").write_text("x,y,theta\n3,3,0.2\n")
    run("track", "--shape", tmp_path / "one.csv", "--ticks", 3, "--out", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["REACHED"] * 3
    assert all(angles(row) == pytest.approx(angles(rows[0]), abs=1e-9) for row in rows)
    assert all(row["theta"] == "0.2" for row in rows)


def test_waypoints_out_of_reach_are_followed_as_far_as_can_be(tmp_path):
    (tmp_path / "far.csv").write_text("x,y\n4,2\n8,4\n4,2\n")
    run("track", "--shape", tmp_path / "far.csv", "--ticks", 41, "--out", tmp_path / "out")
    statuses = [row["status"] for row in rows_of(tmp_path / "out")]
    assert statuses[0] == statuses[-1] == "REACHED"
    assert statuses[20] == "OUT_OF_REACH"


@pytest.fixture
def model(tmp_path):
    """A run of an untrained network with certified steps, which takes poses."""
    arm = PlanarArm.duka()
    torch.manual_seed(0)
    data = make_dataset(DatasetConfig(arm=arm, num_samples=40, inputs="xytheta"))
    fit(
        build_model(arm, {"model": "mlp-qp", "inputs": "xytheta", "hidden": 5}),
        data,
        Circles.from_json({"circles": []}),
        TrainingConfig(epochs=1),
        tmp_path / "run",
    )
    return tmp_path / "run"


def test_a_model_says_where_to_start(tmp_path, model):
    options = ("--shape", "circle", "--center", "2,3", "--size", 1, "--ticks", 60, "--out", tmp_path / "out")
    run("track", *options, "--model", model, "--orientation", 0.2)
    rows = rows_of(tmp_path / "out")
    assert rows[-1]["status"] == "REACHED"
    target = torch.tensor([[3.0, 3.0, 0.2]], dtype=torch.float64)
    start = load_run(model)[0].answer(target, Circles.from_json({"circles": []})).theta[0].tolist()
    assert abs(np.array(angles(rows[0])) - start).max() <= 0.2 + 1e-12  # one step from there
    assert "orientation: expected one" in refused(*options, "--model", model)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(SCENE | {"arm": {"lengths": [1.0], "limits": [[-1.0, 1.0]]}}))
    assert "expected the arm of" in refused(*options, "--model", model, "--scene", other)
    full = tmp_path / "full.json"
    full.write_text(json.dumps({"circles": [[0, 0, 1]]}))
    assert "model: expected a safe answer" in refused(*options, "--model", model, "--orientation", 0.2, "--scene", full)


@pytest.mark.parametrize(("name", "begins"), [("way.html", b"<!DOCTYPE html>"), ("way.GIF", b"GIF89a")])
def test_a_track_is_animated_too(tmp_path, scene, name, begins):
    options = ("--shape", "circle", "--ticks", 8, "--scene", scene, "--out", tmp_path / "out")
    result = run("track", *options, "--animate", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert result.stdout.endswith(f"written: {tmp_path / name}\n")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", "scene.json", name])


def test_mistakes_are_one_line(tmp_path, scene):
    out = ("--out", tmp_path / "out")

    def file(text):
        path = tmp_path / "waypoints.csv"
        path.write_text(text)
        return path

    assert "found an empty file" in refused("--shape", file(""), *out)
    assert "found the header alone" in refused("--shape", file("x,y\n"), *out)
    assert "waypoints[1]: expected finite numbers" in refused("--shape", file("x,y\n1,2\nnan,2\n"), *out)
    assert "ticks: expected an integer >= 2" in refused("--shape", file("x,y\n1,2\n2,2\n"), "--ticks", 1, *out)
    assert "size: expected none with a file" in refused("--shape", file("x,y\n1,2\n"), "--size", 1, *out)
    assert "shape: expected circle, square, eight or a .csv file" in refused("--shape", "star", *out)
    assert "center: expected x,y" in refused("--shape", "circle", "--center", "1", *out)
    assert "size: expected" in refused("--shape", "circle", "--size", math.nan, *out)
    assert "speed: expected a number > 0" in refused("--shape", "circle", "--speed", 0, *out)
    assert "layers: expected a positive integer" in refused("--shape", "circle", "--layers", 0, *out)
    assert "animate: expected a file name that ends in .html or .gif" in refused(
        "--shape", "circle", "--animate", tmp_path / "way.mp4", *out
    )
    assert not (tmp_path / "out").exists()
    covered = tmp_path / "covered.json"
    covered.write_text(json.dumps({"circles": [[0, 0, 1]]}))
    assert "no posture that is clear" in refused("--shape", "circle", "--scene", covered, *out)
    (tmp_path / "taken").write_text("")
    assert "expected a folder" in refused("--shape", "circle", "--ticks", 2, "--out", tmp_path / "taken")
