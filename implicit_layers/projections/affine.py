"""Hyperplane, halfspace, affine subspace, polytope."""

from __future__ import annotations

import torch
from torch import Tensor

from ..algebra import times
from ..qp.solve import solve_qp
from .balls import norm
from .elements import Elements

CONSISTENT = 1e-9  # relative residual above which `Ax = b` has no solution


def project_hyperplane(point: Tensor, normal: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """Return the closest point of `{normal'x = offset}`.

    Args:
        point: `(*batch, n)`.
        normal: `(*batch, n)`, not zero.
        offset: a number or `(*batch,)`.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements that are not finite or whose normal is zero.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        In all arguments, any order, everywhere.
    """
    elements = _flat("project_hyperplane", point, normal, offset)
    v, a, b = elements.tensors()
    return elements.answer(_move(v, a, b, torch.ones_like(b, dtype=torch.bool)))


def project_halfspace(point: Tensor, normal: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """Return the closest point of `{normal'x <= offset}`.

    Args:
        point: `(*batch, n)`.
        normal: `(*batch, n)`, not zero.
        offset: a number or `(*batch,)`; `inf` means the whole space.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements that are not finite or whose normal is zero.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        In all arguments, any order. A point on the plane counts as inside.
    """
    elements = _flat("project_halfspace", point, normal, offset)
    v, a, b = elements.tensors()
    return elements.answer(_move(v, a, b, (a * v).sum(-1, keepdim=True) > b))


def project_affine(point: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Return the closest point of `{Ax = b}`: `v - A⁺(Av - b)`.

    Args:
        point: `(*batch, n)`.
        A: `(*batch, p, n)`; dependent rows are fine if b agrees.
        b: `(*batch, p)`.

    Returns:
        `(*batch, n)`. NaN, and one warning, for elements that are not finite or whose rows contradict each other.

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        In all arguments, any order, as long as the rank of A does not change: with dependent rows, the derivative
        is that of changes which keep them dependent.

    References:
        Golub and Pereyra (1973), for the derivative of a pseudo-inverse.
    """
    elements = Elements("project_affine", point=(point, "n"), A=(A, "pn"), b=(b, "p"))
    rows, right = elements["A"].detach(), elements["b"].detach()
    finite = rows.isfinite().flatten(-2).all(-1) & right.isfinite().all(-1)
    elements.require(finite, "A, b", "finite entries")
    rows, right = (torch.where(finite.reshape(*finite.shape, *(1,) * k), v, 0.0) for v, k in ((rows, 2), (right, 1)))
    off = times(rows, times(torch.linalg.pinv(rows), right)) - right
    elements.require(off.norm(dim=-1) <= CONSISTENT * right.norm(dim=-1), "A, b", "rows of Ax = b that agree")
    v, rows, right = elements.tensors()
    return elements.answer(v - times(torch.linalg.pinv(rows), times(rows, v) - right))


def project_polytope(
    point: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
) -> Tensor:
    """Return the closest point of `{Gx <= h, Ax = b, lb <= x <= ub}`: `solve_qp` with P = I and q = -point.

    Args:
        point: `(*batch, n)`.
        G: `(*batch, m, n)`.
        h: `(*batch, m)`; `inf` means "no such row".
        A: `(*batch, p, n)`; dependent rows are fine.
        b: `(*batch, p)`.
        lb: `(*batch, n)`; `-inf` means "no such bound".
        ub: `(*batch, n)`; `inf` means "no such bound".

    Returns:
        `(*batch, n)`. One warning for elements that are not finite (NaN) or whose set is empty (NaN).

    Raises:
        ProblemError: shapes, dtypes or devices do not fit.

    Differentiability:
        As `solve_qp`: in all arguments, any order; a row that is only touched counts as inactive.
    """
    Elements("project_polytope", point=(point, "n"))  # names the point where it is at fault
    identity = torch.eye(point.shape[-1], dtype=point.dtype, device=point.device)
    solution = solve_qp(identity, -point, G, h, A, b, lb, ub)
    return torch.where((solution.status == 0).unsqueeze(-1), solution.x, torch.nan)


def _flat(caller: str, point: Tensor, normal: Tensor, offset: float | Tensor) -> Elements:
    elements = Elements(caller, point=(point, "n"), normal=(normal, "n"), offset=(offset, "1"))
    a, b = elements["normal"], elements["offset"].squeeze(-1)
    elements.require(a.isfinite().all(-1) & (a != 0).any(-1), "normal", "finite entries, not all of them zero")
    elements.require(b.isfinite() | ((b == torch.inf) & ("halfspace" in caller)), "offset", "a finite number")
    return elements


def _move(v: Tensor, a: Tensor, b: Tensor, moved: Tensor) -> Tensor:
    size = norm(a)
    unit = a / size
    excess = (unit * v).sum(-1, keepdim=True) - torch.where(moved, b, 0.0) / size
    return torch.where(moved, v - unit * excess, v)
