"""Iterations: each element its own end and its own status; no element's answer depends on its neighbours."""

from __future__ import annotations

import pickle

import pytest
import tolerances as tol
import torch
from conditions import F64, affine, affine_solution, cell, contraction, logistic, randn, ridge, ridge_solution

from implicit_layers import (
    GMRES,
    LBFGS,
    Anderson,
    Broyden,
    DenseLU,
    GaussNewton,
    GradientDescent,
    LeastSquares,
    LevenbergMarquardt,
    Newton,
    Picard,
    ProblemError,
    SolverError,
    SolverWarning,
    SolveStatus,
    Unrolled,
    find_argmin,
    find_fixed_point,
    find_root,
)

ROOT = {
    "Newton": Newton(),
    "Newton by GMRES": Newton(linear=GMRES()),
    "Broyden": Broyden(),
    "LevenbergMarquardt": LevenbergMarquardt(),
    "GaussNewton": GaussNewton(),
}
FIXED = {
    "Anderson": Anderson(),
    "damped Anderson": Anderson(relaxation=0.5, memory=2),
    "Picard": Picard(),
    "damped Picard": Picard(relaxation=0.7),
    "Broyden": Broyden(),
    "Broyden from the Jacobian": Broyden(initial="jacobian"),
    "Newton": Newton(),
    "Newton by GMRES": Newton(linear=GMRES()),
}
ARGMIN = {
    "LBFGS": LBFGS(),
    "short LBFGS": LBFGS(memory=2),
    "Newton": Newton(),
    "GradientDescent": GradientDescent(),
}
LEAST_SQUARES = {"GaussNewton": GaussNewton(), "LevenbergMarquardt": LevenbergMarquardt(), "LBFGS": LBFGS()}


def cubic(w, a):
    """Root: the only real solution of w³ + w = a, coupled to its neighbour in the element."""
    return w**3 + w + 0.1 * w.roll(1, -1) - a


def rosenbrock(w, a):
    return (a[..., 0] - w[..., 0]).square() + 10 * (w[..., 1] - w[..., 0].square()).square()


# --- each method finds what it should -------------------------------------------------------------


@pytest.mark.parametrize("solver", ROOT.values(), ids=ROOT)
def test_roots_are_found(solver, generator):
    w = randn(generator, 4, 3)
    a = cubic(w, 0.0)
    solution = find_root(cubic, torch.zeros_like(w), a, solver=solver)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert (solution.w - w).abs().max() <= tol.ROOT
    assert (solution.residual - cubic(solution.w, a).abs().amax(-1)).abs().max() <= 1e-15


@pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED)
def test_fixed_points_are_found(solver, generator):
    W, x = contraction(generator, 4), randn(generator, 6, 4)
    solution = find_fixed_point(affine, torch.zeros_like(x), W, x, solver=solver)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert (solution.w - affine_solution(W, x)).abs().max() <= tol.ROOT


@pytest.mark.parametrize("solver", ARGMIN.values(), ids=ARGMIN)
def test_minima_are_found(solver, generator):
    X, y, weight = randn(generator, 3, 8, 4), randn(generator, 3, 8), torch.tensor(0.5, dtype=F64)
    solution = find_argmin(ridge, torch.zeros(3, 4, dtype=F64), X, y, weight, solver=solver)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert (solution.w - ridge_solution(X, y, weight)).abs().max() <= tol.ROOT


@pytest.mark.parametrize("solver", [LBFGS(), Newton()], ids=str)
def test_a_curved_valley_is_followed_to_its_end(solver):
    a = torch.tensor([[1.0], [-2.0], [0.0]], dtype=F64)
    solution = find_argmin(rosenbrock, torch.tensor([[-1.2, 1.0]] * 3, dtype=F64), a, solver=solver)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert (solution.w - torch.cat([a, a**2], -1)).abs().max() <= 10 * tol.ROOT


@pytest.mark.parametrize("solver", LEAST_SQUARES.values(), ids=LEAST_SQUARES)
def test_a_curve_is_fitted(solver):
    t = torch.linspace(0, 1, 9, dtype=F64)
    truth = torch.tensor([[2.0, 1.5], [1.0, 0.3]], dtype=F64)

    def curve(w):
        return w[..., :1] * torch.exp(-w[..., 1:] * t)

    cost = LeastSquares(lambda w, y: curve(w) - y)
    solution = find_argmin(cost, torch.ones(2, 2, dtype=F64), curve(truth), solver=solver)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert (solution.w - truth).abs().max() <= 10 * tol.ROOT


def test_newton_descends_where_the_cost_is_concave():
    # f'' < 0 at the start: a plain Newton step would climb to the maximum at 0.
    solution = find_argmin(
        lambda w: (w.square() - 1).square().sum(-1), torch.full((1, 1), 0.1, dtype=F64), solver=Newton()
    )
    assert abs(float(solution.w) - 1) <= tol.ROOT


def test_newton_needs_few_steps(generator):
    w = randn(generator, 8, 3)
    assert find_root(cubic, torch.zeros_like(w), cubic(w, 0.0)).iterations.max() <= 10


# --- one element never harms another --------------------------------------------------------------


def everything(generator):
    """Every kind of problem with each of its methods: (name, function of (w0, batched parameter), w0, parameter)."""
    W, x, z = contraction(generator, 3), randn(generator, 5, 3), torch.zeros(5, 3, dtype=F64)
    X = randn(generator, 5, 6, 3)
    for name, solver in ROOT.items():
        yield f"root {name}", lambda w, p, s=solver: find_root(cubic, w, p, solver=s), z, x
    for name, solver in FIXED.items():
        yield f"fixed {name}", lambda w, p, s=solver: find_fixed_point(cell, w, W, p, solver=s), z, x
    weight = torch.tensor(1.0, dtype=F64)
    for name, solver in ARGMIN.items():
        yield f"argmin {name}", lambda w, p, s=solver: find_argmin(logistic, w, p, weight, solver=s), z, X


def test_a_batch_equals_its_elements_one_by_one(generator):
    for name, solve, w0, parameter in everything(generator):
        together = solve(w0, parameter)
        assert (together.status == SolveStatus.SOLVED).all(), name
        for i in (0, 3):
            alone = solve(w0[i : i + 1], parameter[i : i + 1])
            assert (alone.w[0] - together.w[i]).abs().max() <= tol.LOOP, name
            assert abs(int(alone.iterations) - int(together.iterations[i])) <= 1, name


def test_neighbours_of_a_nan_are_the_same_to_the_last_bit(generator):
    for name, solve, w0, parameter in everything(generator):
        clean = solve(w0, parameter)
        poisoned = parameter.clone()
        poisoned[1].view(-1)[0] = torch.nan
        with pytest.warns(SolverWarning, match=r"1 of 5 elements failed: 1 INVALID_INPUT \(first: element 1"):
            solution = solve(w0, poisoned)
        others = [0, 2, 3, 4]
        assert torch.equal(solution.w[others], clean.w[others]), name
        assert torch.equal(solution.iterations[others], clean.iterations[others]), name
        assert solution.w[1].isnan().all(), name
        assert solution.status.tolist() == [0, int(SolveStatus.INVALID_INPUT), 0, 0, 0], name


# --- what becomes of those that fail --------------------------------------------------------------


@pytest.mark.parametrize("solver", ROOT.values(), ids=ROOT)
def test_an_equation_without_a_root_fails_alone(solver):
    a = torch.tensor([[4.0], [-1.0]], dtype=F64)
    with pytest.warns(SolverWarning, match="1 of 2 elements failed"):
        solution = find_root(lambda w, a: w**2 - a, torch.ones(2, 1, dtype=F64), a, solver=solver)
    assert abs(float(solution.w[0]) - 2) <= tol.ROOT
    assert solution.status[0] == SolveStatus.SOLVED
    assert solution.status[1] in (SolveStatus.NUMERICAL_ERROR, SolveStatus.MAX_ITER)
    assert solution.w.isfinite().all()


def test_an_iteration_that_diverges_is_a_numerical_error():
    a, w0 = torch.tensor([[0.5], [3.0]], dtype=F64), torch.zeros(2, 1, dtype=F64)
    with pytest.warns(SolverWarning, match="1 NUMERICAL_ERROR"):
        solution = find_fixed_point(lambda w, a: a * w + 1, w0, a, solver=Picard())
    assert solution.status.tolist() == [SolveStatus.SOLVED, SolveStatus.NUMERICAL_ERROR]
    assert solution.w.isfinite().all()


@pytest.mark.parametrize("solver", [LBFGS(), Newton(), GradientDescent()], ids=str)
def test_a_cost_without_bound_is_dual_infeasible(solver):
    a = torch.tensor([[1.0], [-1.0]], dtype=F64)
    with pytest.warns(SolverWarning, match="1 DUAL_INFEASIBLE"):
        solution = find_argmin(lambda w, a: (a * w**2 + 0.1 * w).sum(-1), torch.ones(2, 1, dtype=F64), a, solver=solver)
    assert solution.status.tolist() == [SolveStatus.SOLVED, SolveStatus.DUAL_INFEASIBLE]


def test_too_few_steps_are_max_iter_and_strict_raises(generator):
    W, x = contraction(generator, 3), randn(generator, 2, 3)
    with pytest.warns(SolverWarning, match="2 MAX_ITER.*raise max_iter"):
        solution = find_fixed_point(cell, torch.zeros_like(x), W, x, solver=Picard(max_iter=3))
    assert solution.iterations.tolist() == [3, 3]
    with pytest.raises(SolverError, match="2 of 2") as caught:
        find_fixed_point(cell, torch.zeros_like(x), W, x, solver=Picard(max_iter=3), strict=True)
    assert torch.equal(caught.value.solution.w, solution.w)


def test_only_one_warning_counts_the_failures(generator):
    with pytest.warns(SolverWarning) as caught:
        find_root(lambda w, a: w**2 - a, torch.ones(4, 1, dtype=F64), -torch.ones(4, 1, dtype=F64))
    assert len(caught) == 1


# --- options --------------------------------------------------------------------------------------


def test_a_wider_tolerance_stops_earlier(generator):
    W, x = contraction(generator, 3), randn(generator, 2, 3)
    fine, coarse = (
        find_fixed_point(cell, torch.zeros_like(x), W, x, solver=Picard(eps_abs=eps)) for eps in (1e-10, 1e-3)
    )
    assert (coarse.iterations < fine.iterations).all()
    assert (coarse.residual <= 1e-3).all()


def test_unrolled_takes_exactly_the_steps_it_is_told(generator):
    W, x = contraction(generator, 3), randn(generator, 2, 3)
    solution = find_fixed_point(cell, torch.zeros_like(x), W, x, solver=Picard(), differentiate=Unrolled(iterations=2))
    assert torch.equal(solution.w, cell(cell(torch.zeros_like(x), W, x), W, x))
    assert solution.iterations.tolist() == [2, 2]
    many = find_fixed_point(cell, torch.zeros_like(x), W, x, solver=Newton(), differentiate=Unrolled(iterations=30))
    assert many.w.isfinite().all()  # steps at the solution itself are harmless


@pytest.mark.parametrize("solver", [*ROOT.values(), *FIXED.values(), *ARGMIN.values()], ids=str)
def test_options_pickle_compare_and_hash(solver):
    again = pickle.loads(pickle.dumps(solver))
    assert again == solver
    assert hash(again) == hash(solver)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Newton(eps_abs=-1.0), "eps_abs: expected a number >= 0"),
        (lambda: Picard(max_iter=0), "max_iter: expected a positive integer"),
        (lambda: Anderson(memory=0), "memory: expected a positive integer"),
        (lambda: LBFGS(memory=1.5), "memory: expected a positive integer"),
        (lambda: Broyden(initial="zero"), "initial: expected 'auto', 'identity' or 'jacobian', got 'zero'"),
        (lambda: GradientDescent(step_length=0.0), "step_length: expected a positive number"),
        (lambda: LevenbergMarquardt(damping=0.0), "damping: expected a positive number"),
        (lambda: find_root(cubic, torch.zeros(1), solver=LBFGS()), "solver: expected Newton or"),
        (lambda: find_fixed_point(cubic, torch.zeros(1), solver=LBFGS()), "solver: expected Anderson or"),
        (lambda: find_argmin(cubic, torch.zeros(1), solver=Picard()), "solver: expected LBFGS or"),
        (lambda: find_argmin(cubic, torch.zeros(1), solver=GaussNewton()), r"f: expected LeastSquares\(misfit\)"),
        (lambda: find_root(cubic, torch.zeros(1), differentiate=DenseLU()), "differentiate: expected Implicit or"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()
