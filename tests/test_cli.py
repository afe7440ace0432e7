"""The command line: what it answers is checked by arithmetic that shares no code with the package."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checker import np_points
from click.testing import CliRunner

from benchmarks.ik import independent
from benchmarks.ik.independent import Body
from robotics import Circles, demo
from robotics.cli import main
from robotics.models import MODELS
from robotics.runs import load_run
from robotics.training import TrainingConfig

COMMANDS = ("demo", "dataset", "train", "evaluate", "solve", "why", "plot", "track", "figures", "animate")
LENGTHS = [2.0, 2.0, 2.0]
LIMITS = [[0.0, math.pi], [-math.pi, 0.0], [-math.pi / 2, math.pi / 2]]
CIRCLES = [[2.4, 2.6, 0.5], [-1.6, 3.2, 0.6], [0.6, -2.0, 0.6]]
SCENE = {"circles": CIRCLES, "arm": {"lengths": LENGTHS, "limits": LIMITS}}
BODY = Body(np.array(LENGTHS), *np.array(LIMITS).T)
TOLERANCE = 1e-3 * 6.0  # of the reach


# --- the independent check ------------------------------------------------------------------------


def tip_distance(theta, x, y):
    return float(independent.tip_distance(BODY, np.array(theta), np.array([x, y])))


def whole_arm_clearance(theta, circles):
    return float(independent.clearance(BODY, np.array(theta), np.array(circles)))


def within_limits(theta):
    return bool(independent.excess(BODY, np.array(theta)) <= 0)


# --- running commands -----------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    """The one line of an error."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def read_answers(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_targets(path, targets, header="x,y"):
    path.write_text(header + "\n" + "".join(",".join(map(repr, map(float, row))) + "\n" for row in targets))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a scene, a data set and a trained run of every model."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "scene.json").write_text(json.dumps(SCENE))
    run("dataset", "--scene", folder / "scene.json", "--num-samples", 600, "--out", folder / "data", "--seed", 1)
    run("train", "--data", folder / "data", "--epochs", 20, "--hidden", 30, "--out", folder / "mlp")
    for name in MODELS[1:]:
        options = ("--epochs", 1, "--epoch-samples", 100, "--validation-samples", 50, "--learning-rate", 1e-4)
        start = ("--start", folder / "mlp", "--hidden", 30)
        run("train", "--data", folder / "data", "--model", name, *start, *options, "--out", folder / name)
    run("dataset", "--num-samples", 50, "--inputs", "xytheta", "--out", folder / "data_pose")
    run("train", "--data", folder / "data_pose", "--epochs", 2, "--hidden", 5, "--out", folder / "pose")
    write_targets(folder / "targets.csv", [[2.0, 3.5], [4.0, 1.0]])
    return folder


@pytest.fixture(scope="module")
def mixed_targets():
    """Targets over the whole plane: reachable, out of reach, in circles, near the base, and not numbers."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * math.pi, 150), 7 * np.sqrt(rng.uniform(0, 1, 150))
    targets = np.stack((radius * np.cos(angle), radius * np.sin(angle)), -1)
    targets[:3] = np.array(CIRCLES)[:, :2]
    targets[3] = math.nan
    targets[4] = 0.0
    targets[5] = [6.0, 0.0]
    targets[6] = [1e300, -1e300]
    return targets


def solve(work, targets, out, model="mlp-qp", scene="scene.json", options=()):
    scene = work / scene if isinstance(scene, str) else scene
    return run(*("solve", "--model", work / model, "--targets", targets, "--scene", scene, "--out", out), *options)


# --- solve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_no_answer_of_solve_collides_or_violates_a_limit(work, tmp_path, mixed_targets, model):
    solve(work, write_targets(tmp_path / "targets.csv", mixed_targets), tmp_path / "angles.csv", model)
    rows = read_answers(tmp_path / "angles.csv")
    assert len(rows) == len(mixed_targets)
    answered = 0
    for row, (x, y) in zip(rows, mixed_targets, strict=True):
        numbers = [row[f"theta_{i}"] for i in (1, 2, 3)] + [row["tip_error"], row["clearance"]]
        if row["status"] not in ("SOLVED", "NOT_REACHED"):
            assert numbers == [""] * 5
            continue
        answered += 1
        *theta, error, clearance = map(float, numbers)
        assert whole_arm_clearance(theta, CIRCLES) > 0
        assert within_limits(theta)
        assert clearance == pytest.approx(whole_arm_clearance(theta, CIRCLES), abs=1e-12)
        assert error == pytest.approx(tip_distance(theta, x, y), abs=1e-12)
        assert (row["status"] == "SOLVED") == (error <= TOLERANCE)
    assert answered > (75 if model == "mlp-qp" else 0)


def test_every_target_that_some_posture_meets_is_solved(work, tmp_path):
    rng = np.random.default_rng(1)
    lower, upper = np.array(LIMITS).T
    postures = rng.uniform(lower, upper, (200, 3))
    clear = [theta for theta in postures if whole_arm_clearance(theta, CIRCLES) > 0.05]
    targets = np_points(LENGTHS, clear)[:, -1]
    solve(work, write_targets(tmp_path / "targets.csv", targets), tmp_path / "angles.csv")
    statuses = [row["status"] for row in read_answers(tmp_path / "angles.csv")]
    assert statuses.count("SOLVED") >= 0.98 * len(targets)


def test_a_target_that_cannot_be_met_says_so(work, tmp_path, mixed_targets):
    solve(work, write_targets(tmp_path / "targets.csv", mixed_targets), tmp_path / "angles.csv")
    statuses = [row["status"] for row in read_answers(tmp_path / "angles.csv")]
    assert "SOLVED" not in statuses[:3]  # in the circles
    assert statuses[3] == "INVALID_INPUT"
    assert statuses[6] == "UNREACHABLE"
    outside = np.hypot(*mixed_targets.T) > 6.1
    assert {status for status, far in zip(statuses, outside, strict=True) if far} == {"UNREACHABLE"}


def test_angles_keep_every_digit_and_the_order_of_the_targets(work, tmp_path):
    targets = [[2.0, 3.5], [4.0, 1.0], [0.1, 4.9]]
    solve(work, write_targets(tmp_path / "targets.csv", targets), tmp_path / "angles.csv")
    model, _ = load_run(work / "mlp-qp")
    answer = model.answer(torch.tensor(targets, dtype=torch.float64), Circles.from_json({"circles": CIRCLES}))
    rows = read_answers(tmp_path / "angles.csv")
    assert list(rows[0]) == ["theta_1", "theta_2", "theta_3", "status", "tip_error", "clearance"]
    assert [[float(row[f"theta_{i}"]) for i in (1, 2, 3)] for row in rows] == answer.theta.tolist()
    assert [float(row["clearance"]) for row in rows] == answer.clearance.tolist()


def test_solve_counts_the_verdicts_in_one_line(work, tmp_path):
    targets = write_targets(tmp_path / "targets.csv", [[2.0, 3.5], [50.0, 0.0], [60.0, 0.0]])
    out = tmp_path / "angles.csv"
    assert solve(work, targets, out).stdout == f"3 targets: 1 SOLVED, 2 UNREACHABLE -> {out}\n"


def test_the_tolerance_divides_solved_from_not_reached(work, tmp_path):
    targets = write_targets(tmp_path / "targets.csv", [[-3.0, -3.0]])  # within the lengths, not within the limits
    for tolerance, status in (("1e-3", "NOT_REACHED"), ("2", "SOLVED")):
        solve(work, targets, tmp_path / "angles.csv", options=("--tolerance", tolerance))
        (row,) = read_answers(tmp_path / "angles.csv")
        assert row["status"] == status
        assert float(row["tip_error"]) > 0.1


@pytest.mark.parametrize("model", ["mlp-qp", "mlp"])
def test_a_circle_over_the_base_leaves_no_answer(work, tmp_path, model):
    (tmp_path / "scene.json").write_text(json.dumps({"circles": [[0.1, 0.0, 0.5]]}))
    solve(work, work / "targets.csv", tmp_path / "angles.csv", model, tmp_path / "scene.json")
    expected = "NO_SAFE_ANSWER" if model == "mlp-qp" else "COLLISION"
    rows = read_answers(tmp_path / "angles.csv")
    assert [row["status"] for row in rows] == [expected] * 2
    assert [row["theta_1"] for row in rows] == [""] * 2


def test_other_circles_than_those_of_the_training_are_kept_to(work, tmp_path, mixed_targets):
    circles = [[3.0, 0.0, 0.7], [0.0, 3.0, 0.4]]
    (tmp_path / "scene.json").write_text(json.dumps({"circles": circles}))
    targets = write_targets(tmp_path / "targets.csv", mixed_targets)
    solve(work, targets, tmp_path / "angles.csv", scene=tmp_path / "scene.json")
    rows = [row for row in read_answers(tmp_path / "angles.csv") if row["theta_1"]]
    assert len(rows) > 75
    assert all(whole_arm_clearance([float(row[f"theta_{i}"]) for i in (1, 2, 3)], circles) > 0 for row in rows)


def test_a_scene_without_circles_is_solved(work, tmp_path):
    (tmp_path / "scene.json").write_text('{"circles": []}')
    solve(work, work / "targets.csv", tmp_path / "angles.csv", scene=tmp_path / "scene.json")
    rows = read_answers(tmp_path / "angles.csv")
    assert [row["status"] for row in rows] == ["SOLVED"] * 2
    assert [row["clearance"] for row in rows] == ["inf"] * 2


def test_poses_are_answered_by_a_run_that_takes_them(work, tmp_path):
    targets = write_targets(tmp_path / "targets.csv", [[2.0, 3.5, 0.1]], "x,y,theta")
    solve(work, targets, tmp_path / "angles.csv", "pose")
    assert len(read_answers(tmp_path / "angles.csv")) == 1


def test_the_same_call_writes_the_same_bytes(work, tmp_path, mixed_targets):
    targets = write_targets(tmp_path / "targets.csv", mixed_targets[:20])
    for name in ("a.csv", "b.csv"):
        solve(work, targets, tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


# --- bad input --------------------------------------------------------------------------------------


def scene_with(**changes):
    return json.dumps(SCENE | changes)


def arm_with(**changes):
    return scene_with(arm=SCENE["arm"] | changes)


BAD_FILES = [
    ("targets.csv", "a,b\n1,2\n", ["targets.csv, line 1", "expected the header", "a,b"]),
    ("targets.csv", "x\n1\n", ["targets.csv, line 1", "expected the header"]),
    ("targets.csv", "x,y\n1,2\n3\n", ["targets.csv, line 3", "expected 2 fields"]),
    ("targets.csv", "x,y\n1,2\n3,zwei\n", ["targets.csv, line 3", "column y", "'zwei'"]),
    ("targets.csv", "x,y\n1,inf\n", ["targets.csv, line 2", "column y"]),
    ("targets.csv", "x,y\n", ["targets.csv", "header alone"]),
    ("targets.csv", "", ["targets.csv", "empty file"]),
    ("targets.csv", b"\xff\xfe\x00", ["targets.csv", "UTF-8"]),
    ("targets.csv", "x,y,theta\n1,2,3\n", ["targets.csv, line 1", "expected the columns x,y,", "found x,y,theta"]),
    ("targets.csv", None, ["targets.csv", "No such file"]),
    ("scene.json", json.dumps(SCENE)[:50], ["scene.json, line 1", "expected JSON"]),
    ("scene.json", "", ["scene.json", "expected JSON"]),
    ("scene.json", "[]", ["scene.json", "expected an object"]),
    ("scene.json", '{"circle": []}', ["scene.json", "'circles'"]),
    ("scene.json", scene_with(circles=[[1, 2]]), ["scene.json", "circles[0]"]),
    ("scene.json", scene_with(circles=[[1, 2, 0]]), ["scene.json", "circles[0]", "radius > 0", "found 0"]),
    ("scene.json", scene_with(circles=[[1, 2, -1.5]]), ["scene.json", "circles[0]", "radius > 0", "found -1.5"]),
    ("scene.json", scene_with(circles=[[1, 2, math.nan]]), ["scene.json", "circles[0]", "finite"]),
    ("scene.json", scene_with(wind=3), ["scene.json", "'wind'"]),
    ("scene.json", arm_with(limits=[[1, 0], *LIMITS[1:]]), ["scene.json", "limits[0]", "lower <= upper"]),
    ("scene.json", arm_with(lengths=[2, 2, -2]), ["scene.json", "lengths", "positive"]),
    ("scene.json", arm_with(lengths=[2, 2, 1.5]), ["scene.json", "expected the arm of", "lengths", "1.5"]),
    ("scene.json", arm_with(limits=[[0.0, 3.0], *LIMITS[1:]]), ["scene.json", "expected the arm of", "limits"]),
    ("scene.json", arm_with(link_radius=0.1), ["scene.json", "expected the arm of", "link_radius", "0.1"]),
    ("run/config.json", '{"arm": ', ["config.json, line 1", "expected JSON"]),
    ("run/config.json", "{}", ["config.json", "'arm'"]),
    ("run/config.json", None, ["config.json", "No such file"]),
    ("run/checkpoint.pt", b"PK\x03\x04half", ["checkpoint.pt", "expected a whole checkpoint"]),
    ("run/checkpoint.pt", None, ["checkpoint.pt", "expected a checkpoint"]),
]


@pytest.mark.parametrize(("name", "content", "fragments"), BAD_FILES)
def test_a_bad_file_is_one_line_and_leaves_the_old_answers(work, tmp_path, name, content, fragments):
    (tmp_path / "run").mkdir()
    for file in ("config.json", "checkpoint.pt"):
        (tmp_path / "run" / file).write_bytes((work / "mlp-qp" / file).read_bytes())
    for file in ("targets.csv", "scene.json"):
        (tmp_path / file).write_bytes((work / file).read_bytes())
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = tmp_path / "angles.csv"
    out.write_text("old")
    files = ("--model", tmp_path / "run", "--targets", tmp_path / "targets.csv", "--scene", tmp_path / "scene.json")
    before = sorted(tmp_path.rglob("*"))
    line = refused("solve", *files, "--out", out)
    assert str(tmp_path) in line
    for fragment in fragments:
        assert fragment in line
    assert out.read_text() == "old"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected a path, found an empty one" in refused("dataset", "--out", "")
    assert not list(tmp_path.iterdir())


def test_targets_without_an_orientation_are_refused_by_a_run_that_needs_it(work, tmp_path):
    files = ("--targets", work / "targets.csv", "--scene", work / "scene.json", "--out", tmp_path / "angles.csv")
    line = refused("solve", "--model", work / "pose", *files)
    assert "expected the columns x,y,theta" in line
    assert "found x,y\n" in line


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_a_bad_tolerance_is_one_line(work, tmp_path, value):
    files = ("--targets", work / "targets.csv", "--scene", work / "scene.json", "--out", tmp_path / "angles.csv")
    assert "tolerance" in refused("solve", "--model", work / "mlp", *files, "--tolerance", value)
    assert not os.listdir(tmp_path)


def test_a_place_that_cannot_be_written_is_one_line(work, tmp_path):
    files = ("--targets", work / "targets.csv", "--scene", work / "scene.json")
    out = tmp_path / "nowhere" / "angles.csv"
    assert str(out) in refused("solve", "--model", work / "mlp", *files, "--out", out)
    (tmp_path / "file").write_text("")
    for command in (
        ("dataset", "--num-samples", 5),
        ("demo", "--quick"),
        ("train", "--data", work / "data", "--epochs", 1),
        ("plot", "--data", work / "data", "--model", work / "mlp"),
    ):
        assert f"{tmp_path / 'file'}: expected a folder" in refused(*command, "--out", tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["Missing command"]),
        (["fly"], ["No such command 'fly'"]),
        (["--fly"], ["No such option '--fly'"]),
        (["dataset"], ["Missing option '--out'"]),
        (["dataset", "--out", "{}", "--num-samples", "many"], ["--num-samples", "'many'"]),
        (["dataset", "--out", "{}", "--num-samples", "0"], ["num_samples: expected a positive integer, found 0"]),
        (["dataset", "--out", "{}", "--seed", "-1"], ["--seed", "-1"]),
        (["dataset", "--out", "{}", "--sampling", "grid"], ["sampling: expected one of", "'grid'"]),
        (["dataset", "--out", "{}", "--removal", "some"], ["removal: expected one of", "'some'"]),
        (["dataset", "--out", "{}", "--inputs", "xyz"], ["inputs: expected one of", "'xyz'"]),
        (["train", "--data", "nowhere", "--out", "{}"], ["nowhere", "config.json", "No such file"]),
        (["train", "--data", "nowhere", "--out", "{}", "--epochs", "0"], ["epochs: expected a positive integer"]),
        (["train", "--data", "d", "--out", "{}", "--learning-rate", "nan"], ["learning_rate: ", "found nan"]),
    ],
)
def test_a_bad_option_is_one_line(tmp_path, arguments, fragments):
    line = refused(*(argument.format(tmp_path / "out") for argument in arguments))
    for fragment in fragments:
        assert fragment in line
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_named(command):
    assert "No such option '--colour'" in refused(command, "--colour", "blue")


def test_training_refuses_what_does_not_fit(work, tmp_path):
    data = ("train", "--data", work / "data", "--out", tmp_path / "run")
    assert "model: expected one of mlp, mlp-qp" in refused(*data, "--model", "transformer")
    assert "hidden: expected" in refused(*data, "--hidden", 0)
    assert "start: expected a run with hidden 100" in refused(*data, "--start", work / "mlp")
    assert "start: expected a run with inputs xy" in refused(*data, "--start", work / "pose", "--hidden", 5)
    assert not os.listdir(tmp_path)


def test_runs_are_only_scored_on_data_of_their_arm_and_inputs(work, tmp_path):
    (tmp_path / "scene.json").write_text(
        json.dumps({"circles": [], "arm": {"lengths": [1, 1], "limits": [[0, 1]] * 2}})
    )
    run("dataset", "--scene", tmp_path / "scene.json", "--num-samples", 20, "--out", tmp_path / "other")
    for command in ("evaluate", "plot"):
        out = ("--out", tmp_path / "out")
        line = refused(command, "--data", tmp_path / "other", "--model", work / "mlp", *out)
        assert "expected the arm of" in line
        assert "lengths" in line
        assert "inputs" in refused(command, "--data", work / "data_pose", "--model", work / "mlp", *out)
        assert "once" in refused(command, "--data", work / "data", *(("--model", work / "mlp") * 3), *out)
    assert sorted(os.listdir(tmp_path)) == ["other", "scene.json"]


def test_a_mistake_ends_the_process_with_code_2_and_one_line():
    call = [sys.executable, "-m", "robotics", "solve", "--model", "nowhere", "--targets", "t", "--scene", "s"]
    done = subprocess.run([*call, "--out", "o"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere/config.json: expected a file to read, found: ")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_ends_in_one_line(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "make_dataset", interrupted)
    result = run("demo", "--quick", "--out", tmp_path, code=130)
    assert result.stderr.strip().splitlines()[-1].startswith("error: interrupted")


# --- the other commands -----------------------------------------------------------------------------


def test_help_lists_every_command_and_each_has_examples_and_the_common_options():
    help_text = run("--help").stdout
    for command in COMMANDS:
        assert f"  {command} " in help_text
        text = run(command, "--help").stdout
        assert "Examples:" in text
        assert f"python -m robotics {command} " in text
        assert "--seed" in text
        assert "--out" in text


def test_the_examples_of_the_help_are_made_of_options_that_exist():
    for command in COMMANDS:
        options = {option for parameter in main.commands[command].params for option in parameter.opts}
        used = {word for word in main.commands[command].epilog.split() if word.startswith("--")}
        assert used <= options


def test_a_run_folder_tells_the_arm_the_inputs_and_the_data(work):
    config = json.loads((work / "mlp-qp" / "config.json").read_text())
    assert config["arm"] == {"lengths": LENGTHS, "limits": LIMITS, "link_radius": 0.0}
    assert config["model"]["inputs"] == "xy"
    assert config["circles"] == CIRCLES
    assert config["dataset_hash"] == json.loads((work / "data" / "config.json").read_text())["hash"]


def test_the_seed_decides_the_weights(work, tmp_path):
    states = []
    for seed in (0, 0, 1):
        options = ("--epochs", 1, "--hidden", 5, "--seed", seed)
        run("train", "--data", work / "data", *options, "--out", tmp_path)
        states.append(load_run(tmp_path)[0].state_dict()["layers.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_evaluate_writes_the_table_as_json(work, tmp_path):
    models = ("--model", work / "mlp", "--model", work / "mlp-qp")
    result = run("evaluate", "--data", work / "data", *models, "--targets", 40, "--out", tmp_path / "m.json")
    rows = json.loads((tmp_path / "m.json").read_text())
    assert [row["method"] for row in rows] == ["mlp", "mlp-qp"]
    assert [row["num_targets"] for row in rows] == [40, 40]
    assert rows[1]["whole_arm_collision_rate"] == rows[1]["limit_violations"] == 0
    assert rows[1]["median_tip_error"] < rows[0]["median_tip_error"]
    assert "mlp-qp" in result.stdout


def test_plot_names_the_figures_it_wrote(work, tmp_path):
    models = ("--model", work / "mlp", "--model", work / "mlp-qp")
    result = run("plot", "--data", work / "data", *models, "--targets", 30, "--out", tmp_path / "deep" / "figures")
    written = [Path(line.removeprefix("written: ")) for line in result.stdout.splitlines()]
    assert sorted(path.name for path in written) == ["arms.png", "errors.png", "losses.png", "workspace.png"]
    assert all(path.is_file() for path in written)


TINY = demo.DemoSize(
    num_samples=300,
    num_targets=40,
    training={
        name: TrainingConfig(epochs=2, epoch_samples=64, validation_samples=20, learning_rate=1e-3) for name in MODELS
    },
)


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "QUICK", TINY)
        result = run("demo", "--quick", "--out", out, "--seed", 3)
    return SimpleNamespace(out=out, stdout=result.stdout)


def test_demo_names_exactly_the_files_that_it_wrote(finished_demo):
    named = [Path(line.strip()) for line in finished_demo.stdout.partition("Files written:\n")[2].splitlines()]
    assert sorted(named) == sorted(path for path in finished_demo.out.rglob("*") if path.is_file())
    for name in MODELS:
        assert {finished_demo.out / name / file for file in ("config.json", "metrics.csv", "checkpoint.pt")} <= {*named}


def test_demo_ends_with_a_table_of_all_models(finished_demo):
    rows = json.loads((finished_demo.out / "metrics.json").read_text())
    assert {row["method"] for row in rows} == set(MODELS)
    assert {row["num_targets"] for row in rows} == {40}
    assert all(f"\n{name} " in finished_demo.stdout for name in MODELS)
    (sequential,) = [row for row in rows if row["method"] == "mlp-qp"]
    assert sequential["whole_arm_collision_rate"] == sequential["limit_violations"] == 0


def test_the_runs_of_the_demo_answer_files_of_targets(finished_demo, work, tmp_path):
    targets = write_targets(tmp_path / "targets.csv", [[2.0, 3.5], [4.0, 1.0]])
    solve(finished_demo.out, targets, tmp_path / "angles.csv", scene=work / "scene.json")
    assert [row["status"] for row in read_answers(tmp_path / "angles.csv")] == ["SOLVED"] * 2


@pytest.mark.parametrize("size", [demo.FULL, demo.QUICK])
def test_the_plain_network_is_trained_first_and_the_others_start_from_it(size):
    assert next(iter(size.training)) == "mlp"
    assert set(size.training) == set(MODELS)
    assert 0.15 * size.num_samples >= size.num_targets  # so many are in the test split
