"""A circle followed tick by tick: by methods that answer each tick alone, and by certified steps from the last one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robotics import Circles, PlanarArm
from robotics.metrics import tip_errors
from robotics.paths import shape_path
from robotics.trajectories import track_best

from . import independent
from .methods import Method
from .networks import Networks
from .safety import body_of

TICKS = 100
CENTER, RADIUS, ORIENTATION = (2.0, 3.0), 1.0, 0.2  # the circle of Duka's arm


@dataclass(frozen=True, kw_only=True)
class TrackRow:
    """One method on one path.

    Attributes:
        scene: Number of circles.
        method: Name of the method.
        answered: Share of the ticks with an answer.
        max_error: Largest tip error of the answers, of reach.
        max_step: Largest change of a joint between two answers [rad].
        collisions: Number of steps between two answers that an independent check finds unsafe at some moment.
    """

    scene: int
    method: str
    answered: float
    max_error: float
    max_step: float
    collisions: int


def measure_all(circles: Circles, methods: list[Method], networks: Networks, ticks: int = TICKS) -> list[TrackRow]:
    """Follow the circle with every method, and with certified steps from tick to tick."""
    arm = PlanarArm.duka()
    poses = shape_path("circle", CENTER, RADIUS, ticks, ORIENTATION)
    rows = []
    for method in methods:
        targets = poses if method.poses else poses[:, :2].contiguous()
        theta = method.build(arm, networks)(targets, circles).answer.theta
        rows.append(_score(method.name, arm, theta, poses, circles))
    for name, targets in (("position", poses[:, :2].contiguous()), ("pose", poses)):
        found = track_best(arm, targets, circles)
        rows.append(_score(f"tracking, 4 certified layers a tick ({name})", arm, found.theta, poses, circles))
    return rows


def _score(name: str, arm: PlanarArm, theta: Tensor, poses: Tensor, circles: Circles) -> TrackRow:
    there = theta.isfinite().all(-1)
    errors = tip_errors(arm, theta, poses)[there]
    joined = (there[1:] & there[:-1]).nonzero()[:, 0].numpy()
    start, end = theta.numpy()[joined], theta.numpy()[joined + 1]
    rows = torch.cat((circles.centers, circles.radii[:, None]), -1).numpy()[None]
    bad = independent.unsafe_steps(body_of(arm), start, end, rows, np.linspace(0, 1, 33))
    return TrackRow(
        scene=circles.radii.shape[-1],
        method=name,
        answered=float(there.double().mean()),
        max_error=float(errors.max()) if len(errors) else float("nan"),
        max_step=float(abs(end - start).max()) if len(joined) else float("nan"),
        collisions=int(bad.sum()),
    )
