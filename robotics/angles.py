"""Angles and directions of the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrap_angle(angle: Tensor) -> Tensor:
    """Wrap angles [rad] into (-π, π]; the derivative is one."""
    wrapped = angle - 2 * math.pi * torch.round(angle / (2 * math.pi))
    wrapped = torch.where(wrapped <= -math.pi, wrapped + 2 * math.pi, wrapped)
    return torch.where(wrapped > math.pi, wrapped - 2 * math.pi, wrapped)  # round-off of large angles


def principal_angle(angle: Tensor) -> Tensor:
    """Return the angle [rad] in [-π, π] of the same direction; the derivative is one.

    `wrap_angle` takes turns of the double nearest to 2π off, which after a million turns is another direction. Here
    sine and cosine reduce the angle, which they do exactly however large it is. NaN where it is infinite.
    """
    small = angle.abs() <= math.pi
    return torch.where(small, angle, torch.atan2(angle.sin(), angle.cos()))


def quarter_turn(vector: Tensor) -> Tensor:
    """Rotate vectors of shape (..., 2) by +90°: (x, y) becomes (-y, x)."""
    return torch.stack((-vector[..., 1], vector[..., 0])).movedim(0, -1)
