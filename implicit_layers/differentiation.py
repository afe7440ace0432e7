"""How a solution is differentiated: what a caller passes as `differentiate=`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from .errors import ProblemError


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

    References:
        Amos and Kolter (2017), eq. 6; Chen and Harker (1993) for the smoothing function.
    """

    gradient: Literal["exact", "least_squares", "smoothed"] = "exact"
    smoothing: float = 1e-4

    def __post_init__(self) -> None:
        if self.gradient not in ("exact", "least_squares", "smoothed"):
            raise ProblemError(f"gradient: expected 'exact', 'least_squares' or 'smoothed', got {self.gradient!r}")
        if not self.smoothing > 0:
            raise ProblemError(f"smoothing: expected a positive number, got {self.smoothing!r}")


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
        if self.iterations is not None and (not isinstance(self.iterations, int) or self.iterations < 1):
            raise ProblemError(f"iterations: expected a positive integer or None, got {self.iterations!r}")
