"""Where a flat condition, an iteration that finds its solution and a rule that differentiates it meet.

Roots, fixed points and arg-mins differ in their condition alone: `root.py`, `fixed_point.py` and `argmin.py` say which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .condition import Condition, JacobianSolve, SolutionMap
from .copies import over_copies
from .differentiation import Implicit, OneStep, Unrolled
from .errors import ProblemError, SolverError, warn_solver
from .functions import Lifted, check_captures
from .implicit import Tensors, implicit_apply
from .iterations.anderson import Anderson
from .iterations.gauss_newton import GaussNewton
from .iterations.gradient_descent import GradientDescent
from .iterations.loop import Found, Method, Point, System, iterate
from .iterations.newton import Newton
from .iterations.picard import Picard
from .linear import CG, GMRES, DenseLU, LinearSolver
from .solution import ImplicitSolution
from .status import SolveStatus, describe_failures
from .transforms import everywhere, somebody_differentiates, stored
from .unknowns import Layout

Rule = Implicit | Unrolled | OneStep

DENSE = 64  # unknowns up to which forming J costs less than a Krylov method's products
EXACT_STEPS = (Newton, GaussNewton)  # a step from the solution knows its derivative (of roots; of fits about)
FROM_THE_SOLUTION_ALONE = (Picard, Anderson, Newton, GaussNewton, GradientDescent)


@dataclass(frozen=True)
class Formulation:
    """A condition in flat form.

    Attributes:
        caller: the public function, for messages.
        layout: of the unknowns.
        functions: the lifted functions that the condition is made of; their tensors, in order, are its params.
        residual: F, from w `(B, N)` and all tensors to `(B, N)`.
        measure: from the same to `(value (B,), F (B, N))`.
        misfit: from the same to r `(B, M)` with value |r|²/2, if the problem has that form.
        minimises: F is the gradient of the value.
        relative: residuals are compared to |w|.
    """

    caller: str
    layout: Layout
    functions: tuple[Lifted, ...]
    residual: Callable[..., Tensor]
    measure: Callable[..., tuple[Tensor, Tensor]]
    misfit: Callable[..., Tensor] | None = None
    minimises: bool = False
    relative: bool = False

    @property
    def tensors(self) -> Tensors:
        """All tensors that the condition depends on."""
        return tuple(v for function in self.functions for v in function.tensors)

    @property
    def condition(self) -> Condition:
        """F as the theorem needs it."""
        dims = tuple(v.ndim for v in self.tensors)
        return Condition(self.residual, self.layout.batch_shape, dims, symmetric=self.minimises)

    def system(self, tensors: Sequence[Tensor], copies: int = 1, final: bool = False) -> System:
        """Return what an iteration may ask, for these values of the tensors.

        `final`: for a step at the solution, which is taken whole and whose linear systems must be solved to tolerance.
        """
        condition, size = self.condition, self.layout.size
        shape = (copies, self.layout.batch, size)

        def spread(function: Callable[..., Any], w: Tensor) -> Any:
            return over_copies(function, condition.core_dims, w.reshape(shape), tensors)

        def evaluate(w: Tensor) -> Point:
            value, residual = spread(self.measure, w)
            return Point(w, value.reshape(-1), residual.flatten(0, 1))

        def solve(w: Tensor, r: Tensor, linear: LinearSolver | None) -> Tensor:
            chosen = default_linear(size, self.minimises) if linear is None else linear
            rule = JacobianSolve(condition, chosen, transposed=False, check=final, batch=copies)
            everyone = torch.ones(shape[:2], dtype=torch.bool, device=w.device)
            (u,) = implicit_apply(rule, everyone, w.reshape(shape), *tensors, r.reshape(shape))
            return u.flatten(0, 1)

        misfit = None if self.misfit is None else partial(_flat, partial(spread, self.misfit))
        return System(evaluate, solve, self.minimises, self.relative, misfit, full_steps=final)


def _flat(function: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    return function(w).flatten(0, 1)


def default_linear(size: int, symmetric: bool) -> LinearSolver:
    """Return the linear solver for systems of a size where the caller did not choose."""
    if size <= DENSE:
        return DenseLU()
    return CG() if symmetric else GMRES()


def squared(residual: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the measure `(|F|²/2, F)` of a condition that is no minimisation."""

    def measure(w: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        value = residual(w, *tensors)
        return 0.5 * value.square().sum(-1), value

    return measure


def solve_nonlinear(
    problem: Formulation, w0: Any, method: Method, differentiate: Rule, strict: bool
) -> ImplicitSolution:
    """Find the unknowns of a condition and make them differentiable.

    Raises:
        ProblemError: a function captures a tensor that requires grad, or returns something of another form.
        SolverError: an element failed and `strict`.
    """
    if somebody_differentiates():
        for function in problem.functions:
            check_captures(function, w0)
    flat = problem.layout.flatten(w0)
    if isinstance(differentiate, Implicit):
        found = _solve_implicit(problem, flat, method, differentiate.linear)
    elif isinstance(differentiate, OneStep):
        found = _solve_one_step(problem, flat, method)
    else:
        found = _solve_unrolled(problem, flat, method, differentiate.iterations)
    shape = problem.layout.batch_shape
    details = (v.detach().reshape(shape) for v in (found.status, found.iterations, found.residual))
    solution = ImplicitSolution(problem.layout.unflatten(found.w), *details)
    fixed = isinstance(differentiate, Unrolled) and differentiate.iterations is not None
    if not fixed and not everywhere(found.solved):
        message = describe_failures(problem.caller, stored(solution.status))
        if strict:
            raise SolverError(message, problem, solution)
        warn_solver(message)
    return solution


def _solve_implicit(problem: Formulation, w0: Tensor, method: Method, linear: LinearSolver | None) -> Found:
    def find(w: Tensor, tensors: Tensors, copies: int) -> Tensors:
        return iterate(method, problem.system(tensors, copies), w)

    chosen = default_linear(problem.layout.size, problem.minimises) if linear is None else linear
    outputs = implicit_apply(SolutionMap(problem.condition, find, chosen), w0.detach(), *problem.tensors)
    return Found(*(v[0] for v in outputs))


def _solve_unrolled(problem: Formulation, w0: Tensor, method: Method, count: int | None) -> Found:
    found = iterate(method, problem.system(problem.tensors), w0, count)
    good = found.solved
    if count is not None:
        good = good | (found.status == SolveStatus.MAX_ITER)
    tensors, w = problem.tensors, found.w
    if not everywhere(good):
        # What fails may hold infinities on the tape. Again, with failures standing still on a neighbour's solution.
        tensors, healthy = _healthy(problem, found.w, good)
        start = torch.where(good.unsqueeze(-1), w0, healthy)
        w = iterate(method, problem.system(tensors), start, count, ~good).w
    if count is None and isinstance(method, EXACT_STEPS):
        # The derivative lags a step behind the iterate: by all of it where a lucky step, or w0, met the solution.
        w = w + _moved(problem, tensors, w, method)
    return found._replace(w=torch.where(good.unsqueeze(-1), w, found.w.detach()))


def _solve_one_step(problem: Formulation, w0: Tensor, method: Method) -> Found:
    fixed = replace(
        problem, functions=tuple(replace(f, tensors=tuple(v.detach() for v in f.tensors)) for f in problem.functions)
    )
    found = _solve_implicit(fixed, w0, method, None)
    tensors, w = _healthy(problem, found.w, found.solved)
    moved = found.w + _moved(problem, tensors, w, method)
    return found._replace(w=torch.where(found.solved.unsqueeze(-1), moved, found.w))


def _moved(problem: Formulation, tensors: Tensors, w: Tensor, method: Method) -> Tensor:
    """Return zero, with the derivative by which one more whole step from w moves."""
    system = problem.system(tensors, final=True)
    point = system.evaluate(w)
    new, _ = method.step(system, point, method.start(system, point))
    step = new.w - point.w
    return step - step.detach()


def _healthy(problem: Formulation, w: Tensor, good: Tensor) -> tuple[Tensors, Tensor]:
    """Return the tensors and a constant w with failed elements replaced by what one that is good has."""
    w = w.detach()
    if everywhere(good):
        return problem.tensors, w
    index = good.to(torch.int64).argmax().reshape(1, 1).expand(1, w.shape[-1])
    w = torch.where(good.unsqueeze(-1), w, w.gather(0, index))
    condition = problem.condition.separated(w.unsqueeze(0), problem.tensors, good.unsqueeze(0))
    return tuple(condition.borrowed(problem.tensors, good)), w


def check_choices(method: Any, methods: Sequence[type], differentiate: Any, strict: Any) -> None:
    """Check the options of a call.

    Raises:
        ProblemError: which option is of the wrong kind.
    """
    for name, value, kinds in (
        ("solver", method, tuple(methods)),
        ("differentiate", differentiate, (Implicit, Unrolled, OneStep)),
        ("strict", strict, (bool,)),
    ):
        if not isinstance(value, kinds):
            raise ProblemError(f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
    if isinstance(differentiate, OneStep) and not isinstance(method, FROM_THE_SOLUTION_ALONE):
        names = ", ".join(kind.__name__ for kind in FROM_THE_SOLUTION_ALONE)
        raise ProblemError(
            f"differentiate: OneStep needs a solver whose step depends on the solution alone ({names}), got {method!r}"
        )


@contextlib.contextmanager
def full_precision(device: torch.device) -> Any:
    """Switch autocast off: a condition needs its digits."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def lifted_precision(tree: Any) -> Any:
    """Return a pytree with what autocast made of low precision as float32."""
    return pytree.tree_map_only(Tensor, lambda v: v.float() if v.dtype in (torch.bfloat16, torch.float16) else v, tree)
