"""How good an answer is: the optimality conditions on the data as given, and gradients against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..peers.layers import Array, Arrays
from .cases import times
from .reference import Reference, Rows

KKT_LIMIT = 1e-4  # beyond these an answer is wrong and its time does not count
GRADIENT_LIMIT = 1e-2
ZERO = 1e-6  # times v: a vertex has no gradient in q, and an error relative to nothing says nothing


@dataclass(frozen=True)
class Accuracy:
    """Largest errors over the batch.

    Attributes:
        kkt: largest of the violation of a constraint, the entries of `Px + q + G'z + A'y + z_box`, the products of
            multiplier and slack, and negative multipliers; absolute.
        multipliers: whether the peer tells them; otherwise kkt is x's, with the reference's multipliers.
        gradient: largest error of an entry over the largest entry of all gradients of that element (at least `ZERO` of
            v's largest entry); NaN without any.
        judged: elements in which the gradient is judged: the reference is exact and the derivative exists.
    """

    kkt: float
    multipliers: bool
    gradient: float
    judged: int

    @property
    def correct(self) -> bool:
        """Whether the time counts; a peer without gradients is judged on its answer alone."""
        return self.kkt <= KKT_LIMIT and (np.isnan(self.gradient) or self.gradient <= GRADIENT_LIMIT)

    @property
    def wrong_rule(self) -> bool:
        """Whether the derivative is wrong although the answer is right."""
        return self.kkt <= KKT_LIMIT and self.gradient > GRADIENT_LIMIT


def accuracy(data: Arrays, results: Arrays, reference: Reference) -> Accuracy:
    """Judge what a peer returned."""
    gradients = {name: results[f"d{name}"] for name in data if f"d{name}" in results}
    error = gradient_error(data, gradients, reference) if gradients else float("nan")
    judged = int(reference.certified.sum())
    if "P" not in data:  # a projection on the simplex too large for matrices: the answer has a closed form
        return Accuracy(float(np.abs(results["x"] - reference.solution["x"]).max()), False, error, judged)
    told = ("z" in results or "G" not in data) and ("z_box" in results or "lb" not in data)
    told = told and ("y" in results or "A" not in data)
    answer = results if told else reference.solution | {"x": results["x"]}
    return Accuracy(kkt_residual(data, answer), told, error, judged)


def kkt_residual(data: Arrays, answer: Arrays) -> float:
    """Return the largest residual of the optimality conditions; inf if anything is not finite."""
    rows = Rows.of(data)
    x = answer["x"]
    z, y = answer.get("z", np.zeros((len(x), 0))), answer.get("y", np.zeros((len(x), 0)))
    if "lb" in data:
        z = np.concatenate([z[:, : rows.m], np.maximum(answer["z_box"], 0), np.maximum(-answer["z_box"], 0)], 1)
    slack = rows.r - times(rows.R, x)
    stationarity = times(rows.P, x) + rows.q + times(rows.R.swapaxes(-1, -2), z)
    if y.shape[-1]:
        stationarity = stationarity + times(rows.A.swapaxes(-1, -2), y)
    parts = (np.maximum(-slack, 0), times(rows.A, x) - rows.b, stationarity, z * slack, np.maximum(-z, 0))
    worst = max(float(np.abs(part).max(initial=0.0)) for part in parts)
    finite = all(np.isfinite(part).all() for part in parts)
    return worst if finite else float("inf")


def gradient_error(data: Arrays, gradients: Arrays, reference: Reference) -> float:
    """Return the largest error over the largest entry, element by element; of sums over the batch for shared data."""
    names = list(gradients)
    batch = len(data["v"])
    exact = {name: _like(reference.gradients[name], data[name], batch) for name in names}
    each = {name: np.abs(_symmetric(name, gradients[name]) - exact[name]) for name in names}
    shared = [name for name in names if data[name].ndim < reference.gradients[name].ndim]
    if shared and not reference.certified.all():
        return float("nan")  # the sum is not known
    if not reference.certified.any():
        return float("nan")

    def largest(values: Arrays) -> Array:
        tops = [v.max() if name in shared else v.reshape(batch, -1).max(-1, initial=0.0) for name, v in values.items()]
        top: Array = np.max(np.broadcast_arrays(*tops), 0)
        return top

    scale = largest({name: np.abs(value) for name, value in exact.items()})
    relative = np.atleast_1d(largest(each) / np.maximum(scale, ZERO * np.abs(data["v"]).max()))
    judged = relative if shared else relative[reference.certified]
    return float(judged.max()) if np.isfinite(judged).all() else float("inf")


def _like(gradient: Array, datum: Array, batch: int) -> Array:
    return gradient if datum.ndim == gradient.ndim else gradient.sum(0)


def _symmetric(name: str, gradient: Array) -> Array:
    """Only the symmetric part of P's gradient means anything: P is symmetric."""
    return 0.5 * (gradient + gradient.swapaxes(-1, -2)) if name == "P" else gradient
