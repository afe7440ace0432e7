"""`figures` and `animate`: they write what they say, and every mistake is one line."""

import json

import pytest
from known_way import CIRCLES, SCENE, recording_in
from test_cli import refused, run

from robotics import PlanarArm, config_space, make_dataset
from robotics.dataset_config import DatasetConfig
from robotics.models import MLP, MLPQP, Heads, HeadsQP
from robotics.runs import save_run


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with scenes and runs of two arms."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "scene.json").write_text(json.dumps(SCENE))
    (folder / "unit.json").write_text(json.dumps({"circles": [], "arm": PlanarArm.unit(2).to_json()}))
    (folder / "covered.json").write_text(json.dumps({"circles": [[0.0, 0.0, 5.0]]}))
    data = make_dataset(DatasetConfig(arm=PlanarArm.duka(), num_samples=20))
    for name, model in (
        ("mlp", MLP(PlanarArm.duka(), hidden=4)),
        ("qp", MLPQP(MLP(PlanarArm.duka(), hidden=4))),
        ("heads", HeadsQP(Heads(PlanarArm.duka(), 2, 4))),
    ):
        save_run(folder / name, model, data, CIRCLES)
    return folder


def test_animate_writes_the_way_from_the_start_that_was_given(work, tmp_path):
    options = ("--scene", work / "scene.json", "--target", "3.3,3.4", "--start", "0.3,-0.6,0.5")
    said = run("animate", *options, "--out", tmp_path / "way.html").stdout
    assert said.startswith("7 layers: SOLVED, task error ")
    data = recording_in(tmp_path / "way.html")
    assert data["layers"][0]["start"] == [0.3, -0.6, 0.5]
    assert data["circles"] == SCENE["circles"]
    run("animate", *options, "--layers", 2, "--out", tmp_path / "way.GIF")
    assert (tmp_path / "way.GIF").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize("model", ["mlp", "qp", "heads"])
def test_the_network_of_a_run_says_where_to_start(work, tmp_path, model):
    options = ("--scene", work / "scene.json", "--target", "4.5,0.5", "--model", work / model)
    run("animate", *options, "--out", tmp_path / "way.html")
    data = recording_in(tmp_path / "way.html")
    assert data["status"] == 0
    assert len(data["layers"]) <= (6 if model == "qp" else 10)


def test_the_arm_of_the_scene_is_taken(work, tmp_path):
    run("animate", "--scene", work / "unit.json", "--target", "1.2,0.7", "--out", tmp_path / "way.html")
    assert recording_in(tmp_path / "way.html")["arm"] == PlanarArm.unit(2).to_json()


def test_a_target_that_is_not_reached_is_animated_and_says_so(work, tmp_path):
    said = run("animate", "--scene", work / "scene.json", "--target", "9,9", "--out", tmp_path / "way.html").stdout
    assert "UNREACHABLE" in said


def test_figures_names_the_files_that_it_wrote(work, tmp_path, monkeypatch):
    monkeypatch.setattr(config_space, "_COARSE", 16)
    options = ("--scene", work / "scene.json", "--target", "3.3,3.4", "--start", "0.3,-0.6,0.5", "--joints", "2,3")
    said = run("figures", *options, "--out", tmp_path / "made").stdout
    names = [line.removeprefix("written: ") for line in said.splitlines()]
    assert sorted(names) == sorted(map(str, (tmp_path / "made").iterdir()))
    assert len(names) == 3


@pytest.mark.parametrize(
    ("command", "options", "fragments"),
    [
        ("animate", {"--out": "way.mp4"}, ["out", ".html or .gif", "way.mp4"]),
        ("animate", {"--out": "way"}, ["out", ".html or .gif"]),
        ("animate", {"--target": "1"}, ["target", "x,y or x,y,theta"]),
        ("animate", {"--target": "1,nan"}, ["target", "finite"]),
        ("animate", {"--start": "0,0"}, ["start", "3 joint angles"]),
        ("animate", {"--start": "0,0,up"}, ["start", "3 joint angles"]),
        ("animate", {"--layers": "0"}, ["layers"]),
        ("animate", {"--scene": "nowhere.json"}, ["nowhere.json"]),
        ("animate", {"--scene": "covered.json"}, ["circles", "leaves the arm some posture"]),
        ("animate", {"--model": "nowhere"}, ["nowhere"]),
        ("animate", {"--model": "qp", "--scene": "unit.json"}, ["unit.json", "lengths"]),
        ("animate", {"--model": "qp", "--target": "1,2,0.5"}, ["target", "2 numbers"]),
        ("figures", {"--joints": "1"}, ["joints", "two joints"]),
        ("figures", {"--joints": "1,4"}, ["joints", "from 1 to 3"]),
        ("figures", {"--joints": "2,2"}, ["joints", "two different"]),
        ("figures", {"--joints": "1,1.5"}, ["joints", "from 1 to 3"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(work, tmp_path, command, options, fragments):
    given = {"--scene": "scene.json", "--target": "3.3,3.4", "--out": "way.html"} | options
    paths = {"--scene": work, "--model": work, "--out": tmp_path}
    flat = [part for name, value in given.items() for part in (name, paths[name] / value if name in paths else value)]
    said = refused(command, *flat)
    assert all(fragment in said for fragment in fragments), said
    assert list(tmp_path.iterdir()) == []
