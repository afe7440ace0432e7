"""Roots and arg-mins against closed forms, finite differences and each other."""

from __future__ import annotations

import oracles
import pytest
import tolerances as tol
import torch
from conditions import F64, leaves, logistic, randn, ridge, ridge_solution
from torch import nn

from implicit_layers import (
    CG,
    LBFGS,
    DenseLU,
    GaussNewton,
    Implicit,
    LeastSquares,
    LevenbergMarquardt,
    Newton,
    OneStep,
    SolverWarning,
    Unrolled,
    find_argmin,
    find_root,
)

RULES = [Implicit(), Implicit(linear=CG()), Unrolled()]


def close(got, expected, tolerance=tol.ROOT_GRADIENT):
    assert oracles.relative_error(got, expected) <= tolerance


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("solver", [Newton(), LBFGS(eps_abs=1e-12)], ids=str)
def test_ridge_regression_has_the_derivatives_of_its_closed_form(rule, solver, generator):
    inputs = leaves(randn(generator, 2, 7, 3), randn(generator, 2, 7), torch.tensor(0.4, dtype=F64))
    v = randn(generator, 2, 3)
    w = find_argmin(ridge, torch.zeros(2, 3, dtype=F64), *inputs, solver=solver, differentiate=rule).w
    expected = torch.autograd.grad((v * ridge_solution(*inputs)).sum(), inputs)
    for got, exact in zip(torch.autograd.grad((v * w).sum(), inputs), expected, strict=True):
        close(got, exact, 1e2 * tol.ROOT_GRADIENT if isinstance(rule, Unrolled) else tol.ROOT_GRADIENT)


def test_the_second_derivative_of_ridge_regression_is_that_of_its_closed_form(generator):
    X, y = randn(generator, 7, 3), randn(generator, 7)

    def solve(weight):
        return find_argmin(ridge, torch.zeros(3, dtype=F64), X, y, weight, solver=Newton()).w.square().sum()

    weight = torch.tensor(0.4, dtype=F64)
    exact = torch.func.hessian(lambda weight: ridge_solution(X, y, weight).square().sum())(weight)
    close(torch.func.hessian(solve)(weight), exact)


def test_logistic_regression_follows_its_regularisation_as_finite_differences_do(generator):
    X = randn(generator, 2, 9, 3)

    def solve(weight):
        return find_argmin(logistic, torch.zeros(2, 3, dtype=F64), X, weight, solver=Newton()).w

    weight = torch.tensor(0.8, dtype=F64)
    slope = torch.func.jvp(solve, (weight,), (torch.ones_like(weight),))[1]
    step = tol.FD_STEP
    close(slope, (solve(weight + step) - solve(weight - step)) / (2 * step), tol.FD)


@pytest.mark.parametrize("rule", [Implicit(), Implicit(linear=DenseLU()), Unrolled(), OneStep()], ids=str)
def test_the_square_root_as_a_root(rule):
    (a,) = leaves(torch.tensor([[0.25], [1.0], [9.0]], dtype=F64))
    w = find_root(lambda w, a: w**2 - a, torch.ones(3, 1, dtype=F64), a, differentiate=rule).w
    close(w, a.detach().sqrt(), tol.ROOT)
    (slope,) = torch.autograd.grad(w.sum(), a)
    close(slope, 0.5 / a.detach().sqrt())


def test_w0_chooses_among_the_roots_and_has_no_gradient():
    a, w0 = leaves(torch.tensor([[4.0], [4.0]], dtype=F64), torch.tensor([[1.0], [-1.0]], dtype=F64))
    w = find_root(lambda w, a: w**2 - a, w0, a).w
    close(w, torch.tensor([[2.0], [-2.0]], dtype=F64), tol.ROOT)
    w.sum().backward()
    close(a.grad, torch.tensor([[0.25], [-0.25]], dtype=F64))
    assert w0.grad is None


class Curve(nn.Module):
    """The misfit of a line through the origin whose slope is w, to data scaled by a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=F64))

    def forward(self, w, t, y):
        return w * t - self.scale * y

    def other(self, w, t, y):
        return self.forward(w, t, y)


@pytest.mark.parametrize("solver", [GaussNewton(), LevenbergMarquardt(), LBFGS()], ids=str)
@pytest.mark.parametrize("how", ["module", "method"])
def test_least_squares_lifts_the_parameters_of_its_misfit(solver, how, generator):
    t, y, curve = randn(generator, 6), randn(generator, 3, 6), Curve()
    cost = LeastSquares(curve if how == "module" else curve.other)
    w = find_argmin(cost, torch.zeros(3, 1, dtype=F64), t, y, solver=solver).w
    slope = (y @ t) / (t @ t)  # least squares: w = scale · <t, y> / <t, t>
    close(w[:, 0], 2 * slope)
    w.sum().backward()
    close(curve.scale.grad, slope.sum())


def test_least_squares_of_a_misfit_that_is_rank_deficient_still_ends(generator):
    # Two unknowns of which only the sum matters: the minimiser is not unique, its derivative does not exist.
    (y,) = leaves(randn(generator, 2, 4))
    cost = LeastSquares(lambda w, y: w.sum(-1, keepdim=True) - y)
    for solver in (GaussNewton(), LevenbergMarquardt()):
        w = find_argmin(cost, torch.zeros(2, 2, dtype=F64), y, solver=solver).w
        close(w.sum(-1), y.detach().mean(-1))
        with pytest.warns(SolverWarning, match="2 of 2 linear systems not solved"):
            w[:, 0].sum().backward()
        assert (y.grad == 0).all()


def test_large_problems_take_the_matrix_free_road(generator):
    n = 200  # beyond the size up to which matrices are formed
    scale = torch.linspace(1, 3, n, dtype=F64)
    a = randn(generator, 2, n).requires_grad_()
    w = find_argmin(lambda w, a: (0.5 * scale * w.square() - a * w).sum(-1), torch.zeros(2, n, dtype=F64), a).w
    close(w, a.detach() / scale)
    (slope,) = torch.autograd.grad(w.sum(), a)
    close(slope, (1 / scale).expand(2, n))
    r = find_root(lambda w, a: scale * w + 0.1 * w.roll(1, -1) - a, torch.zeros(2, n, dtype=F64), a).w
    J = torch.diag(scale) + 0.1 * torch.eye(n, dtype=F64).roll(1, 0)
    close(r, torch.linalg.solve(J, a.detach().unsqueeze(-1)).squeeze(-1))
    (slope,) = torch.autograd.grad(r.sum(), a)
    close(slope, torch.linalg.solve(J.mT, torch.ones(n, dtype=F64)).expand(2, n))
