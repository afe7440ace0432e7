"""One attempt after the other, each on what is left: the loop of every model and solver that has several starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import task_error
from robotics.models.answer import IKAnswer, check_answer, in_reach, is_safe
from robotics.obstacles import Circles

CHUNK = 8192  # targets at once: bounds the memory; smaller parts cost more by the target

Refine = Callable[[Tensor, Tensor, Circles], Tensor]
"""From starts (M, n), to better joint angles (M, n), for M targets and their scenes."""


def chunks(indices: Tensor) -> tuple[Tensor, ...]:
    """Return indices (M,) in parts of `CHUNK`; no parts of none."""
    return indices.split(CHUNK) if len(indices) else ()


@final
class Attempts:
    """The best safe posture of each target so far.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)` [m, m, rad].
        circles: the scene, shared or one per target.
        tolerance: largest task error, of reach and rad, that ends the search.
        first_for_all: whether the first attempt is made for targets out of reach too, to get near them.

    Attributes:
        aim: the targets, zero where they are not finite.
        theta: `(N, n)` [rad], NaN where nothing safe was found yet.
        error: task error of theta `(N,)`, inf where there is none.
        took: which attempt was the first within tolerance, int64 (N,), from 1 up; 0 where none was.
        tried: how many attempts were made.
    """

    def __init__(
        self, arm: PlanarArm, targets: Tensor, circles: Circles, tolerance: float, first_for_all: bool = False
    ) -> None:
        self.arm, self.targets, self.circles, self.tolerance = arm, targets, circles, tolerance
        finite = targets.isfinite().all(-1)
        self.aim = torch.where(finite[:, None], targets, 0.0)
        self.theta = targets.new_full((len(targets), arm.num_links), torch.nan)
        self.error = targets.new_full((len(targets),), torch.inf)
        self.took = torch.zeros(len(targets), dtype=torch.int64)
        self.tried = 0
        self._hopeful = finite & in_reach(arm, targets, tolerance)
        self._first = finite if first_for_all else self._hopeful

    def left(self) -> Tensor:
        """Return the indices of targets that the next attempt is for, int64 (M,)."""
        asked = self._hopeful if self.tried else self._first
        return (asked & (self.error > self.tolerance)).nonzero()[:, 0]

    def attempt(self, starts: Tensor, refine: Refine) -> None:
        """Refine the starts `(N, n)` of what is left, and keep what is safe and nearer than what there was."""
        left = self.left()
        self.tried += 1
        for some in chunks(left):
            scene, goal = self.circles.pick(some), self.aim[some]
            theta = refine(starts[some], goal, scene)
            error = task_error(self.arm, theta, goal).norm(dim=-1)
            error = torch.where(is_safe(self.arm, theta, scene), error, torch.inf)
            better = error < self.error[some]
            self.theta[some[better]], self.error[some[better]] = theta[better], error[better]
            self.took[some[error <= self.tolerance]] = self.tried

    def answer(self) -> IKAnswer:
        """Return the answers, exactly checked."""
        return check_answer(self.arm, self.theta, self.targets, self.circles, self.tolerance)
