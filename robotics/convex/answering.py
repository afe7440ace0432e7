"""What both roads share: target by target, from positions of joints to judged answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import require
from robotics.convex.chain import Array
from robotics.least_squares import levenberg_marquardt
from robotics.models.answer import IKAnswer, check_answer, check_batch, in_reach, is_safe
from robotics.obstacles import Circles

NEWTON_STEPS = 20  # after the extraction: a program is solved to 1e-8 only, its angles near a straight elbow to 1e-4


class ConvexAnswer(NamedTuple):
    """Answers and how good the relaxation was.

    Attributes:
        answer: what `answer` returns.
        ratio: second over first eigenvalue of what should have rank one (CIDGIK: third over second, of rank two), (N,);
            NaN where the program was not solved.
        certified: whether that is below 1e-4 and the answer is SOLVED, (N,) bool.
    """

    answer: IKAnswer
    ratio: Tensor
    certified: Tensor


CERTIFIED = 1e-4
Solve = Callable[[Array, Array, Array], tuple[Array | None, float]]
"""From a target, an anchor (n,) [rad] and circles (k, 3) to positions of the unknown joints, (N, 2), and the ratio."""


def answer_each(
    arm: PlanarArm, targets: Tensor, circles: Circles, anchors: Tensor, tolerance: float, solve: Solve
) -> ConvexAnswer:
    """Solve target by target, extract joint angles, finish by Newton steps, and judge.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)` in float64.
        circles: the scene, shared or one per target.
        anchors: joint angles that answers should be near, `(N, n)` [rad]; a row that is not finite gets no answer.
        tolerance: largest error of a SOLVED answer, of reach and rad.
        solve: the program.
    """
    check_batch(targets, circles, 3 if targets.shape[-1] == 3 else 2, tolerance)
    if anchors.shape != (len(targets), arm.num_links):
        expected = (len(targets), arm.num_links)
        raise ValueError(f"anchors: expected shape {expected}, found {tuple(anchors.shape)}")
    theta = targets.new_full((len(targets), arm.num_links), torch.nan)
    ratio = targets.new_full((len(targets),), torch.nan)
    hopeful = targets.isfinite().all(-1) & in_reach(arm, targets, tolerance) & anchors.isfinite().all(-1)
    for i in hopeful.nonzero()[:, 0].tolist():
        scene = circles.pick(i)
        rows = torch.cat((scene.centers, scene.radii[:, None] + arm.link_radius), -1).to(targets)
        joints, value = solve(targets[i].numpy(), anchors[i].numpy(), rows.numpy())
        if joints is not None:
            theta[i], ratio[i] = torch.from_numpy(_angles(arm, joints, targets[i].numpy())), value
    found = theta.isfinite().all(-1)
    lower, upper = arm.limits_tensor(theta)
    theta[found] = levenberg_marquardt(arm, theta[found].clamp(lower, upper), targets[found], NEWTON_STEPS)
    safe = found & is_safe(arm, theta.nan_to_num(), circles)
    answer = check_answer(arm, torch.where(safe[:, None], theta, torch.nan), targets, circles, tolerance)
    return ConvexAnswer(answer, ratio, (ratio < CERTIFIED) & (answer.status == 0))


def _angles(arm: PlanarArm, joints: Array, target: Array) -> Array:
    """Return the joint angles of positions of the unknown joints, each in the turn about the middle of its limits."""
    points = [np.zeros(2), *joints * arm.reach]
    if len(target) == 3:
        points.append(target[:2] - arm.lengths[-1] * np.array([math.cos(target[2]), math.sin(target[2])]))
    points.append(target[:2])
    links = np.diff(np.array(points), axis=0)
    theta = np.diff(np.arctan2(links[:, 1], links[:, 0]), prepend=0.0)
    middle = np.array([(lower + upper) / 2 for lower, upper in arm.limits])
    turned: Array = middle + (theta - middle + math.pi) % math.tau - math.pi
    return turned


def home(arm: PlanarArm, targets: Tensor) -> Tensor:
    """Return the middle of the limits for every target, `(N, n)` [rad]."""
    lower, upper = arm.limits_tensor(targets)
    return ((lower + upper) / 2).expand(len(targets), -1)


def solved(problem: Any, solver: str) -> bool:
    """Solve a cvxpy problem; return whether there is a solution, be it an inaccurate one: the answer is checked."""
    cp = require("cvxpy", "cvxpy", "cvxpy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            problem.solve(solver=solver)
    except cp.error.SolverError:
        return False
    return problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE)
