"""find_argmin and ArgminLayer: w that minimises f(w, *params)."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from .constrained import solve_constrained
from .differentiation import Implicit
from .errors import ProblemError
from .functions import lift, owned
from .iterations.gauss_newton import GaussNewton
from .iterations.gradient_descent import GradientDescent
from .iterations.lbfgs import LBFGS
from .iterations.levenberg_marquardt import LevenbergMarquardt
from .iterations.loop import Method
from .iterations.newton import Newton
from .nonlinear import Formulation, Rule, check_choices, full_precision, lifted_precision, solve_nonlinear
from .solution import ImplicitSolution
from .sqp.method import SQP
from .transforms import outside_graphs, value_and_gradient
from .unknowns import Layout

METHODS = (LBFGS, Newton, GradientDescent, GaussNewton, LevenbergMarquardt)


@final
class LeastSquares(nn.Module):
    """The cost `|r(w, *params)|²/2` of a misfit r `(*batch, m)`: what Gauss-Newton and Levenberg-Marquardt minimise.

    Args:
        misfit: a function or module `r(w, *params)`.
    """

    def __init__(self, misfit: Any) -> None:
        super().__init__()
        self.misfit = owned(misfit)

    def forward(self, w: Any, *params: Any) -> Tensor:
        """Return the cost `(*batch,)`."""
        r: Tensor = self.misfit(w, *params)
        return 0.5 * r.square().sum(-1)


@outside_graphs
def find_argmin(
    f: Any,
    w0: Any,
    *params: Any,
    eq: Any = None,
    ineq: Any = None,
    solver: Method | SQP | None = None,
    differentiate: Rule = Implicit(),  # noqa: B008 - frozen
    strict: bool = False,
    batch_dims: int | None = None,
) -> ImplicitSolution:
    """Minimise a smooth cost `f(w, *params)` over w, for a batch of independent w, differentiably.

    f is called with whole tensors, batch and all, and must act on each element of the batch alone. A tensor among the
    params may be batched like w or shared: f broadcasts them; the gradient of shared tensors is the sum.

    Args:
        f: a function, an `nn.Module` (its parameters get gradients) or a method of one; its value is one number for
            each element, `(*batch,)`. `LeastSquares(r)` is the cost |r|²/2. It must not capture a tensor that
            requires grad.
        w0: first iterate, a tensor or a pytree of tensors with the same leading batch dimensions.
        params: what f depends on, tensors or pytrees of them.
        eq: constraints `eq(w, *params) = 0`, `(*batch, p)`; a function or module like f.
        ineq: constraints `ineq(w, *params) <= 0`, `(*batch, m)`.
        solver: `LBFGS` (the default), `Newton`, `GradientDescent`; for `LeastSquares` costs also `GaussNewton` and
            `LevenbergMarquardt`. With constraints `SQP`.
        differentiate: `Implicit`, `Unrolled` or `OneStep`; with constraints `Implicit`.
        strict: raise instead of warn if an element fails.
        batch_dims: number of leading batch dimensions of w0; `None`: all but the last of a single tensor, of a pytree
            all but the last of its leaf with the fewest.

    Returns:
        `ImplicitSolution`; `residual` is the largest entry of the gradient at w. A point where the gradient vanishes:
        a minimum if f is convex, else it may be a local one. DUAL_INFEASIBLE: the cost falls without bound. With
        constraints: a KKT point with multipliers `y, z`, and `residual` the largest entry of the KKT conditions
        `∇f + y'∇eq + z'∇ineq = 0, eq = 0, min(z, -ineq) = 0`. PRIMAL_INFEASIBLE: w is a point of locally least
        violation.

    Raises:
        ProblemError: f's value is not one number for each element, f captures a tensor that requires grad, an option
            does not fit.
        SolverError: an element failed and `strict`.

    Differentiability:
        `dw = -(∇²f)⁻¹ (∂∇f/∂θ) dθ`, in all tensors of the params and of the module; f must be twice differentiable.
        Where the Hessian is singular at w the minimiser is not unique: a warning, and zero for that element.
        With constraints `w, y, z` by the same theorem on the KKT conditions. A weakly active constraint (multiplier
        and slack both zero) counts as inactive. Where active gradients are dependent the multipliers are not unique;
        w has a derivative as long as the conditions leave it one.

    References:
        Gould et al. (2016), On differentiating parameterized argmin and argmax problems, lemma 3.2;
        Fiacco (1976), Sensitivity analysis for nonlinear programming.
    """
    constrained = eq is not None or ineq is not None
    method: Any = solver
    if method is None:
        method = SQP() if constrained else LBFGS()
    check_choices(method, (SQP,) if constrained else METHODS, differentiate, strict)
    if isinstance(method, (GaussNewton, LevenbergMarquardt)) and not isinstance(f, LeastSquares):
        raise ProblemError(f"f: expected LeastSquares(misfit) for {type(method).__name__}, got {f!r}")
    layout = Layout.of(lifted_precision(w0), batch_dims)
    with full_precision(layout.device):
        w0, params = lifted_precision(w0), lifted_precision(params)
        if constrained:
            return solve_constrained(f, eq, ineq, layout, w0, params, method, differentiate, strict)
        return solve_nonlinear(_unconstrained(f, layout, params), w0, method, differentiate, strict)


def _unconstrained(f: Any, layout: Layout, params: tuple[Any, ...]) -> Formulation:
    """The condition `∇f(w) = 0`."""
    lifted = lift(f, params)

    def cost(w: Tensor, *tensors: Tensor) -> Tensor:
        value: Tensor = lifted.call(layout.handed(w), *tensors)
        layout.check_tensor(value, layout.batch_shape, "f(w)", "the batch of w0")
        return value.reshape(layout.batch)

    def measure(w: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda w: cost(w, *tensors), w)

    def gradient(w: Tensor, *tensors: Tensor) -> Tensor:
        return measure(w, *tensors)[1]

    misfit = None
    if isinstance(f, LeastSquares):
        inner = lift(f.misfit, params)  # the same tensors in the same order: f has no parameters but the misfit's

        def misfit(w: Tensor, *tensors: Tensor) -> Tensor:
            value: Tensor = inner.call(layout.handed(w), *tensors)
            return value.reshape(layout.batch, -1)

    return Formulation("find_argmin", layout, (lifted,), gradient, measure, misfit, minimises=True)


@final
class ArgminLayer(nn.Module):
    """`find_argmin` as a module that returns w alone: `w = ArgminLayer(f)(w0, *params)`.

    Args:
        f, eq, ineq: as in `find_argmin`; modules become part of this one.
        solver, differentiate, strict, batch_dims: as in `find_argmin`.
    """

    def __init__(
        self,
        f: Any,
        *,
        eq: Any = None,
        ineq: Any = None,
        solver: Method | SQP | None = None,
        differentiate: Rule | None = None,
        strict: bool = False,
        batch_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.f, self.eq, self.ineq = f, eq, ineq
        self.solver = solver
        self.differentiate = Implicit() if differentiate is None else differentiate
        self.strict, self.batch_dims = strict, batch_dims

    def forward(self, w0: Any, *params: Any) -> Any:
        """Return w, structured like w0; arguments, errors and differentiability as in `find_argmin`."""
        return find_argmin(
            self.f, w0, *params, eq=self.eq, ineq=self.ineq,
            solver=self.solver, differentiate=self.differentiate, strict=self.strict, batch_dims=self.batch_dims,
        ).w  # fmt: skip

    def extra_repr(self) -> str:
        """Show the options."""
        return f"solver={self.solver}, differentiate={self.differentiate}, strict={self.strict}"
