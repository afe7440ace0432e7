"""Figures and animations of a way: what they compute is checked by counting, what they draw by the pixels."""

import math

import numpy as np
import pytest
import torch
from known_way import ARM, CIRCLES, NOTHING, WAY, numbers
from matplotlib import image
from PIL import Image

from robotics import FileError, PlanarArm
from robotics.animation import write_gif
from robotics.config_space import BLOCKED, FREE, OUT_OF_REACH, reachable_set, slice_at
from robotics.figures import draw_recording, plot_configuration, plot_path, plot_reachable
from robotics.plots import COLOURS
from robotics.recording import record, record_best


@pytest.fixture(scope="module")
def reachable():
    return reachable_set(ARM, CIRCLES, halvings=0)


def cells_of(reachable, points):
    width = reachable.x[1] - reachable.x[0]
    column, row = np.rint((points - reachable.x[0]) / width).astype(int).T
    return reachable.kind[row, column]


# --- what is computed -----------------------------------------------------------------------------


def test_tips_of_safe_postures_are_in_free_cells_or_beside_one(reachable):
    theta = ARM.sample(4000, torch.Generator().manual_seed(1))
    theta = theta[CIRCLES.clearance(ARM.points(theta)) > 0]
    kinds = cells_of(reachable, ARM.tip(theta).numpy())
    assert (kinds == FREE).mean() > 0.93  # a cell of 0.19 m at an edge is judged by its middle
    assert (kinds == OUT_OF_REACH).mean() < 0.06


def test_cells_are_what_the_definitions_say(reachable):
    # Under a circle: blocked. Behind the base, where the limits let nothing: out of reach.
    assert set(cells_of(reachable, np.array([[2.4, 2.6], [-1.6, 3.4], [0.6, -2.0]]))) == {BLOCKED}
    assert set(cells_of(reachable, np.array([[0.0, 0.0], [-3.0, 0.0], [0.0, -5.0], [6.0, 6.0]]))) == {OUT_OF_REACH}
    assert set(cells_of(reachable, np.array([[4.0, 0.0], [0.0, 5.0], [3.3, 3.4]]))) == {FREE}


def test_halving_cells_changes_only_those_near_an_edge(reachable):
    fine = reachable_set(ARM, CIRCLES, halvings=1)
    coarse = reachable.kind.repeat(2, 0).repeat(2, 1)
    assert fine.kind.shape == (128, 128)
    assert 0 < (fine.kind != coarse).mean() < 0.05
    assert math.isclose(fine.x[-1] + (fine.x[1] - fine.x[0]) / 2, 1.02 * ARM.reach)


def test_the_ring_of_two_links_is_found_by_steps():
    arm = PlanarArm(lengths=(2.0, 1.0), limits=((-math.pi, math.pi),) * 2)
    found = reachable_set(arm, NOTHING, halvings=0)
    assert not found.exact
    distance = np.hypot(*np.meshgrid(found.x, found.x))
    inside = (distance > 1.01) & (distance < 2.99)
    outside = (distance < 0.99) | (distance > 3.01)
    assert (found.kind[inside] == FREE).all()
    assert (found.kind[outside] == OUT_OF_REACH).all()


def test_a_slice_holds_the_clearance_of_its_postures():
    plane = slice_at(ARM, CIRCLES, numbers(1.0, -1.0, 0.4), (0, 2), cells=5)
    for i, j in ((0, 0), (1, 3), (4, 2)):
        posture = numbers(plane.first[i], -1.0, plane.second[j])
        each = CIRCLES.link_clearance(ARM.points(posture)).amin(-2)
        assert np.allclose(plane.clearance[:, j, i], each.numpy(), rtol=0, atol=1e-14)
    assert (plane.first[0], plane.first[-1]) == ARM.limits[0]
    with pytest.raises(ValueError, match="joints: expected two different ones of 3, found 1, 1"):
        slice_at(ARM, CIRCLES, numbers(1.0, -1.0, 0.4), (0, 0))


# --- what is drawn --------------------------------------------------------------------------------


def edges_are_white(path):
    picture = np.rint(255 * image.imread(path)[..., :3]).astype(int)
    return all((edge == 255).all() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]))


def test_all_figures_are_whole_and_the_same_every_time(tmp_path, reachable, monkeypatch):
    monkeypatch.setattr("robotics.figures.reachable_set", lambda arm, circles: reachable)
    first, again = draw_recording(tmp_path / "a", WAY), draw_recording(tmp_path / "b", WAY)
    assert [path.name for path in first] == ["workspace.png", "reachable.png", "configuration.png"]
    for one, other in zip(first, again, strict=True):
        assert edges_are_white(one), one.name
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("links", [2, 5])
def test_other_arms_poses_and_empty_scenes_are_drawn(tmp_path, links):
    arm = PlanarArm.unit(links)
    posture = arm.sample(1, torch.Generator().manual_seed(2))[0]
    way = record_best(arm, arm.pose(posture), NOTHING, [posture + 0.05])
    assert edges_are_white(plot_path(tmp_path / "path.png", way))
    assert edges_are_white(plot_configuration(tmp_path / "configuration.png", way, (links - 2, links - 1)))


def test_an_unsolved_way_is_drawn_with_its_verdict(tmp_path, reachable):
    way = record(ARM, numbers(1.7, -0.6, -1.4), numbers(2.4, 2.7), CIRCLES)
    assert edges_are_white(plot_path(tmp_path / "path.png", way))
    assert edges_are_white(plot_reachable(tmp_path / "reachable.png", way, reachable))


def pictures(path):
    with Image.open(path) as animation:
        found = []
        for i in range(animation.n_frames):
            animation.seek(i)
            found.append(np.asarray(animation.convert("RGB")).astype(int))
        return found


def near(picture, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return abs(picture - wanted).max(-1) <= 12


def test_the_gif_moves_the_arm_and_shows_the_half_plane_of_the_layer(tmp_path):
    path = write_gif(tmp_path / "way.gif", WAY, frames=16)
    found = pictures(path)
    assert 8 <= len(found) <= 17  # pictures that are equal are one, shown for longer
    arm = [near(picture, COLOURS[0]) for picture in found]
    assert all(part.any() for part in arm)
    assert (arm[0] ^ arm[-1]).sum() > 500
    # Link 2 touches nothing in the last layer, and has a row in the first.
    assert near(found[1], COLOURS[2]).sum() > 50
    assert near(found[-1], COLOURS[2]).sum() == 0
    assert (found[0][0] == 255).all()


def test_a_failed_write_leaves_the_old_animation(tmp_path):
    with pytest.raises(FileError, match="expected a place to write to"):
        write_gif(tmp_path / "nowhere" / "way.gif", WAY, frames=16)


def test_a_way_without_active_rows_is_animated(tmp_path):
    arm = PlanarArm.unit(2)
    way = record(arm, numbers(0.3, 0.4), arm.tip(numbers(0.32, 0.41)), NOTHING)
    assert not any(layer.multipliers() for layer in way.layers)
    assert len(pictures(write_gif(tmp_path / "way.gif", way, frames=8))) >= 2
