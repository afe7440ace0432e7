"""The two witnesses of the audit: a dense solve with the known active rows, and finite differences.

Neither uses a solver of this package: the first knows the optimum and its active rows beforehand, the second asks
only the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from .audit_problems import BATCH, Case, Tensors

Array = NDArray[np.float64]

CORE = {"P": 2, "q": 1, "G": 2, "h": 1, "A": 2, "b": 1, "lb": 1, "ub": 1}
STEP = 1e-3  # less than the families' margins over their sensitivity: the active rows stay the same


def is_shared(name: str, v: Tensor) -> bool:
    """Return whether an argument has no batch dimension."""
    return v.ndim == CORE[name]


# --- dense solve ----------------------------------------------------------------------------------


def kkt_gradients(case: Case, cotangents: Tensors) -> Tensors:
    """Return the gradients of `sum <cotangent, output>` in the parameters of a regular problem."""
    params, known, v = ({k: t.numpy() for k, t in group.items()} for group in (case.params, case.known, cotangents))
    elements = []
    for i in range(BATCH):
        data = {k: a if is_shared(k, case.params[k]) else a[i] for k, a in params.items()}
        elements.append(_element(data, {k: a[i] for k, a in known.items()}, {k: a[i] for k, a in v.items()}))
    stacked = {k: torch.from_numpy(np.stack([element[k] for element in elements])) for k in params}
    return {k: g.sum(0) if is_shared(k, case.params[k]) else g for k, g in stacked.items()}


def _element(data: dict[str, Array], known: dict[str, Array], v: dict[str, Array]) -> dict[str, Array]:
    # On the active rows C x = d with multipliers w, differentiating Px + q + C'w = 0 gives
    #     [P C'; C 0] (dx, dw) = (-dP x - dq - dC'w, dd - dC x).
    # The matrix K is symmetric: with K u = v every gradient is a product with u.
    n = len(data["q"])
    none, zero = np.zeros((0, n)), np.zeros(0)
    G, A = data.get("G", none), data.get("A", none)
    x, z, y, z_box = known["x"], known.get("z", zero), known.get("y", zero), known.get("z_box", np.zeros(n))
    active, held = z > 0, z_box != 0
    C = np.concatenate([G[active], A, np.eye(n)[held]])
    K = np.block([[data["P"], C.T], [C, np.zeros((len(C), len(C)))]])
    vx, vz, vy, vb = (v.get(k, np.zeros_like(w)) for k, w in (("x", x), ("z", z), ("y", y), ("z_box", z_box)))
    u = np.linalg.solve(K, np.concatenate([vx, vz[active], vy, vb[held]]))
    ux, uz, uy, ub = np.zeros(n), np.zeros_like(z), np.zeros_like(y), np.zeros(n)
    ux, uz[active], uy, ub[held] = np.split(u, np.cumsum([n, active.sum(), len(y)]))
    return {
        "P": -0.5 * (np.outer(ux, x) + np.outer(x, ux)),
        "q": -ux,
        "G": -np.outer(z, ux) - np.outer(uz, x),
        "h": uz,
        "A": -np.outer(y, ux) - np.outer(uy, x),
        "b": uy,
        "lb": np.where(z_box < 0, ub, 0.0),
        "ub": np.where(z_box > 0, ub, 0.0),
    }


# --- finite differences ---------------------------------------------------------------------------


def random_direction(name: str, v: Tensor, generator: Generator) -> Tensor:
    """Return a random change of one argument, of norm 1 in each element, zero where an entry is infinite.

    P changes by P S P: that keeps a singular P positive semidefinite on both sides (and the zero of a linear program).
    """
    change = torch.randn(v.shape, generator=generator, dtype=torch.float64)
    if name == "P":
        change = v @ (change + change.mT) @ v
    change = torch.where(v.isfinite(), change, 0.0)
    size = change.flatten(-CORE[name]).norm(dim=-1).reshape(*v.shape[: v.ndim - CORE[name]], *(1,) * CORE[name])
    return change / torch.where(size > 0, size, 1.0)


def finite_differences(
    function: Callable[[Tensors], Tensors], params: Tensors, name: str, direction: Tensor
) -> Tensors:
    """Return the slope of each output `(BATCH,)` of a function along a direction in one argument.

    Two central differences, extrapolated to step zero (Richardson): error O(STEP^4).
    """

    def central(step: float) -> Tensors:
        ahead, behind = (function(params | {name: params[name] + t * direction}) for t in (step, -step))
        return {k: (ahead[k] - behind[k]) / (2 * step) for k in ahead}

    coarse, fine = central(STEP), central(STEP / 2)
    return {k: (4 * fine[k] - coarse[k]) / 3 for k in fine}


def slope_along(name: str, gradient: Tensor, direction: Tensor) -> Tensor:
    """Return `<gradient, direction>`: of each element, or one number if the argument is shared."""
    return (gradient * direction).flatten(-CORE[name]).sum(-1)
