"""Obstacles from demonstrations: where steps were stopped, then the steps themselves, through the program.

An obstacle shows itself only where it stopped a step: a demonstration is *active* if its step is not that of the
program without obstacles. First the rows of the demonstrations are fitted: none is broken, and one of
an active one is at its bound,

    sum relu(-row)² + sum over active (min row)²,

from the best of many starts. Then |step of the program - step of the demonstration|², through the program.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.learned_constraints.demonstrations import Demonstrations, step_about
from robotics.learned_constraints.losses import polish, row_loss, row_values, step_loss
from robotics.learned_constraints.margin import leave_one_out
from robotics.learned_constraints.scene import FitStatus, LearnedScene
from robotics.learned_constraints.shapes import CIRCLES, HALF_PLANES, Shape

STARTS = 12
DRAWN = 40  # random scenes for each start, of which the best are started from
POLISHED = 3  # of the starts, by L-BFGS after the steps of Adam
CONDITION = 1e-3  # least singular value of the active rows' slopes in the numbers, of the largest


def fit_circles(
    arm: PlanarArm, demonstrations: Demonstrations, num: int = 1, *, tolerance: float = 1e-4, seed: int = 0
) -> LearnedScene:
    """Recover circles; numbers are x, y [m] and log(radius / m).

    Args:
        arm: the arm.
        demonstrations: N of them; those with a NaN are left out.
        num: how many circles.
        tolerance: on steps [rad], above their noise: what differs by more from the free step was stopped.
        seed: of the starts.
    """
    return fit_shape(arm, demonstrations, CIRCLES, num, tolerance=tolerance, seed=seed)


def fit_half_planes(
    arm: PlanarArm, demonstrations: Demonstrations, num: int = 1, *, tolerance: float = 1e-4, seed: int = 0
) -> LearnedScene:
    """Recover walls `n'p >= d`; numbers are the angle of n [rad] and d [m]. Arguments as in `fit_circles`."""
    return fit_shape(arm, demonstrations, HALF_PLANES, num, tolerance=tolerance, seed=seed)


def fit_shape(
    arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, num: int, *, tolerance: float, seed: int
) -> LearnedScene:
    """Recover obstacles of one shape; see `fit_circles`."""
    _check(arm, demonstrations, shape, num, tolerance)
    finite = torch.cat(demonstrations, -1).isfinite().all(-1)
    usable = finite.nonzero()[:, 0]
    kept = demonstrations.pick(usable)
    if len(usable) < 4 * num * shape.size:
        raise ValueError(f"demonstrations: expected {4 * num * shape.size} or more finite ones, found {len(usable)}")
    stopped = (step_about(arm, kept.theta, kept.targets, None, None)[0] - kept.steps).abs().amax(-1) > tolerance
    active = torch.full(finite.shape, -2)
    active[usable] = -1
    if int(stopped.sum()) < shape.size:
        numbers = torch.full((num, shape.size), torch.nan, dtype=torch.float64)
        status = torch.full((num,), int(FitStatus.NOT_ACTIVE))
        return LearnedScene(shape, numbers, status, active, math.nan, math.inf, 0, 1.0)
    numbers = _fit_rows(arm, kept, stopped, shape, num, seed)
    numbers = polish(lambda p: step_loss(arm, kept, shape, p), numbers, 20)
    residual = float(step_loss(arm, kept, shape, numbers)) ** 0.5
    active[usable[stopped]] = _blamed(arm, kept.pick(stopped), shape, numbers)
    status = _status(arm, kept, active[usable], shape, numbers)
    if residual > tolerance:
        status[status == int(FitStatus.IDENTIFIED)] = int(FitStatus.NOT_FITTED)
    margin = leave_one_out(arm, kept, active[usable], shape, numbers)
    return LearnedScene(shape, numbers, status, active, residual, *margin)


def _fit_rows(
    arm: PlanarArm, demonstrations: Demonstrations, stopped: Tensor, shape: Shape, num: int, seed: int
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = shape.draw(arm, STARTS * DRAWN, num, generator)
    with torch.no_grad():
        order = row_loss(arm, demonstrations, stopped, shape, drawn).argsort()
    numbers = drawn[order[:STARTS]].requires_grad_()
    optimizer = torch.optim.Adam([numbers], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        optimizer.zero_grad()
        row_loss(arm, demonstrations, stopped, shape, numbers).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        order = row_loss(arm, demonstrations, stopped, shape, numbers).argsort()
    best = numbers.detach()[order[:POLISHED]]
    ends = [polish(lambda p: row_loss(arm, demonstrations, stopped, shape, p), one, 100) for one in best]
    with torch.no_grad():
        losses = [float(row_loss(arm, demonstrations, stopped, shape, end)) for end in ends]
    return ends[losses.index(min(losses))]


def _blamed(arm: PlanarArm, stopped: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the obstacle of the least row of each demonstration."""
    which = shape.rows(arm, stopped.theta, numbers).circle
    return which[row_values(arm, stopped, shape, numbers).argmin(-1)]


def _status(arm: PlanarArm, train: Demonstrations, active: Tensor, shape: Shape, numbers: Tensor) -> Tensor:
    """Judge each obstacle by how the rows that it stopped change with its numbers."""
    status = []
    for index in range(len(numbers)):
        mine = train.pick((active == index).nonzero()[:, 0])
        if len(mine.theta) < shape.size:
            status.append(int(FitStatus.NOT_ACTIVE))
            continue

        def least(one: Tensor, mine: Demonstrations = mine) -> Tensor:
            return row_values(arm, mine, shape, one[None]).amin(-1)

        slopes = torch.autograd.functional.jacobian(least, numbers[index])
        singular = torch.linalg.svdvals(slopes / slopes.norm(dim=0).clamp(min=1e-300))
        determined = bool(singular[-1] > CONDITION * singular[0])
        status.append(int(FitStatus.IDENTIFIED if determined else FitStatus.NOT_DETERMINED))
    return torch.tensor(status)


def _check(arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, num: int, tolerance: float) -> None:
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise ValueError(f"num: expected a positive number of obstacles of the shape {shape.name}, found {num!r}")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance: expected a finite number > 0, found {tolerance!r}")
    count = len(demonstrations.theta)
    expected = {"theta": (count, arm.num_links), "steps": (count, arm.num_links)}
    for name, value in zip(Demonstrations._fields, demonstrations, strict=True):
        fits = value.shape == expected[name] if name in expected else value.shape in ((count, 2), (count, 3))
        if not fits or value.dtype != torch.float64:
            wanted = expected.get(name, (count, "2|3"))
            raise ValueError(f"{name}: expected shape {wanted} in float64, found {tuple(value.shape)} in {value.dtype}")
