"""A recording, of a way or of a track, as one HTML file that plays in a browser, with all data and code inside."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from robotics.files import StrPath, write_text
from robotics.models.answer import IKStatus
from robotics.plots import COLOURS
from robotics.recording import Recording
from robotics.track_recording import TrackRecording

FRAMES = 160
SCRIPTS = ("player.js", "player_controls.js")


def write_player(path: StrPath, recording: Recording, frames: int = FRAMES) -> Path:
    """Write a page with the arm, the half-planes and the multipliers, with controls; it needs no network.

    Args:
        path: The HTML file.
        recording: What happened.
        frames: Moments along the path at most, two for every layer at least.
    """
    moments = recording.frames(max(frames, 2 * len(recording.layers)))
    x, y = recording.target[:2].tolist()
    place = f"({x:.4g}, {y:.4g})".replace("-", "\u2212")
    headline = f"{_who(recording)[0]} to {place} m {_who(recording)[1]}: {IKStatus(recording.status).name}"
    return _write(path, recording.to_json(), moments, headline)


def write_track_player(path: StrPath, recording: TrackRecording, frames: int = FRAMES) -> Path:
    """Write a page with the arm, its moving target, and what came of every tick, with controls; it needs no network.

    Args:
        path: The HTML file.
        recording: What happened.
        frames: Moments at most; every tick has one, however many there are.
    """
    moments = recording.frames(max(frames, len(recording.targets)))
    headline = f"{_who(recording)[0]} along {len(recording.targets)} targets {_who(recording)[1]}: {recording.counts()}"
    return _write(path, recording.to_json(), moments, headline)


def _who(recording: Recording | TrackRecording) -> tuple[str, str]:
    return f"{recording.arm.num_links} links", f"among {recording.circles.radii.numel()} circles"


def _write(path: StrPath, recording: dict[str, Any], moments: list[tuple[int, float]], headline: str) -> Path:
    links = COLOURS[1:]  # the first is the arm's
    data = recording | {"frames": moments, "headline": headline, "colours": links}
    # "</script>" or "<!--" in a string would end the element that holds it.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    folder = resources.files("robotics")
    page, *scripts = (folder.joinpath(name).read_text("utf-8") for name in ("player.html", *SCRIPTS))
    write_text(path, page.replace("/*SCRIPT*/", "\n".join(scripts)).replace("/*RECORDING*/", text))
    return Path(path)
