"""Medians, spreads and ratios of interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Samples = Mapping[int, float]  # round -> seconds; a slow peer takes part in some rounds only


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    lower: float
    upper: float
    count: int


def spread(samples: Samples) -> Spread:
    """Summarise samples; NaN if there is none."""
    if not samples:
        return Spread(float("nan"), float("nan"), float("nan"), 0)
    lower, median, upper = np.quantile(list(samples.values()), [0.25, 0.5, 0.75])
    return Spread(float(median), float(lower), float(upper), len(samples))


def ratio(slow: Samples, fast: Samples) -> Spread:
    """Summarise slow / fast over the rounds in which both took part: a slow spell of the machine hits both."""
    return spread({key: slow[key] / fast[key] for key in slow.keys() & fast.keys()})


def takes_part(index: int, count: int, rounds: int) -> bool:
    """Whether what runs `count` times in `rounds` rounds runs in this one: evenly spaced, from the first."""
    return count >= rounds or (index * count) // rounds != ((index - 1) * count) // rounds
