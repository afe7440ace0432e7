"""Linear solvers of the theorem: solve `J u = v` through products with J, a batch at a time.

Each element of the batch is a system of its own: its dot products, its stopping rule and its residual are its own.
`product(u)` returns J u for u `(batch, n)`; a solver that is handed products with Jᵀ solves the transposed system.
The residual is measured, never estimated, and an answer that misses the solver's tolerance is not passed on as if
it were one: whoever asked for it warns and sets it to zero (`LinearSolver.accepts`).

Quadratic programs meet the same two needs (`J u = r` with the residual checked) with a factorisation made for their
symmetric J: `qp.linear_system`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from .algebra import dot, ratio
from .checks import check_count, check_positive
from .errors import ProblemError
from .jacobian import Product, materialise
from .krylov import krylov_correction

SINGLE, DOUBLE = 1e-5, 1e-10  # default tolerances: some ten units of round-off times a condition of 10 and 1e5


class LinearSolution(NamedTuple):
    """What a linear solver returns: `u (batch, n)` and the residual `|v - J u| / |v| (batch,)`, 0 where v is 0."""

    u: Tensor
    residual: Tensor


class LinearSolver(Protocol):
    """A way to solve `J u = v`."""

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`; elements with v = 0 have u = 0, whatever their J.

        `transposed`: products with Jᵀ, given where they are cheaper: a solver that forms J may use them instead.
        """

    def accepts(self, residual: Tensor) -> Tensor:
        """Return which elements `(batch,)` are solved as promised."""


@final
@dataclass(frozen=True, kw_only=True)
class DenseLU:
    """Form J by n products (in one sweep, under vmap) and factor it: exact; the choice for small n.

    Args:
        tol: relative residual above which J counts as singular; `None`: 1e-6, in float32 1e-3.
    """

    tol: float | None = None

    def __post_init__(self) -> None:
        _check_tol(self.tol)

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`; one step of refinement."""
        if v.numel() == 0:
            return measured(product, torch.zeros_like(v), v)
        J = materialise(transposed or product, v.shape[0], v.shape[1], v)
        J = J if transposed is None else J.mT
        lu, pivots, _ = torch.linalg.lu_factor_ex(J)
        u = torch.linalg.lu_solve(lu, pivots, v.unsqueeze(-1))
        u = u + torch.linalg.lu_solve(lu, pivots, v.unsqueeze(-1) - J @ u)
        return measured(lambda u: (J @ u.unsqueeze(-1)).squeeze(-1), u.squeeze(-1), v)

    def accepts(self, residual: Tensor) -> Tensor:
        """Return where J was regular."""
        return residual <= _tolerance(self.tol, residual.dtype, 1e-3, 1e-6)


@final
@dataclass(frozen=True, kw_only=True)
class CG:
    """Conjugate gradients: for symmetric positive definite J, such as the Hessian of a strictly convex cost.

    Args:
        tol: relative residual; `None`: 1e-10, in float32 1e-5.
        max_iter: most products with J; `None`: 10 n.

    References:
        Hestenes and Stiefel (1952).
    """

    tol: float | None = None
    max_iter: int | None = None

    def __post_init__(self) -> None:
        _check_tol(self.tol)
        check_count("max_iter", self.max_iter, optional=True)

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`."""
        target = 0.5 * _tolerance(self.tol, v.dtype, SINGLE, DOUBLE) * v.norm(dim=-1)
        u, r, p = torch.zeros_like(v), v, v
        rr = dot(r, r)
        for _ in range(self.max_iter or 10 * v.shape[-1]):
            active = rr.sqrt() > target
            if not bool(active.any()):
                break
            Jp = product(p)
            curvature = dot(p, Jp)
            active = active & (curvature > 0)  # else J is not positive definite: the residual will tell
            step = torch.where(active, rr / torch.where(active, curvature, 1.0), 0.0).unsqueeze(-1)
            u, r = u + step * p, torch.where(active.unsqueeze(-1), r - step * Jp, r)
            fresh = torch.where(active, dot(r, r), rr)
            p = torch.where(active.unsqueeze(-1), r + ratio(fresh, rr).unsqueeze(-1) * p, p)
            if not bool(active.any()):
                break
            rr = fresh
        return measured(product, u, v)

    def accepts(self, residual: Tensor) -> Tensor:
        """Return where the tolerance was reached."""
        return residual <= _tolerance(self.tol, residual.dtype, SINGLE, DOUBLE)


@final
@dataclass(frozen=True, kw_only=True)
class GMRES:
    """Restarted GMRES: for any regular J, through products alone.

    Args:
        tol: relative residual; `None`: 1e-10, in float32 1e-5.
        max_iter: most products with J; `None`: 10 n, at least 2 `restart`.
        restart: size of the Krylov space, which is kept in memory.

    References:
        Saad and Schultz (1986).
    """

    tol: float | None = None
    max_iter: int | None = None
    restart: int = 30

    def __post_init__(self) -> None:
        _check_tol(self.tol)
        check_count("max_iter", self.max_iter, optional=True)
        check_count("restart", self.restart)

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`."""
        target = 0.5 * _tolerance(self.tol, v.dtype, SINGLE, DOUBLE) * v.norm(dim=-1)
        u, r = torch.zeros_like(v), v
        left = self.max_iter or max(10 * v.shape[-1], 2 * self.restart)
        while left > 0 and v.numel() and bool((r.norm(dim=-1) > target).any()):
            before = r.norm(dim=-1)
            size = min(self.restart, left, v.shape[-1])
            correction, used = krylov_correction(product, r, target, size)
            left -= used
            u = u + torch.where((before > target).unsqueeze(-1), correction, 0.0)
            r = v - product(u)
            if not bool((r.norm(dim=-1) < 0.999 * before)[before > target].any()):
                break  # stagnation: another cycle would repeat this one
        return measured(product, u, v)

    def accepts(self, residual: Tensor) -> Tensor:
        """Return where the tolerance was reached."""
        return residual <= _tolerance(self.tol, residual.dtype, SINGLE, DOUBLE)


@final
@dataclass(frozen=True, kw_only=True)
class Neumann:
    """The series `J⁻¹ = Σ (I - J)ⁱ`, for J = I - A with |A| < 1: the fixed-point iteration's own Jacobian.

    Args:
        terms: take that many terms: an approximation by choice, taken as it is unless it is worse than none (a
            series that diverges). `None`: as many as the tolerance needs.
        tol: relative residual where `terms` is None; `None`: 1e-10, in float32 1e-5.
        max_iter: most terms where `terms` is None.
        relaxation: sum `ω Σ (I - ωJ)ⁱ` instead, which converges for symmetric J with eigenvalues in (0, 2/ω).

    References:
        Geng et al. (2021), On training implicit models; Lorraine et al. (2020) for hyper-parameters.
    """

    terms: int | None = None
    tol: float | None = None
    max_iter: int = 1000
    relaxation: float = 1.0

    def __post_init__(self) -> None:
        _check_tol(self.tol)
        check_count("terms", self.terms, optional=True)
        check_count("max_iter", self.max_iter)
        check_positive("relaxation", self.relaxation)

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`."""
        u = self.relaxation * v
        if self.terms is not None:
            for _ in range(self.terms - 1):
                u = u + self.relaxation * (v - product(u))
            return measured(product, u, v)
        target = _tolerance(self.tol, v.dtype, SINGLE, DOUBLE) * v.norm(dim=-1)
        for _ in range(self.max_iter):
            r = v - product(u)
            size = r.norm(dim=-1)
            active = (size > target) & size.isfinite()
            if not bool(active.any()):
                break
            u = torch.where(active.unsqueeze(-1), u + self.relaxation * r, u)
        return measured(product, u, v)

    def accepts(self, residual: Tensor) -> Tensor:
        """Return where the tolerance was reached; for a number of terms: where the series did not diverge."""
        if self.terms is not None:
            return residual < 1
        return residual <= _tolerance(self.tol, residual.dtype, SINGLE, DOUBLE)


def measured(product: Product, u: Tensor, v: Tensor) -> LinearSolution:
    """Return u with its relative residual; where v is zero u is zero, where u is not finite the residual is inf."""
    size = v.norm(dim=-1)
    u = torch.where((size == 0).unsqueeze(-1), 0.0, u)
    error = (v - product(u)).norm(dim=-1)
    residual = torch.where(size == 0, 0.0, error / torch.where(size == 0, 1.0, size))
    return LinearSolution(u, torch.where(residual.isfinite(), residual, torch.inf))


def _tolerance(tol: float | None, dtype: torch.dtype, single: float, double: float) -> float:
    return tol if tol is not None else (double if dtype == torch.float64 else single)


def _check_tol(tol: float | None) -> None:
    if tol is not None and not tol > 0:
        raise ProblemError(f"tol: expected a positive number or None, got {tol!r}")
