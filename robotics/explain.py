"""Why not? What keeps an arm from a target, and the smallest changes that would let it get there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from robotics import oracle
from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.checks import check_one_scene
from robotics.explanation import Blocker, Change, Explanation
from robotics.ik_qp import build_step, clearance_rows, task_error
from robotics.models.answer import beyond_reach, check_answer, is_safe
from robotics.obstacles import Circles
from robotics.programs import solve_quietly
from robotics.search import REACHED, closest_postures, find_postures
from robotics.steps import certified_step

TOLERANCE = 1e-6  # of reach: a change is one if the arm then gets this near
RESOLUTION = 1e-6  # of reach, or rad: changes are the smallest up to this
_VANISHING = 1e-9  # of reach: a circle this small is gone
_POLISH = 60  # further steps to the closest posture: along a circle they converge linearly
_SECTIONS = 16  # the oracle takes as long for a few targets as for one
_SAMPLES, _ZOOMS = 65, 5  # of an interval of the oracle: to 1e-7 of its width
_ACTIVE = 1e-6  # of the largest multiplier


def explain(arm: PlanarArm, target: Tensor, circles: Circles) -> Explanation:
    """Explain why an arm among circles does not get to a target.

    The closest safe posture is the end of certified steps from many starts, and the multipliers are those of the last
    program there. A change of a radius or a limit is found by bisection, with the oracle as the judge for three links
    (then it is the smallest one) and the search for others (then a smaller one may exist). Every change is applied, and
    a safe posture at the target stands beside it.

    Args:
        arm: The arm, n links.
        target: (2,) [m] or (3,) [m, m, rad], finite.
        circles: One scene.

    Raises:
        ValueError: If the target is not finite, or not of this shape.
    """
    if target.ndim != 1 or target.shape[0] not in (2, 3) or not target.isfinite().all():
        raise ValueError(f"target: expected 2 or 3 finite numbers, found {target.tolist()}")
    check_one_scene(circles.centers, circles.radii)
    aim, circles = target.double()[None], Circles(circles.centers.double(), circles.radii.double())
    theta, proved = find_postures(arm, aim, circles)
    beyond = float(beyond_reach(arm, aim))
    beyond = beyond if beyond > 1e-12 * arm.reach else 0.0
    reached = bool(theta.isfinite().all())
    if not reached:
        theta = _closest(arm, aim, circles)
        # The oracle leaves open what touches a limit: a posture may be there all the same.
        reached = not bool(proved[0]) and bool(task_error(arm, theta, aim).norm() <= REACHED)
    answer = check_answer(arm, theta, aim, circles, TOLERANCE)
    known = bool(theta.isfinite().all())
    changes: list[Change] = []
    if not reached:
        if known:
            changes.append(_target_change(arm, aim, circles, theta))
        if beyond == 0:
            changes += [*_radius_changes(arm, aim, circles), *_limit_changes(arm, aim, circles, theta)]
    return Explanation(
        target=tuple(aim[0].tolist()),
        reached=reached,
        proved=not reached and (beyond > 0 or bool(proved[0]) or _covered(arm, aim, circles)),
        beyond_reach=beyond,
        theta=tuple(theta[0].tolist()) if known else None,
        tip_error=float(answer.tip_error),
        clearance=float(answer.clearance),
        blockers=_blockers(arm, theta, aim, circles) if known and not reached else (),
        changes=tuple(changes),
    )


def _covered(arm: PlanarArm, target: Tensor, circles: Circles) -> bool:
    """Return whether a circle covers the base or the target: then no posture is clear, whatever the arm."""
    ends = torch.stack((torch.zeros_like(target[0, :2]), target[0, :2]))
    return bool((torch.cdist(ends, circles.centers) < circles.radii + arm.link_radius).any())


def _closest(arm: PlanarArm, target: Tensor, circles: Circles) -> Tensor:
    theta, error = closest_postures(arm, target, circles, num=128)
    for _ in range(_POLISH if error.isfinite() else 0):
        # The curvature makes the steps quadratic where an error stays; without it they are safer far away.
        steps = torch.cat([certified_step(arm, theta, target, circles, curvature=curved) for curved in (True, False)])
        errors = task_error(arm, steps, target).norm(dim=-1)
        if not errors.min() < error:
            break
        theta, error = steps[errors.argmin()][None], errors.min()
    return theta


def _blockers(arm: PlanarArm, theta: Tensor, target: Tensor, circles: Circles) -> tuple[Blocker, ...]:
    """Read the multipliers of the program at a posture, (1, n); rows of both ends of a link count together."""
    rows = clearance_rows(arm, theta, circles)
    solution = solve_quietly(build_step(arm, theta, target, rows))
    n, k = arm.num_links, circles.radii.shape[0]
    error = float(task_error(arm, theta, target).norm())
    # Rows come by link, end and circle, without the k of the base.
    links = (torch.arange(len(rows.circle)) + k) // (2 * max(k, 1))
    force = torch.zeros(n, k, dtype=theta.dtype)
    force.index_put_((links, rows.circle), solution.z[0, 2 * n :], accumulate=True)
    found = [
        Blocker("circle", circle, link + 1, value, value / error)
        for link, values in enumerate(force.tolist())
        for circle, value in enumerate(values)
    ]
    for joint, value in enumerate(solution.z_box[0].tolist()):
        kind = "lower limit" if value < 0 else "upper limit"
        found.append(Blocker(kind, joint + 1, 0, abs(value), abs(value) / error * arm.reach))
    largest = max(blocker.multiplier for blocker in found)
    active = [blocker for blocker in found if blocker.multiplier > max(_ACTIVE * largest, 1e-9)]
    return tuple(sorted(active, key=lambda blocker: -blocker.multiplier))


def _target_change(arm: PlanarArm, target: Tensor, circles: Circles, theta: Tensor) -> Change:
    pose = arm.pose(theta)[:, : target.shape[1]]
    size = float((pose - target)[0, :2].norm())
    if target.shape[1] == 3:
        size = float(task_error(arm, theta, target).norm())
    return Change("target", -1, tuple(pose[0].tolist()), size, tuple(theta[0].tolist()))


def _radius_changes(arm: PlanarArm, target: Tensor, circles: Circles) -> list[Change]:
    """Return the largest radius of each circle alone, and the least reduction of all, that frees the target."""
    k = circles.radii.shape[0]
    if k == 0:
        return []
    # Row i reduces circle i; the last row all of them.
    which = torch.cat((torch.eye(k), torch.ones(1, k))).to(circles.radii)
    smallest = _VANISHING * arm.reach
    most = torch.cat((circles.radii, circles.radii.max()[None])) - smallest

    def attempt(reduction: Tensor, rows: Tensor, starts: Tensor | None) -> Tensor:
        radii = (circles.radii - which[rows] * reduction[:, None]).clamp(min=smallest)
        scene = Circles(circles.centers.expand(len(rows), k, 2), radii)
        theta, _ = find_postures(arm, target.expand(len(rows), -1), scene, starts)
        return theta

    sections = _SECTIONS if arm.num_links == 3 else 2
    sizes, theta = _least(attempt, most, RESOLUTION * arm.reach, sections)
    changes = []
    for i, (size, posture) in enumerate(zip(sizes.tolist(), theta, strict=True)):
        if math.isfinite(size) and (i < k or k > 1):
            kind, value = ("radius", float(circles.radii[i]) - size) if i < k else ("all radii", size)
            changes.append(Change(kind, i if i < k else -1, value, size, tuple(posture.tolist())))
    return changes


def _limit_changes(arm: PlanarArm, target: Tensor, circles: Circles, theta: Tensor) -> list[Change]:
    """Return how little each limit alone must give way to free the target."""
    changes = []
    for joint, side in product(range(arm.num_links), (0, 1)):
        lower, upper = arm.limits[joint]
        # The search of other arms is slow; a limit that their closest posture is not at is taken not to stop it.
        away = arm.num_links != 3 and not abs(float(theta[0, joint]) - (lower, upper)[side]) < 1e-6
        if upper - lower >= math.tau or away:
            continue

        def attempt(
            widening: Tensor, rows: Tensor, starts: Tensor | None, joint: int = joint, side: int = side
        ) -> Tensor:
            return find_postures(_widened(arm, joint, side, float(widening)), target, circles, starts)[0]

        most = math.tau - (upper - lower)
        size, found = _by_sampling(arm, _widened(arm, joint, side, most), target, circles)
        least = max(size - 10 * RESOLUTION, 0.0)
        if math.isinf(size) or attempt(target.new_tensor(least), target, None).isfinite().all():
            sizes, found = _least(attempt, target.new_tensor([most]), RESOLUTION)
            size = float(sizes)
        if math.isfinite(size):
            value = float(found[0, joint]) if size > least else (lower - size, upper + size)[side]
            kind = ("lower limit", "upper limit")[side]
            changes.append(Change(kind, joint + 1, value, size, tuple(found[0].tolist())))
    return changes


def _by_sampling(arm: PlanarArm, wide: PlanarArm, target: Tensor, circles: Circles) -> tuple[float, Tensor]:
    """Return the least excess over the limits of an arm among the answers of a wider one, and its posture, (1, 3).

    Each of the oracle's intervals is sampled, and again about the best sample. Infinite if there is no answer, or the
    arm has not three links.
    """
    best, posture = math.inf, target.new_full((1, arm.num_links), torch.nan)
    if arm.num_links != 3:
        return best, posture
    found = oracle.solve(wide, target, circles)
    lower, upper = wide.limits_tensor(target)
    middle = (lower + upper) / 2
    for elbow, (start, end) in zip(found.elbow.tolist(), found.orientation.tolist(), strict=True):
        for _ in range(_ZOOMS):
            angles = torch.linspace(start, end, _SAMPLES, dtype=target.dtype)
            theta, _ = arm.inverse(torch.cat((target[:, :2].expand(_SAMPLES, 2), angles[:, None]), -1))
            theta = middle + wrap_angle(theta[:, (elbow + 1) // 2] - middle)
            excess = torch.where(is_safe(wide, theta, circles), arm.limit_violation(theta), torch.inf)
            i = int(excess.argmin())
            if excess[i] < best:
                best, posture = float(excess[i]), theta[i : i + 1]
            step = (end - start) / (_SAMPLES - 1)
            start, end = max(start, float(angles[i]) - step), min(end, float(angles[i]) + step)
    return best, posture


def _widened(arm: PlanarArm, joint: int, side: int, by: float) -> PlanarArm:
    lower, upper = arm.limits[joint]
    pair = (lower - by, upper) if side == 0 else (lower, upper + by)
    return replace(arm, limits=(*arm.limits[:joint], pair, *arm.limits[joint + 1 :]))


def _least(
    attempt: Callable[[Tensor, Tensor, Tensor | None], Tensor], most: Tensor, resolution: float, sections: int = 2
) -> tuple[Tensor, Tensor]:
    """Return the least of each of M changes after which a posture is found, infinite if there is none, and the posture.

    Args:
        attempt: From sizes (m,) of changes, their indices (m,), and postures to start from, to postures (m, n).
        most: The largest size of each, (M,).
        resolution: How near to the least.
        sections: Into how many parts a bracket is cut at once: two, or more where one call with many is cheap.
    """
    theta = attempt(most, torch.arange(len(most)), None)
    free = theta.isfinite().all(-1)
    low, high = torch.zeros_like(most), most.clone()
    shares = torch.arange(1, sections, dtype=most.dtype) / sections
    while bool((going := free & (high - low > resolution)).any()):
        rows = going.nonzero()[:, 0]
        sizes = low[rows, None] + shares * (high - low)[rows, None]
        found = attempt(sizes.flatten(), rows.repeat_interleave(sections - 1), theta[rows])
        found = found.reshape(len(rows), sections - 1, -1)
        there = found.isfinite().all(-1)
        first = torch.where(there.any(-1), there.long().argmax(-1), sections - 1)  # the least that is enough
        edges = torch.cat((low[rows, None], sizes, high[rows, None]), -1)
        low[rows], high[rows] = (edges.gather(1, first[:, None] + i)[:, 0] for i in (0, 1))
        better = there.any(-1)
        theta[rows[better]] = found[better, first[better]]
    return torch.where(free, high, torch.inf), theta
