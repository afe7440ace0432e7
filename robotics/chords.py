"""Chords: straight paths in joint space between two postures, proved clear piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.ik_qp import clearance_rows, share_taken
from robotics.obstacles import Circles

PIECES = 8  # most parts of a chord that are proved one after the other


def certified_chord(arm: PlanarArm, start: Tensor, end: Tensor, circles: Circles) -> Tensor:
    """Return whether the whole straight joint-space path between two postures is proved clear, `(*batch,)`.

    The rows (C) prove a first part of it; those of the posture there prove more, up to `PIECES` parts.

    Args:
        arm: the arm, n links.
        start: clear postures `(*batch, n)` [rad].
        end: where the paths end, `(*batch, n)` [rad].
        circles: the scene, shared or one per path.
    """
    proved = start.new_zeros(*start.shape[:-1], 1)
    if not circles.radii.shape[-1]:
        return proved[..., 0] == 0
    for _ in range(PIECES):
        here = start + proved * (end - start)
        fraction = share_taken(arm, end - here, clearance_rows(arm, here, circles))
        proved = torch.where(fraction == 1, 1.0, proved + fraction * (1 - proved))
        if bool(((proved == 1) | (fraction == 0)).all()):
            break
    return proved[..., 0] == 1
