"""Postures to start from where a network's own start does not lead to the target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.models.answer import is_safe
from robotics.obstacles import Circles

GROUP = 256  # random postures, of which the one with its tip nearest to the target is the start


def diverse_starts(arm: PlanarArm, targets: Tensor, circles: Circles, num: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield starts `(N, n)` [rad] for all targets: of a new random group each time, the posture nearest in the tip.

    With one scene for all, postures that touch it are left out first.

    Args:
        arm: the arm, n links.
        targets: `(N, 2|3)`.
        circles: the scene, shared or one per target.
        num: how many starts of each target.
        seed: seed of the random postures.
    """
    generator = torch.Generator().manual_seed(seed)
    postures = arm.sample(GROUP * num, generator).to(targets)
    if circles.radii.ndim == 1:
        postures = postures[is_safe(arm, postures, circles)]
    for group in postures.tensor_split(num):
        if group.shape[0]:
            distance = torch.cdist(targets[:, :2], arm.tip(group))
            yield group[distance.argmin(-1)]
