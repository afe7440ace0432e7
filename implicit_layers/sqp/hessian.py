"""A convex stand-in for the Hessian of the Lagrangian, and least-norm solves with the rows that hold.

At a minimum the Hessian is positive only along the constraints. Curvature added across them, `σ C⁺C`, changes neither
the step (there, `C d` is given by the constraints) nor the fast convergence; only where that is not enough are
eigenvalues turned positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-10  # eigenvalue, of the largest entry, from which a Hessian counts as positive
FLOOR = 1e-6  # the same for eigenvalues that had to be changed
REACH = 10.0  # longest step along a direction without curvature, in units of 1 + |w|
STIFFNESS = 10.0  # of the curvature added across the constraints, in units of the largest eigenvalue


def convex(H: Tensor, C: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Return a positive definite B `(B, n, n)` for H and rows C `(B, k, n)`, and σ `(B,)`.

    Where the Hessian says nothing, `pull (B,)`, the gradient in units of 1 + |w|, keeps the step within reach.
    """
    H = torch.where(H.isfinite().all(-1).all(-1)[:, None, None], 0.5 * (H + H.mT), 0.0)
    size = torch.linalg.matrix_norm(H)
    scale = torch.maximum(size, pull).clamp(min=1e-8)
    sigma = torch.zeros_like(size)
    good = _positive(H, SMALLEST * scale)
    if bool(good.all()):
        return H, sigma
    stiffened = H + (STIFFNESS * size)[:, None, None] * (torch.linalg.pinv(C) @ C)
    stiff = ~good & _positive(stiffened, SMALLEST * scale)
    B = torch.where(stiff[:, None, None], stiffened, H)
    sigma = torch.where(stiff, STIFFNESS * size, 0.0)
    if not bool((good | stiff).all()):
        values, V = torch.linalg.eigh(H)
        turned = torch.maximum(values.abs(), (FLOOR * scale + pull / REACH).unsqueeze(-1))
        B = torch.where((good | stiff)[:, None, None], B, (V * turned.unsqueeze(-2)) @ V.mT)
    return B, sigma


def row_space(C: Tensor, r: Tensor) -> Tensor:
    """Return the shortest d `(B, n)` with C d = r, or nearly."""
    d: Tensor = torch.linalg.pinv(C) @ r.unsqueeze(-1)
    return d.squeeze(-1)


def solve_rows(C: Tensor, d: Tensor) -> Tensor:
    """Return the multipliers `(B, k)` whose combination of rows is d, as far as d lies in their span."""
    multipliers: Tensor = d.unsqueeze(-2) @ torch.linalg.pinv(C)
    return multipliers.squeeze(-2)


def _positive(H: Tensor, least: Tensor) -> Tensor:
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    info: Tensor = torch.linalg.cholesky_ex(H - least[:, None, None] * eye).info
    return info == 0
