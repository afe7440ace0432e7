"""The one loop that every iteration runs in: a batch at a time, each element with its own end and its own status.

A method knows how to begin (`start`) and how to go one step (`step`), for all elements at once. The loop knows who
is still on the way: it takes a step only where it is wanted and finite, so no element's answer depends on how its
neighbours fare, and says of each what became of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..algebra import choose
from ..checks import check_count
from ..errors import ProblemError
from ..linear import LinearSolver
from ..status import SolveStatus
from ..transforms import everywhere

State = dict[str, Tensor]  # each with the batch in front

ABSOLUTE = {torch.float64: 1e-10}  # default eps_abs; other dtypes: SINGLE
SINGLE = 1e-5
ROUND_OFF = 10  # default eps_rel in units of round-off: below it a residual is noise
DIVERGED = 1e10  # growth of the residual that is no transient
UNBOUNDED = 1e20  # a cost below minus this (times its first size) has no minimum


class Point(NamedTuple):
    """A batch of iterates: `w (B, N)`, what a step should lower `value (B,)`, what should vanish `residual (B, N)`."""

    w: Tensor
    value: Tensor
    residual: Tensor


@dataclass(frozen=True)
class System:
    """What an iteration may ask, flat over the batch. `residual` is F; `value` is |F|²/2, or the cost to minimise.

    Attributes:
        evaluate: the point at w.
        solve: `J(w)⁻¹ r` of (w, r, linear solver or None for the default).
        minimises: F is the gradient of `value`.
        relative: residuals are compared to |w| (a fixed point) and not to the first residual.
        misfit: r(w) `(B, M)` with `value = |r|²/2`, where the problem has that form.
        full_steps: do not search along a direction: a step from the solution itself is asked for.
    """

    evaluate: Callable[[Tensor], Point]
    solve: Callable[[Tensor, Tensor, LinearSolver | None], Tensor]
    minimises: bool = False
    relative: bool = False
    misfit: Callable[[Tensor], Tensor] | None = None
    full_steps: bool = False


class Method(Protocol):
    """An iteration with its options.

    A residual is small enough at `|F|∞ <= eps_abs + eps_rel · scale`, where scale is the largest entry of w for
    fixed points and of the first residual otherwise. `None` means 1e-10 in float64 and 1e-5 in float32 for `eps_abs`,
    ten units of round-off for `eps_rel`.
    """

    @property
    def eps_abs(self) -> float | None:
        """Absolute tolerance."""

    @property
    def eps_rel(self) -> float | None:
        """Relative tolerance."""

    @property
    def max_iter(self) -> int:
        """Most steps."""

    def start(self, system: System, point: Point) -> State:
        """Return what the method remembers at its first point."""

    def step(self, system: System, point: Point, state: State) -> tuple[Point, State]:
        """Go one step everywhere, in differentiable operations; no state and no NaN from elements with F = 0."""


class Found(NamedTuple):
    """What a solve returns, flat over the batch. The first two are what `condition.SolutionMap` needs."""

    w: Tensor  # (B, N)
    solved: Tensor  # (B,) bool
    status: Tensor  # (B,) int64
    iterations: Tensor  # (B,) int64
    residual: Tensor  # (B,) largest entry of |F|


def iterate(method: Method, system: System, w: Tensor, count: int | None = None, frozen: Tensor | None = None) -> Found:
    """Run a method from w `(B, N)`.

    Args:
        method: which, and its options.
        system: the problem.
        w: the first iterate.
        count: take exactly that many steps, without looking at convergence.
        frozen: elements `(B,)` that stay where they are.

    Returns:
        `Found`. INVALID_INPUT: F is not finite at w, and w is NaN. NUMERICAL_ERROR: the next step was not finite, went
        nowhere, or led far away; w is the last finite iterate.
    """
    point = system.evaluate(w)
    limit = _limit(method, system, point)
    first = _size(point)
    status = torch.full_like(point.value, int(SolveStatus.MAX_ITER), dtype=torch.int64).detach()
    status = torch.where(_finite(point), status, int(SolveStatus.INVALID_INPUT))
    steps = torch.zeros_like(status)
    state = method.start(system, point)
    waiting = torch.zeros_like(status, dtype=torch.bool) if frozen is None else frozen
    for _ in range(method.max_iter if count is None else count):
        active = (status == SolveStatus.MAX_ITER) & ~waiting
        if count is None:
            active = active & ~(_size(point) <= limit(point))
        if everywhere(~active):
            break
        new, new_state = method.step(system, point, state)
        stuck = new_state.pop("stuck", torch.zeros_like(active))
        take = active & _finite(new)
        failed = active & (~_finite(new) | stuck)
        if not system.minimises:  # a cost may steepen on its way down
            failed = failed | (active & ~(_size(new) <= DIVERGED * (1 + first)))
        status = choose(failed & ~(take & (_size(new) <= limit(new))), int(SolveStatus.NUMERICAL_ERROR), status)
        if system.minimises:
            status = choose(active & (new.value < -UNBOUNDED * (1 + point.value.abs().clamp(max=1))),
                            int(SolveStatus.DUAL_INFEASIBLE), status)  # fmt: skip
        if everywhere(take):
            point, state = new, new_state
        else:
            point = Point(*(choose(take, a, b) for a, b in zip(new, point, strict=True)))
            state = {name: choose(take, new_state[name], old) for name, old in state.items()}
        steps = steps + active
    size = _size(point)
    status = torch.where((status == SolveStatus.MAX_ITER) & (size <= limit(point)), int(SolveStatus.SOLVED), status)
    w = choose(status == SolveStatus.INVALID_INPUT, torch.nan, point.w)
    return Found(w, status == SolveStatus.SOLVED, status, steps, size)


def check_options(method: Method) -> None:
    """Check what all methods share.

    Raises:
        ProblemError: which option, and what was expected.
    """
    for name in ("eps_abs", "eps_rel"):
        value = getattr(method, name)
        if value is not None and not value >= 0:
            raise ProblemError(f"{name}: expected a number >= 0 or None, got {value!r}")
    check_count("max_iter", method.max_iter)


def _limit(method: Method, system: System, first: Point) -> Callable[[Point], Tensor]:
    dtype = first.w.dtype
    eps_abs = ABSOLUTE.get(dtype, SINGLE) if method.eps_abs is None else method.eps_abs
    eps_rel = ROUND_OFF * torch.finfo(dtype).eps if method.eps_rel is None else method.eps_rel
    if system.relative:
        return lambda point: eps_abs + eps_rel * _largest(point.w)
    fixed = eps_abs + eps_rel * _largest(first.residual)
    return lambda point: fixed


def _size(point: Point) -> Tensor:
    return _largest(point.residual)


def _largest(v: Tensor) -> Tensor:
    v = v.detach()
    return v.abs().amax(-1) if v.shape[-1] else v.sum(-1)


def _finite(point: Point) -> Tensor:
    return point.residual.isfinite().all(-1) & point.value.isfinite()
