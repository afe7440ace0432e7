"""A track as a GIF and as a page: every tick is there, its arm is that of the file, its step is clear along its way."""

import json
import math
import re

import numpy as np
import pytest
import torch
from browser import open_browser
from test_figures import near, pictures

from benchmarks.ik import independent
from robotics import Circles, FileError, PlanarArm
from robotics.paths import shape_path
from robotics.player import write_track_player
from robotics.plots import COLOURS
from robotics.track_animation import write_track_gif
from robotics.track_recording import TrackRecording
from robotics.trajectories import TrackStatus, track, track_best

ARM = PlanarArm.duka()
SCENE = [[2.4, 2.6, 0.5], [-1.6, 3.2, 0.6]]
CIRCLES = Circles.from_json({"circles": SCENE})
TARGETS = shape_path("square", (1.0, 3.4), 1.3, 40, None)
WAY = TrackRecording(arm=ARM, circles=CIRCLES, targets=TARGETS, track=track_best(ARM, TARGETS, CIRCLES, speed=0.5))
SET_SLIDER = """const slider = document.getElementById('slider');
slider.value = arguments[0];
slider.dispatchEvent(new Event('input', {bubbles: true}));"""


def chain(theta):
    """The base, the joints and the tip, by turning a complex number; shares no code with the package."""
    return np.concatenate(([0], np.cumsum(np.array(ARM.lengths) * np.exp(1j * np.cumsum(theta)))))


def embedded(path):
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', path.read_text(), re.S)
    return json.loads(found.group(1))


def test_moments_end_every_tick_and_share_the_rest_by_the_length_of_the_step():
    moments = WAY.frames(100)
    assert moments[0] == (0, 0.0)
    assert moments == sorted(moments)
    assert len(moments) <= 101
    assert [tick for tick, s in moments if s == 1] == list(range(40))
    counts = np.bincount([tick for tick, _ in moments[1:]])
    assert counts[WAY.track.steps.abs().amax(-1).argmax()] == counts.max() > 1
    few = WAY.frames(7)
    assert len(few) == 8
    assert few[-1] == (39, 1.0)
    assert all(s == 1 for _, s in few[1:])  # postures that the arm was in, and none between
    assert WAY.frames(1) == [(0, 0.0), (39, 1.0)]


def test_moments_are_on_the_straight_steps_and_clear():
    body = independent.Body(np.array(ARM.lengths), *np.array(ARM.limits).T)
    postures = WAY.waypoints().numpy()
    assert np.array_equal(postures[1:], WAY.track.theta.numpy())
    for tick, s in WAY.frames(90):
        theta = WAY.theta(tick, s).numpy()
        assert np.allclose(theta, (1 - s) * postures[tick] + s * postures[tick + 1], rtol=0, atol=1e-14)
        assert not independent.unsafe(body, theta[None], np.array([SCENE])).any() or s < 1
        assert independent.clearance(body, theta[None], np.array([SCENE])) > 0


def test_the_gif_moves_arm_and_target_and_marks_what_held_it(tmp_path):
    found = pictures(write_track_gif(tmp_path / "way.gif", WAY, frames=12))
    assert 10 <= len(found) <= 13
    arm = [near(picture, COLOURS[0]) for picture in found]
    assert all(part.any() for part in arm)
    assert (arm[0] ^ arm[6]).sum() > 500
    aim = [near(picture, COLOURS[1])[:, :440] for picture in found]  # the cross; right of it are the errors
    assert (aim[1] ^ aim[6]).sum() > 30
    assert int((WAY.track.status == TrackStatus.HELD_BY_CIRCLE).sum()) > 1
    assert near(found[0], COLOURS[1])[:, 440:].sum() > 20  # the ticks that a circle held
    free = track_best(ARM, TARGETS[:5], Circles.from_json({"circles": []}))
    plain = TrackRecording(arm=ARM, circles=Circles.from_json({"circles": []}), targets=TARGETS[:5], track=free)
    clean = pictures(write_track_gif(tmp_path / "free.gif", plain, frames=5))
    assert near(clean[0], COLOURS[1])[:, 440:].sum() == 0


def test_the_data_of_the_page_are_the_track_to_the_last_bit(tmp_path):
    data = embedded(write_track_player(tmp_path / "way.html", WAY, 60))
    assert data["kind"] == "track"
    assert [tick["end"] for tick in data["layers"]] == WAY.track.theta.tolist()
    assert [tick["target"] for tick in data["layers"]] == TARGETS.tolist()
    assert [tick["status"] for tick in data["layers"]] == [TrackStatus(s).name for s in WAY.track.status.tolist()]
    assert data["frames"] == [list(moment) for moment in WAY.frames(60)]
    assert data["headline"] == f"3 links along 40 targets among 2 circles: {WAY.counts()}"
    assert len(embedded(write_track_player(tmp_path / "way.html", WAY, 3))["frames"]) == 41  # every tick has one


def test_ticks_without_a_target_have_none_in_page_and_gif(tmp_path):
    targets = TARGETS[:6].clone()
    targets[2] = math.nan
    start = WAY.track.start
    nothing = Circles.from_json({"circles": []})
    found = TrackRecording(arm=ARM, circles=nothing, targets=targets, track=track(ARM, start, targets, nothing))
    data = embedded(write_track_player(tmp_path / "way.html", found))
    assert [tick["target"] is None for tick in data["layers"]] == [False, False, True, False, False, False]
    assert data["layers"][2]["error"] is None
    assert data["layers"][2]["start"] == data["layers"][2]["end"]
    assert data["layers"][0]["clearance"] is None
    assert len(pictures(write_track_gif(tmp_path / "way.gif", found, frames=6))) > 2


@pytest.mark.parametrize("write", [write_track_player, write_track_gif])
def test_a_file_that_cannot_be_written_is_named(tmp_path, write):
    with pytest.raises(FileError, match=r"way: expected a place to write to"):
        write(tmp_path / "nowhere" / "way", WAY, 2)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_page_draws_the_arm_of_every_tick_and_its_target(browser, tmp_path):
    browser.open(write_track_player(tmp_path / "way.html", WAY, 60).as_uri())
    moments = WAY.frames(60)
    for number in (0, 1, len(moments) // 2, len(moments) - 1):
        browser.run(SET_SLIDER, number)
        tick, s = moments[number]
        points = browser.run("return document.getElementById('arm').getAttribute('points')").split()
        drawn = np.array([complex(*map(float, pair.split(","))) for pair in points])
        assert abs(drawn - chain(WAY.theta(tick, s).numpy())).max() <= 1e-12 * ARM.reach
        cross = browser.run(
            "return [...document.querySelectorAll('line[stroke=\"var(--target)\"]')].map("
            "(l) => ['x1', 'x2', 'y1', 'y2'].map((name) => Number(l.getAttribute(name))))"
        )
        assert len(cross) == 2
        x1, x2, y1, y2 = cross[0]
        assert [(x1 + x2) / 2, (y1 + y2) / 2] == pytest.approx(TARGETS[tick].tolist(), abs=1e-9)
        status = TrackStatus(int(WAY.track.status[tick])).name.lower().replace("_", " ")
        said = browser.run("return document.getElementById('layer').textContent")
        assert said == f"Tick {tick} / 39: {status}"
    assert browser.run("return document.getElementById('multipliers').hidden")
    assert browser.run("return document.getElementById('show-planes').offsetParent === null")
    browser.press("home")
    browser.press("page down")
    assert browser.run("return document.getElementById('frame').textContent").startswith(f"{moments.index((1, 1.0))} /")
    browser.click("#layer-forward")
    assert browser.run("return document.getElementById('layer').textContent").startswith("Tick 2 / 39")
    assert browser.run("return document.getElementById('layer-forward').textContent") == "Tick +"
    browser.click("#play")
    browser.wait("return document.getElementById('play').textContent === 'Pause'")
    browser.press("end")
    assert browser.errors() == []


def test_poses_show_their_orientation_and_six_links_open_too(browser, tmp_path):
    arm = PlanarArm.unit(6)
    targets = torch.tensor([[3.0, 1.0, 0.3], [3.1, 1.0, 0.4], [30.0, 1.0, 0.4]], dtype=torch.float64)
    nothing = Circles.from_json({"circles": []})
    found = TrackRecording(arm=arm, circles=nothing, targets=targets, track=track_best(arm, targets, nothing))
    browser.open(write_track_player(tmp_path / "way.html", found).as_uri())
    assert browser.run("return document.querySelectorAll('line[stroke=\"var(--target)\"]').length") == 3
    browser.press("end")
    assert "farther out: (30, 1)" in browser.run("return document.getElementById('far').textContent")
    assert "out of reach" in browser.run("return document.getElementById('layer').textContent")
    browser.press("home")
    assert browser.run("return document.getElementById('far')") is None
    assert browser.errors() == []
