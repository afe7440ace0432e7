"""Arms, scenes and targets of the benchmark: everything follows from names and seeds, and a hash says so."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robotics import Circles, DatasetConfig, PlanarArm, make_dataset, oracle

ARMS = {
    "duka": PlanarArm.duka(),
    "unit": PlanarArm.unit(),
    "six": PlanarArm.chain(6),
    "ten": PlanarArm.chain(10),
}
KINDS = ("joints", "workspace", "near-singular", "infeasible")
SCENES = (0, 1, 3, 6)
SINGULAR = 0.05  # largest |sin θ_2| of a near-singular posture
DEFAULT_CELLS = ("duka-0-joints", "duka-3-joints", "unit-0-workspace", "unit-3-workspace", "unit-6-workspace",
                 "unit-3-near-singular", "unit-3-infeasible", "six-3-joints", "ten-1-joints")  # fmt: skip
QUICK_CELLS = ("duka-0-joints", "unit-3-workspace", "unit-3-infeasible")


@dataclass(frozen=True)
class Cell:
    """One arm, one scene, one kind of targets.

    Attributes:
        name: arm, number of circles and kind, as in "unit-3-workspace".
        arm: The arm.
        circles: One scene.
        kind: One of `KINDS`.
        targets: (N, 3) [m, m, rad]; the orientation of infeasible targets is zero and means nothing.
        truth: Oracle's answers to the positions, of three links; None for other arms.
        hash: sha256 of arm, scene and targets.
        seed: Of the targets.
    """

    name: str
    arm: PlanarArm
    circles: Circles
    kind: str
    targets: Tensor
    truth: oracle.Solutions | None
    hash: str
    seed: int

    @property
    def feasible(self) -> bool:
        """Whether every target has a safe posture."""
        return self.kind != "infeasible"


def all_cells() -> list[str]:
    """Return the names of all cells."""
    kinds = {name: KINDS if arm.num_links == 3 else KINDS[:3] for name, arm in ARMS.items()}
    return [f"{name}-{k}-{kind}" for name in ARMS for k in SCENES for kind in kinds[name]]


def scene(arm: PlanarArm, k: int, seed: int = 0) -> Circles:
    """Return k circles of radius U[0.1, 0.4] mean links, whole or in part in the workspace, and clear of the base.

    Distances are uniform, not areas as in `head_training.random_scenes`: circles crowd near the base, where they block
    most, and heads are judged on scenes of another kind than they were trained on. Hashes of the tables hold them.
    """
    generator = torch.Generator().manual_seed(1000 * seed + k)
    link = arm.reach / arm.num_links
    radii, distance, azimuth = torch.rand(3, k, generator=generator, dtype=torch.float64)
    radii = (0.1 + 0.3 * radii) * link
    nearest = radii + 0.2 * link
    distance = nearest + distance * (0.9 * arm.reach - nearest)
    azimuth = math.tau * azimuth
    return Circles(distance[:, None] * torch.stack((azimuth.cos(), azimuth.sin()), -1), radii)


def make_cell(name: str, num: int, seed: int = 1000) -> Cell:
    """Draw the targets of a cell."""
    arm_name, k, kind = name.split("-", 2)
    arm, circles = ARMS[arm_name], scene(ARMS[arm_name], int(k))
    targets = _infeasible(arm, circles, num, seed) if kind == "infeasible" else _feasible(arm, circles, kind, num, seed)
    truth = oracle.solve_positions(arm, targets[:, :2].contiguous(), circles) if arm.num_links == 3 else None
    described = json.dumps([arm.to_json(), circles.to_json()]).encode()
    digest = hashlib.sha256(described + targets.numpy().astype("<f8").tobytes()).hexdigest()
    return Cell(name, arm, circles, kind, targets, truth, digest, seed)


def _feasible(arm: PlanarArm, circles: Circles, kind: str, num: int, seed: int) -> Tensor:
    if kind == "near-singular":
        generator = torch.Generator().manual_seed(seed)
        theta = arm.sample(200 * num, generator)
        theta = theta[theta[:, 1].sin().abs() < SINGULAR]
        theta = theta[circles.clearance(arm.points(theta), arm.link_radius) > 0]
        if len(theta) < num:
            raise ValueError(f"num: expected {num} near-singular postures, found {len(theta)} in {200 * num} draws")
        return arm.pose(theta[:num])
    config = DatasetConfig(
        arm=arm,
        num_samples=num,
        circles=tuple(map(tuple, circles.to_json()["circles"])),
        sampling="joints" if kind == "joints" else "workspace",
        removal="whole-arm",
        inputs="xytheta",
        seed=seed,
    )
    return make_dataset(config).targets


def _infeasible(arm: PlanarArm, circles: Circles, num: int, seed: int) -> Tensor:
    """Draw positions in the disc of the reach that the oracle proves infeasible."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    while sum(map(len, kept)) < num:
        radius, azimuth = torch.rand(2, 2000, generator=generator, dtype=torch.float64)
        radius, azimuth = arm.reach * radius.sqrt(), math.tau * azimuth
        positions = torch.stack((radius * azimuth.cos(), radius * azimuth.sin()), -1)
        kept.append(positions[oracle.solve_positions(arm, positions, circles).verdict == oracle.Verdict.INFEASIBLE])
    positions = torch.cat(kept)[:num]
    return torch.cat((positions, torch.zeros(num, 1, dtype=torch.float64)), -1)
