"""find_fixed_point and FixedPointLayer: w with w = f(w, *params)."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from .differentiation import Implicit
from .functions import lift
from .iterations.anderson import Anderson
from .iterations.broyden import Broyden
from .iterations.loop import Method
from .iterations.newton import Newton
from .iterations.picard import Picard
from .nonlinear import Formulation, Rule, check_choices, full_precision, lifted_precision, solve_nonlinear, squared
from .solution import ImplicitSolution
from .transforms import outside_graphs
from .unknowns import Layout

METHODS = (Anderson, Picard, Broyden, Newton)


@outside_graphs
def find_fixed_point(
    f: Any,
    w0: Any,
    *params: Any,
    solver: Method = Anderson(),  # noqa: B008 - frozen
    differentiate: Rule = Implicit(),  # noqa: B008 - frozen
    strict: bool = False,
    batch_dims: int | None = None,
) -> ImplicitSolution:
    """Solve `w = f(w, *params)` for a batch of independent w, differentiably: the root of `w - f(w, *params)`.

    f is called with whole tensors, batch and all, and must act on each element of the batch alone. A tensor among the
    params may be batched like w or shared: f broadcasts them; the gradient of shared tensors is the sum.

    Args:
        f: a function, an `nn.Module` (its parameters get gradients) or a method of one; its value is structured like
            w0. It must not capture a tensor that requires grad, and must give the same value every time (no dropout).
        w0: first iterate, a tensor or a pytree of tensors with the same leading batch dimensions.
        params: what f depends on, tensors or pytrees of them.
        solver: `Anderson`, `Picard`, `Broyden` or `Newton`.
        differentiate: `Implicit` (with `linear=Neumann(terms=k)` a truncated series), `Unrolled` or `OneStep`.
        strict: raise instead of warn if an element fails.
        batch_dims: number of leading batch dimensions of w0; `None`: all but the last of a single tensor, of a pytree
            all but the last of its leaf with the fewest.

    Returns:
        `ImplicitSolution`, `residual` is the largest entry of `w - f(w)`.

    Raises:
        ProblemError: f's value is not like w0, f captures a tensor that requires grad, an option does not fit.
        SolverError: an element failed and `strict`.

    Differentiability:
        `dw = (I - ∂f/∂w)⁻¹ (∂f/∂θ) dθ`, in all tensors of the params and of the module; otherwise as `find_root`.

    References:
        Bai, Kolter and Koltun (2019), Deep equilibrium models.
    """
    check_choices(solver, METHODS, differentiate, strict)
    layout = Layout.of(lifted_precision(w0), batch_dims)
    with full_precision(layout.device):
        w0, params = lifted_precision(w0), lifted_precision(params)
        lifted = lift(f, params)

        def residual(w: Tensor, *tensors: Tensor) -> Tensor:
            value = lifted.call(layout.handed(w), *tensors)
            layout.check_like(value, "f(w)")
            return w - layout.flatten(value)

        problem = Formulation("find_fixed_point", layout, (lifted,), residual, squared(residual), relative=True)
        return solve_nonlinear(problem, w0, solver, differentiate, strict)


@final
class FixedPointLayer(nn.Module):
    """`find_fixed_point` as a module that returns w alone: `w = FixedPointLayer(cell)(w0, x)`.

    Args:
        f: as in `find_fixed_point`; a module becomes part of this one.
        solver, differentiate, strict, batch_dims: as in `find_fixed_point`.
    """

    def __init__(
        self,
        f: Any,
        *,
        solver: Method | None = None,
        differentiate: Rule | None = None,
        strict: bool = False,
        batch_dims: int | None = None,
    ) -> None:
        super().__init__()
        self.f = f
        self.solver = Anderson() if solver is None else solver
        self.differentiate = Implicit() if differentiate is None else differentiate
        self.strict, self.batch_dims = strict, batch_dims

    def forward(self, w0: Any, *params: Any) -> Any:
        """Return w, structured like w0; arguments, errors and differentiability as in `find_fixed_point`."""
        return find_fixed_point(
            self.f, w0, *params,
            solver=self.solver, differentiate=self.differentiate, strict=self.strict, batch_dims=self.batch_dims,
        ).w  # fmt: skip

    def extra_repr(self) -> str:
        """Show the options."""
        return f"solver={self.solver}, differentiate={self.differentiate}, strict={self.strict}"
