"""A second opinion on answers: numpy alone, own kinematics, nothing imported from the packages it judges.

Circles are rows (x, y, r). Two tests of a posture share no formula: the distance of a centre to a segment in closed
form, and points sampled along the link.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ALONG_LINK = np.linspace(0, 1, 33)
ALONG_STEP = np.linspace(0, 1, 9)
ON_BASE = 1e-14  # of reach: a wrist as near to the base has no direction from there, up to round-off


class Body(NamedTuple):
    """What an arm is to this file: lengths (n,) [m], lower and upper limits (n,) [rad], radius of its links [m].

    Where nothing else is said a batch of arms may have a shape of its own: what broadcasts to (*batch, n), (*batch,).
    """

    lengths: Array
    lower: Array
    upper: Array
    link_radius: float | Array = 0.0


def joints(body: Body, theta: Array) -> NDArray[np.complex128]:
    """Return base, joints and tip as complex numbers x + iy, (*batch, n+1), of joint angles (*batch, n)."""
    place = np.zeros(theta.shape[:-1], dtype=complex)
    heading = np.zeros(theta.shape[:-1])
    places = [place]
    for i in range(theta.shape[-1]):
        heading = heading + theta[..., i]
        place = place + body.lengths[..., i] * (np.cos(heading) + 1j * np.sin(heading))
        places.append(place)
    return np.stack(places, -1)


def tip_distance(body: Body, theta: Array, targets: Array) -> Array:
    """Return how far the tip is from its target [m], (*batch,)."""
    tip = joints(body, theta)[..., -1]
    return np.asarray(np.hypot(tip.real - targets[..., 0], tip.imag - targets[..., 1]))


def turn_distance(body: Body, theta: Array, targets: Array) -> Array:
    """Return by what angle the last link's heading differs from that of poses (*batch, 3) [rad], (*batch,).

    Through unit vectors, so that a heading of many turns loses nothing.
    """
    last = joints(body, theta)[..., -2:]
    heading = (last[..., 1] - last[..., 0]) / body.lengths[-1]
    return np.asarray(np.abs(np.angle(heading * (np.cos(targets[..., 2]) - 1j * np.sin(targets[..., 2])))))


def off_target(body: Body, theta: Array, targets: Array, tolerance: float) -> NDArray[np.bool_]:
    """Return whose tip or, for poses, heading is further off than the tolerance, of reach and rad, (*batch,)."""
    off = ~(tip_distance(body, theta, targets) <= tolerance * body.lengths.sum())
    if targets.shape[-1] == 3:
        off |= ~(turn_distance(body, theta, targets) <= tolerance)
    return np.asarray(off)


def within_lengths(body: Body, targets: Array) -> NDArray[np.bool_]:
    """Return which targets, (N, 2) or (N, 3), the lengths alone allow, limits and circles apart, (N,).

    All links but the last get the wrist of a pose wherever it is in their ring, and all links the tip of a position.
    """
    pose = targets.shape[-1] == 3
    wrist = _wrist(body, targets) if pose else targets[:, 0] + 1j * targets[:, 1]
    lengths = body.lengths[:-1] if pose else body.lengths
    inner = max(0.0, 2 * lengths.max() - lengths.sum())
    return np.asarray((np.abs(wrist) <= lengths.sum()) & (np.abs(wrist) >= inner))


def clearance(body: Body, theta: Array, circles: Array) -> Array:
    """Return the exact least distance of any link's surface to any circle [m], (*batch,); negative inside one.

    Args:
        body: The arm.
        theta: (*batch, n) [rad].
        circles: (*batch, k, 3), or shapes that broadcast to it.
    """
    points = joints(body, theta)
    least = np.full(theta.shape[:-1], np.inf)
    for k in range(circles.shape[-2]):
        x, y, r = (circles[..., k, i] for i in range(3))
        centre = x + 1j * y
        for i in range(theta.shape[-1]):
            link, to_centre = points[..., i + 1] - points[..., i], centre - points[..., i]
            along = (link.conj() * to_centre).real
            across = np.abs((link.conj() * to_centre).imag) / body.lengths[..., i]
            ends = np.minimum(np.abs(to_centre), np.abs(to_centre - link))
            beside = (along > 0) & (along < body.lengths[..., i] ** 2)
            least = np.minimum(least, np.where(beside, across, ends) - r - body.link_radius)
    return least


def sampled_clearance(body: Body, theta: Array, circles: Array) -> Array:
    """Return the same by points along the links: never less than the exact one."""
    points = joints(body, theta)
    least = np.full(theta.shape[:-1], np.inf)
    for k in range(circles.shape[-2]):
        centre = (circles[..., k, 0] + 1j * circles[..., k, 1])[..., None, None]
        first, last = points[..., :-1, None], points[..., 1:, None]
        distance = np.abs(first + ALONG_LINK * (last - first) - centre).min((-1, -2))
        least = np.minimum(least, distance - circles[..., k, 2] - body.link_radius)
    return least


def excess(body: Body, theta: Array) -> Array:
    """Return the largest excess over a limit [rad], (*batch,); zero or less inside."""
    return np.asarray(np.maximum(body.lower - theta, theta - body.upper).max(-1))


def unsafe(body: Body, theta: Array, circles: Array) -> NDArray[np.bool_]:
    """Return which postures break a limit or touch a circle, by either test, (*batch,); NaN is unsafe."""
    touching = ~(clearance(body, theta, circles) > 0) | ~(sampled_clearance(body, theta, circles) > 0)
    return np.asarray(touching | ~(excess(body, theta) <= 0))


def unsafe_steps(
    body: Body, start: Array, end: Array, circles: Array, moments: Array = ALONG_STEP
) -> NDArray[np.bool_]:
    """Return which straight joint-space steps, (*batch, n) to (*batch, n), have an unsafe moment, (*batch,)."""
    bad = np.zeros(start.shape[:-1], dtype=bool)
    for share in moments:
        theta = start + share * (end - start)
        beyond = excess(body, theta) > 1e-12  # round-off of this very line: both ends are judged without it
        bad |= ~(clearance(body, theta, circles) > 0) | beyond
    return bad | unsafe(body, end, circles)


def some_posture(body: Body, targets: Array, circles: Array, angles: int = 720) -> tuple[NDArray[np.bool_], Array]:
    """Sweep the orientation of a three-link arm; say whether some posture at each target is safe, and which.

    Args:
        body: An arm of three links.
        targets: (N, 2) [m].
        circles: (N, k, 3).
        angles: Orientations tried; what lies between them is not seen, so False proves nothing.
    """
    found = np.zeros(len(targets), dtype=bool)
    posture = np.full((len(targets), 3), np.nan)
    l1, l2, l3 = body.lengths
    for orientation in np.linspace(-math.pi, math.pi, angles, endpoint=False):
        left = np.flatnonzero(~found)
        x = targets[left, 0] - l3 * math.cos(orientation)
        y = targets[left, 1] - l3 * math.sin(orientation)
        cosine = (x * x + y * y - l1 * l1 - l2 * l2) / (2 * l1 * l2)
        near = np.abs(cosine) < 1
        left, x, y, cosine = left[near], x[near], y[near], cosine[near]
        for elbow in (-1.0, 1.0):
            bend = elbow * np.arccos(cosine)
            first = np.arctan2(y, x) - np.arctan2(l2 * np.sin(bend), l1 + l2 * cosine)
            theta = np.stack((first, bend, orientation - first - bend), -1)
            middle = (body.lower + body.upper) / 2
            theta = middle + (theta - middle + math.pi) % math.tau - math.pi
            inside = np.flatnonzero(excess(body, theta) < -1e-9)
            clear = clearance(body, theta[inside], circles[left[inside]]) > 1e-9 * sum(body.lengths)
            hits = inside[clear]
            found[left[hits]] = True
            posture[left[hits]] = theta[hits]
    return found, posture


def some_posture_at_pose(
    body: Body, targets: Array, circles: Array, samples: int = 400, seed: int = 0
) -> tuple[NDArray[np.bool_], Array]:
    """Say whether some posture at each pose is safe, and which.

    Three links have two candidates, in closed form; where the wrist is on the base they may turn about it, and are
    tried all around. Of more links, all but the last three are drawn at random. Every candidate is judged by where it
    leads, so what is found is a posture at the pose, whatever the formulas; what is not found proves nothing.

    Args:
        body: An arm of two or more links.
        targets: (N, 3) [m, m, rad].
        circles: (N, k, 3).
        samples: Random postures of the first links, or turns about the base.
        seed: Of the postures.
    """
    n, reach = len(body.lengths), body.lengths.sum()
    rng = np.random.default_rng(seed)
    found = np.zeros(len(targets), dtype=bool)
    posture = np.full((len(targets), n), np.nan)
    middle = (body.lower + body.upper) / 2
    several = (np.abs(_wrist(body, targets)) <= ON_BASE * reach) | (n > 3)
    for number in range(samples):
        left = np.flatnonzero(~found & (several | (number == 0)))
        if not len(left):
            break
        for candidate in _candidates(body, targets[left], number / samples, rng):
            theta = middle + (candidate - middle + math.pi) % math.tau - math.pi
            # Round-off of the turn alone takes a posture at a limit beyond it.
            near = np.clip(theta, body.lower, body.upper)
            theta = np.where(np.abs(near - theta) < 1e-13, near, theta)
            good = ~off_target(body, theta, targets[left], 1e-13) & ~unsafe(body, theta, circles[left])
            good &= clearance(body, theta, circles[left]) > 1e-9 * reach
            found[left[good]] = True
            posture[left[good]] = theta[good]
    return found, posture


def _wrist(body: Body, poses: Array) -> NDArray[np.complex128]:
    """Return where poses (N, 3) put the last joint, (N,)."""
    last = body.lengths[-1] * (np.cos(poses[:, 2]) + 1j * np.sin(poses[:, 2]))
    return np.asarray(poses[:, 0] + 1j * poses[:, 1] - last)


def _candidates(body: Body, targets: Array, share: float, rng: np.random.Generator) -> list[Array]:
    """Return postures (N, n) at poses, one for each elbow of the last three links; wrong where there is none."""
    n, count, wrist = len(body.lengths), len(targets), _wrist(body, targets)
    heading = np.angle(np.cos(targets[:, 2]) + 1j * np.sin(targets[:, 2]))
    if n == 2:
        first = np.angle(wrist)
        return [np.stack((first, heading - first), -1)]
    l1, l2 = body.lengths[-3:-1]
    before = body.lower[: n - 3] + (body.upper - body.lower)[: n - 3] * rng.random((count, n - 3))
    start = np.zeros(count, dtype=complex)
    for i in range(n - 3):
        start = start + body.lengths[i] * np.exp(1j * before[:, : i + 1].sum(-1))
    w = wrist - start
    # Half angles keep the digits of a stretched or folded arm.
    square = np.abs(w) ** 2
    bend = 2 * np.arctan2(
        np.sqrt(np.clip((l1 + l2) ** 2 - square, 0, None)), np.sqrt(np.clip(square - (l1 - l2) ** 2, 0, None))
    )
    postures = []
    for elbow in (-1.0, 1.0):
        second = elbow * bend
        first = np.angle(w) - np.angle(l1 + l2 * np.exp(1j * second))
        first = np.where(np.abs(w) <= ON_BASE * body.lengths.sum(), math.tau * share, first) - before.sum(-1)
        third = heading - before.sum(-1) - first - second
        postures.append(np.concatenate((before, np.stack((first, second, third), -1)), -1))
    return postures
