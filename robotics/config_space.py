"""Dense pictures of what is allowed: the reachable targets, and slices through the configuration space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robotics import oracle
from robotics.arm import PlanarArm
from robotics.files import FloatArray
from robotics.models.answer import is_safe
from robotics.obstacles import Circles
from robotics.steps import certified_step

IntArray = npt.NDArray[np.int8]

OUT_OF_REACH, BLOCKED, FREE = 0, 1, 2
SAMPLES = 20_000  # postures, of which the one with its tip nearest to a target is the start towards it
TRIES = 3  # each with postures of its own, for what the steps did not get to
STEPS = 12
REACHED = 1e-3  # of reach
_COARSE = 64  # cells along a side, before those at an edge are halved


class Reachable(NamedTuple):
    """What the tip can reach.

    Attributes:
        x: Middles of the cells, (m,) [m]; the same along y.
        kind: (m, m), rows along y: FREE; BLOCKED, where the limits allow some posture but the circles none; else
            OUT_OF_REACH.
        exact: Whether the oracle has judged the cells' middles; else certified steps have, and a cell that they do
            not get to may be reachable all the same.
    """

    x: FloatArray
    kind: IntArray
    exact: bool


def reachable_set(arm: PlanarArm, circles: Circles, halvings: int = 3) -> Reachable:
    """Return where the tip can be, cell by cell.

    The middles of 64 x 64 cells are judged, then of the halves of those at an edge, again and again: parts thinner
    than a coarse cell may be missed. For three links the oracle judges; for other arms certified steps from the
    nearest of many random postures do.

    Args:
        arm: the arm, n links.
        circles: one scene.
        halvings: how often cells are halved.
    """
    cells = _COARSE
    kind = np.zeros((cells, cells), dtype=np.int8)
    todo = np.ones_like(kind, dtype=bool)
    for halving in range(halvings + 1):
        if halving:
            cells *= 2
            todo = _at_an_edge(kind).repeat(2, 0).repeat(2, 1)
            kind = kind.repeat(2, 0).repeat(2, 1)
        bound = 1.02 * arm.reach
        x: FloatArray = (np.arange(cells, dtype=np.float64) + 0.5) * (2 * bound / cells) - bound
        rows, columns = todo.nonzero()
        kind[rows, columns] = _judge(arm, circles, torch.from_numpy(np.stack((x[columns], x[rows]), -1)))
    return Reachable(x, kind, arm.num_links == 3)


def _judge(arm: PlanarArm, circles: Circles, targets: Tensor) -> IntArray:
    kind = np.zeros(len(targets), dtype=np.int8)
    left = (targets.norm(dim=-1) <= arm.reach).nonzero()[:, 0]
    # What is reached among the circles is reached without them, so the others alone are asked about again.
    for scene, what in ((circles, FREE), (Circles.from_json({"circles": []}), BLOCKED)):
        if len(left):
            if arm.num_links == 3:
                reached = oracle.solve(arm, targets[left], scene).verdict == oracle.Verdict.FEASIBLE
            else:
                reached = _by_steps(arm, targets[left], scene)
            kind[left[reached].numpy()] = what
            left = left[~reached]
    return kind


def _by_steps(arm: PlanarArm, targets: Tensor, circles: Circles) -> Tensor:
    reached = torch.zeros(len(targets), dtype=torch.bool)
    for seed in range(TRIES):
        postures = arm.sample(SAMPLES, torch.Generator().manual_seed(seed))
        postures = postures[is_safe(arm, postures, circles)]
        left = (~reached).nonzero()[:, 0]
        if not (len(postures) and len(left)):
            break
        tips = arm.tip(postures)
        theta = postures[torch.cat([torch.cdist(part, tips).argmin(-1) for part in targets[left].split(512)])]
        for _ in range(STEPS):
            if not len(left):
                break
            theta = certified_step(arm, theta, targets[left], circles)
            near = (arm.tip(theta) - targets[left]).norm(dim=-1) <= REACHED * arm.reach
            reached[left[near & is_safe(arm, theta, circles)]] = True
            theta, left = theta[~near], left[~near]
    return reached


def _at_an_edge(kind: IntArray) -> npt.NDArray[np.bool_]:
    """Return the cells with a neighbour, also across a corner, of another kind."""
    around = np.pad(kind, 1, mode="edge")
    m = len(kind)
    shifted = [around[i : i + m, j : j + m] for i in range(3) for j in range(3)]
    different: npt.NDArray[np.bool_] = np.any([other != kind for other in shifted], axis=0)
    return different


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
