"""Obstacles from demonstrations: where steps were stopped, then the steps themselves, through the program.

An obstacle shows itself only where it stopped a step: a demonstration is *active* if its step is not that of the
program without obstacles. First the rows of the demonstrations are fitted: none is broken, and one of
an active one is at its bound,

    sum relu(-row)² + sum over active (min row)²,

from the best of many starts. Then |step of the program - step of the demonstration|², through the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.learned_constraints.demonstrations import Demonstrations, step_about
from robotics.learned_constraints.scene import CONFIDENCE, FitStatus, LearnedScene
from robotics.learned_constraints.shapes import CIRCLES, HALF_PLANES, Shape

STARTS = 12
DRAWN = 40  # random scenes for each start, of which the best are started from
POLISHED = 3  # of the starts, by L-BFGS after the steps of Adam
HELD_OUT = 0.25
CONDITION = 1e-3  # least singular value of the active rows' slopes in the numbers, of the largest


def fit_circles(
    arm: PlanarArm, demonstrations: Demonstrations, num: int = 1, *, tolerance: float = 1e-4, seed: int = 0
) -> LearnedScene:
    """Recover circles; numbers are x, y [m] and log(radius / m).

    Args:
        arm: the arm.
        demonstrations: N of them; those with a NaN are left out. The last quarter is held out for the margin.
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
    cut = len(usable) - int(HELD_OUT * len(usable))
    train, train_stopped = kept.pick(slice(cut)), stopped[:cut]
    active = torch.full(finite.shape, -2)
    active[usable] = -1
    if int(train_stopped.sum()) < shape.size:
        numbers = torch.full((num, shape.size), torch.nan, dtype=torch.float64)
        status = torch.full((num,), int(FitStatus.NOT_ACTIVE))
        return LearnedScene(shape, numbers, status, active, math.nan, math.inf, 0, 1.0)
    numbers = _fit_rows(arm, train, train_stopped, shape, num, seed)
    numbers = _polish(lambda p: step_loss(arm, train, shape, p), numbers, 20)
    residual = float(step_loss(arm, train, shape, numbers)) ** 0.5
    active[usable[stopped]] = _blamed(arm, kept.pick(stopped), shape, numbers)
    status = _status(arm, train, active[usable[:cut]], shape, numbers)
    if residual > tolerance:
        status[status == int(FitStatus.IDENTIFIED)] = int(FitStatus.NOT_FITTED)
    shown = _values(arm, kept.pick(slice(cut, None)).pick(stopped[cut:]), shape, numbers).amin(-1) * arm.reach
    margin = float(shown.max().clamp(min=0)) if len(shown) else math.inf
    miss_rate = 1 - (1 - CONFIDENCE) ** (1 / len(shown)) if len(shown) else 1.0
    return LearnedScene(shape, numbers, status, active, residual, margin, len(shown), miss_rate)


def row_loss(arm: PlanarArm, demonstrations: Demonstrations, stopped: Tensor, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the mean slack residual of rows `(*scenes,)`, of reach squared, for numbers `(*scenes, k, size)`."""
    values = _values(arm, demonstrations, shape, numbers[..., None, :, :])
    least = values.amin(-1)
    residual: Tensor = values.clamp(max=0).square().sum(-1) + torch.where(stopped, least.square(), 0.0)
    return residual.mean(-1)


def step_loss(arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the mean squared difference of the program's steps and the demonstrations' [rad²]."""
    found, solved = step_about(arm, demonstrations.theta, demonstrations.targets, shape, numbers)
    loss: Tensor = torch.where(solved, (found - demonstrations.steps).square().sum(-1), 0.0).mean()
    return loss


def _values(arm: PlanarArm, demonstrations: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the rows at the demonstrations' steps `(*scenes, N, r)`, of reach; negative where broken."""
    rows = shape.rows(arm, demonstrations.theta, numbers)
    values: Tensor = rows.gap + (rows.slope @ demonstrations.steps[..., None])[..., 0]
    return values


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
    ends = [_polish(lambda p: row_loss(arm, demonstrations, stopped, shape, p), one, 100) for one in best]
    with torch.no_grad():
        losses = [float(row_loss(arm, demonstrations, stopped, shape, end)) for end in ends]
    return ends[losses.index(min(losses))]


def _polish(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return where L-BFGS leads, or the start if that is no better."""
    numbers = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [numbers], max_iter=steps, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    scale = 1e-12 + float(loss(numbers).detach())

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(numbers) / scale
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        better = bool(loss(numbers) < loss(start))
    return numbers.detach() if better else start.detach()


def _blamed(arm: PlanarArm, stopped: Demonstrations, shape: Shape, numbers: Tensor) -> Tensor:
    """Return the obstacle of the least row of each demonstration."""
    which = shape.rows(arm, stopped.theta, numbers).circle
    return which[_values(arm, stopped, shape, numbers).argmin(-1)]


def _status(arm: PlanarArm, train: Demonstrations, active: Tensor, shape: Shape, numbers: Tensor) -> Tensor:
    """Judge each obstacle by how the rows that it stopped change with its numbers."""
    status = []
    for index in range(len(numbers)):
        mine = train.pick((active == index).nonzero()[:, 0])
        if len(mine.theta) < shape.size:
            status.append(int(FitStatus.NOT_ACTIVE))
            continue

        def least(one: Tensor, mine: Demonstrations = mine) -> Tensor:
            return _values(arm, mine, shape, one[None]).amin(-1)

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
