"""Projections with their arguments, away from kinks, and the same sets as quadratic programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_layers import projections, solve_qp

N = 4


def real(*shape, generator, low=-2.0, high=2.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def positive(*shape, generator) -> Tensor:
    return real(*shape, generator=generator, low=0.5, high=1.5)


@dataclass(frozen=True)
class Case:
    """A projection, its arguments for a batch, and the same as a program `(P, q, G, h, A, b, lb, ub)` if it is one."""

    function: Callable[..., Tensor]
    arguments: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    program: Callable[..., tuple] | None = None

    def by_program(self, *arguments: Tensor) -> Tensor:
        assert self.program is not None
        return solve_qp(*self.program(*arguments)).x


def eye(v: Tensor) -> Tensor:
    return torch.eye(v.shape[-1], dtype=v.dtype)


def ones(v: Tensor) -> Tensor:
    return torch.ones(1, v.shape[-1], dtype=v.dtype)


def monotone_rows(n: int) -> Tensor:
    identity = torch.eye(n, dtype=torch.float64)
    return identity[:-1] - identity[1:]


SUBSETS = [c for k in range(1, N) for c in itertools.combinations(range(N), k)]


def permutahedron_program(v: Tensor, w: Tensor) -> tuple:
    # Every subset of k entries sums to at most the k largest of w.
    G = torch.tensor([[float(i in c) for i in range(N)] for c in SUBSETS], dtype=v.dtype)
    largest = w.sort(-1, descending=True).values.cumsum(-1)
    h = torch.stack([largest[..., len(c) - 1] for c in SUBSETS], -1)
    return eye(v), -v, G, h, ones(v), w.sum(-1, keepdim=True)


def l1_program(v: Tensor, r: Tensor) -> tuple:
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=v.shape[-1])), dtype=v.dtype)
    return eye(v), -v, signs, r.unsqueeze(-1).expand(*r.shape, signs.shape[0])


def steps(v: Tensor, eps: Tensor) -> Tensor:
    return torch.arange(1, N + 1, dtype=v.dtype).expand(v.shape) / eps.unsqueeze(-1)


CASES = {
    "simplex": Case(
        projections.project_simplex,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g)),
        lambda v, t: (eye(v), -v, None, None, ones(v), t.unsqueeze(-1), torch.zeros_like(v)),
    ),
    "capped simplex": Case(
        projections.project_capped_simplex,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g), positive(b, N, generator=g)),
        lambda v, t, c: (eye(v), -v, None, None, ones(v), t.unsqueeze(-1), torch.zeros_like(v), c),
    ),
    "box": Case(
        projections.project_box,
        lambda b, g: (real(b, N, generator=g), -positive(b, N, generator=g), positive(b, N, generator=g)),
        lambda v, low, high: (eye(v), -v, None, None, None, None, low, high),
    ),
    "l1 ball": Case(
        projections.project_l1_ball,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g)),
        l1_program,
    ),
    "linf ball": Case(
        projections.project_linf_ball,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g)),
        lambda v, r: (eye(v), -v, None, None, None, None, -r.unsqueeze(-1).expand_as(v), r.unsqueeze(-1).expand_as(v)),
    ),
    "l2 ball": Case(
        projections.project_l2_ball, lambda b, g: (real(b, N, generator=g), positive(b, generator=g))
    ),
    "second-order cone": Case(projections.project_second_order_cone, lambda b, g: (real(b, N, generator=g),)),
    "hyperplane": Case(
        projections.project_hyperplane,
        lambda b, g: (real(b, N, generator=g), real(b, N, generator=g), real(b, generator=g)),
        lambda v, a, b: (eye(v), -v, None, None, a.unsqueeze(-2), b.unsqueeze(-1)),
    ),
    "halfspace": Case(
        projections.project_halfspace,
        lambda b, g: (real(b, N, generator=g), real(b, N, generator=g), real(b, generator=g)),
        lambda v, a, b: (eye(v), -v, a.unsqueeze(-2), b.unsqueeze(-1)),
    ),
    "affine": Case(
        projections.project_affine,
        lambda b, g: (real(b, N, generator=g), real(b, 2, N, generator=g), real(b, 2, generator=g)),
        lambda v, A, b: (eye(v), -v, None, None, A, b),
    ),
    "polytope": Case(
        projections.project_polytope,
        lambda b, g: (real(b, N, generator=g), real(b, 3, N, generator=g), positive(b, 3, generator=g)),
        lambda v, G, h: (eye(v), -v, G, h),
    ),
    "isotonic": Case(
        projections.isotonic_regression,
        lambda b, g: (real(b, N, generator=g), positive(b, N, generator=g)),
        lambda v, w: (
            torch.diag_embed(w), -w * v, monotone_rows(N), torch.zeros(N - 1, dtype=v.dtype)
        ),
    ),
    "permutahedron": Case(
        projections.project_permutahedron,
        lambda b, g: (real(b, N, generator=g), real(b, N, generator=g)),
        permutahedron_program,
    ),
    "soft sort": Case(
        projections.soft_sort,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g)),
        lambda v, eps: permutahedron_program(steps(v, eps), v),
    ),
    "soft rank": Case(
        projections.soft_rank,
        lambda b, g: (real(b, N, generator=g), positive(b, generator=g)),
        lambda v, eps: permutahedron_program(v / eps.unsqueeze(-1), steps(v, torch.ones_like(eps))),
    ),
    "stiefel": Case(projections.project_stiefel, lambda b, g: (real(b, N, 3, generator=g),)),
    "soft arg-max": Case(
        lambda s, t, total, cap: projections.soft_argmax(s, t, total, cap),
        lambda b, g: (
            real(b, N, generator=g), positive(b, generator=g), positive(b, generator=g), positive(b, N, generator=g)
        ),
    ),
}  # fmt: skip

PROGRAMS = [name for name, case in CASES.items() if case.program is not None]
