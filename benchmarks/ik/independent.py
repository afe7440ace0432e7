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
