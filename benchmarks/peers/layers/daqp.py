"""DAQP itself: a dual active-set solver in C, forward only, called in a loop over the batch."""

from __future__ import annotations

from typing import final

import daqp
import numpy as np

from . import TOLERANCE, Arrays, Task

PACKAGES = ("daqp",)
EQUALITY = 5  # its code of such a row


@final
class Daqp:
    """Bounds are its simple bounds; rows follow, equalities last."""

    def __init__(self, task: Task) -> None:
        self.n, self.calls = task.n, []
        for i in range(task.batch):
            one = {name: value[i] for name, value in task.data.items()}
            box = "lb" in one
            self.m = len(one.get("h", ()))
            self.p = len(one.get("b", ()))
            rows = [one[name] for name in ("G", "A") if name in one] or [np.zeros((0, self.n))]
            upper = [one[name] for name in ("ub", "h", "b") if name in one]
            lower = [*([one["lb"]] if box else []), np.full(self.m, -1e30), *([one["b"]] if self.p else [])]
            self.offset = self.n if box else 0
            sense = np.zeros(self.offset + self.m + self.p, dtype=np.int32)
            sense[self.offset + self.m :] = EQUALITY
            arrays = (one["P"], one["q"], np.concatenate(rows), np.concatenate(upper), np.concatenate(lower))
            self.calls.append((*(np.ascontiguousarray(v) for v in arrays), sense))

    def forward(self) -> list[tuple[object, ...]]:
        """Solve one by one."""
        return [daqp.solve(*call, primal_tol=TOLERANCE) for call in self.calls]

    def results(self) -> Arrays:
        """Return x and multipliers."""
        found = self.forward()
        x = np.array([answer[0] for answer in found])
        lam = np.array([answer[3]["lam"] for answer in found])  # type: ignore[index]
        box, z, y = np.split(lam, [self.offset, self.offset + self.m], axis=-1)
        return {"x": x, "z": z, "y": y} | ({"z_box": box} if self.offset else {})


def prepare(task: Task) -> Daqp:
    """Arrange the arguments of each call."""
    return Daqp(task)
