"""Queries meant to break a solver: random arms, friendly and hostile circles, targets of every kind."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robotics import Circles, PlanarArm

KINDS = ("random", "tangent", "base", "tiny", "huge", "on a joint")
TARGETS = ("posture", "near-singular", "on a limit", "in a circle", "anywhere", "out of reach", "not a number")
GAPS = (0.0, 1e-9, 2e-8, 1e-6)  # of tangent circles, of reach: below, at and above the solver's margin


class Queries(NamedTuple):
    """A batch for one arm: targets (N, 2), a scene for each, and postures (N, n) to start from."""

    arm: PlanarArm
    targets: Tensor
    circles: Circles
    starts: Tensor


def random_arm(generator: torch.Generator) -> PlanarArm:
    """Return an arm of two to six links, of three more often than not, with limits of every width."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    num = 3 if uniform(0, 1) < 0.6 else int(uniform(2, 7))
    lengths = tuple(uniform(0.2, 2.0) for _ in range(num))
    limits = []
    for _ in range(num):
        middle, half = uniform(-1.5, 1.5), uniform(0.1, math.pi)
        limits.append((middle - half, middle + half))
    radius = uniform(0.0, 0.08) * sum(lengths) / num if uniform(0, 1) < 0.5 else 0.0
    return PlanarArm(lengths=lengths, limits=tuple(limits), link_radius=radius)


def draw(count: int, generator: torch.Generator) -> Queries:
    """Draw an arm, a number of circles from 0 to 6, and `count` queries."""
    arm = random_arm(generator)
    starts = arm.sample(count, generator)
    k = int(torch.randint(0, 7, (), generator=generator))
    circles = _circles(arm, starts, k, generator)
    return Queries(arm, _targets(arm, circles, count, generator), circles, starts)


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
    blocked = circles.centers[:, 0] if circles.radii.shape[-1] else targets
    for name, value in (
        ("near-singular", arm.tip(straight)),
        ("on a limit", arm.tip(edge)),
        ("in a circle", blocked),
        ("anywhere", direction * uniform(count, 1).sqrt() * arm.reach),
        ("out of reach", direction * arm.reach * (1 + 1e-9 + uniform(count, 1))),
        ("not a number", torch.full_like(targets, torch.nan)),
    ):
        targets = torch.where((kind == TARGETS.index(name))[:, None], value, targets)
    return targets
