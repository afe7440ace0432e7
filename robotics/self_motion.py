"""The self-motion of three links: all postures with the tip at a target, as curves with exact ranges.

With the tip fixed at p, |p| = d, and the last link at the absolute angle Θ = α ± δ, where α is the azimuth of p and
0 <= δ <= π, the wrist is at the distance ρ from the base, ρ² = d² + l_3² - 2 d l_3 cos δ. So a target, a side (the sign
of δ) and an elbow (the sign of θ_2) name a curve, and everything on it is an angle of one of two triangles: base,
wrist, tip with the sides d and l_3, and base, elbow, wrist with the sides l_1 and l_2. Each of these angles is a
function of δ with at most one turning point, which is known: its range over an interval of δ is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.arm import PlanarArm

_EPS = torch.finfo(torch.float64).eps
_POINT = 1e-12  # shorter ranges of the elbow are round-off at 0 or π, where the other elbow has the posture too [rad]


class Ranges(NamedTuple):
    """Enclosures over M cells of a curve: middle values, and how far the true ones can be from them.

    Attributes:
        angles: Middle of θ_1, θ_3 and Θ, (M, 3) [rad].
        angles_half: Half widths of their ranges, (M, 3) [rad].
        elbow: Least and largest |θ_2|, (M, 2) [rad].
        link: Both ends of link 2 in the middle, (M, 2, 2) [m].
        moved: How far a point of link 2 can be from there, (M,) [m].
    """

    angles: Tensor
    angles_half: Tensor
    elbow: Tensor
    link: Tensor
    moved: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class SelfMotion:
    """The curves of N targets. A place v in [-1, 1] on a curve is a δ of the side of its sign.

    δ runs from `first` to `last` as (1 - cos π|v|)/2, so that the elbow, which moves like a square root where the arm
    stretches or folds, is smooth in v.

    Attributes:
        arm: An arm of three links.
        distance: d, (N,) [m].
        azimuth: α, (N,) [rad].
        first: Least δ with a wrist in reach of the first two links, (N,) [rad].
        last: Largest such δ, (N,) [rad].
        reachable: Whether there is any, up to round-off, (N,) bool.
    """

    arm: PlanarArm
    distance: Tensor
    azimuth: Tensor
    first: Tensor
    last: Tensor
    reachable: Tensor

    @classmethod
    def of(cls, arm: PlanarArm, targets: Tensor) -> SelfMotion:
        """Return the curves of positions (N, 2) [m] in float64; those that are not finite are unreachable."""
        if arm.num_links != 3:
            raise ValueError(f"arm: expected 3 links, found {arm.num_links}")
        l1, l2, l3 = arm.lengths
        far, near = l1 + l2, abs(l1 - l2)
        finite = targets.isfinite().all(-1)
        x, y = torch.where(finite[:, None], targets, 0.0).unbind(-1)
        d = torch.hypot(x, y)
        # cos δ = (d² + l_3² - ρ²)/(2 d l_3) at ρ = far and ρ = near, by half angles and without the division.
        low, high = (((r - d + l3) * (r + d - l3), (d + l3 - r) * (d + l3 + r)) for r in (near, far))
        first = 2 * torch.atan2(_root(low[0]), _root(low[1]))
        last = 2 * torch.atan2(_root(high[0]), _root(high[1]))
        last = torch.where((high[0] <= 0) & (high[1] <= 0), math.pi, last)
        round_off = 8 * _EPS * arm.reach
        reachable = finite & ((d - l3).abs() <= far + round_off) & (d + l3 >= near - round_off)
        return cls(arm=arm, distance=d, azimuth=torch.atan2(y, x), first=first, last=last, reachable=reachable)

    def angle(self, target: Tensor, place: Tensor) -> Tensor:
        """Return δ with its sign at places v of the targets with these indices, (M,) [rad]."""
        first, last = self.first[target], self.last[target]
        share = (0.5 * math.pi * place).sin().square()
        return torch.where(place < 0, -1.0, 1.0) * (first + (last - first) * share).clamp(max=math.pi)

    def theta(self, target: Tensor, elbow: Tensor, place: Tensor) -> Tensor:
        """Return joint angles (M, 3) [rad], each in the turn about the middle of its limits, not yet inside them."""
        ranges = self.enclose(target, elbow, place, place)
        theta = torch.stack((ranges.angles[:, 0], elbow * ranges.elbow.mean(-1), ranges.angles[:, 1]), -1)
        lower, upper = self.arm.limits_tensor(theta)
        middle = (lower + upper) / 2
        theta = middle + wrap_angle(theta - middle)
        # At exactly half a turn from the middle the two ends of wide limits are the same posture.
        outside = (theta - theta.clamp(lower, upper)).abs()
        return torch.where(outside < _POINT, theta.clamp(lower, upper), theta)

    def enclose(self, target: Tensor, elbow: Tensor, start: Tensor, end: Tensor) -> Ranges:
        """Return what the arm can be in cells from v = start to end, both of one sign, |start| <= |end| or not.

        Args:
            target: Index of the target of each cell, (M,).
            elbow: Sign of θ_2, -1.0 or 1.0, (M,).
            start: One end of the cell, (M,).
            end: The other, (M,).
        """
        l1, l2, l3 = self.arm.lengths
        d, azimuth = self.distance[target], self.azimuth[target]
        side = torch.where(start + end < 0, -1.0, 1.0)
        ends = torch.stack((self.angle(target, start), self.angle(target, end))).abs()
        low, high = ends.aminmax(dim=0)
        # ρ² and with it |θ_2|, which falls as ρ grows; round-off in ρ² is part of the range.
        round_off = 16 * _EPS * self.arm.reach**2 * (end != start)
        wrist2 = torch.stack([(d - l3).square() + 4 * d * l3 * (0.5 * delta).sin().square() for delta in (low, high)])
        wrist2 = wrist2 + torch.stack((-round_off, round_off))
        bend = 2 * torch.atan2(_root((l1 + l2) ** 2 - wrist2), _root(wrist2 - (l1 - l2) ** 2))
        flat, bent = bend[1], bend[0]
        # θ_1 = α - side B - elbow γ, θ_3 = side (π - ω) - elbow γ', with the angles of the two triangles at the base
        # (B and γ) and at the wrist (ω and γ').
        inner = [_corner(torch.full_like(d, a), b, math.pi - bent, math.pi - flat) for a, b in ((l1, l2), (l2, l1))]
        link_3 = torch.full_like(d, l3)
        outer = [_corner(d, link_3, low, high), _corner(link_3, d, low, high)]
        theta_1 = azimuth - side * outer[0][0] - elbow * inner[0][0]
        theta_3 = side * (math.pi - outer[1][0]) - elbow * inner[1][0]
        # Directions are uncertain by round-off over the distance they are taken at.
        blur = 16 * _EPS * self.arm.reach * (end != start) / _root(wrist2[0])
        blur = torch.where(blur.isnan(), 0.0, blur)
        half_1, half_3 = (outer[i][1] + inner[i][1] + blur for i in (0, 1))
        orientation, turn = azimuth + side * (low + high) / 2, (high - low) / 2
        wrist = d[:, None] * _unit(azimuth) - l3 * _unit(orientation)
        return Ranges(
            angles=torch.stack((theta_1, theta_3, orientation), -1),
            angles_half=torch.stack((half_1, half_3, turn), -1),
            elbow=torch.stack((flat, bent), -1),
            link=torch.stack((l1 * _unit(theta_1), wrist), -2),
            moved=torch.maximum(l1 * half_1.clamp(max=2.0), l3 * turn),
        )


def elbow_ranges(arm: PlanarArm) -> dict[int, list[tuple[float, float]]]:
    """Return for each elbow, -1 and 1, the ranges of |θ_2| in [0, π] that the limits of joint 2 allow.

    An end at 0 or π is no limit: the posture goes on with the other elbow, and reads as infinite. A range that is
    that one posture alone is left to the other elbow.
    """
    lower, upper = arm.limits[1]
    ranges: dict[int, list[tuple[float, float]]] = {}
    for sign, low, high in ((-1, -upper, -lower), (1, lower, upper)):
        ranges[sign] = []
        for turn in range(math.ceil(-high / math.tau), math.floor((math.pi - low) / math.tau) + 1):
            start, end = max(low + turn * math.tau, 0.0), min(high + turn * math.tau, math.pi)
            if end - start > _POINT or lower == upper:
                start, end = (start if start > _POINT else -math.inf), (end if end < math.pi - _POINT else math.inf)
                ranges[sign].append((start, end))
    return ranges


def _corner(a: Tensor, b: float | Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return middle and half width of the angle opposite b in triangles whose sides a and b enclose low .. high.

    The angle, atan2(b sin, a - b cos), falls from π to 0 if b >= a, and else rises to asin(b/a), at cos = b/a, first.
    """
    ends = torch.stack([torch.atan2(b * angle.sin(), a - b * angle.cos()) for angle in (low, high)])
    least, largest = ends.aminmax(dim=0)
    if not torch.equal(low, high):
        ratio = b / a
        peak = (ratio < 1) & (low.cos() >= ratio) & (high.cos() <= ratio)
        largest = torch.where(peak, ratio.clamp(max=1.0).asin(), largest)
    return (least + largest) / 2, (largest - least) / 2


def _unit(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), -1)


def _root(value: Tensor) -> Tensor:
    return value.clamp(min=0).sqrt()
