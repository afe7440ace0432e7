"""The choices of a caller: warm start, gradient rules, stopping rule, core; none changes the answer."""

from __future__ import annotations

import dataclasses

import oracles
import problems
import pytest
import tolerances as tol
import torch
from problems import Problem, f64, known_optimum

from implicit_layers import (
    Implicit,
    InteriorPoint,
    ProblemError,
    QPLayer,
    SolverWarning,
    SolveStatus,
    Unrolled,
    solve_qp,
)

ONE = f64([[1]])


def close(got, expected, tolerance):
    assert oracles.relative_error(got, expected) <= tolerance


# --- warm start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", problems.REGULAR)
def test_warm_start_with_the_answer_takes_at_most_two_iterations(name, seed):
    known = problems.regular(name, seed, batch=(10,))
    cold = solve_qp(*known.problem)
    warm = solve_qp(*known.problem, warm_start=cold)
    assert (warm.iterations <= 2).all()
    assert (warm.status == SolveStatus.SOLVED).all()
    for output in oracles.OUTPUTS:
        close(getattr(warm, output), getattr(known, output), tol.X_REGULAR)


def test_warm_start_with_an_unchanged_active_set_takes_at_most_two_iterations(seed, generator):
    known = problems.regular("everything", seed, batch=(10,))
    near = known.problem._replace(
        q=known.problem.q + 1e-3 * torch.randn(10, 8, generator=generator, dtype=torch.float64)
    )
    warm = solve_qp(*near, warm_start=solve_qp(*known.problem))
    assert (warm.iterations <= 2).all()
    close(warm.x, solve_qp(*near).x, tol.X_REGULAR)


def test_warm_start_with_another_problems_answer_gives_the_same_answer(seed):
    known = problems.regular("everything", seed, batch=(20,))
    other = solve_qp(*problems.regular("everything", seed + 1, batch=(20,)).problem)
    warm = solve_qp(*known.problem, warm_start=other)
    assert (warm.status == SolveStatus.SOLVED).all()
    close(warm.x, known.x, tol.X_REGULAR)


@pytest.mark.parametrize(("before", "after"), [((5,), (3,)), ((3,), (5,)), ((), (4,)), ((4,), ()), ((2, 3), (6,))])
def test_warm_start_is_safe_when_the_batch_size_changes(before, after, seed):
    previous = solve_qp(*problems.regular("everything", seed, batch=before).problem)
    known = problems.regular("everything", seed + 1, batch=after)
    warm = solve_qp(*known.problem, warm_start=previous)
    assert (warm.status == SolveStatus.SOLVED).all()
    close(warm.x, known.x, tol.X_REGULAR)


def test_warm_start_from_a_failure_is_safe(seed):
    known = problems.regular("everything", seed, batch=(3,))
    q = known.problem.q.clone()
    q[1] = float("nan")
    with pytest.warns(SolverWarning):
        failed = solve_qp(*known.problem._replace(q=q))
    assert failed.x[1].isnan().all()
    warm = solve_qp(*known.problem, warm_start=failed)
    assert (warm.status == SolveStatus.SOLVED).all()
    close(warm.x, known.x, tol.X_REGULAR)


def test_warm_start_does_not_hide_infeasibility(seed):
    previous = solve_qp(*known_optimum(seed, batch=(4,), n=4, m=6).problem)
    problem, _, _ = problems.infeasible(seed, batch=(4,), n=4, m=6)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*problem, warm_start=previous)
    assert (solution.status == SolveStatus.PRIMAL_INFEASIBLE).all()


def test_warm_start_changes_no_gradient_and_receives_none(seed):
    known = problems.regular("everything", seed, batch=(4,))
    first, second = problems.leaves(known.problem), problems.leaves(known.problem)
    cold = solve_qp(*first)
    solve_qp(*second, warm_start=cold).x.sum().backward()
    assert first.q.grad is None
    cold.x.sum().backward()
    for name in Problem._fields:
        close(getattr(second, name).grad, getattr(first, name).grad, tol.BATCH)


@pytest.mark.parametrize("name", ["x", "z", "y", "z_box"])
def test_warm_start_that_is_no_solution_of_such_a_problem_is_named(name, seed):
    known = problems.regular("everything", seed, batch=(3,))
    fitting = solve_qp(*known.problem)
    for wrong in (getattr(fitting, name)[..., :-1], None, f64(1.0)):
        with pytest.raises(ProblemError, match=f"^warm_start: expected a solution with .*{name}"):
            solve_qp(*known.problem, warm_start=fitting._replace(**{name: wrong}))
    ignored = solve_qp(*known.problem, warm_start=fitting._replace(**{name: getattr(fitting, name)[:2]}))
    close(ignored.x, known.x, tol.X_REGULAR)


def test_warm_start_from_inference_mode_or_changed_afterwards_does_not_stop_the_backward_pass(seed):
    known = problems.regular("everything", seed, batch=(4,))
    with torch.inference_mode():
        previous = solve_qp(*known.problem)
    changed = solve_qp(*known.problem)
    for warm in (previous, changed):
        given = problems.leaves(known.problem)
        found = solve_qp(*given, warm_start=warm)
        changed.x.zero_()
        found.x.sum().backward()
        assert given.q.grad.isfinite().all()


# --- gradient rules -------------------------------------------------------------------------------

RULES = [
    Implicit(gradient="exact"),
    Implicit(gradient="least_squares"),
    Implicit(gradient="smoothed"),
    Unrolled(),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_gradient_rule_does_not_change_the_solution(rule, seed):
    known = problems.regular("everything", seed, batch=(5,))
    solution = solve_qp(*problems.leaves(known.problem), differentiate=rule)
    for output in oracles.OUTPUTS:
        close(getattr(solution, output), getattr(known, output), tol.X_DEGENERATE)


def half_line(y, differentiate, by="row"):
    """min 1/2 (x - y)² subject to x <= 0, written as a row or as a bound."""
    row = (ONE, f64([0])) if by == "row" else (None, None)
    ub = None if by == "row" else f64([0])
    return solve_qp(ONE, -y, *row, None, None, None, ub, differentiate=differentiate).x


@pytest.mark.parametrize("by", ["row", "bound"])
@pytest.mark.parametrize("kappa", [1e-2, 1e-4])
def test_smoothed_slope_at_a_kink_is_the_share_of_the_slack(kappa, by):
    y = f64([[-1.0], [-0.1], [0.0], [0.1], [1.0]]).requires_grad_()
    s = (-y + (y * y + 4 * kappa).sqrt()) / 2  # the root of s (y + s) = kappa
    expected = (s / (s + kappa / s)).detach()
    x = half_line(y, Implicit(gradient="smoothed", smoothing=kappa), by)
    (slope,) = torch.autograd.grad(x.sum(), y)
    assert expected[2].item() == pytest.approx(0.5, abs=1e-12)
    close(slope, expected, tol.SMOOTHED)


def test_smoothed_gradient_of_a_linear_program_points_downhill():
    """The exact gradient in the cost is zero at a vertex; the smoothed one says which way x would go."""
    zero = torch.zeros(2, 2, dtype=torch.float64)

    def slope(differentiate):
        c = f64([1, 1.2]).requires_grad_()
        lp = (zero, c, None, None, f64([[1, 1]]), f64([1]), f64([0, 0]))
        return torch.autograd.grad(solve_qp(*lp, differentiate=differentiate).x[0], c)[0]

    close(slope(Implicit(gradient="exact")), f64([0, 0]), tol.DENSE)
    smoothed = slope(Implicit(gradient="smoothed", smoothing=1e-2))
    assert smoothed[0] < -1e-3  # a dearer first variable is used less
    assert smoothed[1] > 1e-3


def test_smoothed_gradient_tends_to_the_exact_one_where_that_exists(seed):
    known = problems.regular("inequalities", seed, batch=(5,))

    def gradient(differentiate):
        leaves = problems.leaves(known.problem)
        solve_qp(*leaves, differentiate=differentiate).x.sum().backward()
        return torch.cat([leaves.q.grad, leaves.h.grad], -1)

    exact = gradient(Implicit(gradient="exact"))
    errors = [
        oracles.relative_error(gradient(Implicit(gradient="smoothed", smoothing=kappa)), exact)
        for kappa in (1e-2, 1e-4, 1e-6)
    ]
    assert errors[2] < errors[1] / 10 < errors[0] / 100
    assert errors[2] < 1e-3


def test_least_squares_gradient_is_the_one_of_least_norm_where_rows_are_dependent(seed, generator):
    known = known_optimum(seed, batch=(5,), n=5, m=4, p=1)
    target = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    problem = problems.leaves(problems.with_duplicates(known))
    (solve_qp(*problem, differentiate=Implicit(gradient="least_squares")).x * target).sum().backward()
    cotangents = {k: torch.zeros_like(getattr(known, k)) for k in oracles.OUTPUTS} | {"x": target}
    once = oracles.active_set_gradient(known.problem, known, cotangents)
    close(problem.h.grad, once["h"].repeat(1, 2) / 2, tol.FD)  # least norm: equal shares
    close(problem.b.grad, once["b"].repeat(1, 2) / 2, tol.FD)


def test_unrolled_gradient_of_every_argument_agrees_with_the_implicit_one(seed):
    known = problems.regular("everything", seed, batch=(4,))
    leaves, again = problems.leaves(known.problem), problems.leaves(known.problem)
    solve_qp(*leaves).x.square().sum().backward()
    solve_qp(*again, differentiate=Unrolled()).x.square().sum().backward()
    for name in Problem._fields:
        close(getattr(again, name).grad, getattr(leaves, name).grad, tol.UNROLLED)


# --- options are small frozen objects -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (InteriorPoint, {"max_iter": 0}),
        (InteriorPoint, {"max_iter": -3}),
        (InteriorPoint, {"eps_abs": -1e-8}),
        (InteriorPoint, {"eps_rel": float("nan")}),
        (InteriorPoint, {"core": "fortran"}),
        (Implicit, {"gradient": "guess"}),
        (Implicit, {"gradient": "smoothed", "smoothing": 0.0}),
        (Implicit, {"gradient": "smoothed", "smoothing": -1e-4}),
    ],
)
def test_a_senseless_option_is_refused_at_once_and_named(kind, options):
    with pytest.raises(ValueError, match=list(options)[-1]):
        kind(**options)


@pytest.mark.parametrize("kind", [InteriorPoint, Implicit, Unrolled])
def test_options_are_frozen_keyword_only_and_without_a_bag_for_the_rest(kind):
    with pytest.raises(TypeError):
        kind("positional")
    with pytest.raises(TypeError):
        kind(no_such_option=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().eps_abs = 1.0


@pytest.mark.parametrize("call", [lambda **o: solve_qp(ONE, f64([1]), **o), lambda **o: QPLayer(**o)])
def test_an_unknown_keyword_is_refused(call):
    with pytest.raises(TypeError):
        call(tolerance=1e-9)


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-9])
def test_the_stopping_rule_is_kept(eps, seed):
    known = known_optimum(seed, batch=(50,), n=8, m=12, p=2)
    solution = solve_qp(*known.problem, solver=InteriorPoint(eps_abs=eps, eps_rel=0.0))
    assert (solution.status == SolveStatus.SOLVED).all()
    found = oracles.kkt(known.problem, solution)
    assert max(found.primal.max(), found.stationarity.max()) <= eps


def test_the_layer_takes_the_options_of_solve_qp(seed):
    known = known_optimum(seed, n=30, m=60)
    options = {"solver": InteriorPoint(max_iter=1), "differentiate": Implicit(gradient="least_squares")}
    with pytest.warns(SolverWarning):
        from_layer = QPLayer(**options)(*known.problem[:4])
    with pytest.warns(SolverWarning):
        assert torch.equal(from_layer, solve_qp(*known.problem[:4], **options).x)
    assert oracles.relative_error(from_layer, known.x) > tol.KKT  # the option arrived


def test_the_plain_torch_core_gives_the_same_answer_as_the_default(seed):
    known = problems.regular("everything", seed, batch=(10,))
    plain = solve_qp(*known.problem, solver=InteriorPoint(core="torch"))
    for output in oracles.OUTPUTS:
        close(getattr(plain, output), getattr(solve_qp(*known.problem), output), tol.X_REGULAR)
