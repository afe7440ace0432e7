"""A recording as an animated GIF: the arm, the active half-planes, and a bar for every multiplier."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patches
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from robotics.figures import TIP, draw_arm, draw_scene, draw_target
from robotics.files import StrPath, write_bytes
from robotics.plots import COLOURS, GREY
from robotics.recording import HalfPlane, Layer, Recording

IntArray = npt.NDArray[np.int32]

FRAMES = 90
_MILLISECONDS = 60  # between frames
_PAUSE = 1500  # at the end, before it begins again
_LEAST = 1e-8  # the left end of the bars
DPI = 80


def write_gif(path: StrPath, recording: Recording, frames: int = FRAMES) -> Path:
    """Write the animation, whole or not at all.

    Args:
        path: The GIF file.
        recording: What happened.
        frames: Moments along the path at most, two for every layer at least.
    """
    moments = recording.frames(max(frames, 2 * len(recording.layers)))
    stage = _Stage(recording)
    pictures = [stage.picture(*moment) for moment in moments]
    # Exact colours of the last picture of every layer: quantisers of pictures merge what is rare, as a thin line.
    save_gif(path, pictures, [picture for picture, (_, s) in zip(pictures, moments, strict=True) if s == 1])
    return Path(path)


def save_gif(path: StrPath, pictures: list[IntArray], typical: list[IntArray]) -> None:
    """Write pictures of colours 0xRRGGBB as a GIF, whole or not at all, with the most frequent colours of some."""
    first, *others = _indexed(pictures, _most_frequent(np.stack(typical), 256))
    buffer = io.BytesIO()
    durations = [_MILLISECONDS] * (len(pictures) - 1) + [_PAUSE]
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    write_bytes(path, buffer.getvalue())


def pixels(canvas: FigureCanvasAgg) -> IntArray:
    """Return what is drawn as colours 0xRRGGBB, (height, width)."""
    red, green, blue, _ = np.moveaxis(np.asarray(canvas.buffer_rgba()).astype(np.int32), -1, 0)
    packed: IntArray = red << 16 | green << 8 | blue
    return packed


def _most_frequent(pictures: IntArray, most: int) -> IntArray:
    colours, counts = np.unique(pictures, return_counts=True)
    return colours[np.argsort(-counts, kind="stable")[:most]]


def _indexed(pictures: list[IntArray], palette: IntArray) -> list[Image.Image]:
    """Return pictures of colours 0xRRGGBB with one palette for all, so that nothing flickers; the nearest is taken."""
    seen = np.zeros(1 << 24, dtype=bool)
    for picture in pictures:
        seen[picture] = True
    colours = seen.nonzero()[0].astype(np.int32)
    nearest = np.zeros(1 << 24, dtype=np.uint8)
    distance = np.square(_split(colours)[:, None] - _split(palette)).sum(-1)
    nearest[colours] = distance.argmin(-1)
    images = [Image.fromarray(nearest[picture]) for picture in pictures]
    for made in images:
        made.putpalette(_split(palette).ravel().tolist())
    return images


def _split(colours: IntArray) -> IntArray:
    parts: IntArray = np.stack([colours >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.int32)
    return parts


class _Stage:
    """A figure that is drawn once; what moves in it is set for every moment."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        figure = Figure(figsize=(9.6, 5.8), dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.scene, self.bars = figure.subplots(1, 2, width_ratios=(1.75, 1))
        draw_scene(self.scene, recording.arm, recording.circles)
        draw_target(self.scene, recording.target)
        self.names = sorted({name for layer in recording.layers for name in layer.multipliers()}, key=_by_number)
        values = [value for layer in recording.layers for value in layer.multipliers().values()]
        self._prepare_bars(max(values, default=1.0))
        start = recording.arm.points(recording.layers[0].start).numpy()
        (tip,) = self.scene.plot([], [], color=TIP, linewidth=2, zorder=5)
        self.moving = [tip, draw_arm(self.scene, start)]
        for artist in self.moving:
            artist.set_animated(True)
        self.tips: list[Any] = []
        self.planes: list[Any] = []
        self.layer, self.still = -1, None
        self._show(recording.layers[0])  # a title takes room
        self.canvas.draw()
        figure.set_layout_engine("none")  # nothing moves out of its place any more

    def picture(self, number: int, s: float) -> IntArray:
        """Return the picture of a moment as colours 0xRRGGBB, (height, width); moments come in order."""
        chain = self.recording.arm.points(self.recording.theta(number, s)).numpy()
        self.tips.append(chain[-1])
        if number != self.layer:  # within a layer only the arm moves: the rest is drawn once
            self.layer = number
            self._show(self.recording.layers[number])
            self.canvas.draw()
            self.still = self.canvas.copy_from_bbox(self.canvas.figure.bbox)
        self.canvas.restore_region(self.still)
        for artist, points in zip(self.moving, (np.stack(self.tips), chain), strict=True):
            artist.set_data(*points.T)
            self.scene.draw_artist(artist)
        return pixels(self.canvas)

    def _prepare_bars(self, most: float) -> None:
        axes, places = self.bars, range(len(self.names))
        self.rectangles = axes.barh(places, [_LEAST] * len(self.names), height=0.34, color=GREY)
        for plane in (plane for layer in self.recording.layers for plane in layer.planes if plane.active):
            self.rectangles[self.names.index(plane.name)].set_color(_colour(plane))
        left = _LEAST * 1.3
        self.numbers = [axes.text(left, i - 0.2, "", fontsize=9.5, va="bottom", color="#333333") for i in places]
        axes.set(xscale="log", xlim=(_LEAST, 10 ** math.ceil(math.log10(most) + 1e-9)), xlabel="multiplier")
        axes.set(ylim=(max(len(self.names), 6) - 0.5, -0.6))
        axes.set_yticks([])
        axes.grid(alpha=0.25, axis="x")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if not self.names:
            axes.text(0.5, 0.5, "no row is active", transform=axes.transAxes, ha="center", color=GREY)

    def _show(self, layer: Layer) -> None:
        kind = "certified step" if layer.certified else "softened step"
        title = (
            f"layer {self.layer + 1} of {len(self.recording.layers)}: {kind}, error after it {layer.error:.1e} of reach"
        )
        self.scene.set_title(title, fontsize=11)
        active = layer.multipliers()
        for name, bar, number in zip(self.names, self.rectangles, self.numbers, strict=True):
            value = active.get(name, 0.0)
            bar.set_width(max(value, _LEAST) - _LEAST)
            bar.set_x(_LEAST)
            number.set_text(f"{name}: {value:.2g}" if value else f"{name}: 0")
            number.set_alpha(1.0 if value else 0.45)
        for patch in self.planes:
            patch.remove()
        self.planes = [self._draw_plane(layer, i) for i, plane in enumerate(layer.planes) if plane.active]

    def _draw_plane(self, layer: Layer, index: int) -> Any:
        plane, reach = layer.planes[index], self.recording.arm.reach
        x, y, radius = self.recording.circles.to_json()["circles"][plane.circle]
        normal = np.array(plane.normal)
        along = np.array([-normal[1], normal[0]]) * (radius + 0.3 * reach)
        foot = np.array([x, y]) + (plane.offset - normal @ (x, y)) * normal
        behind = -0.05 * reach * normal
        corners = [foot - along, foot + along, foot + along + behind, foot - along + behind]
        colour = _colour(plane)
        band = patches.Polygon(corners, facecolor=to_rgba(colour, 0.3), edgecolor=colour, linewidth=1.2, zorder=3)
        self.scene.add_patch(band)
        return band


def _by_number(name: str) -> list[str]:
    """Return a sorting key that puts link 10 after link 2."""
    return [part.zfill(4) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _colour(plane: HalfPlane) -> str:
    return COLOURS[1 + plane.link % (len(COLOURS) - 1)]  # the first is the arm's
