"""cvxpy problems as modules: quadratic programs on our own core, other cone programs on cvxpylayers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from .cvxpy_maps import joint_batch
from .cvxpy_program import CanonicalQP, canonicalise, check_problem
from .differentiation import Implicit, Unrolled
from .errors import ProblemError, SolverError, SolverWarning, warn_solver
from .qp.forward import failure_message
from .qp.interior_point import InteriorPoint
from .qp.problem import QPProblem, broadcast
from .qp.solve import solve_qp
from .status import SolveStatus

_INSTALL = "pip install 'implicit-layers[cvxpy]'"


@final
class CvxpyLayer(nn.Module):
    """A parametrised cvxpy problem as a layer: `x, y = CvxpyLayer(problem, [A, b], [x, y])(A_value, b_value)`.

    cvxpy is used here, once, to bring the problem into its canonical form. If that is a quadratic (or linear) program,
    its data are sparse affine maps of the parameters, evaluated and solved in batches by `solve_qp`. Anything else, and
    variables that are multipliers of a constraint, go to `cvxpylayers.torch.CvxpyLayer`.

    Args:
        problem: `cvxpy.Problem`, disciplined and parametrised (`problem.is_dpp()`); in newer versions of cvxpy the
            matrix of a `quad_form` in the objective may be a parameter, too.
        parameters: those of the problem, in the order of the call's tensors.
        variables: those of the problem that the layer returns.
        solver: how quadratic programs are solved. The name of a solver of cvxpylayers sends any problem there.
        differentiate: how quadratic programs are differentiated.
        strict: raise instead of warn if an element of a quadratic program's batch fails.

    Raises:
        ProblemError: the problem is not disciplined, or parameters or variables are not the problem's.
        ImportError: cvxpy is not installed, or cvxpylayers where it is needed.

    Differentiability:
        As in `solve_qp`, in every parameter. Of a symmetric parameter the upper triangle counts. An element of a batch
        that fails has zero gradient. In cvxpylayers, one that fails is an error of the whole batch.

    References:
        Agrawal, Amos, Barratt, Boyd, Diamond and Kolter (2019), Differentiable convex optimization layers.
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        *,
        solver: InteriorPoint | str | None = None,
        differentiate: Implicit | Unrolled | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        try:
            import cvxpy as cp
        except ImportError as error:
            raise ImportError(f"CvxpyLayer needs cvxpy ({error}): {_INSTALL}") from error
        _check_options(solver, differentiate)
        check_problem(cp, problem, parameters, variables)
        self.shapes = [tuple(p.shape) for p in parameters]
        self.names = [p.name() for p in parameters]
        self.solver, self.differentiate, self.strict = solver, differentiate, strict
        primal = {v.id for v in problem.variables()} >= {v.id for v in variables}
        ours = primal and not isinstance(solver, str)
        self.program = canonicalise(cp, problem, parameters, variables) if ours else None
        self.cones = None if self.program else _cone_layer(problem, parameters, variables, solver, differentiate)

    def forward(self, *tensors: Tensor, solver_args: Mapping[str, Any] | None = None) -> tuple[Tensor, ...]:
        """Return the variables, each `(*batch, *shape)`, for the parameters, each `(*batch, *shape)`.

        Batch dimensions broadcast; without any, there are none in the result. It has the dtype of the parameters.

        Args:
            tensors: one for each parameter.
            solver_args: passed on to cvxpylayers; without effect on quadratic programs, whose options are `solver`.

        Raises:
            ProblemError: the tensors are not the parameters'.
            SolverError: an element of a quadratic program failed and `strict`.
        """
        batch = self._check(tensors)
        dtype = tensors[0].dtype if tensors else torch.get_default_dtype()
        values = [v.to(torch.float64) for v in tensors]  # the precision of the solve, also for what leads to it
        if self.program is not None:
            found = self._solve(self.program, values, batch)
        else:
            found = self._solve_cones(values, batch, dict(solver_args or {}))
        return tuple(v.to(dtype) for v in found)

    def _solve(self, program: CanonicalQP, values: Sequence[Tensor], batch: tuple[int, ...]) -> tuple[Tensor, ...]:
        shaped = zip(values, self.shapes, strict=True)
        parts = [v.reshape(*v.shape[: v.ndim - len(shape)], math.prod(shape)) for v, shape in shaped]
        problem = program(parts)
        solver = self.solver if isinstance(self.solver, InteriorPoint) else InteriorPoint()
        differentiate = self.differentiate or Implicit()
        if program.sparse:
            x = _solve_sparse(program, problem, solver, differentiate, self.strict)
        else:
            x = solve_qp(*problem, solver=solver, differentiate=differentiate, strict=self.strict).x
        return program.variables(x.expand(*batch, x.shape[-1]))  # a batched constant of the cost is in no data

    def _solve_cones(
        self, values: Sequence[Tensor], batch: tuple[int, ...], solver_args: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        # There one batch dimension is known.
        flat = [
            v.expand(*batch, *shape).reshape(math.prod(batch), *shape) if v.ndim > len(shape) else v
            for v, shape in zip(values, self.shapes, strict=True)
        ]
        assert self.cones is not None
        found: Sequence[Tensor] = self.cones(*flat, solver_args=solver_args)
        return tuple(v.reshape(*batch, *v.shape[1:]) if batch else v for v in found)

    def _check(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """Return the joint batch shape."""
        if len(tensors) != len(self.shapes):
            raise ProblemError(
                f"tensors: expected one for each of the {len(self.shapes)} parameters {', '.join(self.names)}, "
                f"got {len(tensors)}"
            )
        batch: tuple[int, ...] = ()
        for name, shape, v in zip(self.names, self.shapes, tensors, strict=True):
            if not isinstance(v, Tensor):
                raise ProblemError(f"{name}: expected a torch.Tensor, got {type(v).__name__}")
            if self.program is not None and v.device != self.program.device:
                raise ProblemError(f"{name}: expected a tensor on {self.program.device} as the layer, got {v.device}")
            if not v.is_floating_point() or v.dtype != tensors[0].dtype:
                raise ProblemError(f"{name}: expected a floating dtype, the same for all parameters, got {v.dtype}")
            leading = v.ndim - len(shape)
            if leading < 0 or tuple(v.shape[leading:]) != shape:
                expected = ", ".join(["*batch", *map(str, shape)])
                raise ProblemError(f"{name}: expected shape ({expected}), got {tuple(v.shape)}")
            joint = broadcast(batch, tuple(v.shape[:leading]))
            if joint is None:
                raise ProblemError(
                    f"{name}: expected batch dimensions that broadcast with {batch}, got {tuple(v.shape[:leading])}"
                )
            batch = joint
        return batch

    def extra_repr(self) -> str:
        """Show the parameters and the options."""
        parameters = ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))
        return f"parameters=[{parameters}], solver={self.solver}, strict={self.strict}"


def _solve_sparse(
    program: CanonicalQP, problem: QPProblem, solver: InteriorPoint, differentiate: Implicit | Unrolled, strict: bool
) -> Tensor:
    """Return x `(*batch, n)` of a problem whose matrices are entries; one solve if these are shared."""
    matrices = [v for v in (problem.P, problem.G, problem.A) if v is not None]
    if all(v.ndim == 1 for v in matrices):
        return solve_qp(*program.assembled(problem), solver=solver, differentiate=differentiate, strict=strict).x
    batch = joint_batch([v.shape[:-1] for v in problem if v is not None])
    flat = [
        None if v is None else v.expand(*batch, v.shape[-1]).reshape(math.prod(batch), v.shape[-1]) for v in problem
    ]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)  # one for the batch, below
        for i in range(math.prod(batch)):
            element = QPProblem(*(None if v is None else v[i] for v in flat))  # type: ignore[arg-type]
            found.append(solve_qp(*program.assembled(element), solver=solver, differentiate=differentiate))
    if not found:
        return problem.q.new_zeros(*batch, problem.q.shape[-1])
    status = torch.stack([solution.status for solution in found])
    if bool((status != SolveStatus.SOLVED).any()):
        message = failure_message(status)
        if strict:
            raise SolverError(message, problem, found)
        warn_solver(message)
    return torch.stack([solution.x for solution in found]).reshape(*batch, -1)


def _cone_layer(
    problem: Any,
    parameters: Sequence[Any],
    variables: Sequence[Any],
    solver: InteriorPoint | str | None,
    differentiate: Implicit | Unrolled | None,
) -> Any:
    for name, option in (("solver", solver), ("differentiate", differentiate)):
        if option is not None and not isinstance(option, str):
            raise ProblemError(f"{name}: expected None, because this goes to cvxpylayers (no quadratic program, or "
                               f"multipliers among the variables), got {option!r}")  # fmt: skip
    if solver is None and not problem.is_dpp():
        raise ProblemError("problem: expected the matrix of a quad_form to be a parameter only in quadratic programs, "
                           "got another cone program; use sum_squares(F @ x) with a factor F")  # fmt: skip
    try:
        from cvxpylayers.torch import CvxpyLayer as ConeLayer  # type: ignore[attr-defined]
    except ImportError as error:
        raise ImportError(
            f"CvxpyLayer needs cvxpylayers for what is not a quadratic program ({error}): {_INSTALL}"
        ) from error
    return ConeLayer(problem, list(parameters), list(variables), solver=solver)  # type: ignore[arg-type]  # checked


def _check_options(solver: Any, differentiate: Any) -> None:
    if solver is not None and not isinstance(solver, (InteriorPoint, str)):
        raise ProblemError(f"solver: expected InteriorPoint, the name of a solver of cvxpylayers, or None, "
                           f"got {solver!r}")  # fmt: skip
    if differentiate is not None and not isinstance(differentiate, (Implicit, Unrolled)):
        raise ProblemError(f"differentiate: expected Implicit, Unrolled or None, got {differentiate!r}")
