"""What happens in the layers, written down: the path, the half-planes and the multipliers of every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_one_scene
from robotics.ik_qp import task_error
from robotics.models.answer import check_answer
from robotics.obstacles import Circles
from robotics.starts import diverse_starts
from robotics.step_record import Step
from robotics.steps import certified_step, escape

LAYERS = 10
STARTS = 8  # tried in turn where none is given, as the models do
ACTIVE = 1e-7  # least multiplier of an active row: ten times the solver's tolerance
# Change of a joint [rad] up to which a step shows nothing. It is far above the `STILL` of the steps, which must not
# cost an answer its last digits.
UNSEEN = 1e-9


class HalfPlane(NamedTuple):
    """The half-plane `normal'p >= offset` that holds a link and not its circle, throughout one layer.

    Attributes:
        link: index of the link, from 0.
        circle: index of the circle.
        normal: unit vector away from the circle.
        offset: [m], about the world's origin.
        multipliers: of the rows of the link's base end and tip end; the base of the arm has no row, and reads 0.
    """

    link: int
    circle: int
    normal: tuple[float, float]
    offset: float
    multipliers: tuple[float, float]

    @property
    def name(self) -> str:
        """What it belongs to: links are counted from 1, circles from 0 as in a scene's file."""
        return f"link {self.link + 1}, circle {self.circle}"

    @property
    def active(self) -> bool:
        """Whether a row holds the arm back."""
        return max(self.multipliers) > ACTIVE


class Layer(NamedTuple):
    """One program, and the straight path in joint space from `start` to `end` that it gave.

    Attributes:
        certified: whether the whole path is certified; else it is a softened step out of a circle.
        start: joint angles (n,) [rad].
        end: joint angles (n,) [rad].
        fraction: share of the program's solution that the certificate allowed.
        error: task error after it, of reach and rad.
        clearance: of the whole arm after it [m]; infinite without circles.
        planes: a half-plane for every link and circle.
        limits: multipliers of the joint limits (n,); < 0 at the lower, > 0 at the upper.
        turns: multipliers of the trust region (n,), of the absolute link angles; < 0 against turning right.
    """

    certified: bool
    start: Tensor
    end: Tensor
    fraction: float
    error: float
    clearance: float
    planes: tuple[HalfPlane, ...]
    limits: tuple[float, ...]
    turns: tuple[float, ...]

    def multipliers(self) -> dict[str, float]:
        """Return the active multipliers by the name of what they belong to, the largest first."""
        found = {plane.name: max(plane.multipliers) for plane in self.planes}
        for i, value in enumerate(self.limits):
            found[f"joint {i + 1}, {'upper' if value > 0 else 'lower'} limit"] = abs(value)
        for i, value in enumerate(self.turns):
            found[f"link {i + 1}, trust region"] = abs(value)
        return dict(sorted(((k, v) for k, v in found.items() if v > ACTIVE), key=lambda item: -item[1]))


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The way of one arm to one target.

    Attributes:
        arm: The arm, n links.
        circles: One scene.
        target: (2,) or (3,) [m, m, rad].
        layers: What every program did, in order.
        status: `IKStatus` of the last posture, at 1e-6 of reach.
    """

    arm: PlanarArm
    circles: Circles
    target: Tensor
    layers: tuple[Layer, ...]
    status: int

    def waypoints(self) -> Tensor:
        """Return the joint angles between the layers, (m+1, n) [rad]."""
        return torch.stack([self.layers[0].start, *(layer.end for layer in self.layers)])

    def frames(self, most: int) -> list[tuple[int, float]]:
        """Return up to `most` + 1 moments (layer, s), s in [0, 1]: a layer has as many as its path is long.

        Every layer has two moments at least, however short its path, so that all multipliers are seen.
        """
        if most < 2 * len(self.layers):
            raise ValueError(f"most: expected {2 * len(self.layers)} or more, two for every layer, found {most}")
        return along(self.waypoints(), most, 2)

    def theta(self, layer: int, s: float) -> Tensor:
        """Return the joint angles (n,) [rad] at a moment."""
        start, end = self.layers[layer].start, self.layers[layer].end
        return start + s * (end - start)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists and numbers; an infinite clearance reads None."""
        layers = []
        for layer in self.layers:
            clear = layer.clearance if layer.clearance < torch.inf else None
            numbers = {"start": layer.start.tolist(), "end": layer.end.tolist(), "clearance": clear}
            planes = [plane._asdict() | {"active": plane.active} for plane in layer.planes]
            layers.append(layer._asdict() | numbers | {"planes": planes, "multipliers": layer.multipliers()})
        return {
            "arm": self.arm.to_json(),
            **self.circles.to_json(),
            "target": self.target.tolist(),
            "layers": layers,
            "status": self.status,
        }


def along(waypoints: Tensor, most: int, least: int) -> list[tuple[int, float]]:
    """Return up to `most` + 1 moments (piece, s) of a path of straight pieces, by their lengths, and all of their ends.

    Args:
        waypoints: (m+1, n) [rad].
        most: `least` for every piece, or more.
        least: Moments of every piece, however short.
    """
    length = waypoints.diff(dim=0).abs().amax(-1)
    shares = length / length.sum().clamp(min=torch.finfo(length.dtype).tiny) * (most - least * len(length))
    counts = [least + int(share) for share in shares]
    return [(0, 0.0), *((k, (i + 1) / count) for k, count in enumerate(counts) for i in range(count))]


@torch.no_grad()
def record(arm: PlanarArm, start: Tensor, target: Tensor, circles: Circles, layers: int = LAYERS) -> Recording:
    """Lead the arm from one start to one target, and write down what every program did.

    Softened steps out of a circle come first, if the start touches one, then certified steps until the arm is still.

    Args:
        arm: the arm, n links.
        start: joint angles (n,) [rad], taken into the limits.
        target: (2,) or (3,) [m, m, rad].
        circles: one scene.
        layers: certified steps at most, one or more.
    """
    _check(arm, target, circles)
    if start.shape != (arm.num_links,) or not start.isfinite().all():
        raise ValueError(f"start: expected {arm.num_links} finite joint angles, found {start.tolist()}")
    steps: list[Step] = []
    lower, upper = arm.limits_tensor(target)
    aim = target[None]
    theta = escape(arm, start.to(target).clamp(lower, upper)[None], aim, circles, watch=steps.append)
    for _ in range(layers):
        before = theta
        theta = certified_step(arm, theta, aim, circles, watch=steps.append)
        if (theta - before).abs().max() <= UNSEEN:
            break
    if len(steps) > 1 and (steps[-1].end - steps[-1].start).abs().max() == 0:
        steps.pop()  # it stands still: nothing to see
    status = int(check_answer(arm, theta, aim, circles, 1e-6).status[0])
    written = tuple(_layer(arm, step, aim, circles) for step in steps)
    return Recording(arm=arm, circles=circles, target=target, layers=written, status=status)


def record_best(
    arm: PlanarArm, target: Tensor, circles: Circles, first: Iterable[Tensor] = (), layers: int = LAYERS, seed: int = 0
) -> Recording:
    """Record the way from the first of several starts that leads to the target, or else the one that leads nearest.

    Args:
        arm: the arm, n links.
        target: (2,) or (3,) [m, m, rad].
        circles: one scene.
        first: starts (n,) [rad] to try before diverse ones, as a network's output.
        layers: certified steps at most.
        seed: seed of the diverse starts.
    """
    _check(arm, target, circles)
    best: Recording | None = None
    starts = (start[0] for start in diverse_starts(arm, target[None], circles, STARTS, seed))
    for start in (*first, *starts):
        found = record(arm, start, target, circles, layers)
        if best is None or (found.status, found.layers[-1].error) < (best.status, best.layers[-1].error):
            best = found
        if best.status == 0:
            break
    if best is None:
        raise ValueError("circles: expected a scene that leaves the arm some posture, found none in a random search")
    return best


def _check(arm: PlanarArm, target: Tensor, circles: Circles) -> None:
    if target.shape not in ((2,), (3,)) or not target.isfinite().all():
        raise ValueError(f"target: expected x, y or x, y, theta, all finite, found {target.tolist()}")
    check_one_scene(circles.centers, circles.radii)


def _layer(arm: PlanarArm, step: Step, aim: Tensor, circles: Circles) -> Layer:
    n = arm.num_links
    turns = step.z_turns[0, :n] - step.z_turns[0, n:]
    return Layer(
        certified=step.certified,
        start=step.start[0],
        end=step.end[0],
        fraction=float(step.fraction[0]),
        error=float(task_error(arm, step.end, aim)[0].norm()),
        clearance=float(circles.clearance(arm.points(step.end), arm.link_radius)[0]),
        planes=_planes(arm, step, circles),
        limits=tuple(step.z_limits[0].tolist()),
        turns=tuple(turns.tolist()),
    )


def _planes(arm: PlanarArm, step: Step, circles: Circles) -> tuple[HalfPlane, ...]:
    n, k = arm.num_links, circles.radii.shape[-1]
    normal = circles.witness(arm.points(step.start[0]), arm.link_radius).normal
    offset = (normal * circles.centers.to(normal)).sum(-1) + circles.radii.to(normal) + arm.link_radius
    offset = offset + step.margin * arm.reach
    # Rows come by link, end, circle, without those of the base.
    z = torch.cat((step.z_rows.new_zeros(k), step.z_rows[0])).reshape(n, 2, k)
    return tuple(
        HalfPlane(i, j, tuple(normal[i, j].tolist()), float(offset[i, j]), tuple(z[i, :, j].tolist()))
        for i in range(n)
        for j in range(k)
    )
