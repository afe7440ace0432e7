"""The problems of the benchmark of differentiation rules, each with a reference that shares nothing with the package.

The reference is autograd through one dense solve, with the Jacobian written out by hand, at a solution found by plain
iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from implicit_layers import find_argmin, find_fixed_point

Leaves = tuple[Tensor, ...]
NORM = 0.9  # of W: the rate of plain iteration


@dataclass(frozen=True)
class Problem:
    """A condition: its data, the package's solution of it, and the reference."""

    leaves: Leaves
    solve: Callable[..., Tensor]  # (leaves, solver, differentiate) -> w
    reference: Callable[[Leaves], Tensor]
    minimises: bool = False


def make(name: str, n: int, batch: int) -> Problem:
    """Build one of the four problems in float64."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if name in ("linear", "cell"):
        W = randn(n, n)
        W = W + W.mT  # the spectral radius is then the norm, so that NORM is the rate of plain iteration
        leaves = (NORM * W / torch.linalg.matrix_norm(W, 2), randn(batch, n))
        return Problem(leaves, partial(_fixed, name), partial(_fixed_reference, name))
    X = randn(batch, 2 * n, n)
    X = X / torch.linalg.matrix_norm(X, 2).amax()  # the largest curvature is 1, or 1/4
    y = X @ randn(n) + 0.1 * randn(batch, 2 * n)
    weight = torch.tensor(0.1, dtype=torch.float64)
    return Problem((X, y, weight), partial(_regression, name), partial(_regression_reference, name), minimises=True)


def _step(name: str, z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    inner = z @ W.mT + x
    return inner if name == "linear" else torch.tanh(inner)


def _fixed(name: str, leaves: Leaves, solver: Any, differentiate: Any) -> Tensor:
    W, x = leaves
    zero = torch.zeros_like(x)
    w: Tensor = find_fixed_point(partial(_step, name), zero, W, x, solver=solver, differentiate=differentiate).w
    return w


def _fixed_reference(name: str, leaves: Leaves) -> Tensor:
    W, x = leaves
    with torch.no_grad():
        z = torch.zeros_like(x)
        for _ in range(400):
            z = _step(name, z, W, x)
        slope = torch.ones_like(z) if name == "linear" else 1 - z.square()
        J = torch.eye(W.shape[0], dtype=W.dtype) - slope.unsqueeze(-1) * W
    step: Tensor = torch.linalg.solve(J, (z - _step(name, z, W, x)).unsqueeze(-1)).squeeze(-1)
    return z - step


def _cost(name: str, w: Tensor, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    scores = (X @ w.unsqueeze(-1)).squeeze(-1)
    if name == "ridge":
        return 0.5 * (scores - y).square().sum(-1) + 0.5 * weight * w.square().sum(-1)
    return torch.nn.functional.softplus(-y * scores).sum(-1) + 0.5 * weight * w.square().sum(-1)


def _regression(name: str, leaves: Leaves, solver: Any, differentiate: Any) -> Tensor:
    X, y, weight = leaves
    zero = torch.zeros(X.shape[0], X.shape[-1], dtype=X.dtype)
    w: Tensor = find_argmin(partial(_cost, name), zero, X, y, weight, solver=solver, differentiate=differentiate).w
    return w


def _regression_reference(name: str, leaves: Leaves) -> Tensor:
    X, y, weight = leaves

    def parts(w: Tensor) -> tuple[Tensor, Tensor]:
        scores = (X @ w.unsqueeze(-1)).squeeze(-1)
        p = torch.sigmoid(-y * scores)
        slope, curvature = (scores - y, torch.ones_like(y)) if name == "ridge" else (-y * p, y * y * p * (1 - p))
        gradient = (X.mT @ slope.unsqueeze(-1)).squeeze(-1) + weight * w
        return gradient, X.mT @ (curvature.unsqueeze(-1) * X) + weight * torch.eye(X.shape[-1], dtype=X.dtype)

    def newton(w: Tensor, H: Tensor) -> Tensor:
        step: Tensor = torch.linalg.solve(H, parts(w)[0].unsqueeze(-1)).squeeze(-1)
        return w - step

    with torch.no_grad():
        w = torch.zeros(X.shape[0], X.shape[-1], dtype=X.dtype)
        for _ in range(12):
            w = newton(w, parts(w)[1])
        H = parts(w)[1]
    return newton(w, H)
