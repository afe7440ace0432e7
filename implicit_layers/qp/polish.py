"""Linear algebra of a fixed active set: the polish of the forward pass and every solve of the backward pass.

Both solve the regularised optimality system by proximal steps with one Cholesky factor of
`H = P + rho I + R' diag(w) R`, `w = 1/(c + delta)`: c = 0 on active rows, c = inf on inactive ones. A step is a
refinement: the residual is exact, so the regularisation costs iterations and not accuracy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .kkt import Program, residuals
from .problem import Rows
from .scaling import max_abs

POLISH_STEPS = 10  # at most; two are enough where curvature and rows are well scaled
SETTLED = 1e-11  # relative size of a step after which the next is round-off
RHO = 1e-8
DELTA = 1e-8


class Factor(NamedTuple):
    """Cholesky factor of H with the weights it was made with."""

    L: Tensor
    w: Tensor
    rho: Tensor
    ok: Tensor


def factorise(P: Tensor, C: Tensor, rows: Rows, w: Tensor, rho: Tensor) -> Factor:
    """Factor H; where the Cholesky breaks down, once more with a larger rho (then `ok` tells)."""
    L, info = torch.linalg.cholesky_ex(rows.normal_matrix(P, C, w, rho))
    bad = info > 0
    if bad.any():
        # Lift rho by the round-off of the largest diagonal entry, element by element.
        H = rows.normal_matrix(P, C, w, rho)
        lift = 1e-14 * H.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        rho = torch.where(bad.unsqueeze(-1), rho + lift, rho)
        L, info = torch.linalg.cholesky_ex(rows.normal_matrix(P, C, w, rho))
    return Factor(L, w, rho, info == 0)


def solve_factor(L: Tensor, r: Tensor) -> Tensor:
    """Return H⁻¹ r for a Cholesky factor and one right-hand side per element."""
    return torch.cholesky_solve(r.unsqueeze(-1), L).squeeze(-1)


def polish(
    program: Program, x: Tensor, lam: Tensor, active: Tensor, eps_abs: float, eps_rel: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve the equality-constrained program of a guessed active set.

    Args:
        program: scaled programs.
        x: where to start, `(B, n)`.
        lam: where to start, `(B, total)`.
        active: bool `(B, total)`, equality rows included.
        eps_abs: absolute tolerance of the score.
        eps_rel: relative tolerance of the score.

    Returns:
        x, s, lam with signs enforced, the score there (<= 1: optimal), and the corrected guess of the active set.
    """
    P, q, C, d, present, inequality, _, rows = program
    zero = torch.zeros_like(lam)
    lam = torch.where(active, lam, zero)
    w = torch.where(active, present / DELTA, zero)
    factor = factorise(P, C, rows, w, P.new_full((P.shape[0], 1), RHO))
    moving = torch.ones_like(factor.ok)
    for step in range(POLISH_STEPS):
        stationarity = (x.unsqueeze(-2) @ P).squeeze(-2) + q + rows.transpose(C, lam)
        gap = torch.where(active, rows.apply(C, x) * present - d, zero)
        dx = -solve_factor(factor.L, stationarity + rows.transpose(C, w * gap))
        dlam = w * (rows.apply(C, dx) + gap)
        x = torch.where(moving.unsqueeze(-1), x + dx, x)
        lam = torch.where(moving.unsqueeze(-1), lam + dlam, lam)
        if step == 0:
            continue
        # Little curvature against rho makes the steps shrink slowly: go on until they are round-off.
        moving = moving & ((max_abs(dx) > SETTLED * max_abs(x)) | (max_abs(dlam) > SETTLED * max_abs(lam)))
        if not moving.any():
            break
    slack = d - rows.apply(C, x) * present
    wanted = torch.where(active, lam > 0, slack < 0) & (present > 0) | ~inequality
    lam = torch.where(inequality, lam.clamp(min=0), lam)
    s = torch.where(inequality & (present > 0), slack.clamp(min=0), zero)
    score = residuals(program, x, s, lam, eps_abs, eps_rel).score
    score = torch.where(factor.ok & score.isfinite(), score, torch.inf)
    return x, s, lam, score, wanted
