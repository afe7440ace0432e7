"""Queries meant to break a solver: random arms, friendly and hostile circles, targets of every kind."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robotics import Circles, PlanarArm

KINDS = ("random", "tangent", "base", "tiny", "point", "huge", "on a joint")
TARGETS = (
    "posture", "near-singular", "on a limit", "in a circle", "on an edge", "anywhere", "out of reach", "not a number"
)  # fmt: skip
POSES = (
    "posture", "near-singular", "stretched", "on a limit", "wrist on the base", "many turns", "half a turn",
    "in a circle", "anywhere", "wrist out of reach", "out of reach", "no orientation",
)  # fmt: skip
OFF_BASE = (0.0, 0.0, 0.0, 1e-15, 1e-12, 1e-9, 1e-7, 1e-4)  # of reach: how far the wrist is from there
TURNS = (1, -1, 7, -1000, 10**6, -(10**9))
GAPS = (0.0, 1e-9, 2e-8, 1e-6)  # of tangent circles, of reach: below, at and above the solver's margin


class Queries(NamedTuple):
    """A batch for one arm: targets (N, 2) or poses (N, 3), a scene for each, and postures (N, n) to start from."""

    arm: PlanarArm
    targets: Tensor
    circles: Circles
    starts: Tensor


def random_arm(generator: torch.Generator) -> PlanarArm:
    """Return an arm of two to six links, of three more often than not, with limits of every width.

    Some have equal links, whose wrist can get to the base, joints that cannot move, and joints that turn all around.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    num = 3 if uniform(0, 1) < 0.6 else int(uniform(2, 7))
    lengths = tuple(uniform(0.2, 2.0) for _ in range(num))
    if uniform(0, 1) < 0.3:
        lengths = (lengths[0],) * num
    limits = []
    for _ in range(num):
        middle, half, kind = uniform(-1.5, 1.5), uniform(0.1, math.pi), uniform(0, 1)
        half = 0.0 if kind < 0.03 else math.pi if kind < 0.1 else half + math.tau if kind < 0.15 else half
        limits.append((middle - half, middle + half))
    radius = uniform(0.0, 0.08) * sum(lengths) / num if uniform(0, 1) < 0.5 else 0.0
    return PlanarArm(lengths=lengths, limits=tuple(limits), link_radius=radius)


def draw(count: int, generator: torch.Generator, poses: bool = False) -> Queries:
    """Draw an arm, a number of circles from 0 to 6, and `count` queries, of positions or of poses."""
    arm = random_arm(generator)
    starts = arm.sample(count, generator)
    k = int(torch.randint(0, 7, (), generator=generator))
    circles = _circles(arm, starts, k, generator)
    targets = (_poses if poses else _targets)(arm, circles, count, generator)
    return Queries(arm, targets, circles, starts)


def _circles(arm: PlanarArm, starts: Tensor, k: int, generator: torch.Generator) -> Circles:
    count, reach = len(starts), arm.reach

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    kind = torch.randint(0, 2 * len(KINDS), (count, k), generator=generator)  # half of them plain random
    azimuth = math.tau * uniform(count, k)
    direction = torch.stack((azimuth.cos(), azimuth.sin()), -1)
    radii = (0.02 + 0.12 * uniform(count, k)) * reach
    room = arm.link_radius + 0.01 * reach
    centers = direction * (radii + room + uniform(count, k) * reach)[..., None]

    points = arm.points(starts)
    link = torch.randint(0, arm.num_links, (count, k), generator=generator)
    row = torch.arange(count)[:, None]
    first, last = points[row, link], points[row, link + 1]
    along = (last - first) / (last - first).norm(dim=-1, keepdim=True)
    normal = torch.stack((-along[..., 1], along[..., 0]), -1)
    gaps = torch.tensor(GAPS, dtype=torch.float64)[torch.randint(0, len(GAPS), (count, k), generator=generator)]
    touch = first + uniform(count, k, 1) * (last - first)
    tangent = touch + normal * (radii + arm.link_radius + gaps * reach)[..., None]
    for name, new_centers, new_radii in (
        ("tangent", tangent, radii),
        ("base", direction * ((1 + 1e-6 + 0.05 * uniform(count, k)) * (radii + arm.link_radius))[..., None], radii),
        ("tiny", centers, 1e-6 * radii),
        ("point", touch, torch.where(uniform(count, k) < 0.5, 0.0, 1e-12)),
        ("huge", direction * ((50 + 0.9 * uniform(count, k)) * reach)[..., None], torch.full_like(radii, 50 * reach)),
        ("on a joint", last, 0.2 * radii),
    ):
        hit = kind == KINDS.index(name)
        centers, radii = torch.where(hit[..., None], new_centers, centers), torch.where(hit, new_radii, radii)
    return Circles(centers, radii)


def _targets(arm: PlanarArm, circles: Circles, count: int, generator: torch.Generator) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    kind = torch.randint(0, 2 * len(TARGETS), (count,), generator=generator)  # half of them at a random posture
    theta = arm.sample(count, generator)
    lower, upper = arm.limits_tensor(theta)
    straight = (1e-3 * (uniform(count, arm.num_links) - 0.5)).clamp(lower, upper)
    straight[:, 0] = theta[:, 0]
    edge = torch.where(uniform(count, arm.num_links) < 0.5, lower, upper)
    azimuth = math.tau * uniform(count, 1)
    direction = torch.cat((azimuth.cos(), azimuth.sin()), -1)
    targets = arm.tip(theta)
    blocked = edges = targets
    if circles.radii.shape[-1]:
        blocked = circles.centers[:, 0]
        edges = blocked + direction * (circles.radii[:, :1] + arm.link_radius)
    for name, value in (
        ("near-singular", arm.tip(straight)),
        ("on a limit", arm.tip(edge)),
        ("in a circle", blocked),
        ("on an edge", edges),
        ("anywhere", direction * uniform(count, 1).sqrt() * arm.reach),
        ("out of reach", direction * arm.reach * (1 + 1e-9 + uniform(count, 1))),
        ("not a number", torch.full_like(targets, torch.nan)),
    ):
        targets = torch.where((kind == TARGETS.index(name))[:, None], value, targets)
    return targets


def _poses(arm: PlanarArm, circles: Circles, count: int, generator: torch.Generator) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def unit(angle: Tensor) -> Tensor:
        return torch.stack((angle.cos(), angle.sin()), -1)

    def one_of(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.randint(0, len(values), (count,), generator=generator)]

    kind = torch.randint(0, len(POSES) + 4, (count,), generator=generator)  # the rest at a random posture
    theta = arm.sample(count, generator)
    lower, upper = arm.limits_tensor(theta)
    straight = (1e-3 * (uniform(count, arm.num_links) - 0.5)).clamp(lower, upper)
    stretched = torch.zeros_like(theta).clamp(lower, upper)
    straight[:, 0] = stretched[:, 0] = theta[:, 0]
    edge = torch.where(uniform(count, arm.num_links) < 0.5, lower, upper)
    edge = torch.where(uniform(count, arm.num_links) < 0.5, edge, theta)  # some joints at a limit
    heading = math.tau * (uniform(count) - 0.5)
    last, before = arm.lengths[-1] * unit(heading), arm.reach - arm.lengths[-1]
    off = arm.reach * unit(math.tau * uniform(count)) * one_of(OFF_BASE)[:, None]
    anywhere = unit(math.tau * uniform(count)) * uniform(count, 1).sqrt() * arm.reach
    beyond = last + unit(math.tau * uniform(count)) * before * (1 + 1e-9 + 0.2 * uniform(count, 1))
    outside = unit(math.tau * uniform(count)) * arm.reach * (1 + 1e-9 + uniform(count, 1))
    targets = arm.pose(theta)
    turned = torch.cat((targets[:, :2], (targets[:, 2] + math.tau * one_of(TURNS))[:, None]), -1)
    half = torch.cat((targets[:, :2], math.pi * one_of((-1.0, 1.0))[:, None]), -1)
    blocked = circles.centers[:, 0] if circles.radii.shape[-1] else anywhere
    for name, value in (
        ("near-singular", arm.pose(straight)),
        ("stretched", arm.pose(stretched)),
        ("on a limit", arm.pose(edge)),
        ("wrist on the base", torch.cat((last + off, heading[:, None]), -1)),
        ("many turns", turned),
        ("half a turn", half),
        ("in a circle", torch.cat((blocked, heading[:, None]), -1)),
        ("anywhere", torch.cat((anywhere, heading[:, None]), -1)),
        ("wrist out of reach", torch.cat((beyond, heading[:, None]), -1)),
        ("out of reach", torch.cat((outside, heading[:, None]), -1)),
        ("no orientation", torch.cat((targets[:, :2], one_of((math.nan, math.inf))[:, None]), -1)),
    ):
        targets = torch.where((kind == POSES.index(name))[:, None], value, targets)
    return targets
