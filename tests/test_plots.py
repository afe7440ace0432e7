"""Figures: readable PNG files that show what they were given."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import image

from robotics import Circles, DatasetConfig, FileError, PlanarArm, make_dataset
from robotics.plots import COLOURS, plot_arms, plot_errors, plot_losses, plot_track, plot_workspace
from robotics.trajectories import track

ARM = PlanarArm.duka()
SCENE = ((2.4, 2.6, 0.5), (-1.6, 3.2, 0.6))
CIRCLES = Circles.from_json({"circles": SCENE})
DATA = make_dataset(DatasetConfig(arm=ARM, circles=SCENE, num_samples=200, removal="whole-arm"))
ROWS = [{"epoch": k, "train_loss": 1 / k, "val_loss": 1.1 / k} for k in range(1, 40)]
NAMES = ("mlp", "mlp-qp", "mlp-qp-oneshot")
THETA = torch.cat((DATA.theta[:3], torch.full((1, 3), torch.nan, dtype=torch.float64)))
TARGETS = DATA.targets[[0, 1, 1, 1]]
ANSWERS = dict.fromkeys(NAMES, THETA)


def errors_of(path, answers=ANSWERS):
    return plot_errors(path, ARM, DATA.targets[:4], answers)


FIGURES = {
    "workspace": lambda path: plot_workspace(path, DATA),
    "losses": lambda path: plot_losses(path, dict.fromkeys(NAMES, ROWS)),
    "arms": lambda path: plot_arms(path, ARM, CIRCLES, DATA.targets[:4], ANSWERS),
    "errors": errors_of,
    "losses of one model": lambda path: plot_losses(path, {"mlp": ROWS}),
    "arms of one model": lambda path: plot_arms(path, ARM, CIRCLES, DATA.targets[:4], {"mlp": THETA}),
    "track": lambda path: plot_track(path, ARM, CIRCLES, TARGETS, track(ARM, DATA.theta[0], TARGETS, CIRCLES)),
    "errors of one model": lambda path: errors_of(path, {"mlp": THETA}),
}
EVERY_FIGURE = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
ONE_OF_EACH = pytest.mark.parametrize("draw", list(FIGURES.values())[:4], ids=list(FIGURES)[:4])


def pixels(path):
    """The figure as (height, width, 3) integers."""
    return np.rint(255 * image.imread(path)[..., :3]).astype(int)


def shows(path, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(pixels(path) - wanted).max(-1) <= 2).any())


@ONE_OF_EACH
def test_a_figure_is_a_png_of_readable_size_at_the_path_returned(tmp_path, draw):
    path = tmp_path / "figure.png"
    assert draw(path) == path
    height, width, _ = pixels(path).shape
    assert 400 <= height <= 1600
    assert 600 <= width <= 2400
    assert os.listdir(tmp_path) == ["figure.png"]


@EVERY_FIGURE
def test_nothing_is_cut_off_at_the_edges(tmp_path, draw):
    picture = pixels(draw(tmp_path / "figure.png"))
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    assert all((edge == 255).all() for edge in edges)


@ONE_OF_EACH
def test_the_same_input_gives_the_same_bytes(tmp_path, draw):
    assert draw(tmp_path / "a.png").read_bytes() == draw(tmp_path / "b.png").read_bytes()


@ONE_OF_EACH
def test_a_failed_write_leaves_the_old_figure(tmp_path, draw, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match=r"figure\.png: .*No space left"):
        draw(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["figure.png"]


def test_every_model_has_a_colour_in_the_histogram(tmp_path):
    # Each model on targets of its own error, so that no histogram hides another.
    targets = ARM.tip(DATA.theta[:4])
    shifted = {name: DATA.theta[:4] + 10.0 ** (-2 * i - 2) for i, name in enumerate(NAMES)}
    path = plot_errors(tmp_path / "errors.png", ARM, targets, shifted)
    assert all(shows(path, colour) for colour in COLOURS[:3])


def test_every_target_has_a_colour_in_the_arms(tmp_path):
    path = plot_arms(tmp_path / "arms.png", ARM, CIRCLES, DATA.targets[:3], {"mlp": DATA.theta[:3]})
    assert all(shows(path, colour) for colour in COLOURS[:3])
    assert not shows(path, COLOURS[4])


@pytest.mark.parametrize("off", [0.0, 1e-300, 1e6], ids=str)
def test_errors_beyond_the_axis_are_drawn_at_its_end(tmp_path, off):
    targets = ARM.tip(DATA.theta[:5]) + off
    assert shows(plot_errors(tmp_path / "errors.png", ARM, targets, {"mlp": DATA.theta[:5]}), COLOURS[0])


def test_a_model_without_an_answer_is_drawn(tmp_path):
    errors_of(tmp_path / "errors.png", {"mlp": torch.full((4, 3), math.nan, dtype=torch.float64)})


def test_an_arm_without_circles_and_without_removed_samples_is_drawn(tmp_path):
    data = make_dataset(DatasetConfig(arm=PlanarArm.unit(4), num_samples=20))
    plot_workspace(tmp_path / "workspace.png", data)
    nothing = Circles.from_json({"circles": []})
    plot_arms(tmp_path / "arms.png", data.config.arm, nothing, data.targets[:2], {"mlp": data.theta[:2]})


def test_an_unfinished_training_is_drawn(tmp_path):
    plot_losses(tmp_path / "losses.png", {"mlp": ROWS[:1], "mlp-qp": []})


def test_the_global_state_of_pyplot_is_left_alone():
    code = "import sys, robotics.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
