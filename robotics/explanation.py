"""What keeps an arm from a target, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from robotics.obstacles import Circles


class Blocker(NamedTuple):
    """A row of the last program that pushes back.

    Attributes:
        kind: "circle", "lower limit" or "upper limit".
        which: Index of the circle, from 0, or number of the joint, from 1.
        link: Number of the link that touches the circle, from 1; 0 for a limit.
        multiplier: Of the program in units of reach: cost over distance, or over angle [1/rad].
        rate: Metres that the tip comes closer for each metre that the circle shrinks, or radian that the limit moves.
    """

    kind: str
    which: int
    link: int
    multiplier: float
    rate: float


class Change(NamedTuple):
    """A change that frees the target, verified by a posture.

    Attributes:
        kind: "radius", "all radii", "lower limit", "upper limit" or "target".
        which: Index of the circle, from 0, or number of the joint, from 1; -1 for all circles and the target.
        value: The new radius [m] or limit [rad]; the reduction [m] of all radii; the new target.
        size: How large the change is [m or rad]; of the target of a pose, in reach and rad together.
        theta: Joint angles of a safe posture at the target after the change [rad].
    """

    kind: str
    which: int
    value: float | tuple[float, ...]
    size: float
    theta: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a target is not reached, or that it is.

    Attributes:
        target: (x, y) [m] or (x, y, Θ) [m, m, rad].
        reached: Whether a safe posture at the target was found.
        proved: Whether it is proved that there is none: by the lengths, by a circle over base or target, or for three
            links by the oracle.
        beyond_reach: Distance of the target, or of the wrist of a pose, to the ring that the lengths allow it [m].
        theta: That posture, or the closest safe one found [rad]; None if the start of every search collides.
        tip_error: Distance of its tip from the target [m].
        clearance: Its signed clearance [m].
        blockers: What pushes back there, the strongest first.
        changes: What would free the target, each by itself, verified.
    """

    target: tuple[float, ...]
    reached: bool
    proved: bool
    beyond_reach: float
    theta: tuple[float, ...] | None
    tip_error: float
    clearance: float
    blockers: tuple[Blocker, ...]
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields, ready for a JSON file; null where a number is not finite."""

        def plain(value: Any) -> Any:
            if isinstance(value, float):
                return value if math.isfinite(value) else None
            return list(value) if isinstance(value, tuple) else value

        fields = {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}
        for name in ("blockers", "changes"):
            rows = getattr(self, name)
            fields[name] = [{key: plain(value) for key, value in row._asdict().items()} for row in rows]
        return fields

    def lines(self, circles: Circles) -> list[str]:
        """Return the explanation in words, a line for each fact, for the circles that it was made with."""
        target = _numbers(self.target)
        if self.reached:
            return [f"target {target}: reached", f"posture: theta = {_numbers(self.theta or ())} rad"]
        lines = [f"target {target}: {self._verdict()}"]
        if self.beyond_reach > 0:
            lines.append(
                f"reach: the {'target' if len(self.target) == 2 else 'wrist'} is {self.beyond_reach:.6g} m outside of "
                "what the lengths of the links allow"
            )
        if self.theta is None:
            lines.append("closest safe posture: none found; does a circle cover the base?")
        else:
            lines.append(
                f"closest safe posture: theta = {_numbers(self.theta)} rad, its tip {self.tip_error:.6g} m away"
            )
        lines += [f"blocked by {_blocker(blocker, circles)}" for blocker in self.blockers]
        lines += [f"free if {_change(change, circles)}" for change in self.changes]
        return lines

    def _verdict(self) -> str:
        if self.beyond_reach > 0:
            return "out of reach (proved)"
        return "blocked (proved)" if self.proved else "blocked (not proved: no posture was found from many starts)"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _circle(which: int, circles: Circles) -> str:
    x, y, radius = circles.to_json()["circles"][which]
    return f"circle {which} at ({x:.6g}, {y:.6g}) of radius {radius:.6g} m"


def _blocker(blocker: Blocker, circles: Circles) -> str:
    size = f"multiplier {blocker.multiplier:.3g}"
    if blocker.kind == "circle":
        return f"{_circle(blocker.which, circles)}, which link {blocker.link} touches ({size}, {blocker.rate:.3g} m/m)"
    return f"the {blocker.kind} of joint {blocker.which} ({size}, {blocker.rate:.3g} m/rad)"


def _change(change: Change, circles: Circles) -> str:
    if change.kind == "target":
        value = change.value if isinstance(change.value, tuple) else (change.value,)
        return f"the target moves to {_numbers(value)}, {change.size:.6g} away"
    if change.kind == "radius":
        return f"{_circle(change.which, circles)} shrinks by {change.size:.6g} to {change.value:.6g} m"
    if change.kind == "all radii":
        return f"all circles shrink by {change.size:.6g} m"
    return f"the {change.kind} of joint {change.which} moves by {change.size:.6g} to {change.value:.6g} rad"
