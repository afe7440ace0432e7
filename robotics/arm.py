"""A planar serial arm: forward kinematics, Jacobians and the closed-form inverse of three links."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robotics.angles import principal_angle, quarter_turn, wrap_angle
from robotics.checks import check_keys, finite_numbers, shown

SHORTEST, LONGEST = 1e-50, 1e50  # [m]: products of a few lengths are numbers still


@dataclass(frozen=True, kw_only=True)
class PlanarArm:
    """A planar chain of links on revolute joints, with its base at the origin of the world frame.

    The absolute angle of link i is φ_i = θ_1 + ... + θ_i, and p_i = p_{i-1} + l_i (cos φ_i, sin φ_i).
    Every method takes any leading batch dimensions, follows the dtype and device of its input and is
    differentiable to any order.

    Attributes:
        lengths: Length l_i > 0 of every link [m].
        limits: (lower, upper) of every joint angle [rad].
        link_radius: Radius ρ >= 0 of the capsule around every link [m].
    """

    lengths: tuple[float, ...]
    limits: tuple[tuple[float, float], ...]
    link_radius: float = 0.0

    def __post_init__(self) -> None:
        lengths = finite_numbers("lengths", self.lengths)
        if not lengths or min(lengths) <= 0:
            raise ValueError(f"lengths: expected one or more positive numbers, found {shown(self.lengths)}")
        if not (min(lengths) >= SHORTEST and max(lengths) <= LONGEST):
            found = shown(self.lengths)
            raise ValueError(f"lengths: expected numbers from {SHORTEST:g} to {LONGEST:g} m, found {found}")
        if not isinstance(self.limits, list | tuple) or len(self.limits) != len(lengths):
            raise ValueError(f"limits: expected {len(lengths)} pairs (lower, upper), found {shown(self.limits)}")
        limits = []
        for i, pair in enumerate(self.limits):
            lower, upper = finite_numbers(f"limits[{i}]", pair, 2)
            if lower > upper:
                raise ValueError(f"limits[{i}]: expected lower <= upper, found {shown(pair)}")
            limits.append((lower, upper))
        (link_radius,) = finite_numbers("link_radius", [self.link_radius])
        if link_radius < 0:
            raise ValueError(f"link_radius: expected a number >= 0, found {shown(self.link_radius)}")
        # Plain tuples of floats, whatever came in: they compare, hash and print alike.
        object.__setattr__(self, "lengths", lengths)
        object.__setattr__(self, "limits", tuple(limits))
        object.__setattr__(self, "link_radius", link_radius)

    @classmethod
    def duka(cls) -> "PlanarArm":
        """Return the arm of Duka (2014, doi 10.1016/j.protcy.2013.12.451)."""
        half = math.pi / 2
        return cls(lengths=(2.0, 2.0, 2.0), limits=((0.0, math.pi), (-math.pi, 0.0), (-half, half)))

    @classmethod
    def unit(cls, num_links: int = 3) -> "PlanarArm":
        """Return an arm of links of one metre and limits of ±170°."""
        bound = math.radians(170)
        return cls(lengths=(1.0,) * num_links, limits=((-bound, bound),) * num_links)

    @classmethod
    def chain(cls, num_links: int = 10) -> "PlanarArm":
        """Return the first links, two to ten, of a chain of ten unequal links whose limits are symmetric and narrow.

        With six and with ten links it is the arm that the benchmark compares with convex relaxations.
        """
        if isinstance(num_links, bool) or not isinstance(num_links, int) or not 2 <= num_links <= 10:
            raise ValueError(f"num_links: expected an integer from 2 to 10, found {shown(num_links)}")
        lengths = (2.0, 2.0, 1.0, 2.0, 3.0, 2.0, 4.0, 4.0, 1.0, 2.0)
        bounds = (math.pi / part for part in (4, 4, 8, 4, 4, 2, 4, 4, 2, 8))
        limits = tuple((-bound, bound) for bound in bounds)
        return cls(lengths=lengths[:num_links], limits=limits[:num_links])

    @property
    def num_links(self) -> int:
        """Number n of links."""
        return len(self.lengths)

    @property
    def reach(self) -> float:
        """Sum of the link lengths [m]."""
        return sum(self.lengths)

    def limits_tensor(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (lower, upper), each of shape (n,) [rad], with the dtype and device of `like`."""
        lower, upper = zip(*self.limits, strict=True)
        return (
            torch.tensor(lower, dtype=like.dtype, device=like.device),
            torch.tensor(upper, dtype=like.dtype, device=like.device),
        )

    def points(self, theta: Tensor) -> Tensor:
        """Return the base, the joints and the tip, p_0 .. p_n.

        Args:
            theta: Joint angles (*batch, n) [rad].

        Returns:
            World positions (*batch, n+1, 2) [m]; the first is the origin.
        """
        self._check_last_dimension("theta", theta, self.num_links)
        # In memory the batch comes last: sums over coordinates and links then run through whole registers.
        phi = theta.movedim(-1, 0).cumsum(0)
        lengths = torch.tensor(self.lengths, dtype=theta.dtype, device=theta.device).reshape(-1, *(1,) * (phi.ndim - 1))
        links = lengths * torch.stack((phi.cos(), phi.sin()))
        points = torch.cat((torch.zeros_like(links[:, :1]), links.cumsum(1)), 1)
        return points.movedim((0, 1), (-1, -2))

    def tip(self, theta: Tensor) -> Tensor:
        """Return the tip p_n, (*batch, 2) [m], for joint angles (*batch, n) [rad]."""
        return self.points(theta)[..., -1, :]

    def orientation(self, theta: Tensor) -> Tensor:
        """Return Θ = θ_1 + ... + θ_n, (*batch,) [rad], not wrapped."""
        self._check_last_dimension("theta", theta, self.num_links)
        return theta.sum(-1)

    def pose(self, theta: Tensor) -> Tensor:
        """Return (x, y, Θ) of the tip, (*batch, 3) [m, m, rad], for joint angles (*batch, n) [rad]."""
        return torch.cat((self.tip(theta), self.orientation(theta)[..., None]), dim=-1)

    def point_jacobians(self, theta: Tensor) -> Tensor:
        """Return the Jacobians of all points.

        Joint j turns everything after it about p_{j-1}, so ∂p_i/∂θ_j is p_i - p_{j-1} turned by 90°
        for j <= i, and zero otherwise.

        Args:
            theta: Joint angles (*batch, n) [rad].

        Returns:
            ∂p_i/∂θ_j as (*batch, n+1, 2, n) [m/rad]; the first, of the base, is zero.
        """
        points = self.points(theta)
        levers = quarter_turn(points[..., :, None, :] - points[..., None, :-1, :])
        # Row i, column j (both from 0): point i moves with the joint at point j when j < i.
        moves = torch.ones(levers.shape[-3:-1], dtype=torch.bool, device=theta.device).tril(-1)
        return torch.where(moves[..., None], levers, 0.0).transpose(-1, -2)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the Jacobian of the tip, (*batch, 2, n) [m/rad], for joint angles (*batch, n) [rad]."""
        points = self.points(theta)
        return quarter_turn(points[..., -1:, :] - points[..., :-1, :]).transpose(-1, -2)

    def inverse(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return all joint angles that reach a pose with a three-link arm, in closed form.

        With w = p - l_3 e(Θ) the position of the wrist, the law of cosines gives cos θ_2, and the half
        angle tan²(θ_2/2) = (1 - cos θ_2)/(1 + cos θ_2) keeps full accuracy near the stretched and the
        folded arm. Joint limits play no part.

        Args:
            pose: (x, y, Θ) of the tip, (*batch, 3) [m, m, rad].

        Returns:
            theta: Joint angles (*batch, 2, 3) [rad] in (-π, π], first with the elbow θ_2 <= 0, then with
                θ_2 >= 0 (-π itself reads π); unreachable rows are NaN. Where the wrist sits on the base,
                θ_1 is free and zero is returned.
            reachable: (*batch, 2) bool, up to round-off of the dtype.

        Raises:
            ValueError: If the arm has not three links.

        Differentiability:
            Of any order where reachable. At exactly stretched or folded arms the slope of θ_2 is infinite
            and the term is left out: gradients are finite everywhere, and zero at unreachable poses.
        """
        if self.num_links != 3:
            raise ValueError(f"inverse: expected an arm of 3 links, found {self.num_links}")
        self._check_last_dimension("pose", pose, 3)
        l1, l2, l3 = self.lengths
        x, y, orientation = (part[..., None] for part in pose.unbind(-1))
        orientation = principal_angle(orientation)
        wx = x - l3 * orientation.cos()
        wy = y - l3 * orientation.sin()
        w2 = wx.square() + wy.square()
        round_off = 16 * torch.finfo(pose.dtype).eps * self.reach
        distance = w2.sqrt()
        reachable = (distance <= l1 + l2 + round_off) & (distance >= abs(l1 - l2) - round_off)

        # Both branches of a `where` are differentiated, so every excluded case is first given harmless
        # numbers: the elbow at a right angle for unreachable poses, (1, 0) for the wrist on the base.
        one_minus_cos = torch.where(reachable, ((l1 + l2) ** 2 - w2) / (2 * l1 * l2), 1.0)
        one_plus_cos = torch.where(reachable, (w2 - (l1 - l2) ** 2) / (2 * l1 * l2), 1.0)
        elbow = torch.tensor([-1.0, 1.0], dtype=pose.dtype, device=pose.device)
        theta_2 = elbow * 2 * torch.atan2(_safe_sqrt(one_minus_cos), _safe_sqrt(one_plus_cos))
        # The wrist in the frame of link 1 is v, with |v| = |w|; θ_1 is the angle from v to w.
        vx = l1 + l2 * theta_2.cos()
        vy = l2 * theta_2.sin()
        away = reachable & (distance > round_off)
        sin_1 = torch.where(away, wy * vx - wx * vy, 0.0)
        cos_1 = torch.where(away, wx * vx + wy * vy, 1.0)
        theta_1 = torch.atan2(sin_1, cos_1)
        theta = wrap_angle(torch.stack((theta_1, theta_2, orientation - theta_1 - theta_2), dim=-1))
        reachable = reachable.expand(theta.shape[:-1])
        return torch.where(reachable[..., None], theta, torch.nan), reachable

    def limit_violation(self, theta: Tensor) -> Tensor:
        """Return the largest excess over a joint limit, (*batch,) [rad]; zero inside the limits."""
        self._check_last_dimension("theta", theta, self.num_links)
        lower, upper = self.limits_tensor(theta)
        return torch.maximum(lower - theta, theta - upper).amax(-1).clamp(min=0)

    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw joint angles uniformly within the limits: (num, n) [rad], float64, where the generator is."""
        uniform = torch.rand(num, self.num_links, generator=generator, dtype=torch.float64, device=generator.device)
        lower, upper = self.limits_tensor(uniform)
        return lower + (upper - lower) * uniform

    def to_json(self) -> dict[str, Any]:
        """Return the arm as plain lists and numbers, ready for a JSON file."""
        return {
            "lengths": list(self.lengths),
            "limits": [list(pair) for pair in self.limits],
            "link_radius": self.link_radius,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PlanarArm":
        """Return the arm that `to_json` described; `link_radius` may be left out."""
        return cls(**check_keys("arm", data, {"lengths", "limits"}, {"link_radius"}))

    @staticmethod
    def _check_last_dimension(name: str, value: Tensor, size: int) -> None:
        if value.ndim == 0 or value.shape[-1] != size or not value.is_floating_point():
            raise ValueError(
                f"{name}: expected a floating-point tensor of shape (*batch, {size}), "
                f"found {value.dtype} of shape {tuple(value.shape)}"
            )


def _safe_sqrt(value: Tensor) -> Tensor:
    """Return √max(value, 0), with zero slope instead of an infinite one where value <= 0."""
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)
