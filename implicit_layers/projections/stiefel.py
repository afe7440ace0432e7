"""The closest matrix with orthonormal columns, differentiated by the implicit function theorem.

M = QH with Q'Q = I and H symmetric. Differentiated, with Ω = Q'dQ skew:

    HΩ + ΩH = Q'dM - dM'Q,        dQ = QΩ + (I - QQ') dM H⁻¹

The Sylvester equation has denominators σ_i + σ_j and not σ_i - σ_j: repeated singular values are no exception.

References: Higham (2008), Functions of matrices, chapter 8; Kenney and Laub (1991) for the derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ProblemError
from ..implicit import MaybeTensors, Tensors, implicit_apply
from ..transforms import outside_graphs
from .elements import Elements

SINGULAR = 1e-12  # share of the largest singular value below which one counts as zero


@outside_graphs
def project_stiefel(point: Tensor) -> Tensor:
    """Return the closest matrix with orthonormal columns: the polar factor UV' of UΣV'.

    Args:
        point: `(*batch, n, p)` with n >= p and rank p.

    Returns:
        `(*batch, n, p)`. NaN, and one warning, for elements that are not finite or of lower rank: their closest
        matrix is not unique.

    Raises:
        ProblemError: shape or dtype do not fit.

    Differentiability:
        In the point, any order; also where singular values coincide.
    """
    elements = Elements("project_stiefel", point=(point, "np"))
    n, p = point.shape[-2:]
    if n < p:
        raise ProblemError(f"point: expected shape (*batch, n, p) with n >= p, got {tuple(point.shape)}; pass point.mT")
    given = elements["point"].detach()
    finite = given.isfinite().all(-1).all(-1)
    sizes = torch.linalg.svdvals(torch.where(finite[..., None, None], given, 1.0))
    elements.require(~finite | (sizes[..., -1] > SINGULAR * sizes[..., 0]), "point", "linearly independent columns")
    (M,) = elements.tensors()
    # In the place of elements without an answer stands zero; here that must be a matrix of full rank.
    eye = torch.eye(n, p, dtype=M.dtype, device=M.device)
    M = torch.where(elements.invalid[..., None, None], eye, M)
    flat = M.reshape(-1, n, p)
    (Q,) = implicit_apply(PolarMap(flat.shape[0]), flat)
    return elements.answer(Q.reshape(M.shape))


@dataclass(frozen=True)
class PolarMap:
    """M -> Q, `(batch, n, p)`."""

    batch: int
    num_unknowns: int = 1
    core_dims: tuple[int, ...] = (2,)

    def with_batch(self, batch: int) -> PolarMap:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Return UV'."""
        U, _, Vt = torch.linalg.svd(params[0], full_matrices=False)
        return (U @ Vt,)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return dQ."""
        (Q,), (M,), (dM,) = outputs, params, dparams
        assert dM is not None  # the only parameter
        H, turned = _symmetric(Q.mT @ M), Q.mT @ dM
        omega = self._sylvester(H, turned - turned.mT)
        return (Q @ omega + _over(dM - Q @ turned, H),)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradient of M: the Sylvester solve is its own adjoint."""
        (Q,), (M,), (V,) = outputs, params, cotangents
        assert V is not None  # the only output
        H, turned = _symmetric(Q.mT @ M), Q.mT @ V
        return (Q @ self._sylvester(H, turned - turned.mT) + _over(V - Q @ turned, H),)

    def _sylvester(self, H: Tensor, R: Tensor) -> Tensor:
        (X,) = implicit_apply(SylvesterMap(self.batch), H, R)
        return X


@dataclass(frozen=True)
class SylvesterMap:
    """(H, R) -> X with HX + XH = R, for H symmetric positive definite, `(batch, p, p)`."""

    batch: int
    num_unknowns: int = 1
    core_dims: tuple[int, ...] = (2, 2)

    def with_batch(self, batch: int) -> SylvesterMap:
        """Return the same map for another batch size."""
        return replace(self, batch=batch)

    def solve(self, *params: Tensor) -> Tensors:
        """Solve in the basis of H's eigenvectors."""
        H, R = params
        values, V = torch.linalg.eigh(H)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        return (V @ ((V.mT @ R @ V) / sums) @ V.mT,)

    def tangent(self, outputs: Tensors, params: Tensors, dparams: MaybeTensors) -> Tensors:
        """Return dX, with right-hand side dR - dH X - X dH."""
        (X,), (H, _), (dH, dR) = outputs, params, dparams
        right = torch.zeros_like(X) if dR is None else dR
        if dH is not None:
            right = right - dH @ X - X @ dH
        return implicit_apply(self, H, right)

    def adjoint(
        self, outputs: Tensors, params: Tensors, cotangents: MaybeTensors, needs: Sequence[bool]
    ) -> MaybeTensors:
        """Return the gradients of H and R."""
        (X,), (H, _), (V,) = outputs, params, cotangents
        assert V is not None  # the only output
        (S,) = implicit_apply(self, H, V)
        return (-(S @ X.mT + X.mT @ S) if needs[0] else None, S if needs[1] else None)


def _symmetric(M: Tensor) -> Tensor:
    return 0.5 * (M + M.mT)


def _over(R: Tensor, H: Tensor) -> Tensor:
    """Return R H⁻¹."""
    solved: Tensor = torch.linalg.solve(H, R, left=False)
    return solved
