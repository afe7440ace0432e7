"""Differentiable QP layers and fast solvers: one adapter per file, each run in a process and environment of its own.

An adapter imports numpy and its own library only, so that it runs in any environment. It has

    PACKAGES: tuple[str, ...]                       # distributions whose versions are reported, the peer first
    def prepare(task: Task) -> Layer                # conversion of formats, set-up of structure: not timed

and a `Layer` is called again and again on the same data. It uses its library at its best documented use: the batched
call where there is one, compiled before it is timed, the tolerance 1e-9, derivatives of `Task.wanted` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[str, Array]

TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Task:
    """A batch of programs `min 1/2 x'Px + q'x  s.t.  Gx <= h, Ax = b, lb <= x <= ub`.

    Attributes:
        data: P, q and those of G, h, A, b, lb, ub that exist, each with a leading batch dimension unless shared.
        v: `(B, n)`; what is differentiated is `L = sum(v * x)`.
        wanted: names of the data in which to differentiate.
        options: of the adapter.
    """

    data: Arrays
    v: Array
    wanted: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Number of programs."""
        return len(self.v)

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return int(self.v.shape[-1])


class Layer(Protocol):
    """A prepared peer. A peer without derivatives has no `forward_backward`."""

    def forward(self) -> object:
        """Solve the batch, without derivatives."""

    def forward_backward(self) -> object:
        """Solve the batch and differentiate L in the wanted data."""

    def results(self) -> Arrays:
        """Solve once more and return x, the multipliers that the peer tells (z, y, z_box) and dP, dq, ... of L."""


def boxes_as_rows(data: Arrays) -> Arrays:
    """Write bounds as rows `[I; -I] x <= [ub; -lb]`, for peers that know no bounds and have no other rows."""
    if "lb" not in data:
        return data
    rest = {name: value for name, value in data.items() if name not in ("lb", "ub")}
    batch, n = data["lb"].shape
    rows = np.concatenate([np.eye(n), -np.eye(n)])
    return rest | {"G": np.tile(rows, (batch, 1, 1)), "h": np.concatenate([data["ub"], -data["lb"]], -1)}


def rows_for_boxes(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names to differentiate after `boxes_as_rows`: h in place of the bounds, never the constant G."""
    return tuple(dict.fromkeys("h" if name in ("lb", "ub") else name for name in wanted))


def rows_as_boxes(results: Arrays, data: Arrays) -> Arrays:
    """Undo `boxes_as_rows` in what a peer returns."""
    if "lb" not in data:
        return results
    results, n = dict(results), data["lb"].shape[-1]
    if "z" in results:
        z = results.pop("z")
        results["z_box"] = z[..., :n] - z[..., n:]
    if "dh" in results:
        dh = results.pop("dh")
        results["dub"], results["dlb"] = dh[..., :n], -dh[..., n:]
    return results
