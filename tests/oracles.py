"""Independent checks in dense float64 numpy. Nothing here imports the package under test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from problems import Problem, given, mapped, moved

OUTPUTS = ("x", "z", "y", "z_box")


def _array(value) -> np.ndarray | None:
    return None if value is None else np.asarray(value.detach().cpu().numpy(), dtype=np.float64)


def arrays(problem: Problem) -> Problem:
    """The problem in numpy, missing rows and bounds written out as rows and bounds that are not there."""
    P, q, G, h, A, b, lb, ub = (_array(value) for value in problem)
    n = q.shape[-1]
    none, free = np.zeros((0, n)), np.full(n, np.inf)
    return Problem(
        P,
        q,
        none if G is None else G,
        np.zeros(0) if h is None else h,
        none if A is None else A,
        np.zeros(0) if b is None else b,
        -free if lb is None else lb,
        free if ub is None else ub,
    )


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]


def _largest(values: np.ndarray) -> np.ndarray:
    return np.max(np.abs(values), axis=-1, initial=0.0)


class Residuals(NamedTuple):
    """How far a point is from optimal, one number per element; NaN never passes a `<=`."""

    stationarity: np.ndarray
    primal: np.ndarray
    sign: np.ndarray
    complementarity: np.ndarray

    @property
    def worst(self) -> float:
        """The largest of all residuals over all elements."""
        return float(np.max([np.max(part, initial=0.0) for part in self]))


def kkt(problem: Problem, solution) -> Residuals:
    """Residuals of the optimality conditions, from the definition; `solution` has x, z, y, z_box."""
    P, q, G, h, A, b, lb, ub = arrays(problem)
    x, z, y, z_box = (_array(getattr(solution, name)) for name in OUTPUTS)
    stationarity = _times(P, x) + q + _times(np.swapaxes(G, -1, -2), z)
    stationarity = stationarity + _times(np.swapaxes(A, -1, -2), y) + z_box
    s = h - _times(G, x)
    at_lb, at_ub = np.maximum(-z_box, 0.0), np.maximum(z_box, 0.0)

    def product(multiplier, slack):
        # a multiplier on a row that is not there (infinite slack) counts in full
        return multiplier * np.where(np.isinf(slack), 1.0, slack)

    violations = [np.maximum(-s, 0), _times(A, x) - b, np.maximum(lb - x, 0), np.maximum(x - ub, 0)]
    products = [product(z, s), product(at_lb, x - lb), product(at_ub, ub - x)]
    return Residuals(
        _largest(stationarity),
        np.maximum.reduce([_largest(part) for part in violations]),
        _largest(np.minimum(z, 0.0)),
        np.maximum.reduce([_largest(part) for part in products]),
    )


def relative_error(got, expected) -> float:
    """Largest difference over max(1, largest expected entry); infinite if something is not finite."""
    got, expected = _array(got), _array(expected)
    if got.shape != expected.shape:
        raise AssertionError(f"shapes differ: got {got.shape}, expected {expected.shape}")
    if not np.isfinite(got).all():
        return np.inf
    return float(np.max(np.abs(got - expected), initial=0.0) / max(1.0, np.max(np.abs(expected), initial=0)))


def _adjoint(problem: Problem, x, z, y, z_box, v: dict, threshold: float) -> dict[str, np.ndarray]:
    """Gradients of one element by one solve with its active rows C x = d, multipliers w.

    Differentiating the optimality conditions, [P C'; C 0] (dx, dw) = (-dP x - dq - dC'w, dd - dC x). The
    matrix is symmetric: u = its inverse times the cotangents turns every gradient into a product with u.
    Dependent rows: the pseudo-inverse gives the u of least norm.
    """
    P, _, G, _, A, _, _, _ = problem
    n = x.size
    on, at_lb, at_ub = z > threshold, z_box < -threshold, z_box > threshold
    boxed = at_lb | at_ub
    C = np.concatenate([G[on], A, np.eye(n)[boxed]])
    K = np.block([[P, C.T], [C, np.zeros((len(C), len(C)))]])
    right = np.concatenate([v["x"], v["z"][on], v["y"], v["z_box"][boxed]])
    u = np.linalg.pinv(K, rcond=1e-11, hermitian=True) @ right
    ux, uz, uy, ub_box = np.split(u, np.cumsum([n, on.sum(), len(A)]))
    u_z, u_box = np.zeros_like(z), np.zeros(n)
    u_z[on], u_box[boxed] = uz, ub_box
    return {
        "P": -(np.outer(ux, x) + np.outer(x, ux)) / 2,
        "q": -ux,
        "G": -np.outer(z, ux) - np.outer(u_z, x),
        "h": u_z,
        "A": -np.outer(y, ux) - np.outer(uy, x),
        "b": uy,
        "lb": np.where(at_lb, u_box, 0.0),
        "ub": np.where(at_ub, u_box, 0.0),
    }


def active_set_gradient(problem: Problem, solution, cotangents: dict, threshold=1e-6) -> dict[str, torch.Tensor]:
    """Gradients of sum <cotangent, output> in every argument given, by a dense solve with the active rows.

    Every argument carries the same batch; active is what has a multiplier above `threshold`.
    """
    data = arrays(problem)
    outputs = [_array(getattr(solution, name)) for name in OUTPUTS]
    v = {name: _array(cotangents[name]) for name in OUTPUTS}
    batch = outputs[0].shape[:-1]
    data = Problem(
        *(np.broadcast_to(d, batch + d.shape[d.ndim - r :]) for d, r in zip(data, (2, 1) * 3 + (1, 1), strict=True))
    )
    results = [
        _adjoint(
            Problem(*(part[i] for part in data)),
            *(part[i] for part in outputs),
            {name: part[i] for name, part in v.items()},
            threshold,
        )
        for i in np.ndindex(batch)
    ]
    return {
        name: torch.from_numpy(np.stack([r[name] for r in results]).reshape(*batch, *results[0][name].shape))
        for name in given(problem)
    }


def pairing(cotangents: dict, solution) -> torch.Tensor:
    """sum <cotangent, output> for each element."""
    return sum((cotangents[name] * getattr(solution, name)).sum(-1) for name in OUTPUTS)


def inner(gradients: dict, direction: Problem) -> torch.Tensor:
    """<gradient, direction> for each element, summed over the arguments."""
    total = 0
    for name, gradient in gradients.items():
        size = 2 if name in ("P", "G", "A") else 1
        total = total + (gradient * getattr(direction, name)).flatten(-size).sum(-1)
    return total


def finite_difference(solve, problem: Problem, direction: Problem, cotangents: dict, step: float) -> torch.Tensor:
    """Central difference of `pairing` along a direction, for each element."""
    with torch.no_grad():
        ahead, behind = (pairing(cotangents, solve(*moved(problem, direction, t))) for t in (step, -step))
    return (ahead - behind) / (2 * step)


def farkas_holds(problem: Problem, z, y, tolerance: float) -> bool:
    """Whether z >= 0 and y prove every element infeasible: G'z + A'y = 0 and h'z + b'y < 0."""
    _, _, G, h, A, b, _, _ = arrays(problem)
    z, y = _array(z), _array(y)
    value = (h * z).sum(-1) + (b * y).sum(-1)
    balance = _times(np.swapaxes(G, -1, -2), z) + _times(np.swapaxes(A, -1, -2), y)
    return bool((z >= 0).all() and (value < 0).all() and (_largest(balance) <= tolerance * -value).all())


def ray_holds(problem: Problem, ray, tolerance: float) -> bool:
    """Whether the cost falls forever along the ray: Pd = 0, Gd <= 0, Ad = 0, q'd < 0."""
    P, q, G, _, A, _, _, _ = arrays(problem)
    d = _array(ray)
    descent = -(q * d).sum(-1)
    off = [_largest(_times(P, d)), _largest(np.maximum(_times(G, d), 0)), _largest(_times(A, d))]
    return bool((descent > 0).all() and (np.maximum.reduce(off) <= tolerance * descent).all())


def project_simplex(point: np.ndarray) -> np.ndarray:
    """The nearest point with nonnegative entries of sum 1 (Held, Wolfe and Crowder 1974), by sorting."""
    ordered = np.sort(point)[::-1]
    thresholds = (np.cumsum(ordered) - 1) / np.arange(1, point.size + 1)
    return np.maximum(point - thresholds[np.nonzero(ordered > thresholds)[0][-1]], 0.0)


def unbatched(problem: Problem) -> list[Problem]:
    """The elements of a problem whose arguments all carry one batch dimension."""
    return [mapped(problem, lambda value, i=i: value[i]) for i in range(problem.q.shape[0])]
