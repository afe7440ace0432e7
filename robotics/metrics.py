"""How good the answers of a model are: one row of numbers for each model, and a table of them."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.obstacles import Circles
from robotics.solvers import Solver

_WARM_UP = 8  # targets answered before the clock starts: the first call of a process pays for its set-up


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a method did on one set of targets. An answer is a row of joint angles without NaN.

    Attributes:
        method: Name of the method.
        num_targets: Number of targets.
        success_1e2: Share of the targets with an answer that touches no circle, keeps the limits and
            brings the tip within 1e-2 of the arm's reach of the target.
        success_1e3: The same within 1e-3 of the reach.
        median_tip_error: Median over the targets of the tip error, as a share of the reach; infinite
            where there is no answer, and counted whether the answer is safe or not.
        p95_tip_error: Its 95th percentile.
        whole_arm_collision_rate: Share of the answers in which any link touches a circle.
        tip_collision_rate: Share of the answers in which the tip lies in a circle.
        limit_violations: Number of answers outside the joint limits.
        us_per_query: Wall time for each target, all answered in one call [µs].
    """

    method: str
    num_targets: int
    success_1e2: float
    success_1e3: float
    median_tip_error: float
    p95_tip_error: float
    whole_arm_collision_rate: float
    tip_collision_rate: float
    limit_violations: int
    us_per_query: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields, ready for a JSON file; null where a number is not finite."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def evaluate(model: Solver, targets: Tensor, circles: Circles, method: str | None = None) -> Metrics:
    """Answer targets with a model, or any other solver, and score the answers.

    Args:
        model: The model or solver.
        targets: (N, 2) or (N, 3), as the model's inputs ask [m, m, rad].
        circles: Obstacles.
        method: Name of the row; the model's own if None.
    """
    model.answer(targets[:_WARM_UP], circles)
    start = time.perf_counter()
    theta = model.answer(targets, circles).theta
    seconds = time.perf_counter() - start
    return score(method or str(model.config()["model"]), model.arm, theta, targets, circles, seconds)


def tip_errors(arm: PlanarArm, theta: Tensor, targets: Tensor) -> Tensor:
    """Return the distance of the tip from its target as a share of the reach, (N,); infinite where theta is NaN.

    Args:
        arm: The arm.
        theta: Joint angles (N, n) [rad].
        targets: (N, 2) or (N, 3); the orientation plays no part.
    """
    errors = torch.linalg.vector_norm(arm.tip(theta) - targets[..., :2], dim=-1) / arm.reach
    return torch.where(errors.isnan(), torch.inf, errors)


def score(
    method: str, arm: PlanarArm, theta: Tensor, targets: Tensor, circles: Circles, seconds: float = math.nan
) -> Metrics:
    """Score joint angles by the geometry alone, whatever the model says of them.

    Args:
        method: Name of the row.
        arm: The arm.
        theta: Answers (N, n) [rad]; a row with NaN is a target without an answer.
        targets: (N, 2) or (N, 3) [m, m, rad], N >= 1.
        circles: Obstacles.
        seconds: Wall time of all answers.
    """
    num = len(targets)
    if num == 0 or theta.shape != (num, arm.num_links):
        raise ValueError(
            f"theta: expected shape (N, {arm.num_links}) for N = {num} >= 1 targets, found {tuple(theta.shape)}"
        )
    answered = ~theta.isnan().any(-1)
    points = arm.points(theta)
    colliding = answered & (circles.clearance(points, arm.link_radius) < 0)
    tip_colliding = answered & (circles.tip_clearance(points, arm.link_radius) < 0)
    violating = answered & (arm.limit_violation(theta) > 0)
    safe = answered & ~colliding & ~violating
    errors = tip_errors(arm, theta, targets)
    # `higher` takes an error that occurred: between two of them, one infinite, there is no mean.
    median, p95 = (torch.quantile(errors, q, interpolation="higher").item() for q in (0.5, 0.95))
    num_answers = int(answered.sum())

    def share_of_answers(hit: Tensor) -> float:
        return int(hit.sum()) / num_answers if num_answers else math.nan

    return Metrics(
        method=method,
        num_targets=num,
        success_1e2=int((safe & (errors <= 1e-2)).sum()) / num,
        success_1e3=int((safe & (errors <= 1e-3)).sum()) / num,
        median_tip_error=median,
        p95_tip_error=p95,
        whole_arm_collision_rate=share_of_answers(colliding),
        tip_collision_rate=share_of_answers(tip_colliding),
        limit_violations=int(violating.sum()),
        us_per_query=1e6 * seconds / num,
    )


def table(rows: list[Metrics]) -> str:
    """Return the rows as aligned plain text; tip errors are shares of the reach."""
    header = ("method", "<= 1e-2", "<= 1e-3", "median err", "p95 err", "collisions", "tip coll.", "limits", "us/query")
    lines = [header] + [
        (
            row.method,
            _percent(row.success_1e2),
            _percent(row.success_1e3),
            _small(row.median_tip_error),
            _small(row.p95_tip_error),
            _percent(row.whole_arm_collision_rate),
            _percent(row.tip_collision_rate),
            str(row.limit_violations),
            "-" if math.isnan(row.us_per_query) else f"{row.us_per_query:.0f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    return "\n".join(
        "  ".join([line[0].ljust(first)] + [cell.rjust(width) for cell, width in zip(line[1:], others, strict=True)])
        for line in lines
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _small(error: float) -> str:
    return "none" if math.isinf(error) else f"{error:.1e}"
