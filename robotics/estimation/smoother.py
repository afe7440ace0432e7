"""The smoother: the most probable states of a run given all its measurements, as one quadratic program.

Every noise is a factor times white noise, so the model is a set of linear equations in the states and the white noises,
and the most probable run is the one of least noise:

    min  1/2 (|w|² + Σ |v_t|² + Σ |e_t|²)
    s.t. x_0 - L_0 w = mean,   x_{t+1} - F x_t - B L_Q v_t = 0,   H x_t + L_R e_t = y_t

No covariance is ever inverted. A number that is missing is an equation that is left out, which leaves exactly the
marginal covariance of the others. For Gaussian noise the answer is that of the Kalman filter and the
Rauch-Tung-Striebel smoother; the program also takes what these cannot know: a tip that is never inside a circle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from implicit_layers import QPProblem, SolveStatus
from robotics.checks import check_count, check_one_scene
from robotics.estimation.model import LinearGaussianModel
from robotics.obstacles import Circles
from robotics.programs import solve_quietly

ROUNDS = 8  # programs whose half-planes are renewed: the cost falls from the second on, and has settled by then


class Estimate(NamedTuple):
    """The most probable run.

    Attributes:
        states: `(*batch, T, d)`; NaN where the program has no solution.
        cost: half the squared length of all white noise, `(*batch,)`.
        status: `SolveStatus` of each run's program, `(*batch,)`.
    """

    states: Tensor
    cost: Tensor
    status: Tensor


def smooth(
    model: LinearGaussianModel, measurements: Tensor, circles: Circles | None = None, rounds: int = ROUNDS
) -> Estimate:
    """Estimate the states of runs from all their measurements.

    With circles, no position is inside one. The outside of a circle is not convex, so positions are kept in
    half-planes whose normals point from the centre to the previous round's positions. The half-plane lies outside
    the circle and holds the previous position, so every round keeps out, and none costs more than the last one.

    Args:
        model: the model.
        measurements: `(*batch, T, m)`; NaN where one is missing.
        circles: shared by all runs; None if nothing is known.
        rounds: programs with half-planes.

    Raises:
        ValueError: the measurements are not of that shape, the model has no `position`, or `rounds` is below 1.

    Differentiability:
        In the model's parameters and the measurements, by the implicit function theorem through the last program; the
        half-planes of the last round count as given.
    """
    estimate = _solve(model, measurements, build_smoothing(model, measurements))
    if circles is None or not circles.radii.shape[-1]:
        return estimate
    check_count("rounds", rounds)
    for _ in range(rounds):
        rows = half_planes(model, estimate.states.detach().nan_to_num(), circles)
        estimate = _solve(model, measurements, build_smoothing(model, measurements, rows))
    return estimate


def build_smoothing(
    model: LinearGaussianModel, measurements: Tensor, rows: tuple[Tensor, Tensor] | None = None
) -> QPProblem:
    """Build the program of the smoother.

    Args:
        model: the model, d states, m measurements a tick, c process noises.
        measurements: `(*batch, T, m)`, NaN where missing.
        rows: G `(*batch, r, T d)` and h `(*batch, r)` of what is known of the states: G x <= h.

    Returns:
        Variables: the T states, then the white noises w `(d)`, v `((T - 1) c)`, e `(T m)`.
    """
    T = _check_measurements(model, measurements)
    A = _equations(model, T)
    d, size = model.mean.shape[0], A.shape[-1]
    seen = measurements.isnan().logical_not().flatten(-2)
    batch = seen.shape[:-1]
    known = torch.where(seen, measurements.flatten(-2), 0.0)
    motion = torch.nn.functional.pad(model.mean, (0, (T - 1) * d)).expand(*batch, -1)
    if not bool(seen.all()):
        kept = torch.cat((torch.ones_like(motion, dtype=torch.bool), seen), -1)
        A = torch.where(kept[..., None], A, 0.0)
    white = torch.cat((A.new_zeros(T * d), A.new_ones(size - T * d)))
    G, h = (None, None) if rows is None else rows
    if G is not None:
        G = torch.nn.functional.pad(G, (0, size - T * d))
    return QPProblem(torch.diag(white), torch.zeros_like(white), G, h, A, torch.cat((motion, known), -1))


def half_planes(model: LinearGaussianModel, states: Tensor, circles: Circles) -> tuple[Tensor, Tensor]:
    """Return rows G `(*batch, T k, T d)`, h `(*batch, T k)` that keep positions on their side of k circles.

    Args:
        model: the model; its `position` says where a state is.
        states: `(*batch, T, d)`; where they are at a centre the normal is along y.
        circles: one scene of k circles.
    """
    check_one_scene(circles.centers, circles.radii)
    if model.position is None:
        raise ValueError("circles: expected a model with `position`, found one without")
    centers, radii = circles.centers.to(states), circles.radii.to(states)
    away = (states @ model.position.mT)[..., None, :] - centers
    distance = away.norm(dim=-1, keepdim=True)
    up = states.new_tensor([0.0, 1.0])
    normal = torch.where(distance > 0, away / torch.where(distance > 0, distance, 1.0), up)  # (*batch, T, k, 2)
    T, k, d = *normal.shape[-3:-1], states.shape[-1]
    own = torch.eye(T, dtype=states.dtype, device=states.device)[:, None, :, None]  # a row is about its tick alone
    G = -own * (normal @ model.position)[..., None, :]
    h = -(radii + (normal * centers).sum(-1))
    return G.reshape(*states.shape[:-2], T * k, T * d), h.flatten(-2)


def log_likelihood(model: LinearGaussianModel, measurements: Tensor) -> Tensor:
    """Return the logarithm of the probability density of the measurements of each run, `(*batch,)`.

    The program's optimal value is half the squared Mahalanobis length of the measurements, so the layer gives the part
    that depends on them; the determinant of their covariance is added. NaN where the program has no
    solution, or the covariance is singular to all digits.
    """
    estimate = smooth(model, measurements)
    seen = measurements.isnan().logical_not().flatten(-2)
    T, d = measurements.shape[-2], model.mean.shape[0]
    A = _equations(model, T)
    states, noise = A[:, : T * d], A[:, T * d :]
    # White noise moves the states by -(states' rows)^-1 (their noise), and these and the rest move what is measured.
    moved = torch.linalg.solve_triangular(states[: T * d], -noise[: T * d], upper=False, unitriangular=True)
    mixing = torch.where(seen[..., None], states[T * d :] @ moved + noise[T * d :], 0.0)
    covariance = mixing @ mixing.mT + torch.diag_embed(torch.where(seen, 0.0, 1.0).to(mixing))
    factor, failed = torch.linalg.cholesky_ex(covariance)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # Noise of 1e-8 of another's leaves no digits of a determinant.
    log_det = torch.where(failed == 0, log_det, torch.nan)
    total: Tensor = -estimate.cost - 0.5 * (log_det + math.log(math.tau) * seen.to(mixing).sum(-1))
    return total


def _check_measurements(model: LinearGaussianModel, measurements: Tensor) -> int:
    m = model.measured.shape[0]
    if measurements.ndim < 2 or measurements.shape[-1] != m or not measurements.shape[-2]:
        raise ValueError(f"measurements: expected shape (*batch, T >= 1, {m}), found {tuple(measurements.shape)}")
    if measurements.dtype != model.mean.dtype:
        raise ValueError(f"measurements: expected {model.mean.dtype}, the model's, found {measurements.dtype}")
    return measurements.shape[-2]


def _equations(model: LinearGaussianModel, T: int) -> Tensor:
    """Return A of the program, with a row for every measurement."""
    eye = torch.eye(T, dtype=model.mean.dtype, device=model.mean.device)
    unit = torch.eye(model.mean.shape[0], dtype=eye.dtype, device=eye.device)
    before = torch.kron(eye.roll(1, 0).tril(-1).contiguous(), model.F)
    first = torch.nn.functional.pad(model.initial_factor, (0, 0, 0, (T - 1) * len(unit)))
    later = torch.kron(eye[:, 1:].contiguous(), model.noise_input @ model.process_factor)
    measured = torch.kron(eye, model.measurement_factor)
    motion = torch.cat((torch.kron(eye, unit) - before, -first, -later), 1)
    seen = torch.nn.functional.pad(torch.kron(eye, model.measured), (0, first.shape[1] + later.shape[1]))
    return torch.cat((torch.nn.functional.pad(motion, (0, len(measured))), torch.cat((seen, measured), 1)))


def _solve(model: LinearGaussianModel, measurements: Tensor, problem: QPProblem) -> Estimate:
    solution = solve_quietly(problem)
    T, d = measurements.shape[-2], model.mean.shape[0]
    solved = solution.status == SolveStatus.SOLVED
    x = torch.where(solved[..., None], solution.x, torch.nan)
    return Estimate(x[..., : T * d].unflatten(-1, (T, d)), 0.5 * x[..., T * d :].square().sum(-1), solution.status)
