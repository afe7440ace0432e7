"""The nonlinear program of `find_argmin` with constraints: its KKT conditions as a condition of the theorem.

With L = f + y'c + z'h, at (w, y, z):

    ∇_w L = 0,    c(w) = 0,    min(z, -h(w)) = 0

The last one is `h = 0` on active rows (z > -h) and `z = 0` on the others, so the Jacobian of the conditions is the
matrix `[H A' G'; A 0 0; G 0 0]` of the equality and active inequality rows, with the Hessian of the Lagrangian.

References: Fiacco (1976), Sensitivity analysis for nonlinear programming; Gould et al. (2016), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor

from .condition import Condition, SolutionMap
from .copies import over_copies
from .differentiation import Implicit
from .errors import ProblemError, SolverError, warn_solver
from .functions import Lifted, check_captures, lift
from .implicit import Tensors, implicit_apply
from .jacobian import Product, materialise
from .linear import DenseLU, LinearSolution, measured
from .solution import ImplicitSolution
from .sqp.method import Optimum, minimise
from .sqp.program import Point, Program
from .status import describe_failures
from .transforms import everywhere, somebody_differentiates, stored, value_and_gradient, value_and_pullback
from .unknowns import Layout

RANK = 1e-10  # singular values below this share of the largest count as zero


def solve_constrained(
    f: Any, eq: Any, ineq: Any, layout: Layout, w0: Any, params: tuple[Any, ...],
    solver: Any, differentiate: Any, strict: bool,
) -> ImplicitSolution:  # fmt: skip
    """Minimise f subject to `eq = 0` and `ineq <= 0`, differentiably.

    Raises:
        ProblemError: a function returns something of another form, or captures a tensor that requires grad.
        SolverError: an element failed and `strict`.
    """
    if not isinstance(differentiate, Implicit):
        raise ProblemError(f"differentiate: expected Implicit for a problem with constraints, got {differentiate!r}")
    problem = _Problem.of(f, eq, ineq, layout, w0, params)

    def find(w: Tensor, tensors: Tensors, copies: int) -> Optimum:
        return minimise(problem.program(tensors, copies), solver, w)

    linear = _Saddle() if differentiate.linear is None else differentiate.linear
    rule = SolutionMap(problem.condition, find, linear)
    outputs = implicit_apply(rule, layout.flatten(w0).detach(), *problem.tensors)
    found = Optimum(*(v[0] for v in outputs))
    shape = layout.batch_shape
    w, y, z = found.u.split([layout.size, problem.p, problem.m], -1)
    details = (v.detach().reshape(shape) for v in (found.status, found.iterations, found.residual))
    y, z = y.reshape(*shape, problem.p), z.reshape(*shape, problem.m)
    solution = ImplicitSolution(layout.unflatten(w), *details)
    solution = solution._replace(y=None if eq is None else y, z=None if ineq is None else z)
    if not everywhere(found.solved):
        message = describe_failures("find_argmin", stored(solution.status))
        if strict:
            raise SolverError(message, problem, solution)
        warn_solver(message)
    return solution


@dataclass(frozen=True)
class _Problem:
    """f, c and h in flat form: from w `(B, n)` and all their tensors to `(B,)`, `(B, p)`, `(B, m)`."""

    layout: Layout
    functions: tuple[Lifted | None, ...]  # f, eq, ineq
    p: int
    m: int

    @staticmethod
    def of(f: Any, eq: Any, ineq: Any, layout: Layout, w0: Any, params: tuple[Any, ...]) -> _Problem:
        """Lift the functions and look at their values at w0."""
        given = (("f", f), ("eq", eq), ("ineq", ineq))
        functions = tuple(None if g is None else lift(g, params, name) for name, g in given)
        if somebody_differentiates():
            for function in functions:
                if function is not None:
                    check_captures(function, w0)
        with torch.no_grad():
            sizes = [0 if g is None else _rows(g, layout, w0) for g in functions[1:]]
        return _Problem(layout, functions, *sizes)

    @property
    def tensors(self) -> Tensors:
        """All tensors that the functions depend on, in order."""
        return tuple(v for function in self.functions if function is not None for v in function.tensors)

    @property
    def condition(self) -> Condition:
        """The KKT conditions, of u = (w, y, z)."""
        return Condition(self.kkt, self.layout.batch_shape, tuple(v.ndim for v in self.tensors), symmetric=True)

    def values(self, w: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return f, c and h."""
        found, first = [], 0
        for function, size in zip(self.functions, (None, self.p, self.m), strict=True):
            if function is None:
                found.append(w.new_zeros(w.shape[0], 0))
                continue
            value = function.call(self.layout.handed(w), *tensors[first : first + len(function.tensors)])
            first += len(function.tensors)
            core = () if size is None else (size,)
            self.layout.check_tensor(value, (*self.layout.batch_shape, *core), f"{function.name}(w)", "w0's batch")
            found.append(value.reshape(self.layout.batch, *core))
        return found[0], found[1], found[2]

    def kkt(self, u: Tensor, *tensors: Tensor) -> Tensor:
        """Return the conditions `(B, n + p + m)`; symmetric, for rows that are not active stay out of L."""
        w, y, z = u.split([self.layout.size, self.p, self.m], -1)

        def lagrangian(w: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
            f, c, h = self.values(w, *tensors)
            active = z > -h
            total = f.sum() + (y * c).sum() + torch.where(active, z * h, 0.0).sum()
            return total, (c, h, active)

        gradient, (c, h, active) = cast("Any", torch.func.grad(lagrangian, has_aux=True))(w)
        return torch.cat([gradient, c, torch.where(active, h, z)], -1)

    def program(self, tensors: Sequence[Tensor], copies: int) -> Program:
        """Return what the method may ask, for these values of the tensors."""
        dims, n = tuple(v.ndim for v in self.tensors), self.layout.size
        shape = (copies, self.layout.batch, n)

        def values(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = over_copies(self.values, dims, w.reshape(shape), tensors)
            return cast("tuple[Tensor, Tensor, Tensor]", tuple(v.flatten(0, 1) for v in found))

        def stacked(w: Tensor) -> Tensor:
            f, c, h = values(w)
            return torch.cat([f.unsqueeze(-1), c, h], -1)

        def expand(w: Tensor) -> Point:
            value, rows = _jacobian(stacked, w)
            f, c, h = value.split([1, self.p, self.m], -1)
            g, A, G = rows.split([1, self.p, self.m], -2)
            return Point(w, f.squeeze(-1), c, h, g.squeeze(-2), A, G)

        def hessian(w: Tensor, y: Tensor, z: Tensor) -> Tensor:
            def lagrangian(w: Tensor) -> Tensor:
                f, c, h = values(w)
                return f + (y * c).sum(-1) + (z * h).sum(-1)

            return _jacobian(lambda w: value_and_gradient(lagrangian, w)[1], w)[1]

        return Program(values, expand, hessian)


@final
@dataclass(frozen=True)
class _Saddle:
    """The Jacobian of KKT conditions: factored, and where dependent rows make it singular, the shortest solution."""

    def solve(self, product: Product, v: Tensor, transposed: Product | None = None) -> LinearSolution:
        """Solve for v `(batch, n)`."""
        J = materialise(product, v.shape[0], v.shape[1], v)

        def times(u: Tensor) -> Tensor:
            return (J @ u.unsqueeze(-1)).squeeze(-1)

        found = DenseLU().solve(times, v)
        singular = ~self.accepts(found.residual)
        if not bool(singular.any()):
            return found
        finite = torch.where(J.isfinite().all(-1).all(-1)[:, None, None], J, 0.0)
        u = (torch.linalg.pinv(finite, rtol=RANK) @ v.unsqueeze(-1)).squeeze(-1)
        shortest = measured(times, u, v)
        return LinearSolution(
            torch.where(singular.unsqueeze(-1), shortest.u, found.u),
            torch.where(singular, shortest.residual, found.residual),
        )

    def accepts(self, residual: Tensor) -> Tensor:
        """Return where the system has a solution."""
        return DenseLU().accepts(residual)


def _jacobian(function: Callable[[Tensor], Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
    """Return `function(w) (B, k)`, whose elements depend on their own w alone, and its Jacobian `(B, k, n)`."""
    value, pull = value_and_pullback(function, w)
    return value, materialise(lambda v: pull(v)[0], w.shape[0], value.shape[-1], w).mT


def _rows(function: Lifted, layout: Layout, w0: Any) -> int:
    value = function.call(layout.handed(layout.flatten(w0)), *function.tensors)
    batch = layout.batch_shape
    if not isinstance(value, Tensor):
        raise ProblemError(f"{function.name}(w): expected a tensor, got {type(value).__name__}")
    if value.ndim != len(batch) + 1 or tuple(value.shape[:-1]) != batch:
        letters = ", ".join([*map(str, batch), "number of constraints"])
        raise ProblemError(f"{function.name}(w): expected a value of shape ({letters}), got {tuple(value.shape)}")
    return value.shape[-1]
