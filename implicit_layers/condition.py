"""A general condition F(w, θ) = 0 as an implicitly defined map, and the linear solve of its derivatives as another.

`implicit.py` holds the theorem; here are the two maps that it needs where F is any function of torch:

    SolutionMap:    θ -> w            with F(w, θ) = 0,            found by any solver
    JacobianSolve:  (w, θ, r) -> u    with J(w, θ) u = r,          J = ∂F/∂w or its transpose

Products with J and with ∂F/∂θ are directional derivatives and pullbacks of F, so nothing is formed unless the linear
solver wants it. Both maps are differentiated by the same theorem, which gives derivatives of any order.

References: Blondel et al. (2022), Efficient and modular implicit differentiation, eq. 2-4.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from .copies import borrow, looks_batched, over_copies, poison, replace_failed
from .errors import SolverWarning, warn_solver
from .implicit import MaybeTensors, Tensors, implicit_apply
from .linear import LinearSolver
from .transforms import directional, everywhere, pullback, stored


@dataclass(frozen=True)
class Condition:
    """F, flat: from w `(B, N)` and a list of tensors to `(B, N)`, B elements that do not see each other.

    Attributes:
        function: `F(w, *params)`.
        batch_shape: the batch whose product is B, as it leads in batched params.
        core_dims: dimensions of each of the params; one more means that a transform maps over it.
        symmetric: J is symmetric (F is a gradient), so that products with J serve for its transpose.
        own: which of the params are known to hold values of each element that no other element sees.
    """

    function: Callable[..., Tensor]
    batch_shape: tuple[int, ...]
    core_dims: tuple[int, ...]
    symmetric: bool = False
    own: tuple[bool, ...] | None = None

    def at(self, params: Sequence[Tensor], solved: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return F as a function of w `(copies, B, N)`."""
        return lambda w: self(w, params, solved)

    def __call__(self, w: Tensor, params: Sequence[Tensor], solved: Tensor | None = None) -> Tensor:
        """Evaluate F for w `(copies, B, N)`; with `solved (copies, B)`, failed elements cannot spread NaN."""
        if solved is None or everywhere(solved):
            return cast("Tensor", over_copies(self.function, self.core_dims, w, params))
        return self._with(self.borrowed, w, params, solved)

    def borrowed(self, params: Sequence[Tensor], solved: Tensor) -> list[Tensor]:
        """Return the params of one copy, failed elements holding values of one that is solved (`copies.borrow`)."""
        own = self.own or (False,) * len(params)
        alive = solved.any()
        if not everywhere(alive):  # nothing to borrow in a copy that failed; its NaN must not reach what copies share
            params = [torch.where(alive, p, p.detach()) for p in params]
        return [borrow(p, solved, self.batch_shape, whole) for p, whole in zip(params, own, strict=True)]

    def separated(self, w: Tensor, params: Sequence[Tensor], solved: Tensor) -> Condition:
        """Return the same condition, knowing which of the params are the elements' `own`, if some element failed.

        Finite data of a failed element may give NaN too (a logarithm of -1). They can be replaced if no other element
        depends on them, which their shape alone does not say: put NaN there, and see where it arrives.
        """
        if self.own is not None or everywhere(solved):
            return self

        def solved_rows_of(i: int | None) -> Tensor:
            def poisoned(params: Sequence[Tensor], solved: Tensor) -> list[Tensor]:
                found = self.borrowed(params, solved)
                if i is not None:
                    found[i] = poison(params[i], solved, self.batch_shape)
                return found

            return torch.where(solved.unsqueeze(-1), self._with(poisoned, w, params, solved), 0.0)

        candidates = [
            i for i, (p, core) in enumerate(zip(params, self.core_dims, strict=True))
            if looks_batched(p[0] if p.ndim > core else p, self.batch_shape)
        ]  # fmt: skip
        own = [False] * len(params)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SolverWarning)  # of layers inside F
            before = solved_rows_of(None)
            for i in candidates:
                with contextlib.suppress(RuntimeError):  # some operations refuse NaN
                    own[i] = everywhere(solved_rows_of(i) == before)
        return replace(self, own=tuple(own))

    def _with(
        self,
        changed: Callable[[Sequence[Tensor], Tensor], list[Tensor]],
        w: Tensor,
        params: Sequence[Tensor],
        solved: Tensor,
    ) -> Tensor:
        """Evaluate F with other params: `changed(params, solved)`, for each copy."""
        value = over_copies(
            lambda w, solved, *params: self.function(w, *changed(params, solved)),
            (1, *self.core_dims),
            w,
            (solved, *params),
        )
        return cast("Tensor", value)

    def product(self, u: Tensor, w: Tensor, params: Sequence[Tensor], solved: Tensor, transposed: bool) -> Tensor:
        """Return J u or Jᵀu, in differentiable operations."""
        function = self.at(params, solved)
        return pullback(function, w)(u)[0] if transposed else directional(function, (w,), (u,))


@dataclass(frozen=True)
class SolutionMap:
    """(w0, *params) -> w with F(w, params) = 0.

    `find(w0, params, copies)` finds it: any solver will do. It returns w and, for each element, whether it is
    solved, then whatever else the caller wants to know of each element.
    """

    condition: Condition
    find: Callable[[Tensor, Tensors, int], Tensors]
    linear: LinearSolver
    batch: int = 1  # copies made by vmap; the condition's own batch is its own affair
    num_unknowns: int = 1

    @property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of w0 and the params."""
        return (2, *self.condition.core_dims)

    def with_batch(self, batch: int) -> SolutionMap:
        """Return the same map for another number of copies."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Run the solver on all copies at once: outputs `(copies, B, ...)`."""
        w0, *rest = params
        w0 = w0.expand(self.batch, *w0.shape[-2:])
        outputs = self.find(w0.flatten(0, 1), tuple(rest), self.batch)
        return tuple(v.reshape(*w0.shape[:2], *v.shape[1:]) for v in outputs)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return dw = -J⁻¹ (∂F/∂θ) dθ."""
        w, solved, theta = *replace_failed(outputs), params[1:]
        condition = self.condition.separated(w, theta, solved)
        moving = [i for i, d in enumerate(dparams[1:]) if d is not None]
        if not moving:
            return (torch.zeros_like(w),)
        change = directional(
            lambda *moved: condition(w, _replaced(theta, moving, moved), solved),
            [theta[i] for i in moving],
            [cast("Tensor", dparams[1 + i]) for i in moving],
        )
        return (self._jacobian_solve(condition, solved, w, theta, -change, transposed=False),)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return -(∂F/∂θ)ᵀ J⁻ᵀ v."""
        w, solved, theta = *replace_failed(outputs), params[1:]
        (v,) = cotangents
        assert v is not None  # the theorem asks only where a cotangent arrived
        condition = self.condition.separated(w, theta, solved)
        u = self._jacobian_solve(condition, solved, w, theta, v, transposed=True)
        return (None, *_pulled_back(lambda *p: condition(w, p, solved), theta, needs[1:], -u, solved))

    def _jacobian_solve(
        self, condition: Condition, solved: Tensor, w: Tensor, theta: Tensors, r: Tensor, transposed: bool
    ) -> Tensor:
        r = torch.where(solved.unsqueeze(-1), r, 0.0)
        system = JacobianSolve(condition, self.linear, transposed, batch=self.batch)
        (u,) = implicit_apply(system, solved, w, *theta, r)
        return u


@dataclass(frozen=True)
class JacobianSolve:
    """(solved, w, *params, r) -> u with J(w, params) u = r, or Jᵀ u = r.

    An element whose residual the linear solver does not accept gets u = 0, and one warning counts them (`check`).
    """

    condition: Condition
    linear: LinearSolver
    transposed: bool
    check: bool = True
    batch: int = 1
    num_unknowns: int = 1

    @property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of solved, w, the params and r."""
        return (1, 2, *self.condition.core_dims, 2)

    def with_batch(self, batch: int) -> JacobianSolve:
        """Return the same map for another number of copies."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Solve all copies as one batch, without autograd."""
        _, w, *theta, r = params
        w, r = (v.expand(self.batch, *v.shape[-2:]) for v in (w, r))
        shape = r.shape
        function = self.condition.at(theta)
        pull = functools.cache(lambda: pullback(function, w))  # one evaluation of F serves all transposed products

        def product(u: Tensor) -> Tensor:
            return directional(function, (w,), (u.reshape(shape),)).flatten(0, 1)

        def transposed(u: Tensor) -> Tensor:
            return pull()(u.reshape(shape))[0].flatten(0, 1)

        if self.transposed or self.condition.symmetric:
            found = self.linear.solve(transposed, r.flatten(0, 1))
        else:
            found = self.linear.solve(product, r.flatten(0, 1), transposed)
        if not self.check:
            return (found.u.reshape(shape),)
        accepted = self.linear.accepts(found.residual)
        if not bool(accepted.all()):
            warn_solver(_unsolved(self.linear, found.residual, accepted))
        return (torch.where(accepted.unsqueeze(-1), found.u, 0.0).reshape(shape),)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return du = J⁻¹ (dr - dJ u)."""
        (u,) = outputs
        solved, moved = params[0], params[1:-1]
        right = torch.zeros_like(u) if dparams[-1] is None else dparams[-1]
        moving = [i for i, d in enumerate(dparams[1:-1]) if d is not None]
        if moving:
            right = right - directional(
                lambda *some: self._product(u, solved, _replaced(moved, moving, some)),
                [moved[i] for i in moving],
                [cast("Tensor", dparams[1 + i]) for i in moving],
            )
        return implicit_apply(self, *params[:-1], torch.where(solved.unsqueeze(-1), right, 0.0))

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of w, the params and r."""
        (u,), (v,) = outputs, cotangents
        assert v is not None  # as above
        solved, moved = params[0], params[1:-1]
        v = torch.where(solved.unsqueeze(-1), v, 0.0)
        (s,) = implicit_apply(replace(self, transposed=not self.transposed), *params[:-1], v)
        pulled = _pulled_back(lambda *p: self._product(u, solved, p), moved, needs[1:-1], -s, solved)
        return (None, *pulled, s if needs[-1] else None)

    def _product(self, u: Tensor, solved: Tensor, moved: Sequence[Tensor]) -> Tensor:
        w, *theta = moved
        return self.condition.product(u, w, theta, solved, self.transposed and not self.condition.symmetric)


def _pulled_back(
    function: Callable[..., Tensor], params: Tensors, needs: Sequence[bool], cotangent: Tensor, solved: Tensor
) -> MaybeTensors:
    """Return the gradients of the params in `needs`; zero where no element is solved."""
    wanted = [i for i, need in enumerate(needs) if need]
    gradients: list[Tensor | None] = [None] * len(params)
    if wanted:
        pull = pullback(lambda *some: function(*_replaced(params, wanted, some)), *(params[i] for i in wanted))
        for i, gradient in zip(wanted, pull(cotangent), strict=True):
            gradients[i] = gradient if everywhere(solved) else torch.where(solved.any(), gradient, 0.0)
    return tuple(gradients)


def _replaced(params: Sequence[Tensor], indices: Sequence[int], values: Sequence[Tensor]) -> list[Tensor]:
    changed = list(params)
    for i, value in zip(indices, values, strict=True):
        changed[i] = value
    return changed


def _unsolved(linear: LinearSolver, residual: Tensor, accepted: Tensor) -> str:
    missed = (~stored(accepted)).nonzero()
    worst = float(residual[~accepted].max())
    return (
        f"implicit derivative: {len(missed)} of {accepted.numel()} linear systems not solved by {linear} (first: "
        f"element {int(missed[0])}; worst relative residual {worst:.2g}); their derivative is set to zero. Either the "
        "Jacobian is singular there, or the linear solver needs more iterations, a larger tol, or another choice"
    )
