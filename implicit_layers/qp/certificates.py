"""Proofs that a program has no optimum: what the last step of a runaway iteration shows, or hides.

Once lam or x run away, every step adds the same certificate or ray. The step shows it free of what it is added to,
and a projection takes the rest away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kkt import Program, descent, farkas
from .polish import factorise, solve_factor
from .scaling import max_abs

CERTIFICATE = 1e-8
SUSPECT = 1e-4  # a certificate this good is worth a factorisation to make it exact
HELD = 1e-3  # of a direction: a row that it leaves more slowly is one that it should follow
NOTHING = 1e-14  # beside what is scaled to 1


def hidden_certificate(
    program: Program, step: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor], where: Tensor
) -> tuple[Tensor, Tensor]:
    """Return multipliers projected onto the certificate that they may hide, `(B, total)`, and where that is one.

    Args:
        program: scaled programs.
        step: last step of lam `(B, total)`, and of R'lam `(B, n)`.
        whole: lam and R'lam, looked at where the step hides nothing.
        where: which elements to look at, `(B,)`.
    """

    def suspect(lam: Tensor, Rl: Tensor) -> Tensor:
        value = (program.d * lam).sum(-1)
        return where & (value < 0) & (max_abs(Rl) <= SUSPECT * -value)

    by_step, proved = suspect(*step), torch.zeros_like(where)
    lam = torch.where(by_step.unsqueeze(-1), step[0], whole[0])
    chosen = (by_step | suspect(*whole)).nonzero().squeeze(-1)
    if chosen.numel():
        part = program.select(chosen)
        positive = torch.where(part.inequality, lam[chosen].clamp(min=0), lam[chosen])
        lam[chosen] = certificate = _project_certificate(part, positive)
        proved[chosen] = farkas(part, certificate, part.rows.transpose(part.C, certificate), CERTIFICATE)
    return lam, proved


def hidden_ray(program: Program, x: Tensor, Px: Tensor, Rx: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the directions x, projected onto the ray that they may hide, `(B, n)`, and where that is one.

    Args:
        program: scaled programs.
        x: last step of x, `(B, n)`.
        Px: of this step, `(B, n)`.
        Rx: of this step, `(B, total)`.
        where: which elements to look at, `(B,)`.
    """
    found = where & descent(program, x, Px, Rx, CERTIFICATE)
    chosen = (where & ~found & descent(program, x, Px, Rx, SUSPECT)).nonzero().squeeze(-1)
    if chosen.numel():
        part = program.select(chosen)
        close = Rx[chosen] > -HELD * max_abs(x[chosen]).unsqueeze(-1)
        ray = _project_ray(part, x[chosen], close | ~part.inequality)
        Pr, Rr = (ray.unsqueeze(-2) @ part.P).squeeze(-2), part.rows.apply(part.C, ray) * part.present
        proved = descent(part, ray, Pr, Rr, CERTIFICATE)
        x, found = x.clone(), found.clone()
        x[chosen], found[chosen] = torch.where(proved.unsqueeze(-1), ray, x[chosen]), proved
    return x, found


def _project_ray(program: Program, x: Tensor, held: Tensor) -> Tensor:
    """Return the nearest direction without curvature, along the rows held: the ray that runaway x hides.

    `rho (P + R'R + rho)⁻¹ x` over the rows held, with rho at round-off beside P and R.
    """
    P, _, C, _, present, _, _, rows = program
    w, rho = torch.where(held, present, torch.zeros_like(present)), P.new_full((P.shape[0], 1), NOTHING)
    factor = factorise(P, C, rows, w, rho)
    for _ in range(2):
        x = solve_factor(factor.L, x)
        x = x / max_abs(x).clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
    return x


def _project_certificate(program: Program, lam: Tensor) -> Tensor:
    """Return multipliers near lam with `R'lam = 0` and the same signs: the certificate that runaway multipliers hide.

    Nearest in the metric of lam itself, so that small entries change little: `lam - W R u` with `R'W R u = R'lam`,
    W = diag(lam). With weights of size 1e14, P and rho = 1 are round-off beside them.
    """
    P, _, C, _, present, inequality, _, rows = program
    lam = lam / max_abs(lam).clamp(min=torch.finfo(lam.dtype).tiny).unsqueeze(-1)
    w = torch.where(inequality, lam, present) * 1e14
    factor = factorise(P, C, rows, w, P.new_full((P.shape[0], 1), 1.0))
    for _ in range(2):
        lam = lam - w * rows.apply(C, solve_factor(factor.L, rows.transpose(C, lam)))
    return torch.where(inequality, lam.clamp(min=0), lam)
