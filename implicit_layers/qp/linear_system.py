"""The symmetric linear system behind every derivative: `[P R'; R -diag(c)] u = r`, in float64, without autograd.

Proximal refinement with one Cholesky factor where the matrix is regular; where it is singular (dependent active
rows, a solution that is not unique) the least-squares solution of least norm, by eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import native
from .polish import DELTA, RHO, factorise, solve_factor
from .problem import Rows
from .scaling import equilibrate, max_abs

LinearSolve = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Rows, int, bool], tuple[Tensor, Tensor]]
"""(P, C, c, rx, rl, rows, batch, minimum_norm) -> (ux, ul); see `solve_linear_system`."""

REFINEMENTS = 5
SINGULAR = 1e-7  # relative residual above which the proximal steps did not converge: J is singular
RANK = 1e-11  # eigenvalues below this share of the largest count as zero in the minimum-norm solve


def solve_linear_system(
    P: Tensor,
    C: Tensor,
    c: Tensor,
    rx: Tensor,
    rl: Tensor,
    rows: Rows,
    batch: int,
    minimum_norm: bool = False,
    core: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Solve a batch; each tensor is shared or batched.

    Args:
        P: `(n, n)`; its symmetric part counts.
        C: `(m+p, n)`.
        c: `(total,)`, >= 0; rows with `c = inf` have u = 0.
        rx: `(n,)`.
        rl: `(total,)`.
        rows: the layout.
        batch: number of elements.
        minimum_norm: take the least-squares solution of least norm even where the system is regular.
        core: "torch" keeps away from the compiled core.

    Returns:
        ux `(batch, n)` and ul `(batch, total)`. Elements with r = 0 have u = 0, whatever their matrix holds.
    """
    if batch == 0:
        return rx.new_empty(0, rows.n), rl.new_empty(0, rows.total)
    if minimum_norm or core == "torch" or not native.available(P, C, c, rx, rl):
        full = (v.expand(batch, *v.shape[v.ndim - dims :]) for v, dims in ((P, 2), (C, 2), (c, 1), (rx, 1), (rl, 1)))
        P, C, c, rx, rl = full
        return _solve_symmetric(0.5 * (P + P.mT), C, c, rx, rl, rows, minimum_norm)
    ux, ul, bad = native.solve_linear((P, C, c, rx, rl), rows, batch)
    if bad.any():
        P, C = (v[bad] if v.ndim == 3 else v for v in (P, C))
        c, rx, rl = (v[bad] if v.ndim == 2 else v for v in (c, rx, rl))
        ux[bad], ul[bad] = solve_linear_system(P, C, c, rx, rl, rows, int(bad.sum()), True, core)
    return ux, ul


def has_fused_adjoint(params: Sequence[Tensor]) -> bool:
    """Whether the compiled core can do the first-order backward pass in one call."""
    return native.available(params[0])


fused_adjoint = native.adjoint


def _solve_symmetric(
    P: Tensor, C: Tensor, c: Tensor, rx: Tensor, rl: Tensor, rows: Rows, minimum_norm: bool
) -> tuple[Tensor, Tensor]:
    held = c.isfinite()
    zero = (torch.maximum(max_abs(rx), max_abs(rl)) == 0).unsqueeze(-1)  # before what is not finite in P, C spreads
    # Congruence with S = diag(sqrt(k) D, E / sqrt(k)) equilibrates the system and keeps it symmetric.
    scaling = equilibrate(P, C, rows)
    root = scaling.k.sqrt()
    Sx, Sl = root * scaling.D, scaling.E / root
    P = P * Sx.unsqueeze(-1) * Sx.unsqueeze(-2)
    C = C * (scaling.E[..., : C.shape[-2]]).unsqueeze(-1) * scaling.D.unsqueeze(-2)
    c = torch.where(held, c, 1.0) * Sl * Sl
    rx, rl = rx * Sx, torch.where(held, rl * Sl, 0.0)
    ux, ul = torch.zeros_like(rx), torch.zeros_like(rl)
    size = torch.maximum(max_abs(rx), max_abs(rl))
    weights = torch.where(held, 1 / (c + DELTA), 0.0)

    def residual(ux: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        ex = rx - (ux.unsqueeze(-2) @ P).squeeze(-2) - rows.transpose(C, ul)
        return ex, torch.where(held, rl - rows.apply(C, ux) + c * ul, 0.0)

    bad = torch.ones_like(size, dtype=torch.bool)
    if not minimum_norm:
        factor = factorise(P, C, rows, weights, P.new_full((P.shape[0], 1), RHO))
        ex, el = rx, rl
        for _ in range(REFINEMENTS):
            dx = solve_factor(factor.L, ex + rows.transpose(C, weights * el))
            nx, nl = ux + dx, ul + weights * (rows.apply(C, dx) - el)
            fx, fl = residual(nx, nl)
            # Keep a step only if it improves: past round-off, steps are noise. Element by element.
            worse = torch.maximum(max_abs(fx), max_abs(fl)) >= torch.maximum(max_abs(ex), max_abs(el))
            stay = worse.unsqueeze(-1)
            ux, ul = torch.where(stay, ux, nx), torch.where(stay, ul, nl)
            ex, el = torch.where(stay, ex, fx), torch.where(stay, el, fl)
            if worse.all():  # an element that stays would stay again: its neighbours do not matter
                break
        error = torch.maximum(max_abs(ex), max_abs(el))
        bad = ~(error <= SINGULAR * size) | ~factor.ok
    bad = bad & (size > 0)
    if bad.any():
        full = _minimum_norm(P[bad], C[bad], c[bad], held[bad], torch.cat([rx, rl], -1)[bad], rows)
        ux, ul = ux.clone(), ul.clone()
        ux[bad], ul[bad] = full[:, : rows.n], full[:, rows.n :]
    return torch.where(zero, 0.0, ux * Sx), torch.where(zero, 0.0, ul * Sl)


def _minimum_norm(P: Tensor, C: Tensor, c: Tensor, held: Tensor, r: Tensor, rows: Rows) -> Tensor:
    """Return the least-squares solution of least norm of the equilibrated system, by its eigenvalues."""
    batch, n, total = P.shape[0], rows.n, rows.total
    identity = torch.eye(n, dtype=P.dtype, device=P.device).expand(batch, n, n)
    blocks = [C] + [identity] * rows.upper + [-identity] * rows.lower
    R = torch.cat(blocks, -2) * held.unsqueeze(-1)
    J = torch.zeros(batch, n + total, n + total, dtype=P.dtype, device=P.device)
    J[:, :n, :n], J[:, n:, :n], J[:, :n, n:] = P, R, R.mT
    J[:, n:, n:] = torch.diag_embed(torch.where(held, -c, 0.0))
    sound = J.isfinite().all(-1).all(-1)[:, None, None]  # what overflowed has no solution, and must not end the batch
    values, vectors = torch.linalg.eigh(torch.where(sound, J, 0.0))
    keep = values.abs() > RANK * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(keep, 1 / torch.where(keep, values, 1.0), 0.0)
    coordinates: Tensor = inverse * (r.unsqueeze(-2) @ vectors).squeeze(-2)
    solution: Tensor = coordinates.unsqueeze(-2) @ vectors.mT
    return solution.squeeze(-2)
