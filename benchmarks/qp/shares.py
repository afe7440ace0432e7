"""The share of one core's floating-point peak that our forward pass reaches."""

from __future__ import annotations

from collections.abc import Sequence

from .peak import Peak, solve_flops
from .rounds import Row
from .summary import spread

TARGETS = {3: 0.20, 10: 0.27, 100: 0.45, 500: 0.60}
CASES = ("tiny;8192", "small;1024", "optnet;128", "large;8")


def share_rows(rows: Sequence[Row]) -> list[Row]:
    """Return our rows of the cases whose share is reported."""
    return [row for row in rows if row.name == "ours" and row.case.key in CASES and row.forward]


def peak_share(row: Row, peak: Peak) -> float:
    """Return the work of the batch by the model of `solve_flops`, over time and peak."""
    case = row.case
    work = solve_flops(case.n, case.m + case.p, "box" in case.kind, row.iterations)
    return work / spread(row.forward).median / peak.flops
