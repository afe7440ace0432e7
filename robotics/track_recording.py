"""A track as something to look at: what the arm did from tick to tick, moment by moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.obstacles import Circles
from robotics.recording import along
from robotics.trajectories import Track, TrackStatus


@dataclass(frozen=True, kw_only=True)
class TrackRecording:
    """The way of one arm along a path of targets: a straight step in joint space, proved clear, in every tick.

    Attributes:
        arm: The arm, n links.
        circles: One scene.
        targets: (T, 2) or (T, 3) [m, m, rad]; NaN where there was none.
        track: What the arm did, without batch.
    """

    arm: PlanarArm
    circles: Circles
    targets: Tensor
    track: Track

    def waypoints(self) -> Tensor:
        """Return the posture before the first tick and those after each, (T+1, n) [rad]."""
        return torch.cat((self.track.start[None], self.track.theta))

    def frames(self, most: int) -> list[tuple[int, float]]:
        """Return up to `most` + 1 moments (tick, s), s in [0, 1], `most` >= 1.

        With fewer ticks than that every tick's end is one, and longer steps have more; else some of the ends are.
        """
        ticks = len(self.targets)
        if ticks <= most:
            return along(self.waypoints(), most, 1)
        return [(0, 0.0), *(((i + 1) * ticks // most - 1, 1.0) for i in range(most))]

    def theta(self, tick: int, s: float) -> Tensor:
        """Return the joint angles (n,) [rad] at a moment."""
        start: Tensor = self.waypoints()[tick]
        return start + s * (self.track.theta[tick] - start)

    def counts(self) -> str:
        """Return how many ticks came to what, in words."""
        statuses = self.track.status.tolist()
        found = sorted(set(statuses), key=lambda status: (-statuses.count(status), status))
        return ", ".join(f"{statuses.count(status)} {TrackStatus(status).name}" for status in found)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists and numbers, with ticks where a `Recording` has layers; NaN and inf read None."""
        waypoints, track = self.waypoints().tolist(), self.track
        columns = (track.status, track.tip_error / self.arm.reach, track.clearance, self.targets)
        ticks = [
            {
                "start": waypoints[tick],
                "end": waypoints[tick + 1],
                "status": TrackStatus(status).name,
                "advice": TrackStatus(status).advice,
                "error": _known(error),
                "clearance": _known(clearance),
                "target": target if all(map(math.isfinite, target)) else None,
                "planes": [],
                "multipliers": {},
            }
            for tick, (status, error, clearance, target) in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ]
        return {"kind": "track", "arm": self.arm.to_json(), **self.circles.to_json(), "layers": ticks}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
