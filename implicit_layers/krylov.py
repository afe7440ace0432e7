"""The Krylov space of GMRES: its basis, and the best correction within it, each element of a batch for itself.

References: Saad and Schultz (1986).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .algebra import ratio
from .jacobian import Product


def krylov_correction(product: Product, r: Tensor, target: Tensor, size: int) -> tuple[Tensor, int]:
    """Minimise `|r - J c|` over the Krylov space of r; return c and the number of products.

    The least-squares problem is kept triangular by one rotation a step, whose last entry is the residual.
    """
    batch = r.shape[0]
    beta = r.norm(dim=-1)
    V = r.new_zeros(batch, size + 1, r.shape[-1])
    V[:, 0] = ratio(1.0, beta).unsqueeze(-1) * r
    R = r.new_zeros(batch, size, size)
    Q = torch.eye(size + 1, dtype=r.dtype, device=r.device).repeat(batch, 1, 1)
    active = beta > target
    used = 0
    for k in range(size):
        h, V[:, k + 1] = _arnoldi_step(product, V, k)
        h = torch.where(active.unsqueeze(-1), (Q @ h.unsqueeze(-1)).squeeze(-1), 0.0)
        length = (h[:, k].square() + h[:, k + 1].square()).sqrt()
        c = torch.where(length > 0, h[:, k] * ratio(1.0, length), 1.0)
        s = h[:, k + 1] * ratio(1.0, length)
        R[:, :k, k], R[:, k, k] = h[:, :k], torch.where(length > 0, length, 1.0)
        upper, lower = Q[:, k].clone(), Q[:, k + 1].clone()
        # A column without length leaves the residual as it is: J is singular on this space.
        Q[:, k] = torch.where((length > 0).unsqueeze(-1), c.unsqueeze(-1) * upper + s.unsqueeze(-1) * lower, 0.0)
        Q[:, k + 1] = c.unsqueeze(-1) * lower - s.unsqueeze(-1) * upper
        used = k + 1
        active = active & ((Q[:, k + 1, 0] * beta).abs() > target) & (length > 0)
        if not bool(active.any()):
            break
    right = (Q[:, :used, 0] * beta.unsqueeze(-1)).unsqueeze(-1)
    y = torch.linalg.solve_triangular(R[:, :used, :used], right, upper=True)
    return (y.mT @ V[:, :used]).squeeze(-2), used


def _arnoldi_step(product: Product, V: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Orthogonalise J v_k against the basis, twice (once loses it to round-off); return column and next vector."""
    fresh = product(V[:, k])
    size = fresh.norm(dim=-1)
    h = torch.zeros_like(V[:, :, 0])
    for _ in range(2):
        part = (V[:, : k + 1] @ fresh.unsqueeze(-1)).squeeze(-1)
        fresh = fresh - (part.unsqueeze(-2) @ V[:, : k + 1]).squeeze(-2)
        h[:, : k + 1] += part
    rest = fresh.norm(dim=-1)
    rest = torch.where(rest > 10 * torch.finfo(rest.dtype).eps * size, rest, 0.0)  # else: the space is complete
    h[:, k + 1] = rest
    return h, ratio(1.0, rest).unsqueeze(-1) * fresh
