"""Everything in turn, from fast to sure: certified steps, softened steps, more starts, and the oracle behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_count
from robotics.ik_qp import MARGIN
from robotics.models.answer import IKAnswer, IKStatus, check_batch
from robotics.models.attempts import Attempts
from robotics.obstacles import Circles
from robotics.search import find_postures
from robotics.solvers.base import Solver
from robotics.starts import diverse_starts
from robotics.steps import refine, soft_step

FIRST_WEIGHT = 0.01  # of the slacks, doubled at every soft step: at first a circle hardly hinders
FINISH = 2  # certified steps after the soft ones


class Stage(IntEnum):
    """What found the answer."""

    MODEL = 0
    CERTIFIED = 1
    SOFT = 2
    MORE_STARTS = 3
    ORACLE = 4
    NONE = 5


@final
@dataclass(frozen=True, kw_only=True)
class Portfolio:
    """A model first, if there is one; where it fails, one thing after the other, each on what is left.

    Certified steps from several starts; then as many starts with steps whose rows may be broken at a growing price,
    which pass through a circle that is in the way, and end clear of it or are rejected; then, for three links, the
    oracle, which has a posture or a proof that there is none, and for others, or without it, more such starts. Answers
    are exactly checked all the same. Paths of the certified stage are certified; those of the later ones are not.

    Attributes:
        arm: the arm, n links.
        model: asked first; None for none.
        starts: of the certified and of the first soft stage.
        more_starts: of the last soft stage.
        layers: steps from every start.
        use_oracle: whether the oracle stands behind (three links only).
    """

    arm: PlanarArm
    model: Solver | None = None
    starts: int = 8
    more_starts: int = 56
    layers: int = 10
    use_oracle: bool = True

    def __post_init__(self) -> None:
        for name in ("starts", "more_starts", "layers"):
            check_count(name, getattr(self, name))
        if self.model is not None and self.model.arm != self.arm:
            raise ValueError(f"model: expected one of the arm {self.arm}, found one of {self.model.arm}")

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        options = {name: getattr(self, name) for name in ("starts", "more_starts", "layers", "use_oracle")}
        return {"model": "portfolio", "first": self.model and self.model.config(), **options}

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`; INFEASIBLE is a proof."""
        return self.answer_with_stage(targets, circles, tolerance)[0]

    @torch.no_grad()
    def answer_with_stage(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> tuple[IKAnswer, Tensor]:
        """Answer targets `(N, 2|3)`, and say for each which `Stage` found the answer, int64 (N,)."""
        check_batch(targets, circles, 3 if targets.shape[-1] == 3 else 2, tolerance)
        attempts = Attempts(self.arm, targets, circles, tolerance)
        stages: list[Stage] = [Stage.NONE]  # that of the attempts, in their order
        for number, start in self._attempts(attempts.aim, circles, tolerance):
            if not len(attempts.left()):
                break
            attempts.attempt(start, partial(self._refine, number))
            stages.append(number)
        stage = torch.tensor(stages)[attempts.took]
        proved = self._ask_oracle(attempts, stage)
        answer = attempts.answer()
        return answer._replace(status=answer.status.index_fill(0, proved, int(IKStatus.INFEASIBLE))), stage

    def _attempts(self, aim: Tensor, circles: Circles, tolerance: float) -> Iterator[tuple[Stage, Tensor]]:
        if self.model is not None:
            answered = self.model.answer(aim, circles, tolerance).theta
            lower, upper = self.arm.limits_tensor(aim)
            yield Stage.MODEL, torch.where(answered.isnan(), (lower + upper) / 2, answered)
        stages = [(Stage.CERTIFIED, self.starts, 0), (Stage.SOFT, self.starts, 0)]
        if not (self.use_oracle and self.arm.num_links == 3):
            stages.append((Stage.MORE_STARTS, self.more_starts, 1))
        for number, num, seed in stages:
            for start in diverse_starts(self.arm, aim, circles, num, seed):
                yield number, start

    def _refine(self, stage: Stage, theta: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        if stage == Stage.MODEL:
            return theta
        certified = self.layers if stage == Stage.CERTIFIED else FINISH
        for k in range(self.layers - certified if stage != Stage.CERTIFIED else 0):
            theta = soft_step(self.arm, theta, targets, circles, MARGIN, FIRST_WEIGHT * 2.0**k)
        return refine(self.arm, theta, targets, circles, certified)

    def _ask_oracle(self, attempts: Attempts, stage: Tensor) -> Tensor:
        """Fill in the oracle's postures; return the indices of targets that it has proved infeasible."""
        left = attempts.left()
        if not (self.use_oracle and self.arm.num_links == 3 and len(left)):
            return left[:0]
        found, proved = find_postures(self.arm, attempts.aim[left], attempts.circles.pick(left))
        there = found.isfinite().all(-1)
        attempts.theta[left[there]] = found[there]
        stage[left[there]] = int(Stage.ORACLE)
        return left[proved]
