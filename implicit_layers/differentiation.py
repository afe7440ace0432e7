"""How a solution is differentiated: what a caller passes as `differentiate=`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from .checks import check_count, check_positive
from .errors import ProblemError
from .linear import LinearSolver


@final
@dataclass(frozen=True, kw_only=True)
class Implicit:
    """Differentiate the conditions at the solution (implicit function theorem); memory independent of iterations.

    Args:
        gradient: `"exact"` differentiates the active set: right wherever the solution is differentiable; where the
            optimality system is singular it falls back to the minimum-norm element, so it is finite everywhere.
            `"least_squares"` always takes the minimum-norm element.
            `"smoothed"` relaxes complementarity to `s z = smoothing`: informative for linear programs and at weakly
            active rows, where the exact derivative is zero or one-sided.
        smoothing: the product κ = s z of the relaxed complementarity of `"smoothed"`. For
            `min 1/2 (x - y)**2, x <= 0` the derivative is `s / (s + z)`: exactly 1/2 at y = 0.
        linear: how `J'u = v` is solved for roots, fixed points and arg-mins: `DenseLU()`, `GMRES()`, `CG()`, or a
            truncated series, `Neumann(terms=k)`. `None`: dense for small systems, else matrix-free. A residual above
            the linear solver's tolerance is a warning and a derivative of zero for that element.

    `gradient` and `smoothing` concern quadratic programs, which solve their symmetric system by a method of their
    own, and `linear` the other layers.

    References:
        Amos and Kolter (2017), eq. 6; Chen and Harker (1993) for the smoothing function; Blondel et al. (2022).
    """

    gradient: Literal["exact", "least_squares", "smoothed"] = "exact"
    smoothing: float = 1e-4
    linear: LinearSolver | None = None

    def __post_init__(self) -> None:
        if self.gradient not in ("exact", "least_squares", "smoothed"):
            raise ProblemError(f"gradient: expected 'exact', 'least_squares' or 'smoothed', got {self.gradient!r}")
        check_positive("smoothing", self.smoothing)
        if self.linear is not None and not callable(getattr(self.linear, "solve", None)):
            raise ProblemError(f"linear: expected a LinearSolver such as GMRES() or None, got {self.linear!r}")


@final
@dataclass(frozen=True, kw_only=True)
class Unrolled:
    """Send autograd through the iterations: the yardstick; memory grows with their number.

    Args:
        iterations: run exactly that many iterations, without looking at convergence; `None` stops when all
            elements have converged.
    """

    iterations: int | None = None

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations, optional=True)


@final
@dataclass(frozen=True, kw_only=True)
class OneStep:
    """Send autograd through one iteration at the solution, and nothing else: no linear solve, no memory.

    For a fixed point found by `Picard` or `Anderson` that is the Jacobian-free gradient `(∂f/∂θ)ᵀ v`: a descent
    direction where f contracts well, not the gradient. For `Newton` it is exact to first order. Its own derivatives
    know nothing of how the solution moves: no second order.

    References:
        Fung et al. (2022), Jacobian-free backpropagation; Bolte et al. (2023), One-step differentiation.
    """
