"""Learning a model from measurements alone: the likelihood, through the program of the smoother."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from robotics.estimation.model import LinearGaussianModel
from robotics.estimation.smoother import log_likelihood

SMALLEST_STEP = 2.0**-20  # of a direction, before the search gives up
LARGEST_MOVE = 1.0  # of a parameter in one step: covariances change by no more than a factor of e²


def fit_model(model: LinearGaussianModel, measurements: Tensor, iterations: int = 50) -> list[float]:
    """Fit the model's parameters to runs by maximum likelihood, with BFGS and backtracking, in place.

    Args:
        model: where the fit starts; covariances and the learned entries of F change.
        measurements: `(N, T, m)`; NaN where one is missing. Runs whose program fails at the start are left out.
        iterations: at most so many; it ends before where the loss has settled.

    Returns:
        The negative log-likelihood per number that was measured, before the first step and after each.

    Raises:
        ValueError: no run has a likelihood.
    """
    with torch.no_grad():
        usable = log_likelihood(model, measurements).isfinite()
    if not bool(usable.any()):
        raise ValueError("measurements: expected a run of finite numbers or NaN, found none")
    runs = measurements[usable]
    here = parameters_to_vector(model.parameters()).detach()
    loss, slope = _loss_and_slope(model, runs)
    losses, inverse = [loss], torch.eye(len(here), dtype=here.dtype, device=here.device)
    for _ in range(iterations):
        step = -inverse @ slope
        step = step * (LARGEST_MOVE / step.abs().max().clamp(min=LARGEST_MOVE))
        size, descent, old = 1.0, float(slope @ step), slope
        while size >= SMALLEST_STEP:
            vector_to_parameters(here + size * step, model.parameters())
            loss, slope = _loss_and_slope(model, runs)
            if loss <= losses[-1] + 1e-4 * size * descent:  # False for NaN
                break
            size /= 2
        else:
            vector_to_parameters(here, model.parameters())
            break
        here, losses = here + size * step, [*losses, loss]
        inverse = _updated(inverse, size * step, slope - old)
        if losses[-2] - loss < 1e-12 * (1 + abs(loss)):
            break
    return losses


def _loss_and_slope(model: LinearGaussianModel, runs: Tensor) -> tuple[float, Tensor]:
    loss = -log_likelihood(model, runs).sum() / runs.isnan().logical_not().sum().clamp(min=1)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    return float(loss.detach()), torch.cat([slope.flatten() for slope in slopes])


def _updated(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Return the BFGS update of an inverse Hessian; without positive curvature, the matrix as it was."""
    curvature = step @ change
    if not bool(curvature > 1e-14):
        return inverse
    side = torch.eye(len(step), dtype=step.dtype, device=step.device) - torch.outer(step, change) / curvature
    return side @ inverse @ side.mT + torch.outer(step, step) / curvature
