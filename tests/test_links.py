"""Everything but the oracle, for arms of two to ten links: data, training, scores, answers, figures."""

import csv
import json
import math

import numpy as np
import pytest
from checker import body_of
from test_cli import TINY, run

from benchmarks.ik import independent
from robotics import PlanarArm, demo
from robotics.models import MODELS

LINKS = (2, 4, 6, 10)


@pytest.mark.parametrize("n", [2, 10])
def test_demo_runs_with_any_number_of_links(n, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", TINY)
    run("demo", "--quick", "--links", n, "--out", tmp_path)
    rows = {row["method"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}
    assert set(rows) == set(MODELS)
    assert rows["mlp-qp"]["whole_arm_collision_rate"] == rows["mlp-qp"]["limit_violations"] == 0
    assert rows["mlp-qp"]["success_1e3"] > 0.9
    assert json.loads((tmp_path / "data" / "config.json").read_text())["config"]["arm"]["lengths"] == [1.0] * n


@pytest.mark.parametrize(("n", "inputs"), [*((n, "xy") for n in LINKS), (6, "xytheta")])
def test_the_commands_carry_unequal_links_from_a_scene_to_safe_answers(n, inputs, tmp_path):
    arm = PlanarArm.chain(n)
    circles = [[0.5 * arm.reach, 0.25 * arm.reach, 0.06 * arm.reach], [0.3 * arm.reach, -0.3 * arm.reach, 0.5]]
    (tmp_path / "scene.json").write_text(json.dumps({"circles": circles, "arm": arm.to_json()}))
    options = ("--removal", "whole-arm", "--inputs", inputs, "--num-samples", 150)
    run("dataset", "--scene", tmp_path / "scene.json", *options, "--out", tmp_path / "data")
    options = ("--epochs", 2, "--hidden", 10, "--epoch-samples", 64, "--validation-samples", 20)
    run("train", "--data", tmp_path / "data", "--model", "mlp-qp", *options, "--out", tmp_path / "run")
    run("evaluate", "--data", tmp_path / "data", "--model", tmp_path / "run", "--out", tmp_path / "m.json")
    run("plot", "--data", tmp_path / "data", "--model", tmp_path / "run", "--out", tmp_path / "figures")
    known = np.load(tmp_path / "data" / "data.npz")["targets"][:40]
    names = "x,y" if inputs == "xy" else "x,y,theta"
    lines = [",".join(map(repr, map(float, row))) for row in known]
    (tmp_path / "targets.csv").write_text("\n".join([names, *lines, *(["nan,0"] if inputs == "xy" else [])]))
    files = ("--targets", tmp_path / "targets.csv", "--scene", tmp_path / "scene.json")
    run("solve", "--model", tmp_path / "run", *files, "--out", tmp_path / "angles.csv")
    with open(tmp_path / "angles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    solved = 0
    for row, target in zip(rows, known, strict=False):
        if row["status"] in ("SOLVED", "NOT_REACHED"):
            theta = [float(row[f"theta_{i + 1}"]) for i in range(n)]
            assert not independent.unsafe(body_of(arm), np.array(theta), np.array(circles))
        if row["status"] == "SOLVED":
            solved += 1
            assert independent.tip_distance(body_of(arm), np.array(theta), target) <= 1e-3 * arm.reach
            if inputs == "xytheta":
                assert math.remainder(sum(theta) - target[2], math.tau) == pytest.approx(0, abs=1e-3)
    # An untrained network's starts: positions are easy, poses of narrow limits are not.
    assert solved >= (36 if inputs == "xy" else 10)
    if inputs == "xy":
        assert rows[-1]["status"] == "INVALID_INPUT"


def test_a_chain_has_the_first_links_of_ten():
    assert PlanarArm.chain(6).lengths == PlanarArm.chain().lengths[:6] == (2, 2, 1, 2, 3, 2)
    assert PlanarArm.chain().limits[-1] == (-math.pi / 8, math.pi / 8)
    assert PlanarArm.chain().reach == 23
    for wrong in (1, 11, 2.0, True, None):
        with pytest.raises(ValueError, match=r"^num_links: expected an integer from 2 to 10, found"):
            PlanarArm.chain(wrong)
