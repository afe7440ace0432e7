"""The batched solver in plain torch: proximal Mehrotra predictor-corrector with an active-set polish.

Each iteration solves, by condensation onto x, the Newton system of the perturbed optimality conditions

    (P + rho I) dx + R'dlam = -(Px + q + R'lam)
    R dx + ds - delta dlam  = -(Rx + s - d)          (ds = 0 on equality rows)
    lam ds + s dlam         = -(s lam - sigma mu)    (inequality rows)

Both proximal terms are centred at the current iterate: residuals stay exact, and singular P, dependent rows and
missing interiors need no outer loop. The only matrix ever factored is H = P + rho I + R' diag(1/(s/lam + delta)) R.

References: Mehrotra (1992); Schwan et al. (2023), PIQP, for the proximal interior point; Altman and Gondzio (1999).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from ..checks import check_count
from ..errors import ProblemError
from ..status import SolveStatus
from . import native
from .certificates import hidden_certificate, hidden_ray
from .kkt import Program, Residuals, residuals
from .polish import DELTA, factorise, polish, solve_factor
from .scaling import max_abs

POLISH_TRIES = 4
RUNAWAY = 1e-6  # step over iterate: less is round-off in the differences
CURVATURE = 1e-6  # negative curvature of the scaled P that may still be round-off of float32 data
STALL = 15  # iterations without a better iterate before giving up
APART = 1e-4  # ratio of a row's smaller to its larger number (slack, multiplier) at which its side is clear
PATIENCE = 3  # iterations without a better iterate before one within tolerance is taken as it is


@final
@dataclass(frozen=True, kw_only=True)
class InteriorPoint:
    """Primal-dual interior point method, polished to round-off on the active set.

    Args:
        eps_abs, eps_rel: a residual is small if at most `eps_abs + eps_rel * (largest term in it)`.
        max_iter: most iterations.
        core: `"torch"` runs on any device; `"native"` the compiled core; `"sparse"` factors sparse matrices; `"auto"`
            the best that is there, for sparse matrices of small programs a dense one.
        active_set: let the compiled core try a dual active set method first where P is positive definite: several
            times faster, and only clear cases are taken from it (independent active rows, multipliers and slacks
            away from zero). `False` iterates from the interior always, as the torch core does.
    """

    eps_abs: float = 1e-9
    eps_rel: float = 1e-9
    max_iter: int = 100
    core: Literal["auto", "native", "torch", "sparse"] = "auto"
    active_set: bool = True

    def __post_init__(self) -> None:
        for name in ("eps_abs", "eps_rel"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ProblemError(f"{name}: expected a number in [0, 1), got {value!r}")
        if self.eps_abs == 0 and self.eps_rel == 0:
            raise ProblemError("eps_abs: expected a positive number when eps_rel is 0, got 0")
        check_count("max_iter", self.max_iter)
        if self.core not in ("auto", "native", "torch", "sparse"):
            raise ProblemError(f"core: expected 'auto', 'native', 'torch' or 'sparse', got {self.core!r}")
        if self.core == "native" and not native.available():
            raise ProblemError("core: expected 'auto' or 'torch' (the compiled core was not built), got 'native'")


@functools.cache
def row_codes(total: int) -> tuple[int, ...]:
    """Return a random-looking number per row; their sum over an active set tells sets apart (splitmix64, 36 bits).

    So few bits keep the sums of 2**16 rows exact in float64, where the compiled core adds them.
    """
    codes, mask = [], (1 << 64) - 1
    for row in range(1, total + 1):
        z = row * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        codes.append((z ^ z >> 31) >> 28)
    return tuple(codes)


class Iterate(NamedTuple):
    """One point of the path; `rho` is the next primal regularisation (the dual one is its partner)."""

    x: Tensor
    s: Tensor
    lam: Tensor
    rho: Tensor


class Outcome(NamedTuple):
    """What the iteration found, per element, in scaled units."""

    x: Tensor
    s: Tensor
    lam: Tensor
    status: Tensor
    iterations: Tensor


def initial_point(program: Program) -> Iterate:
    """Mehrotra's start: one least-squares solve with unit weights, then shifted into the positive orthant."""
    P, q, C, d, present, inequality, _, rows = program
    rho = P.new_full((P.shape[0], 1), 1e-8)
    factor = factorise(P, C, rows, present, rho)
    x = solve_factor(factor.L, rows.transpose(C, d * present) - q)
    violation = rows.apply(C, x) * present - d
    if not rows.total:
        return Iterate(x, violation, violation, rho)

    def positive(v: Tensor) -> Tensor:
        lowest = torch.where(inequality, v, torch.inf).amin(-1, keepdim=True)
        return v + (-1.5 * lowest).clamp(min=0)

    s, z = positive(-violation), positive(violation)
    weight = inequality.to(P.dtype)
    product = (s * z * weight).sum(-1, keepdim=True)
    tiny = torch.finfo(P.dtype).tiny
    s_new = s + 0.5 * product / (z * weight).sum(-1, keepdim=True).clamp(min=tiny)
    z_new = z + 0.5 * product / (s * weight).sum(-1, keepdim=True).clamp(min=tiny)
    zero = torch.zeros_like(s)
    s = torch.where(inequality, s_new.clamp(min=1e-2), zero)
    lam = torch.where(inequality, z_new.clamp(min=1e-2), torch.where(present > 0, violation, zero))
    return Iterate(x, s, lam, rho)


def newton_step(program: Program, point: Iterate, res: Residuals) -> Iterate:
    """One predictor-corrector step. A pure function without branches on values, so autograd may unroll it."""
    P, _, C, _, present, inequality, _, rows = program
    x, s, lam, rho = point
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    delta = 1e-16 / rho
    lam_safe = torch.where(inequality, lam, one)
    c = torch.where(inequality, s / lam_safe, zero)
    w = present / (c + delta)
    factor = factorise(P, C, rows, w, rho)
    count = inequality.sum(-1, keepdim=True).clamp(min=1)

    def direction(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rhs = res.primal_vector - t
        dx = -solve_factor(factor.L, res.dual_vector + rows.transpose(C, w * rhs))
        dlam = w * (rows.apply(C, dx) + rhs)
        return dx, torch.where(inequality, -t - c * dlam, zero), dlam

    mu = (s * lam * inequality).sum(-1, keepdim=True) / count
    _, ds, dlam = direction(torch.where(inequality, s, zero))
    a_p, a_d = _to_boundary(s, ds, inequality), _to_boundary(lam, dlam, inequality)
    mu_affine = ((s + a_p * ds) * (lam + a_d * dlam) * inequality).sum(-1, keepdim=True) / count
    sigma = (mu_affine / mu.clamp(min=torch.finfo(P.dtype).tiny)).clamp(max=1.0) ** 3
    dx, ds, dlam = direction(torch.where(inequality, s + (ds * dlam - sigma * mu) / lam_safe, zero))
    a_p = (0.99 * _to_boundary(s, ds, inequality, 1 / 0.99)).clamp(max=1.0)
    a_d = (0.99 * _to_boundary(lam, dlam, inequality, 1 / 0.99)).clamp(max=1.0)
    return Iterate(x + a_p * dx, s + a_p * ds, lam + a_d * dlam, _next_rho(x, dx, lam, dlam))


def _to_boundary(v: Tensor, dv: Tensor, inequality: Tensor, longest: float = 1.0) -> Tensor:
    if not v.shape[-1]:
        return v.new_full((v.shape[0], 1), longest)
    falling = inequality & (dv < 0)
    ratio = torch.where(falling, -v / torch.where(falling, dv, -torch.ones_like(dv)), longest)
    return ratio.amin(-1, keepdim=True).clamp(max=longest)


def _next_rho(x: Tensor, dx: Tensor, lam: Tensor, dlam: Tensor) -> Tensor:
    # Balance the two proximal terms' effect on the step; only the product rho delta is limited by the Cholesky.
    eps = 1e-6
    dual = max_abs(dlam.detach()) + eps * (1 + max_abs(lam.detach()))
    primal = max_abs(dx.detach()) + eps * (1 + max_abs(x.detach()))
    return (1e-16 * dual / primal).sqrt().clamp(1e-11, 1e-6).unsqueeze(-1)


def unroll(program: Program, options: InteriorPoint, iterations: int | None) -> Outcome:
    """Iterate with every operation on autograd's tape; converged elements stay where they are."""
    point = initial_point(program)
    used = torch.zeros(program.q.shape[0], dtype=torch.int64, device=program.q.device)
    for _ in range(options.max_iter if iterations is None else iterations):
        res = residuals(program, point.x, point.s, point.lam, options.eps_abs, options.eps_rel)
        done = res.score.detach() <= 1
        if iterations is None and bool(done.all()):
            break
        following = newton_step(program, point, res)
        stay = done.unsqueeze(-1)
        point = Iterate(*(torch.where(stay, old, new) for old, new in zip(point, following, strict=True)))
        used = used + (~done).to(used.dtype)
    score = residuals(program, point.x, point.s, point.lam, options.eps_abs, options.eps_rel).score.detach()
    status = torch.where(score <= 1, int(SolveStatus.SOLVED), int(SolveStatus.MAX_ITER))
    return Outcome(point.x, point.s, point.lam, status, used)


def solve(program: Program, options: InteriorPoint, warm: tuple[Tensor, Tensor, Tensor] | None = None) -> Outcome:
    """Solve a batch; each element stops on its own and no element's answer depends on its neighbours.

    Args:
        program: scaled programs.
        options: stopping rule.
        warm: x, lam and active rows to polish first, scaled.
    """
    run = _Run(program, options)
    if warm is not None:
        run.polish_from(*warm)
    run.start()
    for iteration in range(options.max_iter + 1):
        if not run.remaining:
            break
        run.advance(last=iteration == options.max_iter)
    return run.outcome()


class _Run:
    """Book-keeping of one batched solve: which elements still run, and the best iterate of each so far."""

    def __init__(self, program: Program, options: InteriorPoint) -> None:
        batch, total = program.d.shape
        device = program.q.device
        self.options = options
        self.all, self.best = program, torch.full((batch,), torch.inf, dtype=program.q.dtype, device=device)
        self.x, self.s, self.lam = (
            torch.zeros_like(program.q),
            torch.zeros_like(program.d),
            torch.zeros_like(program.d),
        )
        # Whether the best iterate is polished: then a Cholesky factor has shown that P curves upwards there.
        self.polished = torch.zeros(batch, dtype=torch.bool, device=device)
        self.status = torch.full((batch,), int(SolveStatus.MAX_ITER), device=device)
        self.iterations = torch.zeros(batch, dtype=torch.int64, device=device)
        self.index = torch.arange(batch, device=device)
        self.code = torch.tensor(row_codes(total), dtype=torch.int64, device=device)

    @property
    def remaining(self) -> int:
        return int(self.index.numel())

    def polish_from(self, x: Tensor, lam: Tensor, active: Tensor) -> None:
        """Polish a guess; the elements that it solves are finished."""
        x, s, lam, score, _ = polish(self.all, x, lam, active, self.options.eps_abs, self.options.eps_rel)
        self.iterations += 1
        self._record(self.index, x, s, lam, score, polished=True)
        self.status[score <= 1] = SolveStatus.SOLVED
        self.index = self.index[score > 1]

    def start(self) -> None:
        """Put the remaining elements on their initial points."""
        self.program = self.all if self.remaining == self.best.numel() else self.all.select(self.index)
        count, total = self.remaining, self.all.d.shape[-1]
        if not count:
            return
        self.point = initial_point(self.program)
        zero, none = torch.zeros_like(self.program.q), torch.zeros_like(self.program.d)
        self.origin = (zero, zero, none, none, zero)  # x, Px, Rx, lam and R'lam before the last step
        self.active = torch.zeros(count, total, dtype=torch.bool, device=self.index.device)
        self.tried = torch.full((count, POLISH_TRIES), -1, device=self.index.device)  # no fingerprint is negative
        self.tries = torch.zeros(count, dtype=torch.int64, device=self.index.device)
        self.stalled = torch.zeros_like(self.tries)

    def advance(self, last: bool) -> None:
        """Judge the iterates, retire what is finished, take one step with the rest."""
        program, point, options = self.program, self.point, self.options
        res = residuals(program, point.x, point.s, point.lam, options.eps_abs, options.eps_rel)
        score = torch.where(res.score.isfinite(), res.score, torch.inf)
        better = self._record(self.index, point.x, point.s, point.lam, score)
        self.stalled = torch.where(better, 0, self.stalled + 1)
        solved = score <= 1
        broken = ~res.score.isfinite()
        primal, dual = self._certify(res, ~(broken | solved))
        self.status[self.index[broken]] = SolveStatus.NUMERICAL_ERROR
        self.status[self.index[solved]] = SolveStatus.SOLVED
        over = self.stalled >= torch.where(self.best[self.index] <= 1, PATIENCE, STALL)
        failed = (primal | dual | broken) & ~solved
        polished = self._polish(solved | failed | over | last, failed)
        # Within tolerance a row may still be on neither side, and its derivative anything: go on to the polish.
        res = self._retire(polished | solved & self._separated() | failed | over, res)
        if last or not self.remaining:
            self.index = self.index[:0]
            return
        self.iterations[self.index] += 1
        self.origin = (self.point.x, res.Px, res.Rx, self.point.lam, res.Rl)
        self.point = newton_step(self.program, self.point, res)

    def _separated(self) -> Tensor:
        """Whether every row is clearly active or clearly not."""
        smaller, larger = torch.minimum(self.point.s, self.point.lam), torch.maximum(self.point.s, self.point.lam)
        return ((smaller <= APART * larger) | ~self.program.inequality).all(-1)

    def _certify(self, res: Residuals, where: Tensor) -> tuple[Tensor, Tensor]:
        """Look for certificates, and keep them as the answer: multipliers, or a ray."""
        index, none = self.index, torch.zeros_like(where)
        if not where.any():
            return none, none
        # Once lam or x run away, every step adds the same certificate or ray: the step shows it, free of what it is
        # added to. A step that is small beside x is no runaway, and round-off in the differences.
        now = (self.point.x, res.Px, res.Rx, self.point.lam, res.Rl)
        x, Px, Rx, dlam, dRl = (v - old for v, old in zip(now, self.origin, strict=True))
        lam, primal = hidden_certificate(self.program, (dlam, dRl), (self.point.lam, res.Rl), where)
        runaway = max_abs(x) >= RUNAWAY * max_abs(self.point.x)
        x, dual = hidden_ray(self.program, x, Px, Rx, where & runaway)
        self.lam[index[primal]], self.status[index[primal]] = lam[primal], int(SolveStatus.PRIMAL_INFEASIBLE)
        self.x[index[dual]], self.status[index[dual]] = x[dual], int(SolveStatus.DUAL_INFEASIBLE)
        return primal, dual

    def _polish(self, final: Tensor, skip: Tensor) -> Tensor:
        """Try the polish where the active set has settled; return which elements it solved."""
        program, point = self.program, self.point
        active = program.inequality & (point.lam > point.s) | ~program.inequality & (program.present > 0)
        changed = (active != self.active).sum(-1)
        self.active = active
        want = ((changed <= 1) & (self.tries < POLISH_TRIES) | final) & ~skip
        solved = torch.zeros_like(want)
        for _ in range(2):  # the guess, then once with the violated rows flipped
            key = (active * self.code).sum(-1)
            want = want & ~((self.tried == key.unsqueeze(-1)).any(-1))
            chosen = want.nonzero().squeeze(-1)
            if not chosen.numel():
                break
            part = program if chosen.numel() == want.numel() else program.select(chosen)
            slot = self.tries[chosen] % POLISH_TRIES
            self.tried[chosen, slot] = key[chosen]
            self.tries[chosen] += 1
            self.iterations[self.index[chosen]] += 1
            x, s, lam, score, wanted = polish(
                part,
                point.x[chosen],
                point.lam[chosen],
                active[chosen],
                self.options.eps_abs,
                self.options.eps_rel,
            )
            self._record(self.index[chosen], x, s, lam, score, polished=True)
            solved[chosen] |= score <= 1
            want = want & ~solved
            active = active.clone()
            active[chosen] = wanted
        self.status[self.index[solved]] = SolveStatus.SOLVED
        return solved

    def _record(
        self, index: Tensor, x: Tensor, s: Tensor, lam: Tensor, score: Tensor, polished: bool = False
    ) -> Tensor:
        better = score < self.best[index]
        rows = index[better]
        self.best[rows], self.polished[rows] = score[better], polished
        self.x[rows], self.s[rows], self.lam[rows] = x[better], s[better], lam[better]
        return better

    def _retire(self, finished: Tensor, res: Residuals) -> Residuals:
        keep = (~finished).nonzero().squeeze(-1)
        if keep.numel() == finished.numel():
            return res
        self.index = self.index[keep]
        self.program = self.program.select(keep)
        self.point = Iterate(*(v[keep] for v in self.point))
        self.active, self.tried = self.active[keep], self.tried[keep]
        self.tries, self.stalled = self.tries[keep], self.stalled[keep]
        return res.select(keep)

    def outcome(self) -> Outcome:
        # An iterate that stalled within tolerance is solved, however it ended.
        self.status[self.best <= 1] = SolveStatus.SOLVED
        program, lam, s = self.all, self.lam, self.s
        held = program.inequality & (lam > s) | ~program.inequality & (program.present > 0)
        failed = (self.status == SolveStatus.MAX_ITER) | (self.status == SolveStatus.NUMERICAL_ERROR)
        # A stationary point of an indefinite P is not a solution, and looking for one may end anywhere.
        self._doubt((self.best <= 1) & ~self.polished, held)
        self._doubt(failed, torch.zeros_like(held))
        return Outcome(self.x, self.s, self.lam, self.status, self.iterations)

    def _doubt(self, doubtful: Tensor, held: Tensor) -> None:
        """Call elements invalid whose P has negative curvature in directions that the rows held leave free."""
        index = doubtful.nonzero().squeeze(-1)
        if not index.numel():
            return
        program = self.all.select(index)
        shift = program.q.new_full((index.numel(), 1), CURVATURE)
        H = program.rows.normal_matrix(program.P, program.C, held[index] / DELTA, shift)
        downwards = (torch.linalg.cholesky_ex(H).info > 0) & H.isfinite().all(-1).all(-1)  # not where P overflowed
        self.status[index[downwards]] = SolveStatus.INVALID_INPUT
