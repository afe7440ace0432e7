"""A track as an animated GIF: the arm behind its target, the tip error and what held it, tick by tick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robotics.animation import DPI, IntArray, pixels, save_gif
from robotics.figures import TARGET, TIP, draw_arm, draw_scene
from robotics.files import StrPath
from robotics.track_recording import TrackRecording
from robotics.trajectories import TrackStatus

FRAMES = 120
_LEAST, _LARGEST = 1e-17, 10.0  # of reach: the ends of the axis of errors
_TYPICAL = 12  # pictures whose colours are kept
_COLOUR_OF = {
    TrackStatus.REACHED: "#56B4E9",
    TrackStatus.NOT_REACHED: "#7F7F7F",
    TrackStatus.HELD_BY_CIRCLE: "#D55E00",
    TrackStatus.HELD_BY_SPEED: "#CC79A7",
    TrackStatus.HELD_BY_LIMIT: "#E69F00",
    TrackStatus.OUT_OF_REACH: "#009E73",
    TrackStatus.INVALID_INPUT: "#000000",
}


def write_track_gif(path: StrPath, recording: TrackRecording, frames: int = FRAMES) -> Path:
    """Write the animation, whole or not at all.

    Args:
        path: The GIF file.
        recording: What happened.
        frames: Moments at most, one or more; of more ticks than that some are shown, each at its end.
    """
    stage = _TrackStage(recording)
    pictures = [stage.picture(*moment) for moment in recording.frames(frames)]
    chosen = np.unique(np.linspace(0, len(pictures) - 1, _TYPICAL).astype(int))
    save_gif(path, pictures, [pictures[i] for i in chosen])
    return Path(path)


class _TrackStage:
    """A figure that is drawn once; arm, target, words and the mark of the tick are drawn again for every moment."""

    def __init__(self, recording: TrackRecording) -> None:
        self.recording, self.reach = recording, recording.arm.reach
        figure = Figure(figsize=(9.6, 5.8), dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.scene, self.errors = figure.subplots(1, 2, width_ratios=(1.75, 1))
        draw_scene(self.scene, recording.arm, recording.circles)
        self.scene.set_title(" ", fontsize=11)  # keeps the room for the words
        self.scene.plot(*recording.targets[:, :2].T, color="black", ls="--", linewidth=1.1, zorder=3)
        self.tips = recording.arm.tip(recording.waypoints()).numpy()
        self._draw_errors()
        style: dict[str, Any] = {"transform": self.scene.transAxes, "ha": "center", "fontsize": 11}
        self.words = self.scene.text(0.5, 1.02, "", **style)
        (self.trail,) = self.scene.plot([], [], color=TIP, linewidth=2, zorder=5)
        (self.aim,) = self.scene.plot([], [], color=TARGET, marker="x", markersize=11, markeredgewidth=2.6, zorder=8)
        self.arm = draw_arm(self.scene, recording.arm.points(recording.track.start).numpy())
        self.cursor = self.errors.axvline(0, color="black", linewidth=1)
        self.moving = [self.words, self.trail, self.aim, self.arm, self.cursor]
        for artist in self.moving:
            artist.set_animated(True)
        self.canvas.draw()
        figure.set_layout_engine("none")
        self.still = self.canvas.copy_from_bbox(figure.bbox)

    def picture(self, tick: int, s: float) -> IntArray:
        """Return the picture of a moment as colours 0xRRGGBB, (height, width)."""
        recording = self.recording
        chain = recording.arm.points(recording.theta(tick, s)).numpy()
        status = TrackStatus(int(recording.track.status[tick]))
        self.words.set_text(f"tick {tick} / {len(recording.targets) - 1}: {status.name.lower().replace('_', ' ')}")
        self.words.set_color("black" if status == TrackStatus.REACHED else _COLOUR_OF[status])
        self.trail.set_data(*np.concatenate((self.tips[: tick + 1], chain[-1:])).T)
        self.aim.set_data(*recording.targets[tick, :2, None].numpy())  # a NaN is not drawn
        self.arm.set_data(*chain.T)
        self.cursor.set_xdata([tick + s - 1, tick + s - 1])  # errors are those after each tick
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            artist.axes.draw_artist(artist)
        return pixels(self.canvas)

    def _draw_errors(self) -> None:
        track, axes = self.recording.track, self.errors
        tick = np.arange(len(track.status))  # from 0, as in track.csv
        relative = (track.tip_error / self.reach).clamp(_LEAST, _LARGEST).numpy()
        axes.plot(tick, relative, color="#BBBBBB", linewidth=1, zorder=2)
        for status in sorted(set(track.status.tolist())):
            here = (track.status == status).numpy()
            name = TrackStatus(status).name.lower().replace("_", " ")
            axes.scatter(tick[here], relative[here], s=9, color=_COLOUR_OF[TrackStatus(status)], label=name, zorder=3)
        axes.set(yscale="log", xlabel="tick", title="tip error after each tick [of reach]")
        axes.title.set_fontsize(11)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
