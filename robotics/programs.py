"""Quadratic programs, solved without warnings; and the two programs that a certified step stands for."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem, QPSolution, SolverWarning, SolveStatus, solve_qp
from robotics.arm import PlanarArm
from robotics.ik_qp import ClearanceRows, build_step, clearance_rows, remainder
from robotics.obstacles import Circles


class Solved(NamedTuple):
    """A solution, or a step that changes nothing.

    Attributes:
        x: `(*batch, n)`; zero where there is no solution.
        z: multipliers of the inequalities, as `QPSolution` has them.
        z_box: multipliers of the bounds.
        solved: where there is a solution, `(*batch,)` bool.
    """

    x: Tensor
    z: Tensor
    z_box: Tensor
    solved: Tensor


class StepPrograms(NamedTuple):
    """The two programs of a certified step, solved.

    Attributes:
        rows: the rows about circles, without remainder.
        first: solution of the program without remainder.
        last: solution of the program with the remainder of the first one's step; None if not solved for everyone.
        step: the one to take, before it is shortened, `(*batch, n)` [rad].
    """

    rows: ClearanceRows
    first: Solved
    last: Solved | None
    step: Tensor


def solve_quietly(problem: QPProblem) -> QPSolution:
    """Solve; what fails says so in its status alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        return solve_qp(*problem)


def solve(problem: QPProblem) -> Solved:
    """Solve; a program without solution gives a zero step."""
    solution = solve_quietly(problem)
    solved = solution.status == SolveStatus.SOLVED
    return Solved(torch.where(solved[..., None], solution.x, 0.0), solution.z, solution.z_box, solved)


def solve_step(
    arm: PlanarArm,
    theta: Tensor,
    targets: Tensor,
    circles: Circles,
    curvature: bool = False,
    limits: tuple[Tensor, Tensor] | None = None,
    *,
    both: bool = False,
) -> StepPrograms:
    """Solve the program of a step without remainder, then that with the remainder of its solution.

    Where the first step keeps the rows of the second program too it is its solution: the cost is the same, and fewer
    points are feasible. Where these rows have no point in common, the first step, shortened, stands.

    Args:
        arm: the arm, n links.
        theta: `(*batch, n)` [rad].
        targets: `(*batch, 2|3)`.
        circles: the scene, shared or one per posture.
        curvature: see `build_step`.
        limits: see `build_step`.
        both: whether the second program is solved for everyone, for its multipliers; the step is the same.
    """
    rows = clearance_rows(arm, theta, circles)
    problem = build_step(arm, theta, targets, rows, curvature=curvature, limits=limits)
    first = solve(problem)
    if not circles.radii.shape[-1]:
        return StepPrograms(rows, first, first, first.x)
    rem = remainder(arm, first.x, rows)
    kept = (rows.gap.clamp(min=0) + (rows.slope @ first.x[..., None])[..., 0] >= rem).all(-1)
    if bool(kept.all()) and not both:
        return StepPrograms(rows, first, None, first.x)
    turns = 2 * arm.num_links
    h: Tensor = problem.h  # type: ignore[assignment]
    tight = problem._replace(h=torch.cat((h[..., :turns], h[..., turns:] - rem), -1))
    if both or not kept.ndim:
        last = solve(tight)
        return StepPrograms(rows, first, last, torch.where(last.solved[..., None], last.x, first.x))
    where = (~kept).nonzero(as_tuple=True)
    again = solve(QPProblem(*(None if part is None else part[where] for part in tight)))  # type: ignore[arg-type]
    chosen = torch.where(again.solved[..., None], again.x, first.x[where])
    return StepPrograms(rows, first, None, first.x.index_put(where, chosen))
