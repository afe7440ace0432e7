"""PIQP itself: a proximal interior point solver in C++, forward only, called in a loop over the batch."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import piqp

from . import TOLERANCE, Arrays, Task

PACKAGES = ("piqp",)


@final
class Piqp:
    """The dense interface; set-up and solve are timed, since every program is new."""

    def __init__(self, task: Task) -> None:
        self.calls = []
        for i in range(task.batch):
            one = {name: np.asfortranarray(value[i]) for name, value in task.data.items()}
            lower = np.full(len(one["h"]), -np.inf) if "h" in one else None
            self.calls.append((one["P"], one["q"], one.get("A"), one.get("b"), one.get("G"), lower, one.get("h"),
                               one.get("lb"), one.get("ub")))  # fmt: skip

    def forward(self) -> list[Any]:
        """Solve one by one."""
        return [solve(call) for call in self.calls]

    def results(self) -> Arrays:
        """Return x and multipliers."""
        found = self.forward()
        return {
            "x": np.array([r.x for r in found]),
            "z": np.array([r.z_u for r in found]),
            "y": np.array([r.y for r in found]),
            "z_box": np.array([r.z_bu - r.z_bl for r in found]),
        }


def solve(call: tuple[Any, ...]) -> Any:
    """Solve one program."""
    solver = piqp.DenseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = TOLERANCE
    settings.eps_rel = settings.eps_duality_gap_rel = 0.0
    solver.setup(*call)
    solver.solve()
    return solver.result


def prepare(task: Task) -> Piqp:
    """Arrange the arguments of each call."""
    return Piqp(task)
