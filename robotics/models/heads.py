"""A network with several labelled heads: one start of each label for every target, among the circles it is shown."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from robotics.angles import wrap_angle
from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count
from robotics.ik_qp import task_error
from robotics.models.mlp import INPUTS
from robotics.obstacles import Circles

ROOM = 2e-2  # of reach: a start closer to a circle than this costs
LABEL_WEIGHT = 0.2  # reach per rad outside the label
SAMPLES, TAIL = 20_000, 2e-3  # postures that show what directions there are, and how few of them do not count
FAVOUR = 0.6
CIRCLE_WEIGHT = 2.0  # a start in a circle is worse than one far from the target: the layers close the tip error


@final
class Heads(nn.Module):
    """Starts (*batch, H, n) of targets, one for each label: the bend and a sector of the last link's direction.

    The *bend* is the sign of θ_2 + ... + θ_{n-1}, of θ_2 for two and three links (the elbow); where the limits allow
    one sign only, there is one. The *sector* is one of equal parts of the range of Θ less the azimuth of the tip in
    uniform joints of that bend, from -π upwards; the outer ones go on to ±π. Head h has the bend h // S and the sector
    h % S of S sectors. A single head has no label.

    A pose gives the last link, and the others have a position to reach: the wrist. So its labels, and all that is said
    here of the target, are those of the arm without the last link, at the wrist. Three links have one posture for each
    elbow: two heads are all there are. The last joint turns as the orientation asks, beyond its limits if need be.

    Everything is seen and said in the frame whose x axis points to the target, so only the first joint's limits break
    the symmetry. Circles enter as a sum over circles: their order and number are free.

    Args:
        arm: the arm, n links.
        heads: H, 1 or a multiple of the number of bends that the limits allow.
        hidden: width of both hidden layers.
        inputs: "xy" for positions, "xytheta" for poses, which take three links or more.
    """

    def __init__(self, arm: PlanarArm, heads: int = 8, hidden: int = 100, inputs: str = "xy") -> None:
        super().__init__()
        check_count("heads", heads)
        check_count("hidden", hidden)
        check_choice("inputs", inputs, INPUTS)
        pose = inputs == "xytheta"
        if pose and arm.num_links < 3:
            raise ValueError(f"arm: expected 3 links or more for poses, found {arm.num_links}")
        self.inputs = inputs
        self.placed = PlanarArm(lengths=arm.lengths[:-1], limits=arm.limits[:-1]) if pose else arm  # up to the wrist
        bends = _bends(self.placed) if heads > 1 else [0.0]
        if heads % len(bends):
            raise ValueError(f"heads: expected 1 or a multiple of {len(bends)}, the bends of the arm, found {heads}")
        self.arm, self.heads, self.hidden = arm, heads, hidden
        self.num_bends, self.sectors = len(bends), heads // len(bends)
        self.bends = torch.tensor(bends, dtype=torch.float64).repeat_interleave(self.sectors)
        self.middles, self.halves = _sectors(self.placed, bends, self.sectors)
        seen = 5 if pose else 3
        self.target_layer = nn.Linear(seen, hidden, dtype=torch.float64)
        self.circle_layers = nn.Sequential(
            nn.Linear(seen + 3, hidden, dtype=torch.float64), nn.Tanh(), nn.Linear(hidden, hidden, dtype=torch.float64)
        )
        self.last_layers = nn.Sequential(
            nn.Tanh(),
            nn.Linear(hidden, hidden, dtype=torch.float64),
            nn.Tanh(),
            nn.Linear(hidden, heads * (self.placed.num_links + 1), dtype=torch.float64),
        )

    def forward(self, targets: Tensor, circles: Circles) -> Tensor:
        """Return starts `(*batch, H, n)` [rad] for targets `(*batch, 2|3)` [m, m, rad].

        All joints are inside the limits but θ_1, and of a pose θ_n, which are within half a turn of their middle.
        """
        width = INPUTS[self.inputs]
        if targets.shape[-1] != width:
            raise ValueError(f"targets: expected shape (*batch, {width}), found {tuple(targets.shape)}")
        azimuth = self._azimuth(targets)
        raw = self.last_layers(self._encode(targets, azimuth, circles)).unflatten(-1, (self.heads, -1))
        lower, upper = self.arm.limits_tensor(targets)
        middle, half = (lower + upper) / 2, (upper - lower) / 2
        first = azimuth[..., None] + torch.atan2(raw[..., 1], raw[..., 0])
        first = middle[0] + wrap_angle(first - middle[0])
        inner = slice(1, self.placed.num_links)
        theta = torch.cat((first[..., None], middle[inner] + half[inner] * raw[..., 2:].tanh()), -1)
        if width == 2:
            return theta
        last = targets[..., 2:] - theta.sum(-1)
        return torch.cat((theta, (middle[-1] + wrap_angle(last - middle[-1]))[..., None]), -1)

    def ranked(self, starts: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        """Return starts `(*batch, H, n)` inside the limits, the most promising one first; see `promise`."""
        starts = starts.clamp(*self.arm.limits_tensor(starts))
        order = self.promise(starts, targets, circles).argsort(dim=-1, stable=True)
        ordered: Tensor = starts.take_along_dim(order[..., None], -2)
        return ordered

    def between(self, starts: Tensor) -> Tensor:
        """Return the postures midway between heads of neighbouring sectors of one bend, `(*batch, H - bends, n)`.

        Where an interval of answers is narrow, heads end up to both sides of it more often than in it.
        """
        sectors = starts.unflatten(-2, (self.num_bends, self.sectors))
        midway: Tensor = (sectors[..., 1:, :] + sectors[..., :-1, :]) / 2
        return midway.flatten(-3, -2)

    def cost(self, starts: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        """Return what starts `(*batch, H, n)` lack, `(*batch, H)`: tip error, excess, depth and distance to the label.

        Of reach and rad. Without the label it is also what heads are ranked by: see `promise`.
        """
        bend, offset = self.outside_label(starts, targets)
        excess = self.arm.limit_violation(starts).clamp(min=0)
        return self.promise(starts, targets, circles) + LABEL_WEIGHT * (bend + offset) + excess

    def loss(self, starts: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        """Return the mean cost of starts `(*batch, H, n)`; the best one of a target counts most.

        Each further one counts `FAVOUR` times the last: one good start is enough, and heads whose label a target does
        not allow should not use up what the network can learn.
        """
        cost = self.cost(starts, targets, circles).sort(-1).values
        weights = FAVOUR ** torch.arange(self.heads).to(cost)
        loss: Tensor = (cost @ (weights / weights.sum())).mean()
        return loss

    def promise(self, starts: Tensor, targets: Tensor, circles: Circles) -> Tensor:
        """Return the tip error of starts plus how far they are below the wanted clearance, `(*batch, H)`, of reach."""
        lower, upper = self.arm.limits_tensor(starts)
        theta = starts.clamp(lower, upper)
        total: Tensor = task_error(self.arm, theta, targets[..., None, :]).norm(dim=-1)
        if circles.radii.shape[-1]:
            each = Circles(circles.centers.unsqueeze(-3), circles.radii.unsqueeze(-2))
            clearance = each.link_clearance(self.arm.points(theta), self.arm.link_radius) / self.arm.reach
            total = total + CIRCLE_WEIGHT * (ROOM - clearance).clamp(min=0).flatten(targets.ndim).sum(-1)
        return total

    def outside_label(self, starts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far starts `(*batch, H, n)` are outside the bend and the sector of their head [rad]."""
        placed = starts[..., : self.placed.num_links]
        bend = placed[..., 1 : max(2, self.placed.num_links - 1)].sum(-1) * self.bends.to(starts)
        azimuth = self._azimuth(targets)
        offset = wrap_angle(self.placed.orientation(placed) - azimuth[..., None] - self.middles.to(starts)).abs()
        return (-bend).clamp(min=0), (offset - self.halves.to(starts)).clamp(min=0)

    def _end(self, targets: Tensor) -> Tensor:
        """Return where the links that are to be placed end: the tip, or the wrist of a pose, `(*batch, 2)` [m]."""
        if self.placed is self.arm:
            return targets
        turn = targets[..., 2]
        return targets[..., :2] - self.arm.lengths[-1] * torch.stack((turn.cos(), turn.sin()), -1)

    def _azimuth(self, targets: Tensor) -> Tensor:
        end = self._end(targets)
        return torch.atan2(end[..., 1], end[..., 0])

    def _encode(self, targets: Tensor, azimuth: Tensor, circles: Circles) -> Tensor:
        reach = self.arm.reach
        cos, sin = azimuth.cos(), azimuth.sin()
        features = torch.stack((self._end(targets).norm(dim=-1) / reach, cos, sin), -1)
        if self.placed is not self.arm:
            turn = targets[..., 2] - azimuth
            features = torch.cat((features, turn.cos()[..., None], turn.sin()[..., None]), -1)
        code: Tensor = self.target_layer(features)
        if not circles.radii.shape[-1]:
            return code
        centers = circles.centers / reach
        x, y, cos, sin = centers[..., 0], centers[..., 1], cos[..., None], sin[..., None]
        turned = torch.stack((cos * x + sin * y, cos * y - sin * x, (circles.radii / reach).expand_as(cos * x)), -1)
        pairs = torch.cat((turned, features[..., None, :].expand(*turned.shape[:-1], -1)), -1)
        total: Tensor = code + self.circle_layers(pairs).sum(-2)
        return total


def _sectors(arm: PlanarArm, bends: list[float], num: int) -> tuple[Tensor, Tensor]:
    """Return middles and half widths (bends * num,) [rad] of the sectors.

    Of what the arm can do, not of the circle: with narrow limits most of the circle is nobody's, and its heads idle.
    """
    theta = arm.sample(SAMPLES, torch.Generator().manual_seed(0))
    tip = arm.tip(theta)
    angle = wrap_angle(arm.orientation(theta) - torch.atan2(tip[:, 1], tip[:, 0]))
    bent = theta[:, 1 : max(2, arm.num_links - 1)].sum(-1)
    of_bend = [angle[sign * bent >= 0] for sign in bends]
    of_bend = [each if len(each) else angle for each in of_bend]  # limits that allow a bend in name only
    ends = [each.quantile(angle.new_tensor([TAIL, 1 - TAIL])) for each in of_bend]
    inner = torch.arange(1, num, dtype=torch.float64) / num
    edges = [nn.functional.pad(low + (high - low) * inner, (1, 0), value=-math.pi) for low, high in ends]
    upper = [nn.functional.pad(edge[1:], (0, 1), value=math.pi) for edge in edges]
    lower, higher = torch.cat(edges), torch.cat(upper)
    return (lower + higher) / 2, (higher - lower) / 2


def _bends(arm: PlanarArm) -> list[float]:
    inner = arm.limits[1 : max(2, arm.num_links - 1)]
    least, largest = (sum(ends) for ends in zip(*inner, strict=True)) if inner else (0.0, 0.0)
    return [sign for sign, allowed in ((-1.0, least < 0), (1.0, largest > 0)) if allowed] or [1.0]
