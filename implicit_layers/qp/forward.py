"""The numeric forward pass: check values, scale, solve, unscale, report. No autograd in here."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProblemError, SolverError, warn_solver
from ..status import SolveStatus, describe_failures
from . import native
from .certificates import CERTIFICATE
from .interior_point import InteriorPoint, Outcome, solve
from .kkt import Program, residuals
from .problem import Layout, Rows
from .refine import refine_unreached
from .scaling import Scaling, equilibrate, max_abs
from .solution import MEASURES, StackedSolution

ASYMMETRY = 1e-5  # of the largest entry: round-off of float32 data, in whatever dtype it arrives
WARM = 1e-5  # share of the largest multiplier that makes a row of a warm start active
FAR = 1e6  # largest right-hand side of a tiny row, scaled
TINY_ROW = 2e-12  # of the largest entry of all rows
PROOF = 1e-6  # of its largest term, what a certificate may leave of R'lam in the caller's units
WEAK = 1e-9  # scaled slack below which a row counts as touched


def build_program(P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, batch: int) -> Program:
    """Scale finite data and spread it over the batch, in differentiable operations (the scaling is constant)."""
    P, C = (M if M.ndim == 3 else M.unsqueeze(0) for M in (P, C))
    q, d = (v if v.ndim == 2 else v.unsqueeze(0) for v in (q, d))
    P = 0.5 * (P + P.mT)
    scaling = equilibrate(P.detach(), C.detach(), rows, q.detach())
    present = d.isfinite()
    scaling = scaling._replace(E=_without_far_rows(scaling.E, C.detach(), d.detach()))
    D, E, k = scaling
    inequality = present & ~rows.equality(d.device)
    C = C * E[:, : C.shape[-2]].unsqueeze(-1) * D.unsqueeze(-2) * present[:, : C.shape[-2]].unsqueeze(-1)
    P = P * (k * D).unsqueeze(-1) * D.unsqueeze(-2)
    d = torch.where(present, d, 0.0) * E

    def spread(v: Tensor) -> Tensor:
        return v.expand(batch, *v.shape[1:])

    scaling = Scaling(*(spread(v) for v in scaling))
    present = spread(present)
    return Program(
        spread(P), spread(q * k * D), spread(C), spread(d), present.to(d.dtype), spread(inequality), scaling, rows
    )


def _without_far_rows(E: Tensor, C: Tensor, d: Tensor) -> Tensor:
    """Cap the scale of rows that are tiny beside the others, and far from every point of interest.

    Scaled to unit size, the slack of such a row would drown those of the others.
    """
    k = C.shape[-2]
    size = max_abs(C)
    limit = FAR / torch.where(d.isfinite(), d.abs(), 0.0)[:, :k]
    tiny = (size > 0) & (size <= TINY_ROW * max_abs(size).unsqueeze(-1))
    capped = torch.where(tiny & (limit < E[:, :k]), limit, E[:, :k])
    return torch.cat([capped, E[:, k:].expand(capped.shape[0], -1)], -1)


def solve_flat(
    params: tuple[Tensor, ...],
    layout: Layout,
    batch: int,
    warm: tuple[Tensor, ...] = (),
    *,
    options: InteriorPoint,
    strict: bool,
    keep: bool = False,
) -> StackedSolution:
    """Solve a flat batch of programs in float64.

    Args:
        params: the arguments that `layout` names, each shared or batched.
        layout: of the arguments.
        batch: number of elements.
        warm: x and stacked multipliers to start from, or nothing.
        options: how.
        strict: raise if an element fails.
        keep: keep factors for the backward pass.

    Raises:
        ProblemError: P is not symmetric. SolverError: an element failed and `strict`.
    """
    dtype, device = params[0].dtype, params[0].device
    if batch == 0:
        return empty(layout.rows, dtype, device)
    if options.core != "torch" and native.available(params[0]):
        found, flags = native.solve(
            params, layout, batch,
            eps_abs=options.eps_abs, eps_rel=options.eps_rel, max_iter=options.max_iter,
            active_set=options.active_set, keep=keep, warm=warm,
        )  # fmt: skip
        if flags & native.ASYMMETRIC:
            P = params[0].to(torch.float64)
            _check_symmetry(P[P.isfinite().all(-1).all(-1)] if P.ndim == 3 else P)
        if not (flags & native.INCOMPLETE or options.eps_rel == 0):
            return found if dtype == torch.float64 else rounded(found, dtype)
        P, q, C, d = _stacked(params, layout, batch)
    else:
        P, q, C, d = _stacked(params, layout, batch)
        found = _solve_in_torch(P, q, C, d, layout.rows, batch, warm, options)
    found = _doubted(_refined(found, P, q, C, d, layout.rows, options), C, d, layout.rows)
    return judged(rounded(found, dtype), d, layout.rows, strict)


def _stacked(params: tuple[Tensor, ...], layout: Layout, batch: int) -> tuple[Tensor, ...]:
    return layout.stack([v.detach().to(torch.float64) for v in params], batch, params[1].detach().to(torch.float64))  # type: ignore[return-value]


def rounded(found: StackedSolution, dtype: torch.dtype) -> StackedSolution:
    """Round what is differentiable to the dtype of the caller."""
    return found._replace(x=found.x.to(dtype), lam=found.lam.to(dtype))


def _solve_in_torch(
    P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, batch: int, warm: tuple[Tensor, ...], options: InteriorPoint
) -> StackedSolution:
    invalid = _invalid(P, q, C, d, rows).expand(batch)
    if invalid.any():
        P, q, C, d = _without(invalid, P, q, C, d, batch)
    _check_symmetry(P)
    program = build_program(P, q, C, d, rows, batch)
    outcome = solve(program, options, _warm(program, warm) if warm else None)
    invalid = invalid | (outcome.status == SolveStatus.INVALID_INPUT)
    return _report(program, outcome, (P, q, C, d), invalid)


def _refined(
    outputs: StackedSolution, P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows, options: InteriorPoint
) -> StackedSolution:
    # On a GPU there is no extended precision, and a look at the residuals would stop the stream.
    if q.device.type != "cpu":
        return outputs
    return refine_unreached(outputs, P, q, C, d, rows, options.eps_abs, options.eps_rel)


def _doubted(outputs: StackedSolution, C: Tensor, d: Tensor, rows: Rows) -> StackedSolution:
    """Take PRIMAL_INFEASIBLE back where the certificate holds in scaled units only: it proves nothing then.

    What it leaves of R'lam is nothing beside its terms, or beside d'lam.

    A variable whose curvature is huge is scaled down to nothing, and with it what the certificate leaves in its column.
    """
    index = (outputs.info[:, 0] == int(SolveStatus.PRIMAL_INFEASIBLE)).nonzero().squeeze(-1)
    if index.numel():
        C = C[index] if C.ndim == 3 else C
        lam = outputs.lam[index].to(torch.float64)
        left, terms = rows.transpose(C, lam).abs(), lam[:, : rows.m + rows.p].abs().unsqueeze(-2) @ C.abs()
        size = torch.maximum(max_abs(terms.squeeze(-2)), max_abs(lam[:, rows.m + rows.p :]))
        d = torch.where(d.isfinite(), d, 0.0)
        d = d[index] if d.ndim == 2 else d
        value = -(d * lam).sum(-1)
        holds = max_abs(left) <= torch.maximum(PROOF * size, CERTIFICATE * value / max_abs(d).clamp(min=1))
        outputs.info[index[~holds], 0] = int(SolveStatus.NUMERICAL_ERROR)
    return outputs


def judged(outputs: StackedSolution, d: Tensor, rows: Rows, strict: bool) -> StackedSolution:
    """Pass the outputs on; raise or warn if an element failed."""
    if not outputs.solved.all():
        message = failure_message(outputs.status, d, rows)
        if strict:
            raise SolverError(message, solution=outputs)
        warn_solver(message)
    return outputs


def _invalid(P: Tensor, q: Tensor, C: Tensor, d: Tensor, rows: Rows) -> Tensor:
    bad = ~P.isfinite().all(-1).all(-1) | ~q.isfinite().all(-1) | ~C.isfinite().all(-1).all(-1)
    wrong = d.isnan() | (d == -torch.inf) | (rows.equality(d.device) & d.isinf())
    return bad | wrong.any(-1)


def _check_symmetry(P: Tensor) -> None:
    asymmetry = (P - P.mT).abs()
    limit = ASYMMETRY * P.abs().amax((-2, -1), keepdim=True)
    if (asymmetry > limit).any():
        worst = asymmetry.reshape(-1, *P.shape[-2:]).amax(0)
        i, j = divmod(int(worst.argmax()), P.shape[-1])
        raise ProblemError(
            f"P: expected a symmetric matrix, got |P[{i}, {j}] - P[{j}, {i}]| = {float(worst.max()):.3g}; "
            "pass (P + P.mT) / 2"
        )


def _without(invalid: Tensor, P: Tensor, q: Tensor, C: Tensor, d: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Replace invalid elements by `min 1/2 |x|²` so that the others can be solved."""
    n = q.shape[-1]
    flat = [v.expand(batch, *v.shape[v.ndim - core :]) for v, core in ((P, 2), (q, 1), (C, 2), (d, 1))]
    harmless = (torch.eye(n, dtype=P.dtype, device=P.device), 0.0, 0.0, 0.0)
    return tuple(
        torch.where(invalid.reshape(-1, *(1,) * (v.ndim - 1)), torch.as_tensor(value, dtype=v.dtype), v)
        for v, value in zip(flat, harmless, strict=True)
    )


def _warm(program: Program, warm: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    x, lam = (v.to(torch.float64).expand(program.q.shape[0], -1) for v in warm)
    D, E, k = program.scaling
    lam = lam * k / E
    x = x / D
    slack = program.d - program.rows.apply(program.C, x) * program.present
    # A polished solution has exact zeros; one that is not has small multipliers, which must not count as active.
    holds = (lam > WEAK) & ((lam > slack) | (lam > WARM * max_abs(lam).unsqueeze(-1)))
    active = (program.inequality & holds) | (~program.inequality & (program.present > 0))
    return x, lam, active


def _report(program: Program, outcome: Outcome, data: tuple[Tensor, ...], invalid: Tensor) -> StackedSolution:
    """Unscale, and measure the residuals of what is returned on the data as given."""
    D, E, k = program.scaling
    inequality, rows = program.inequality, program.rows
    active = inequality & (outcome.lam > outcome.s) | ~inequality & (program.present > 0)
    touching = active | inequality & (outcome.s <= WEAK)
    x, lam = outcome.x * D, outcome.lam * E / k
    status = torch.where(invalid, int(SolveStatus.INVALID_INPUT), outcome.status)
    P, q, C, d = (v if v.ndim == core + 1 else v.unsqueeze(0) for v, core in zip(data, (2, 1, 2, 1), strict=True))
    right = torch.where(program.present > 0, d, 0.0)
    # Certificates come normalised: d'lam = -1 and q'x = -1.
    farkas, ray = (status == int(kind) for kind in (SolveStatus.PRIMAL_INFEASIBLE, SolveStatus.DUAL_INFEASIBLE))
    lam = lam / torch.where(farkas, -(right * lam).sum(-1), 1.0).unsqueeze(-1)
    x = x / torch.where(ray, -(q * x).sum(-1), 1.0).unsqueeze(-1)
    slack = right - rows.apply(C, x) * program.present
    s = torch.where(inequality, slack.clamp(min=0), 0.0)
    ones = Scaling(torch.ones_like(x), torch.ones_like(lam), torch.ones_like(k))
    unscaled = Program(0.5 * (P + P.mT), q, C, right, program.present, inequality, ones, rows)
    res = residuals(unscaled, x, s, lam, 1.0, 0.0)
    s = torch.where(program.present > 0, s, torch.inf)
    nan = invalid.unsqueeze(-1)
    x, lam, s = (torch.where(nan, torch.nan, v) for v in (x, lam, s))
    primal, dual, gap = (torch.where(invalid, torch.nan, v) for v in (res.primal, res.dual, res.gap))
    return StackedSolution.pack(x, lam, s, active, touching, status, outcome.iterations, (primal, dual, gap))


def failure_message(status: Tensor, d: Tensor | None = None, rows: Rows | None = None) -> str:
    """Count the failures by status, with one line of advice each; name bounds that cross."""
    text = describe_failures("solve_qp", status)
    crossing = None if d is None or rows is None else _crossing_bounds(d, rows)
    return text if crossing is None else f"{text}; {crossing}"


def _crossing_bounds(d: Tensor, rows: Rows) -> str | None:
    if not (rows.upper and rows.lower):
        return None
    k = rows.m + rows.p
    upper, lower = d[..., k : k + rows.n], -d[..., k + rows.n :]
    where = (lower > upper).nonzero()
    if not len(where):
        return None
    at = tuple(where[0].tolist())
    return f"lb: expected lb <= ub, got {float(lower[at]):.6g} > {float(upper[at]):.6g} at index {at}"


def empty(rows: Rows, dtype: torch.dtype, device: torch.device) -> StackedSolution:
    """Return the solution of a batch without elements."""

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(0, *shape, dtype=dtype, device=device)

    info, flags = make(MEASURES + rows.total, dtype=torch.float64), make(2, rows.total, dtype=torch.bool)
    return StackedSolution(make(rows.n), make(rows.total), info, flags)
