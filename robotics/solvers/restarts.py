"""Damped least squares and Levenberg-Marquardt from random starts; they know no circles: what collides is rejected."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_count
from robotics.least_squares import damped_least_squares, levenberg_marquardt
from robotics.models.answer import IKAnswer
from robotics.obstacles import Circles
from robotics.solvers.base import answer_with_restarts


@dataclass(frozen=True, kw_only=True)
class _Restarts:
    """What both methods share.

    Attributes:
        arm: the arm, n links.
        restarts: random starts tried for a target.
        iterations: steps from each.
        seed: seed of the starts.
    """

    arm: PlanarArm
    restarts: int = 10
    iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("restarts", self.restarts)
        check_count("iterations", self.iterations)

    def _config(self, name: str) -> dict[str, Any]:
        return {"model": name, **{key: value for key, value in asdict(self).items() if key != "arm"}}

    def _starts(self, targets: Tensor) -> Any:
        generator = torch.Generator().manual_seed(self.seed)
        return lambda number: self.arm.sample(len(targets), generator).to(targets)


@final
@dataclass(frozen=True, kw_only=True)
class DampedLeastSquares(_Restarts):
    """The textbook's inverse kinematics: steps of constant damping λ.

    Attributes:
        damping: λ, of reach.

    References:
        Wampler (1986, doi 10.1109/TSMC.1986.289285); Nakamura and Hanafusa (1986, doi 10.1115/1.3143764).
    """

    damping: float = 0.02

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        return self._config("damped-least-squares")

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)` with the best start's end that is safe."""

        def refine(theta: Tensor, targets: Tensor, _: Circles) -> Tensor:
            return damped_least_squares(self.arm, theta, targets, self.iterations, self.damping)

        return answer_with_restarts(self.arm, targets, circles, tolerance, self._starts(targets), self.restarts, refine)


@final
@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardt(_Restarts):
    """Steps whose damping follows their success: quadratic near an answer.

    References:
        Sugihara (2011, doi 10.1109/TRO.2011.2148230).
    """

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        return self._config("levenberg-marquardt")

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)` with the best start's end that is safe."""

        def refine(theta: Tensor, targets: Tensor, _: Circles) -> Tensor:
            return levenberg_marquardt(self.arm, theta, targets, self.iterations)

        return answer_with_restarts(self.arm, targets, circles, tolerance, self._starts(targets), self.restarts, refine)
