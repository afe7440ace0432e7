"""Dense pictures of what is allowed: the reachable targets, and slices through the configuration space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robotics import oracle
from robotics.arm import PlanarArm
from robotics.models.answer import is_safe
from robotics.obstacles import Circles

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int8]

OUT_OF_REACH, BLOCKED, FREE = 0, 1, 2
SAMPLES = 400_000  # postures of arms whose reachable set has no closed form
_COARSE = 64  # cells along a side, before those at an edge are halved


class Reachable(NamedTuple):
    """What the tip can reach.

    Attributes:
        x: Middles of the cells, (m,) [m]; the same along y.
        kind: (m, m), rows along y: FREE; BLOCKED, where the limits allow some posture but the circles none; else
            OUT_OF_REACH.
        exact: Whether the oracle has judged the cells' middles; else they hold the tips of random postures.
    """

    x: FloatArray
    kind: IntArray
    exact: bool


def reachable_set(arm: PlanarArm, circles: Circles, halvings: int = 3, samples: int = SAMPLES) -> Reachable:
    """Return where the tip can be, cell by cell.

    For three links the oracle judges the middles of 64 x 64 cells, then of the halves of those at an edge, again and
    again: parts thinner than a coarse cell may be missed. For other arms many random postures are counted.

    Args:
        arm: the arm, n links.
        circles: one scene.
        halvings: how often cells are halved.
        samples: number of random postures.
    """
    if arm.num_links == 3:
        return _by_oracle(arm, circles, halvings)
    return _by_sampling(arm, circles, samples)


def _middles(arm: PlanarArm, cells: int) -> FloatArray:
    bound = 1.02 * arm.reach
    return (np.arange(cells) + 0.5) * (2 * bound / cells) - bound


def _by_oracle(arm: PlanarArm, circles: Circles, halvings: int) -> Reachable:
    cells = _COARSE
    kind = np.zeros((cells, cells), dtype=np.int8)
    todo = np.ones_like(kind, dtype=bool)
    for halving in range(halvings + 1):
        if halving:
            cells *= 2
            todo = _at_an_edge(kind).repeat(2, 0).repeat(2, 1)
            kind = kind.repeat(2, 0).repeat(2, 1)
        x = _middles(arm, cells)
        rows, columns = todo.nonzero()
        kind[rows, columns] = _judge(arm, circles, torch.from_numpy(np.stack((x[columns], x[rows]), -1)))
    return Reachable(x, kind, True)


def _judge(arm: PlanarArm, circles: Circles, targets: Tensor) -> IntArray:
    kind = np.zeros(len(targets), dtype=np.int8)
    near = (targets.norm(dim=-1) <= arm.reach).nonzero()[:, 0]
    nothing = Circles.from_json({"circles": []})
    for scene, what in ((nothing, BLOCKED), (circles, FREE)):
        if len(near):
            verdict = oracle.solve(arm, targets[near], scene).verdict
            near = near[verdict == oracle.Verdict.FEASIBLE]
            kind[near.numpy()] = what
    return kind


def _at_an_edge(kind: IntArray) -> npt.NDArray[np.bool_]:
    """Return the cells with a neighbour, also across a corner, of another kind."""
    around = np.pad(kind, 1, mode="edge")
    m = len(kind)
    shifted = [around[i : i + m, j : j + m] for i in range(3) for j in range(3)]
    return np.any([other != kind for other in shifted], axis=0)


def _by_sampling(arm: PlanarArm, circles: Circles, samples: int) -> Reachable:
    theta = arm.sample(samples, torch.Generator().manual_seed(0))
    cells = 2 * _COARSE
    bound = 1.02 * arm.reach
    edges = np.linspace(-bound, bound, cells + 1)
    kind = np.full((cells, cells), OUT_OF_REACH, dtype=np.int8)
    tips = arm.tip(theta)
    for chosen, what in ((tips, BLOCKED), (tips[is_safe(arm, theta, circles)], FREE)):
        x, y = chosen.numpy().T
        count, _, _ = np.histogram2d(y, x, bins=(edges, edges))
        kind[count > 0] = what
    return Reachable(_middles(arm, cells), kind, False)


class Slice(NamedTuple):
    """A plane through the configuration space, parallel to two axes.

    Attributes:
        first: Angles of the first joint, (m,) [rad].
        second: Angles of the second joint, (m,) [rad].
        clearance: Of the whole arm to every circle, (k, m, m) [m], rows along the second.
    """

    first: FloatArray
    second: FloatArray
    clearance: FloatArray


def slice_at(arm: PlanarArm, circles: Circles, theta: Tensor, joints: tuple[int, int], cells: int = 201) -> Slice:
    """Return the clearance on the plane through one posture, within the limits of two joints.

    Args:
        arm: the arm, two links or more.
        circles: one scene.
        theta: the posture, (n,) [rad]; all joints but the two stay as there.
        joints: two different joints, counted from 0.
        cells: postures along either side.
    """
    a, b = joints
    if a == b or not all(0 <= joint < arm.num_links for joint in joints):
        raise ValueError(f"joints: expected two different ones of {arm.num_links}, found {a + 1}, {b + 1}")
    first, second = (torch.linspace(*arm.limits[joint], cells, dtype=torch.float64) for joint in joints)
    grid = theta.double().repeat(cells, cells, 1)
    grid[..., a], grid[..., b] = first, second[:, None]
    clearance = circles.link_clearance(arm.points(grid), arm.link_radius).amin(-2)
    return Slice(first.numpy(), second.numpy(), clearance.movedim(-1, 0).numpy())
