"""The page in a real browser: what it draws is the numpy kinematics, and every control does what it says."""

import io
import math
import re

import numpy as np
import pytest
import torch
from browser import open_browser
from checker import body_of
from known_way import ARM, CIRCLES, NOTHING, WAY, numbers, recording_in
from PIL import Image

from benchmarks.ik.independent import joints
from robotics import FileError, PlanarArm
from robotics.player import write_player
from robotics.recording import record

FRAMES = 60
MOMENTS = WAY.frames(FRAMES)
LAST = len(MOMENTS) - 1
ARM_POINTS = "return document.getElementById('arm').getAttribute('points')"
SET_SLIDER = """const slider = document.getElementById('slider');
slider.value = arguments[0];
slider.dispatchEvent(new Event('input', {bubbles: true}));"""
PLANES = """return [...document.querySelectorAll('#planes .plane')].map(
    (plane) => [Number(plane.dataset.link), Number(plane.dataset.circle), plane.dataset.active === 'true'])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser, tmp_path):
    """The page of `WAY`, just opened; it must have written nothing to the console when the test ends."""
    browser.open(write_player(tmp_path / "way.html", WAY, FRAMES).as_uri())
    assert browser.errors() == []
    yield browser
    assert browser.errors() == []


def frame_of(page):
    shown = page.run("return [document.getElementById('slider').value, document.getElementById('frame').textContent]")
    assert shown[1] == f"{shown[0]} / {LAST}"
    return int(shown[0])


def drawn(page):
    points = [tuple(map(float, pair.split(","))) for pair in page.run(ARM_POINTS).split()]
    return np.array([complex(*point) for point in points])


def test_the_drawn_arm_has_the_joints_of_the_numpy_kinematics(page):
    for number in (0, 1, LAST // 3, LAST // 2, LAST - 1, LAST):
        page.run(SET_SLIDER, number)
        assert frame_of(page) == number
        k, s = MOMENTS[number]
        start, end = WAY.layers[k].start.numpy(), WAY.layers[k].end.numpy()
        assert abs(drawn(page) - joints(body_of(ARM), start + s * (end - start))).max() <= 1e-12 * ARM.reach
    assert abs(drawn(page)[-1] - (3.3 + 3.4j)) <= 1e-9  # the tip has got to the target


def test_play_runs_to_the_end_and_pause_stops(page):
    assert frame_of(page) == 0
    page.run("document.getElementById('speed').value = '0.25'")
    page.click("#play")
    assert page.run("return document.getElementById('play').textContent") == "Pause"
    page.wait("return document.getElementById('slider').value > 0")
    page.click("#play")
    stopped = frame_of(page)
    assert 0 < stopped < LAST
    # It has stopped: two more pictures of the browser, and nothing has moved.
    page.run("window.seen = 0; requestAnimationFrame(() => requestAnimationFrame(() => { window.seen = 1; }))")
    page.wait("return window.seen === 1")
    assert frame_of(page) == stopped
    page.run("document.getElementById('speed').value = '4'")
    page.click("#play")
    page.wait(f"return document.getElementById('slider').value == {LAST}")
    assert page.run("return document.getElementById('play').getAttribute('aria-pressed')") == "false"


def test_the_buttons_step_by_frames_and_layers(page):
    page.click("#forward")
    page.click("#forward")
    page.click("#back")
    assert frame_of(page) == 1
    page.click("#layer-forward")
    assert MOMENTS[frame_of(page)] == (1, 1.0)
    page.click("#layer-back")
    assert MOMENTS[frame_of(page)] == (0, 1.0)
    page.click("#layer-back")
    page.click("#back")
    assert frame_of(page) == 0


def test_the_keyboard_alone_is_enough(page):
    page.press("right", "right", "right", "left")
    assert frame_of(page) == 2
    page.press("end")
    assert frame_of(page) == LAST
    page.press("home")
    page.press("page down")
    assert MOMENTS[frame_of(page)] == (1, 1.0)
    page.press("tab")  # to the button: space presses it, once
    assert page.run("return document.activeElement.id") == "play"
    page.press("space")
    page.wait("return document.getElementById('play').textContent === 'Pause'")
    page.press("right")
    assert page.run("return document.getElementById('play').textContent") == "Play"
    names = "return [...document.querySelectorAll('button, input, select')].every((c) => c.labels.length || c.ariaLabel"
    assert page.run(names + " || c.textContent.trim())")


def test_half_planes_are_those_of_the_layer_and_can_be_hidden(page):
    for k in (0, 1, len(WAY.layers) - 1):
        page.run(SET_SLIDER, MOMENTS.index((k, 1.0)))
        active = [[p.link, p.circle, True] for p in WAY.layers[k].planes if p.active]
        assert page.run(PLANES) == active
    page.run(SET_SLIDER, 0)
    assert page.run(PLANES) == [[1, 0, True]]
    page.click("#show-inactive")
    assert len(page.run(PLANES)) == 9
    page.click("#show-planes")
    assert page.run(PLANES) == []
    assert page.run("return document.querySelectorAll('text.plane').length") == 0
    page.click("#show-planes")
    page.click("#show-inactive")
    assert page.run(PLANES) == [[1, 0, True]]


def test_a_drawn_half_plane_touches_its_circle_and_leaves_the_link_on_the_other_side(page):
    border = page.run("const l = document.querySelector('#planes line'); return ['x1','y1','x2','y2'].map("
                      "(name) => Number(l.getAttribute(name)))")  # fmt: skip
    a, b = complex(*border[:2]), complex(*border[2:])
    turn = (b - a) / abs(b - a)
    x, y, r = CIRCLES.to_json()["circles"][0]
    height = ((complex(x, y) - a) / turn).imag
    assert abs(height) == pytest.approx(r, abs=1e-6)
    link = ((drawn(page)[1:3] - a) / turn).imag
    assert (link * height < 0).all()


def test_the_bars_are_the_multipliers_of_the_layer_and_can_be_hidden(page):
    bars = "return [...document.querySelectorAll('#bars .bar')].map((bar) => [bar.dataset.name, +bar.dataset.value])"
    names = {name for layer in WAY.layers for name in layer.multipliers()}
    for k, layer in enumerate(WAY.layers):
        page.run(SET_SLIDER, MOMENTS.index((k, 1.0)))
        shown = dict(page.run(bars))
        assert shown.keys() == names
        assert {name: value for name, value in shown.items() if value} == layer.multipliers()
    visible = "return document.getElementById('multipliers').offsetHeight > 0"
    assert page.run(visible)
    page.click("#show-multipliers")
    assert not page.run(visible)


def test_a_screenshot_shows_the_arm_and_moves(page):
    def blue():
        seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        return abs(seen - [0x00, 0x72, 0xB2]).max(-1) <= 12

    box = page.run("const b = document.getElementById('scene').getBoundingClientRect();"
                   "return [b.left, b.top, b.right, b.bottom].map(Math.round)")  # fmt: skip
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    first = blue()[inside]
    page.run(SET_SLIDER, LAST)
    last = blue()[inside]
    assert min(first.sum(), last.sum()) > 500
    assert (first ^ last).sum() > 500


def test_a_narrow_window_has_no_sideways_scrolling_and_letters_of_the_same_size(page):
    height = "return document.querySelector('#scene text').getBoundingClientRect().height"
    wide = page.run(height)
    try:
        page.call("POST", "/window/rect", width=520, height=900)
        page.wait("return innerWidth < 600")
        page.wait(f"return Math.abs(({height.removeprefix('return ')}) - {wide}) < 1")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        below = "const y = (q) => document.querySelector(q).getBoundingClientRect().top;"
        assert page.run(below + "return y('#scene') < y('#controls') && y('#controls') < y('section')")
    finally:
        page.call("POST", "/window/rect", width=1280, height=1000)


def test_a_dark_page_is_dark_and_can_be_read(page):
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    read = """const rgb = (style) => style.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
    const body = getComputedStyle(document.body), text = getComputedStyle(document.querySelector('#scene text'));
    return [rgb(body.backgroundColor), rgb(body.color), rgb(text.fill)]"""
    paper, ink, letters = page.run(read)
    assert paper - max(ink, letters) > 300
    page.call("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params=media)
    paper, ink, letters = page.run(read)
    assert min(ink, letters) - paper > 300
    page.call("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": []})


def test_ten_links_are_counted_and_a_target_outside_of_the_picture_is_named(browser, tmp_path):
    arm = PlanarArm.unit(10)
    posture = arm.sample(1, torch.Generator().manual_seed(1))[0]
    browser.open(write_player(tmp_path / "way.html", record(arm, posture, numbers(40.0, -30.0), NOTHING)).as_uri())
    assert browser.errors() == []
    text = "return [...document.querySelectorAll('#joints .bar > span:first-child')].map((s) => s.textContent)"
    assert [name.split(" ")[0] for name in browser.run(text)][-2:] == ["θ₉", "θ₁₀"]
    links = [
        name for name in browser.run("return [...document.querySelectorAll('#bars .bar')].map((b) => b.dataset.name)")
    ]
    counted = [int(name.split(",")[0].split()[1]) for name in links if "trust region" in name]
    assert counted == sorted(counted)
    assert max(counted) == 10
    assert browser.run("return document.getElementById('far').textContent") == "target, farther out: (40, −30)"


@pytest.mark.parametrize("links", [1, 6])
def test_other_arms_open_without_errors(browser, tmp_path, links):
    arm = PlanarArm.unit(links)
    posture = arm.sample(1, torch.Generator().manual_seed(1))[0]
    way = record(arm, posture + 0.1, arm.pose(posture), NOTHING)
    browser.open(write_player(tmp_path / "way.html", way).as_uri())
    assert browser.errors() == []
    assert len(drawn(browser)) == links + 1


# --- without a browser ----------------------------------------------------------------------------


def test_the_page_holds_all_that_it_needs(tmp_path):
    text = write_player(tmp_path / "way.html", WAY).read_text()
    assert "/*RECORDING*/" not in text
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"(src|href)\s*=|@import|fetch\(|XMLHttpRequest", text)


def test_the_data_are_the_recording_to_the_last_bit(tmp_path):
    data = recording_in(write_player(tmp_path / "way.html", WAY, FRAMES))
    assert [layer["end"] for layer in data["layers"]] == [layer.end.tolist() for layer in WAY.layers]
    assert data["frames"] == [list(moment) for moment in MOMENTS]
    assert [layer["multipliers"] for layer in data["layers"]] == [layer.multipliers() for layer in WAY.layers]


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileError, match=r"way\.html: expected a place to write to"):
        write_player(tmp_path / "nowhere" / "way.html", WAY)


def test_no_number_is_left_that_json_does_not_know(tmp_path):
    way = record(PlanarArm.unit(2), numbers(0.3, 0.4), numbers(math.sqrt(2), 0.0), NOTHING)
    assert recording_in(write_player(tmp_path / "way.html", way))["layers"][0]["clearance"] is None
