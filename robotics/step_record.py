"""What those see who watch steps: where a step leads, the rows about circles, and the multipliers of its programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import MARGIN, ClearanceRows, share_taken
from robotics.obstacles import Circles
from robotics.programs import Solved, solve_step


class Step(NamedTuple):
    """A step as it was taken, for those who watch; multipliers are those of the program whose solution it is.

    Attributes:
        certified: whether the rows were hard.
        start: joint angles before it, `(*batch, n)` [rad].
        end: joint angles after it, `(*batch, n)` [rad].
        fraction: share of the program's solution that was taken, `(*batch,)`.
        margin: extra distance in the rows, of reach.
        rows: the rows about circles.
        z_rows: their multipliers, `(*batch, r)`, >= 0.
        z_turns: multipliers of the trust region, dphi <= TRUST then -dphi <= TRUST, `(*batch, 2n)`, >= 0.
        z_limits: multipliers of the limits, `(*batch, n)`; < 0 at the lower, > 0 at the upper.
    """

    certified: bool
    start: Tensor
    end: Tensor
    fraction: Tensor
    margin: float
    rows: ClearanceRows
    z_rows: Tensor
    z_turns: Tensor
    z_limits: Tensor


Watch = Callable[[Step], None]


def observe_certified(
    arm: PlanarArm,
    theta: Tensor,
    end: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool = False,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Step:
    """Describe a certified step that led to `end` by both its programs, solved for everyone.

    The other arguments are those of `certified_step`, which may have solved none of them: watching changes no step.
    """
    rows, first, last, step = solve_step(arm, theta, targets, circles, curvature, limits, both=True)
    fraction = share_taken(arm, step, rows)[..., 0]
    programs = (first,) if last is None else (last, first)
    return Step(True, theta, end, fraction, MARGIN, rows, *_multipliers(arm, *programs))


def observe_soft(
    arm: PlanarArm, theta: Tensor, end: Tensor, margin: float, rows: ClearanceRows, solved: Solved
) -> Step:
    """Describe a softened step that led to `end` by its one program, of these rows; it was taken as a whole."""
    return Step(False, theta, end, torch.ones_like(end[..., 0]), margin, rows, *_multipliers(arm, solved))


def _multipliers(arm: PlanarArm, *programs: Solved) -> tuple[Tensor, Tensor, Tensor]:
    """Return z_rows, z_turns, z_limits of the first program that has a solution, zeros where none has."""
    z, z_limits = (torch.zeros_like(part) for part in (programs[0].z, programs[0].z_box))
    for program in reversed(programs):
        z = torch.where(program.solved[..., None], program.z, z)
        z_limits = torch.where(program.solved[..., None], program.z_box, z_limits)
    n = arm.num_links
    return z[..., 2 * n :], z[..., : 2 * n], z_limits[..., :n]
