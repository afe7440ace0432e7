"""solve_qp: the one entry to quadratic programs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..differentiation import Implicit, Unrolled
from ..errors import ProblemError, SolverError, warn_solver
from ..implicit import implicit_apply, needs_backward
from ..status import SolveStatus
from ..transforms import outside_graphs
from .compiled import solve_compiled
from .elastic import Elastic, relax, restrict
from .forward import build_program, failure_message, solve_flat
from .gradients import SolutionMap, dense_map
from .interior_point import InteriorPoint, unroll
from .kkt import residuals
from .problem import Flat, QPProblem, flatten, is_sparse
from .solution import QPSolution, StackedSolution


def solve_qp(
    P: Tensor,
    q: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
    *,
    solver: InteriorPoint = InteriorPoint(),  # noqa: B008 - frozen
    differentiate: Implicit | Unrolled = Implicit(),  # noqa: B008 - frozen
    warm_start: QPSolution | None = None,
    infeasible: Elastic | None = None,
    strict: bool = False,
) -> QPSolution:
    """Solve a batch of convex quadratic programs, differentiably.

    `min 1/2 x'Px + q'x  subject to  Gx <= h, Ax = b, lb <= x <= ub`

    Leading batch dimensions broadcast. Computed in float64; the result has the dtype of the input.

    P, G and A may be sparse (COO, CSR or CSC, on the CPU, without batch dimensions; needs the extra `sparse`). Their
    gradients are sparse too. Large programs then go to the sparse solver, which `Unrolled` cannot differentiate.

    Args:
        P: `(*batch, n, n)`, symmetric positive semidefinite (zero for a linear program).
        q: `(*batch, n)`.
        G: `(*batch, m, n)`.
        h: `(*batch, m)`; `inf` means "no such row".
        A: `(*batch, p, n)`; dependent rows are fine.
        b: `(*batch, p)`.
        lb: `(*batch, n)`; `-inf` means "no such bound".
        ub: `(*batch, n)`; `inf` means "no such bound".
        solver: how the solution is found.
        differentiate: how it is differentiated.
        warm_start: a previous solution, polished first; ignored if its batch shape does not fit.
        infeasible: `Elastic(...)` lets rows be violated at a price; `QPProblem.violation(x)` tells by how much.
            A warm start is ignored then.
        strict: raise instead of warn if an element fails.

    Returns:
        `QPSolution`. An element that is not SOLVED has zero gradient. PRIMAL_INFEASIBLE: `z, y, z_box` hold a
        Farkas certificate (`G'z + A'y + z_box = 0`, `h'z + b'y + ub'max(z_box, 0) + lb'min(z_box, 0) = -1`; bounds
        that cross are their own). DUAL_INFEASIBLE: `x` holds a ray of unbounded descent with `q'x = -1`.
        INVALID_INPUT (NaN or a misplaced infinity in the data, or a P with negative curvature where the active rows
        leave room for it; one that they hold down is answered by a local minimum): NaN.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit, or P is not symmetric.
        SolverError: an element failed and `strict`.

    Differentiability:
        `x, z, y, z_box` in all eight arguments by the implicit function theorem on the optimality conditions of
        the active set; the gradient of shared (unbatched) data is the sum over the batch. At a weakly active
        row (multiplier and slack both zero) the row counts as inactive: a one-sided derivative.
        P enters through its symmetric part.

    References:
        Amos and Kolter (2017), OptNet; Schwan et al. (2023), PIQP, for the proximal interior point.
    """
    problem = QPProblem(P, q, G, h, A, b, lb, ub)
    outputs, flat = solve_differentiably(problem, solver, differentiate, warm_start, infeasible, strict)
    return _unstack(outputs, flat)


def solve_differentiably(
    problem: QPProblem,
    solver: InteriorPoint,
    differentiate: Implicit | Unrolled,
    warm_start: QPSolution | None,
    infeasible: Elastic | None,
    strict: bool,
) -> tuple[StackedSolution, Flat]:
    """Do what `solve_qp` does, up to taking the stacked solution apart."""
    _check_options(solver, differentiate, warm_start, infeasible)
    if isinstance(problem.P, Tensor) and torch.is_autocast_enabled(problem.P.device.type):
        # As other operations that need their precision: autocast's low-precision inputs are lifted, and it stays off.
        with torch.autocast(problem.P.device.type, enabled=False):
            lifted = QPProblem(*(_lifted(v) for v in problem))  # type: ignore[arg-type]  # None stays None
            return _solve(lifted, solver, differentiate, warm_start, infeasible, strict)
    return _solve(problem, solver, differentiate, warm_start, infeasible, strict)


def _lifted(v: Tensor | None) -> Tensor | None:
    return v.float() if isinstance(v, Tensor) and v.dtype in (torch.bfloat16, torch.float16) else v


def _solve(
    problem: QPProblem,
    solver: InteriorPoint,
    differentiate: Implicit | Unrolled,
    warm_start: QPSolution | None,
    infeasible: Elastic | None,
    strict: bool,
) -> tuple[StackedSolution, Flat]:
    if is_sparse(problem) or solver.core == "sparse":
        return _solve_sparse(problem, solver, differentiate, warm_start, infeasible, strict)
    flat = flatten(problem)
    if infeasible is not None:  # flattened all the same: that names what is wrong in the caller's terms
        outputs, relaxed = _solve(relax(problem, infeasible), solver, differentiate, None, None, strict)
        return restrict(outputs, relaxed.layout.rows, flat.layout.rows), flat
    if isinstance(differentiate, Unrolled):
        return _solve_unrolled(flat, solver, differentiate, strict), flat
    warm = _stack_warm_start(warm_start, flat)
    if torch.compiler.is_compiling():
        return solve_compiled((*flat.params, *warm), flat.layout, flat.batch, solver, differentiate, strict), flat
    keep = differentiate.gradient == "exact" and needs_backward(flat.params)
    find = partial(solve_flat, options=solver, strict=strict, keep=keep)
    rule = dense_map(flat.layout, flat.batch, find, differentiate, solver.core)
    return _apply(rule, flat, warm, problem), flat


def _apply(rule: SolutionMap, flat: Flat, warm: tuple[Tensor, ...], problem: QPProblem) -> StackedSolution:
    try:
        return StackedSolution(*implicit_apply(rule, *flat.params, *warm))
    except SolverError as error:
        raise SolverError(str(error), problem, _unstack(error.solution, flat)) from None


@outside_graphs
def _solve_sparse(
    problem: QPProblem,
    solver: InteriorPoint,
    differentiate: Implicit | Unrolled,
    warm_start: QPSolution | None,
    infeasible: Elastic | None,
    strict: bool,
) -> tuple[StackedSolution, Flat]:
    try:
        from .sparse import SparseSolves, densify, flatten_sparse, is_small, solve_sparse
    except ImportError as error:
        raise ImportError(
            f"programs with sparse matrices need scipy and qdldl ({error}): pip install 'implicit-layers[sparse]'"
        ) from error
    flat, matrices = flatten_sparse(problem)
    if solver.core in ("native", "torch") or (solver.core == "auto" and is_small(flat.layout.rows)):
        try:
            dense = densify(problem, flat, matrices)
            return _solve(dense, solver, differentiate, warm_start, infeasible, strict)[0], flat
        except SolverError as error:
            raise SolverError(str(error), problem, error.solution) from None
    if isinstance(differentiate, Unrolled):
        raise ProblemError(
            "differentiate: expected Implicit where the sparse solver is used, got Unrolled(...); "
            "InteriorPoint(core='torch') makes the matrices dense"
        )
    if infeasible is not None:
        outputs, relaxed = _solve_sparse(relax(problem, infeasible), solver, differentiate, None, None, strict)
        return restrict(outputs, relaxed.layout.rows, flat.layout.rows), flat
    solves = SparseSolves(matrices)
    keep = differentiate.gradient == "exact" and needs_backward(flat.params)
    find = partial(solve_sparse, solves=solves, options=solver, strict=strict, keep=keep)
    rule = SolutionMap(flat.layout, flat.batch, find, differentiate, solves, matrices)
    return _apply(rule, flat, _stack_warm_start(warm_start, flat), problem), flat


def _check_options(solver: Any, differentiate: Any, warm_start: Any, infeasible: Any) -> None:
    if not isinstance(solver, InteriorPoint):
        raise ProblemError(f"solver: expected InteriorPoint, got {solver!r}")
    if not isinstance(differentiate, (Implicit, Unrolled)):
        raise ProblemError(f"differentiate: expected Implicit or Unrolled, got {differentiate!r}")
    if warm_start is not None and not isinstance(warm_start, QPSolution):
        raise ProblemError(f"warm_start: expected QPSolution or NoneType, got {warm_start!r}")
    if infeasible is not None and not isinstance(infeasible, Elastic):
        raise ProblemError(f"infeasible: expected Elastic or NoneType, got {infeasible!r}")


def _stack_warm_start(warm: QPSolution | None, flat: Flat) -> tuple[Tensor, ...]:
    if warm is None:
        return ()
    rows = flat.layout.rows
    sizes = {"x": rows.n, "z": rows.m, "y": rows.p, "z_box": rows.n}
    found = {name: _shape_in_solution(warm, name) for name in sizes}
    for name, size in sizes.items():
        if found[name][-1] != size:
            raise ProblemError(f"warm_start: expected a solution with {name} of size {size}, got {found[name][-1]}")
    if any(shape[:-1] != flat.batch_shape for shape in found.values()):
        return ()
    box = [warm.z_box.clamp(min=0)] * rows.upper + [(-warm.z_box).clamp(min=0)] * rows.lower
    lam = torch.cat([warm.z, warm.y, *box], -1)
    # A copy, for autograd keeps it: neither inference mode nor what the caller does to the old solution concerns it.
    return tuple(v.detach().reshape(flat.batch, v.shape[-1]) for v in (warm.x.clone(), lam))


def _shape_in_solution(solution: QPSolution, name: str) -> torch.Size:
    v = getattr(solution, name)
    if not isinstance(v, Tensor) or v.ndim == 0:
        raise ProblemError(f"warm_start: expected a solution with a vector {name} in every element, got {v!r}")
    return v.shape


def _solve_unrolled(flat: Flat, solver: InteriorPoint, how: Unrolled, strict: bool) -> StackedSolution:
    P, q, C, d = (v.to(torch.float64) for v in flat.stack())
    program = build_program(P, q, C, d, flat.layout.rows, flat.batch)
    found = unroll(program, solver, how.iterations)
    D, E, k = program.scaling
    with torch.no_grad():
        res = residuals(program, found.x, found.s, found.lam, solver.eps_abs, solver.eps_rel)
        active = program.inequality & (found.lam > found.s) | ~program.inequality & (program.present > 0)
    solved = found.status == SolveStatus.SOLVED
    dtype = flat.params[0].dtype
    keep = solved.unsqueeze(-1) | (how.iterations is not None)
    x, lam = (torch.where(keep, v, v.detach()).to(dtype) for v in (found.x * D, found.lam * E / k))
    s = torch.where(program.present > 0, (found.s / E).detach(), torch.inf).to(dtype)
    measures = (res.primal, res.dual, res.gap)
    outputs = StackedSolution.pack(x, lam, s, active, active, found.status, found.iterations, measures)
    if how.iterations is None and not bool(solved.all()):
        message = failure_message(found.status)
        if strict:
            raise SolverError(message, solution=_unstack(outputs, flat))
        warn_solver(message)
    return outputs


def _unstack(out: StackedSolution, flat: Flat) -> QPSolution:
    rows, shape = flat.layout.rows, flat.batch_shape
    m, k = rows.m, rows.m + rows.p
    box = rows.bounds(out.lam)
    z_box = torch.zeros_like(out.x) if box is None else box
    dtype = out.x.dtype
    parts = (out.x, out.s[..., :m].to(dtype), out.lam[..., :m], out.lam[..., m:k], z_box)
    residuals = (v.to(dtype) for v in (out.primal_residual, out.dual_residual, out.duality_gap))
    scalars = (out.status, out.iterations, *residuals)
    return QPSolution(*(v.reshape(*shape, v.shape[-1]) for v in parts), *(v.reshape(shape) for v in scalars))
