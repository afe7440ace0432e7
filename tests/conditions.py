"""Conditions with known solutions and derivatives, shared by the tests of roots, fixed points and arg-mins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

F64 = torch.float64


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def contraction(generator: torch.Generator, n: int, norm: float = 0.5) -> Tensor:
    """A matrix of the given spectral norm: z -> Wz + x contracts by it."""
    W = randn(generator, n, n)
    return norm * W / torch.linalg.matrix_norm(W, 2)


def affine(z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    """Fixed point (I - W)⁻¹ x."""
    return z @ W.mT + x


def cell(z: Tensor, W: Tensor, x: Tensor) -> Tensor:
    """A smooth contraction without a closed form."""
    return torch.tanh(z @ W.mT + x)


def affine_solution(W: Tensor, x: Tensor) -> Tensor:
    identity = torch.eye(W.shape[-1], dtype=W.dtype)
    return torch.linalg.solve(identity - W, x.unsqueeze(-1)).squeeze(-1)


def ridge(w: Tensor, X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Minimiser (X'X + weight I)⁻¹ X'y."""
    misfit = (X @ w.unsqueeze(-1)).squeeze(-1) - y
    return 0.5 * misfit.square().sum(-1) + 0.5 * weight * w.square().sum(-1)


def ridge_solution(X: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    hessian = X.mT @ X + weight * torch.eye(X.shape[-1], dtype=X.dtype)
    return torch.linalg.solve(hessian, (X.mT @ y.unsqueeze(-1))).squeeze(-1)


def logistic(w: Tensor, X: Tensor, weight: Tensor) -> Tensor:
    """Regularised logistic loss with the labels' signs in the rows of X."""
    return nn.functional.softplus(-(X @ w.unsqueeze(-1)).squeeze(-1)).sum(-1) + 0.5 * weight * w.square().sum(-1)


class Cell(nn.Module):
    """The cell of a small deep equilibrium model, contracting by construction."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n, dtype=F64)
        with torch.no_grad():
            self.linear.weight.mul_(0.5 / torch.linalg.matrix_norm(self.linear.weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)

    def other(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * self.forward(z, x)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [v.detach().clone().requires_grad_() for v in tensors]
