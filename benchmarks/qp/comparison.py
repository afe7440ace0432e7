"""Ours against the others, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .rounds import Row
from .summary import Spread, ratio, spread


@dataclass(frozen=True)
class Comparison:
    """Ours against the best peer whose answer is right, in one phase of one case."""

    ours: Spread
    best: Row | None
    peer: Spread
    ratio: Spread


def ours_of(rows: Iterable[Row]) -> Row | None:
    """Return our row of a case: the QP layer's, or that of the closed form where no matrices are left."""
    mine = {row.name: row for row in rows if row.name in ("ours", "ours-projection")}
    return mine.get("ours", mine.get("ours-projection"))


def compare(rows: Sequence[Row], what: str, layers: bool = True) -> Comparison:
    """Find the best peer of a case: the smallest median among those that count, ours and its variants aside.

    Args:
        rows: of one case.
        what: "forward" or "forward_backward".
        layers: among differentiable layers, or else among raw solvers.
    """
    ours = ours_of(rows)
    assert ours is not None
    times = getattr(ours, what)
    peers = [row for row in rows if not row.name.startswith("ours") and row.counts and getattr(row, what)]
    peers = [row for row in peers if bool(row.forward_backward) == layers]
    best = min(peers, key=lambda row: spread(getattr(row, what)).median, default=None)
    other = {} if best is None else getattr(best, what)
    return Comparison(spread(times), best, spread(other), ratio(other, times))


def by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by case, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.case.key, []).append(row)
    return found


def faster_layers(rows: Iterable[Row]) -> list[tuple[Row, str, Spread]]:
    """Return the layers that beat ours somewhere, right or wrong: row, phase, and how many times faster ours is."""
    found = []
    for group in by_case(rows).values():
        ours = ours_of(group)
        for row in group:
            for what in ("forward", "forward_backward"):
                if ours is None or row.name.startswith("ours") or not row.forward_backward:
                    continue
                times = ratio(getattr(row, what), getattr(ours, what))
                if times.median < 1:
                    found.append((row, what, times))
    return found
