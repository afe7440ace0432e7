"""Circular obstacles: closest points, normals and the signed clearance of whole links."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robotics.checks import check_keys, check_one_scene, finite_numbers, shown


class Witness(NamedTuple):
    """The closest point of every link to every circle; leading shape (*batch, n, k).

    Attributes:
        t: Position along the link, from 0 at its first point to 1 at its second, (*batch, n, k).
        point: Closest point c* = p_{i-1} + t (p_i - p_{i-1}), (*batch, n, k, 2) [m].
        distance: D = |c* - o| to the centre of the circle, (*batch, n, k) [m].
        normal: Unit vector (c* - o)/D, away from the circle, (*batch, n, k, 2); the left normal of the
            link where D is zero up to round-off.
        clearance: Signed clearance D - r - ρ, negative in penetration, (*batch, n, k) [m].
    """

    t: Tensor
    point: Tensor
    distance: Tensor
    normal: Tensor
    clearance: Tensor


class _Nearest(NamedTuple):
    """What a witness is made of, coordinates apart, each `(*batch, n, k)`, of the link `(*batch, n, 1)`."""

    t: Tensor
    point: tuple[Tensor, Tensor]
    away: tuple[Tensor, Tensor]
    link: tuple[Tensor, Tensor]
    length2: Tensor
    distance: Tensor
    touching: Tensor


@dataclass(frozen=True, eq=False)  # eq=False: tensors have no single truth value to compare by
class Circles:
    """Circular obstacles, shared by a batch of arms or one set for each.

    Batch dimensions broadcast against those of the points that the methods take, and the circles are
    brought to the dtype and device of the points. Only shapes are checked here, so that circles may be
    made from learned parameters under `torch.func`; values are checked where they come in, by `from_json`.

    Attributes:
        centers: World positions o, (*batch, k, 2) [m]; k may be 0.
        radii: Radii r > 0, (*batch, k) [m].
    """

    centers: Tensor
    radii: Tensor

    def __post_init__(self) -> None:
        if self.centers.ndim < 2 or self.centers.shape[-1] != 2:
            raise ValueError(f"centers: expected shape (*batch, k, 2), found {tuple(self.centers.shape)}")
        k = self.centers.shape[-2]
        if self.radii.ndim < 1 or self.radii.shape[-1] != k:
            raise ValueError(f"radii: expected shape (*batch, {k}), found {tuple(self.radii.shape)}")

    def witness(self, points: Tensor, link_radius: float = 0.0) -> Witness:
        """Return the closest point of every link to every circle.

        Args:
            points: The points p_0 .. p_n of an arm, (*batch, n+1, 2) [m].
            link_radius: Capsule radius ρ of the links [m].

        Differentiability:
            In the points, the centres and the radii, through t too: the normal moves with the closest
            point, and a detached t makes its gradient wrong. Where D = 0 the gradient of D is zero.
        """
        near = self._nearest(points)
        inverse = 1.0 / torch.where(near.touching, 1.0, near.distance)
        (lx, ly), (vx, vy), unit = near.link, near.away, 1.0 / near.length2.sqrt()
        normal = (
            torch.where(near.touching, -ly * unit, vx * inverse),
            torch.where(near.touching, lx * unit, vy * inverse),
        )
        clearance = near.distance - self._like(points)[1][..., None, :] - link_radius
        return Witness(near.t, _join(near.point), near.distance, _join(normal), clearance)

    def link_clearance(self, points: Tensor, link_radius: float = 0.0) -> Tensor:
        """Return the signed clearance of every link to every circle.

        Args:
            points: The points p_0 .. p_n of an arm, (*batch, n+1, 2) [m].
            link_radius: Capsule radius ρ of the links [m].

        Returns:
            (*batch, n, k) [m]; negative in penetration.
        """
        return self._nearest(points).distance - self._like(points)[1][..., None, :] - link_radius

    def _nearest(self, points: Tensor) -> "_Nearest":
        _check_points(points)
        # Coordinates apart, and the batch last in memory as in `PlanarArm.points`: whole registers are filled.
        centers = self._like(points)[0].movedim((-1, -2), (0, 1)).contiguous().movedim(1, -1)
        cx, cy = (center[..., None, :] for center in centers)
        x, y = points.unbind(-1)
        ax, ay = x[..., :-1, None], y[..., :-1, None]
        lx, ly = x[..., 1:, None] - ax, y[..., 1:, None] - ay
        length2 = (lx * lx + ly * ly).clamp(min=torch.finfo(points.dtype).tiny)
        t = (((cx - ax) * lx + (cy - ay) * ly) / length2).clamp(0, 1)
        px, py = ax + t * lx, ay + t * ly
        vx, vy = px - cx, py - cy
        scale = torch.maximum(ax.abs() + lx.abs(), ay.abs() + ly.abs())
        distance, touching = _safe_root(vx * vx + vy * vy, scale)
        return _Nearest(t, (px, py), (vx, vy), (lx, ly), length2, distance, touching)

    def clearance(self, points: Tensor, link_radius: float = 0.0) -> Tensor:
        """Return the least clearance over links and circles, (*batch,) [m]; +inf without circles."""
        return _minimum(self.link_clearance(points, link_radius).flatten(-2))

    def tip_clearance(self, points: Tensor, link_radius: float = 0.0) -> Tensor:
        """Return the least clearance of the last point alone, (*batch,) [m]; +inf without circles."""
        _check_points(points)
        centers, radii = self._like(points)
        tip = points[..., -1:, :]
        distance, _ = _safe_norm(tip - centers, tip.abs())
        return _minimum(distance - radii - link_radius)

    def pick(self, index: Any) -> "Circles":
        """Return the scenes of some elements of the batch; one scene for all serves them as it is.

        Args:
            index: What a tensor of the batch's shape is indexed with.
        """
        return self if self.radii.ndim == 1 else Circles(self.centers[index], self.radii[index])

    def to_json(self) -> dict[str, Any]:
        """Return {"circles": [[x, y, r], ...]}; a batch of scenes has no such form."""
        check_one_scene(self.centers, self.radii)
        return {"circles": torch.cat((self.centers, self.radii[:, None]), dim=-1).tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Circles":
        """Return the circles of {"circles": [[x, y, r], ...]} in float64, or raise ValueError."""
        rows = check_keys("circles", data, {"circles"}, set())["circles"]
        if not isinstance(rows, list | tuple):
            raise ValueError(f"circles: expected a list of [x, y, r], found {shown(rows)}")
        circles = [finite_numbers(f"circles[{i}]", row, 3) for i, row in enumerate(rows)]
        for i, (_, _, radius) in enumerate(circles):
            if radius <= 0:
                raise ValueError(f"circles[{i}]: expected a radius > 0, found {radius}")
        table = torch.tensor(circles, dtype=torch.float64).reshape(-1, 3)
        return cls(table[:, :2], table[:, 2])

    def _like(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.centers.to(dtype=points.dtype, device=points.device),
            self.radii.to(dtype=points.dtype, device=points.device),
        )


def _check_points(points: Tensor) -> None:
    shape = points.shape
    if points.ndim < 2 or shape[-1] != 2 or shape[-2] < 2 or not points.is_floating_point():
        raise ValueError(
            f"points: expected a floating-point tensor of shape (*batch, n+1, 2) with n >= 1, "
            f"found {points.dtype} of shape {tuple(shape)}"
        )


def _safe_norm(vector: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return |vector| and where it is zero up to the round-off of numbers of size `scale`.

    There the norm is set to zero, with a zero slope instead of an undefined one.
    """
    return _safe_root(vector.square().sum(-1), scale.amax(-1))


def _safe_root(length2: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    round_off = 8 * torch.finfo(length2.dtype).eps * scale
    zero = length2 <= round_off.square()  # False for NaN, which must come out as NaN
    return torch.where(zero, 0.0, torch.where(zero, 1.0, length2).sqrt()), zero


def _join(coordinates: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack(coordinates).movedim(0, -1)


def _minimum(clearance: Tensor) -> Tensor:
    """Return the minimum over the last dimension; the added +inf is the minimum over no circles."""
    return torch.nn.functional.pad(clearance, (0, 1), value=torch.inf).amin(-1)
