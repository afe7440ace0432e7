"""Demonstrations as a CSV file: a line for each, with target, posture and step."""

from __future__ import annotations

import torch

from robotics.arm import PlanarArm
from robotics.files import StrPath, read_table_csv, write_csv
from robotics.learned_constraints.demonstrations import Demonstrations


def columns(num_links: int, pose: bool = False) -> list[str]:
    """Return the header: x,y or x,y,theta of the target [m, m, rad], theta_1.. and step_1.. of the joints [rad]."""
    joints = [f"{name}_{i + 1}" for name in ("theta", "step") for i in range(num_links)]
    return ["x", "y", *(["theta"] if pose else []), *joints]


def write_demonstrations(path: StrPath, demonstrations: Demonstrations) -> None:
    """Write demonstrations, whole or not at all; floats keep all their digits."""
    theta, targets, steps = demonstrations
    header = columns(theta.shape[1], targets.shape[1] == 3)
    write_csv(path, header, torch.cat((targets, theta, steps), -1).tolist())


def read_demonstrations(path: StrPath, arm: PlanarArm) -> Demonstrations:
    """Return the demonstrations of an arm; a field `nan` stays NaN.

    Raises:
        FileError: With the number of the line, if the header is not that of this arm or a field is not a number.
    """
    n = arm.num_links
    table = torch.from_numpy(read_table_csv(path, (columns(n), columns(n, pose=True)), "demonstrations"))
    targets, theta, steps = table.split((table.shape[1] - 2 * n, n, n), -1)
    return Demonstrations(theta, targets, steps)
