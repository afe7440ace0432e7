"""Random quadratic programs with a known answer, built backwards from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem


class Known(NamedTuple):
    """A batch of programs with P, q, G, h, A, b and no bounds, and its strictly complementary optimum."""

    problem: QPProblem
    x: Tensor  # (B, n)
    active: Tensor  # (B, m) bool: rows of G that hold with equality


def known_optimum(n: int, m: int, p: int, batch: int, seed: int) -> Known:
    """Draw the optimum, then the right-hand sides, then q from stationarity.

    Half of the inequality rows (at most n - p) are active; multipliers of active rows and slacks of the others
    lie in [1/2, 3/2], so the solution is differentiable and its active set is not in doubt.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    def margin(*shape: int) -> Tensor:
        return 0.5 + torch.rand(batch, *shape, generator=generator, dtype=torch.float64)

    factor = normal(n, n) / n**0.5
    P = factor @ factor.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    G, A = normal(m, n) / n**0.5, normal(p, n) / n**0.5
    x, y = normal(n), normal(p)
    active = (torch.arange(m) < min(m // 2, n - p)).expand(batch, m)
    z, s = torch.where(active, margin(m), 0.0), torch.where(active, 0.0, margin(m))
    q = -(_times(P, x) + _times(G.mT, z) + _times(A.mT, y))
    return Known(QPProblem(P, q, G, _times(G, x) + s, A, _times(A, x)), x, active)


def active_set_solution(problem: QPProblem, active: Tensor) -> Tensor:
    """Return x `(B, n)` of the equality-constrained program of a known active set, by one dense solve.

    A second witness: it shares no code with the package, and autograd through it is the exact gradient.
    The number of active rows is the same in all elements.
    """
    P, q, G, h, A, b, *_ = problem
    assert G is not None
    assert h is not None
    assert A is not None
    assert b is not None
    batch, n = q.shape
    count = int(active[0].sum())
    rows = torch.cat([G[active].reshape(batch, count, n), A], -2)
    right = torch.cat([h[active].reshape(batch, count), b], -1)
    zero = P.new_zeros(batch, rows.shape[-2], rows.shape[-2])
    system = torch.cat([torch.cat([0.5 * (P + P.mT), rows.mT], -1), torch.cat([rows, zero], -1)], -2)
    solution: Tensor = torch.linalg.solve(system, torch.cat([-q, right], -1))
    return solution[..., :n]


def _times(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v.unsqueeze(-1)).squeeze(-1)
