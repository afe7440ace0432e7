"""Quadratic programs as modules."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ..differentiation import Implicit, Unrolled
from ..errors import ProblemError
from .elastic import Elastic
from .interior_point import InteriorPoint
from .problem import QPProblem
from .solution import QPSolution
from .solve import solve_differentiably


@final
class QPLayer(nn.Module):
    """`solve_qp` as a stateless module that returns x alone: `x = QPLayer()(P, q, G, h, A, b, lb=lb, ub=ub)`.

    Args:
        solver, differentiate, infeasible, strict: as in `solve_qp`.
    """

    def __init__(
        self,
        *,
        solver: InteriorPoint | None = None,
        differentiate: Implicit | Unrolled | None = None,
        infeasible: Elastic | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.solver = InteriorPoint() if solver is None else solver
        self.differentiate = Implicit() if differentiate is None else differentiate
        self.infeasible = infeasible
        self.strict = strict

    def forward(
        self,
        P: Tensor,
        q: Tensor,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        lb: Tensor | None = None,
        ub: Tensor | None = None,
        *,
        warm_start: QPSolution | None = None,
    ) -> Tensor:
        """Return x `(*batch, n)`; arguments, errors and differentiability as in `solve_qp`."""
        out, flat = solve_differentiably(
            QPProblem(P, q, G, h, A, b, lb, ub),
            self.solver, self.differentiate, warm_start, self.infeasible, self.strict,
        )  # fmt: skip
        return out.x if len(flat.batch_shape) == 1 else out.x.reshape(*flat.batch_shape, out.x.shape[-1])

    def extra_repr(self) -> str:
        """Show the options."""
        return f"solver={self.solver}, differentiate={self.differentiate}, strict={self.strict}"


@final
class OptNetLayer(nn.Module):
    """A layer whose output minimises a learned quadratic program; the previous layer's output is its linear term.

    `x = argmin 1/2 x'Px + q'x  s.t.  Gx <= h, Ax = b` with `P = LL' + eps I`, `h = G z0 + s0`, `b = A z0`:
    feasible whatever the parameters, because z0 satisfies every row.

    Args:
        n: size of q and x. m: number of inequalities. p: number of equalities (at most n).
        eps: smallest curvature. solver, differentiate, strict: as in `solve_qp`.

    References:
        Amos and Kolter (2017), OptNet, section 4.
    """

    def __init__(
        self,
        n: int,
        m: int,
        p: int = 0,
        *,
        eps: float = 1e-4,
        solver: InteriorPoint | None = None,
        differentiate: Implicit | Unrolled | None = None,
        strict: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("n", n, 1), ("m", m, 0), ("p", p, 0)):
            if not isinstance(value, int) or value < least:
                raise ProblemError(f"{name}: expected an integer >= {least}, got {value!r}")
        if p > n:
            raise ProblemError(f"p: expected at most n = {n} equalities, got {p}")
        if not eps > 0:
            raise ProblemError(f"eps: expected a positive number, got {eps!r}")
        self.n, self.m, self.p, self.eps = n, m, p, eps
        self.qp = QPLayer(solver=solver, differentiate=differentiate, strict=strict)

        def parameter(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.to(device=device, dtype=dtype or torch.get_default_dtype()))

        self.L = parameter(torch.eye(n) + torch.randn(n, n).tril(-1) / n)
        self.G = parameter(torch.randn(m, n) / n**0.5)
        self.A = parameter(torch.randn(p, n) / n**0.5)
        self.z0 = parameter(torch.zeros(n))
        # s0 = softplus(raw): positive whatever the optimiser does; softplus(0.5413) = 1.
        self.raw_s0 = parameter(torch.full((m,), 0.5413248546129181))

    @property
    def s0(self) -> Tensor:
        """Slack of z0, `(m,)`, positive."""
        return nn.functional.softplus(self.raw_s0)

    def forward(self, q: Tensor) -> Tensor:
        """Return x `(*batch, n)` for the linear term q `(*batch, n)`.

        Raises:
            ProblemError: the last dimension of q is not n, or its dtype or device is not the parameters'.
        """
        if torch.is_autocast_enabled(q.device.type):  # the parameters keep their precision, and q is lifted to it
            with torch.autocast(q.device.type, enabled=False):
                return self._forward(q.to(self.L.dtype))
        return self._forward(q)

    def _forward(self, q: Tensor) -> Tensor:
        L = self.L.tril()
        P = L @ L.mT + self.eps * torch.eye(self.n, dtype=L.dtype, device=L.device)
        if q.ndim == 0 or q.shape[-1] != self.n:
            raise ProblemError(f"q: expected shape (*batch, {self.n}), got {tuple(q.shape)}")
        G, h = (self.G, self.G @ self.z0 + self.s0) if self.m else (None, None)
        A, b = (self.A, self.A @ self.z0) if self.p else (None, None)
        x: Tensor = self.qp(P, q, G, h, A, b)
        return x

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"n={self.n}, m={self.m}, p={self.p}, eps={self.eps}"
