"""The one-shot model's program on cvxpylayers: the network's output is a parameter of the problem."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from implicit_layers import OptNetLayer
from robotics.checks import require

_MODULES = (("cvxpy", "cvxpy"), ("cvxpylayers.torch", "cvxpylayers"))
# Interior points lose half the digits on the cone of the squared norm (1e-5); splitting has all of them. Dense: the
# derivative's linear system is solved directly.
SOLVER_ARGS = {"solve_method": "SCS", "eps_abs": 1e-12, "eps_rel": 1e-12, "max_iters": 100_000}


def solve_by_cvxpylayers(layer: OptNetLayer, q: Tensor) -> Tensor:
    """Return what `layer(q)` returns, `(*batch, n)`, from the same parameters, by cvxpylayers.

    Slow, on the CPU: a cone program and a dense derivative for each element.

    Args:
        layer: whose program is solved.
        q: the linear term `(*batch, n)`; finite.

    Raises:
        ImportError: cvxpylayers is not installed.

    Differentiability:
        In q and in every parameter of the layer, by the cone program's residual map.
    """
    rows = q.reshape(-1, layer.n)
    if not rows.shape[0]:
        return q
    L = layer.L.tril()
    eye = torch.eye(layer.n, dtype=L.dtype, device=L.device)
    values = [rows, torch.linalg.cholesky(L @ L.mT + layer.eps * eye).mT]
    values += [layer.G, layer.G @ layer.z0 + layer.s0] if layer.m else []
    values += [layer.A, layer.A @ layer.z0] if layer.p else []
    differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in values)
    args = {**SOLVER_ARGS, "mode": "dense"} if differentiated else SOLVER_ARGS  # else the solver gets it, and refuses
    x: Tensor = _program(layer.n, layer.m, layer.p)(*values, solver_args=args)[0]
    return x.reshape(q.shape)


@cache
def _program(n: int, m: int, p: int) -> Any:
    """Build the layer of one size, once.

    `1/2 x'Px` with `P = LL' + eps I` as a parameter is not disciplined (DPP): products of parameters are not affine
    in them; `1/2 |F'x|²` with the Cholesky factor `P = FF'` is. One square for all of P: a second one, of weight eps,
    makes the cone program ill-conditioned.
    """
    cp, torch_layers = (require(*names, "cvxpy") for names in _MODULES)
    x = cp.Variable(n)
    nn_output, factor = cp.Parameter(n), cp.Parameter((n, n))
    rows: list[Any] = []
    parameters = [nn_output, factor]
    if m:
        G, h = cp.Parameter((m, n)), cp.Parameter(m)
        parameters, rows = [*parameters, G, h], [*rows, G @ x <= h]
    if p:
        A, b = cp.Parameter((p, n)), cp.Parameter(p)
        parameters, rows = [*parameters, A, b], [*rows, A @ x == b]
    cost = 0.5 * cp.sum_squares(factor @ x) + nn_output @ x
    return torch_layers.CvxpyLayer(cp.Problem(cp.Minimize(cost), rows), parameters=parameters, variables=[x])
