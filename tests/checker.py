"""The independent checker, `benchmarks.ik.independent`, asked about arms, scenes and answers of the package.

It shares no code with what it judges: numpy alone, kinematics of its own as complex numbers, the distance of a centre
to a link by cases, points sampled along links and moments along steps. Here tensors become arrays, and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchmarks.ik import independent
from benchmarks.ik.independent import Body
from benchmarks.ik.safety import body_of
from robotics.models import IKStatus

WHOLE_STEP = np.linspace(0, 1, 33)


def rows_of(scene):
    """Circles as rows x, y, r: (*batch, k, 3)."""
    return torch.cat((scene.centers, scene.radii[..., None]), -1).detach().numpy()


def limit_excess(arm, theta):
    return independent.excess(body_of(arm), np.asarray(theta))


def np_points(lengths, theta):
    """p_0 .. p_n, (..., n+1, 2), of lengths and joint angles (..., n), which broadcast."""
    points = independent.joints(_body(lengths), np.asarray(theta))
    return np.stack((points.real, points.imag), -1)


def np_clearance(lengths, theta, centers, radii, link_radius):
    """Signed clearance of the whole arm, (...,); +inf without circles."""
    circles = np.concatenate((np.asarray(centers), np.asarray(radii)[..., None]), -1)
    return independent.clearance(_body(lengths, link_radius), np.asarray(theta), circles)


def path_clearance(lengths, start, step, centers, radii, link_radius, samples=65):
    """Least clearance over dense samples of the straight joint path start + s step, (...,)."""
    along = (np_clearance(lengths, start + s * step, centers, radii, link_radius) for s in np.linspace(0, 1, samples))
    return np.minimum.reduce(list(along))


def _body(lengths, link_radius=0.0):
    return Body(np.asarray(lengths), np.array(-np.inf), np.array(np.inf), link_radius)


class Judged(NamedTuple):
    """What the checker finds in N answers, each (N,) bool."""

    given: np.ndarray  # there is a posture
    solved: np.ndarray  # it is called SOLVED
    unsafe: np.ndarray  # it breaks a limit or touches a circle; so does NaN
    off: np.ndarray  # its tip, or its last link's heading, is further from the target than asked


def judge(arm, answer, targets, scene, tolerance):
    theta, goals = answer.theta.detach().numpy(), targets.numpy()
    body = body_of(arm)
    off = ~(independent.tip_distance(body, theta, goals) <= tolerance * arm.reach)
    if goals.shape[-1] == 3:
        last = np.diff(independent.joints(body, theta)[:, -2:])[:, 0]
        off |= ~(np.abs(np.angle(last * np.exp(-1j * goals[:, 2]))) <= tolerance)
    solved = (answer.status == IKStatus.SOLVED).numpy()
    return Judged(~np.isnan(theta).any(-1), solved, independent.unsafe(body, theta, rows_of(scene)), off)


def assert_sound(arm, answer, targets, scene, tolerance):
    """No posture that is given is unsafe, and what is SOLVED is at its target."""
    judged = judge(arm, answer, targets, scene, tolerance)
    assert not (judged.unsafe & judged.given).any()
    assert not ((judged.unsafe | judged.off) & judged.solved).any()
    return judged


def unsafe_steps(arm, start, end, scene):
    """Whether straight joint-space steps (N, n) to (N, n) are unsafe at some moment, (N,)."""
    start, end = start.detach().numpy(), end.detach().numpy()
    return independent.unsafe_steps(body_of(arm), start, end, rows_of(scene), WHOLE_STEP)
