"""A recording as one HTML file that plays in a browser, with all data and code inside."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from robotics.files import StrPath, write_text
from robotics.models.answer import IKStatus
from robotics.plots import COLOURS
from robotics.recording import Recording

FRAMES = 160


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
    headline = (
        f"{recording.arm.num_links} links to {place} m among {recording.circles.radii.numel()} circles: "
        f"{IKStatus(recording.status).name}"
    )
    links = COLOURS[1:]  # the first is the arm's
    data = recording.to_json() | {"frames": moments, "headline": headline, "colours": links}
    # "</script>" or "<!--" in a string would end the element that holds it.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page, script = (
        resources.files("robotics").joinpath(f"player.{kind}").read_text("utf-8") for kind in ("html", "js")
    )
    write_text(path, page.replace("/*SCRIPT*/", script).replace("/*RECORDING*/", text))
    return Path(path)
