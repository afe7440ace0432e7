"""How an arm moved about obstacles that only it knew: single steps, each the answer of one program."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import SolveStatus
from robotics.arm import PlanarArm
from robotics.ik_qp import ClearanceRows, build_step
from robotics.learned_constraints.shapes import Shape
from robotics.programs import solve_quietly

SLACK_WEIGHT = 10.0  # price of a broken row: above any multiplier, so that rows hold wherever they can
NO_ROWS = torch.zeros(0, dtype=torch.long)


class Demonstrations(NamedTuple):
    """N steps of an arm.

    Attributes:
        theta: postures at the start `(N, n)` [rad].
        targets: where the tip was to go `(N, 2|3)` [m, m, rad].
        steps: how the joints changed `(N, n)` [rad].
    """

    theta: Tensor
    targets: Tensor
    steps: Tensor

    def pick(self, index: Tensor | slice) -> Demonstrations:
        """Return some of them."""
        return Demonstrations(*(column[index] for column in self))


def step_about(
    arm: PlanarArm, theta: Tensor, targets: Tensor, shape: Shape | None, numbers: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the step `(N, n)` [rad] of the softened program about some obstacles, none if not given, and if solved.

    Differentiable in the numbers of the obstacles, through the program.
    """
    if shape is None or numbers is None:
        empty = theta.new_zeros(*theta.shape[:-1], 0)
        rows = ClearanceRows(empty, empty[..., None].expand(*empty.shape, arm.num_links), NO_ROWS, NO_ROWS)
        problem = build_step(arm, theta, targets, rows)
    else:
        problem = build_step(arm, theta, targets, shape.rows(arm, theta, numbers), slack_weight=SLACK_WEIGHT)
    solution = solve_quietly(problem)
    return solution.x[..., : arm.num_links], solution.status == SolveStatus.SOLVED


def demonstrate(
    arm: PlanarArm, shape: Shape, numbers: Tensor, count: int, seed: int = 0, noise: float = 0.0
) -> Demonstrations:
    """Make demonstrations about a hidden scene.

    Postures are uniform within the limits and clear of the scene; the target is the tip of another such posture, so
    nothing tells of the obstacles but the steps; a step is the answer of `build_step` with the rows of the scene, to
    first order, and without the remainder of the certificate.

    Args:
        arm: the arm.
        shape: kind of the hidden obstacles.
        numbers: `(k, size)`, as the shape takes them.
        count: how many.
        seed: of the postures and the noise.
        noise: standard deviation of what is added to the steps [rad].
    """
    generator = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    for _ in range(100):
        theta = arm.sample(2 * count + 64, generator)
        kept.append(theta[(shape.rows(arm, theta, numbers).gap >= 1e-3).all(-1)])
        if sum(map(len, kept)) >= 2 * count:
            break
    else:
        raise ValueError("numbers: expected a scene that leaves room for the arm, found hardly a clear posture")
    theta, goals = torch.cat(kept)[: 2 * count].split(count)
    targets = arm.tip(goals)
    with torch.no_grad():
        steps, _ = step_about(arm, theta, targets, shape, numbers)
    return Demonstrations(theta, targets, steps + noise * torch.randn(steps.shape, generator=generator).double())
