"""The solution of a QP is right: closed forms, optimality conditions, and two other solvers."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import oracles
import problems
import pytest
import tolerances as tol
import torch
from hypothesis import given
from problems import INF, Problem, f64, known_optimum

from implicit_layers import (
    InteriorPoint,
    QPSolution,
    SolverWarning,
    SolveStatus,
    solve_qp,
)


def solved(problem, **options) -> QPSolution:
    """Solve and insist on success of every element."""
    solution = solve_qp(*problem, **options)
    assert (solution.status == SolveStatus.SOLVED).all()
    return solution


def times(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def close(got, expected, tolerance=tol.CLOSED_FORM):
    assert oracles.relative_error(got, expected) <= tolerance


# --- closed forms ---------------------------------------------------------------------------------


def test_projection_on_a_box_is_the_clamp(generator):
    target = 3 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    lb, ub = -torch.ones(7, dtype=torch.float64), torch.linspace(0, 2, 7, dtype=torch.float64)
    solution = solved((torch.eye(7, dtype=torch.float64), -target, None, None, None, None, lb, ub))
    close(solution.x, target.clamp(lb, ub))
    close(solution.z_box, target - target.clamp(lb, ub))


@pytest.mark.parametrize("n", [1, 2, 10, 60])
def test_projection_on_the_simplex_is_that_of_sorting(n, generator):
    target = torch.randn(5, n, generator=generator, dtype=torch.float64)
    ones = torch.ones(1, n, dtype=torch.float64)
    solution = solved(
        (
            torch.eye(n, dtype=torch.float64),
            -target,
            None,
            None,
            ones,
            f64([1]),
            torch.zeros_like(ones[0]),
            None,
        )
    )
    close(solution.x, torch.stack([torch.from_numpy(oracles.project_simplex(t.numpy())) for t in target]))


def test_projection_on_a_hyperplane_moves_along_its_normal(generator):
    target, normal = torch.randn(2, 20, 4, generator=generator, dtype=torch.float64)
    offset = torch.randn(20, generator=generator, dtype=torch.float64)
    A, b = normal[:, None], offset[:, None]
    y = ((normal * target).sum(-1) - offset) / (normal * normal).sum(-1)
    solution = solved((torch.eye(4, dtype=torch.float64), -target, None, None, A, b))
    close(solution.x, target - y[:, None] * normal)
    close(solution.y, y[:, None])


@pytest.mark.parametrize("p", [0, 1, 4])
def test_without_inequalities_the_answer_is_one_linear_solve(p, seed):
    problem = known_optimum(seed, batch=(6,), n=5, p=p).problem
    P, q, _, _, A, b, _, _ = oracles.arrays(problem)
    A, b = (A, b) if p else (np.zeros((6, 0, 5)), np.zeros((6, 0)))
    K = np.block([[P, A.swapaxes(-1, -2)], [A, np.zeros((6, p, p))]])
    w = np.linalg.solve(K, np.concatenate([-q, b], -1)[..., None])[..., 0]
    solution = solved(problem)
    close(torch.cat([solution.x, solution.y], -1), torch.from_numpy(w))


def on_segment(c, b, **rest) -> Problem:
    """min 1/2|x|² + c'x subject to x1 + x2 = b."""
    return Problem(torch.eye(2, dtype=torch.float64), f64(c), A=f64([[1, 1]]), b=f64([b]), **rest)


OSQP = {"P": f64([[4, 1], [1, 2]]), "q": f64([1, 1]), "A": f64([[1, 1]]), "b": f64([1])}
FACTS = {
    "x >= 0 inactive": (
        Problem(**OSQP, G=-torch.eye(2, dtype=torch.float64), h=f64([0, 0])),
        {"x": [0.25, 0.75], "z": [0, 0], "y": [-11 / 4], "z_box": [0, 0]},
    ),
    "x <= .7 active": (
        Problem(**OSQP, lb=f64([0, 0]), ub=f64([0.7, 0.7])),
        {"x": [0.3, 0.7], "y": [-2.9], "z_box": [0, 0.2]},
    ),
    "one row active": (
        Problem(
            f64([[8, 2], [2, 10]]), f64([1.5, -2]), f64([[-1, 2], [-2, -1]]), f64([6, -2]),
            lb=f64([0, 0]), ub=f64([20, INF]),
        ),
        {"x": [0.7625, 0.475], "z": [0, 4.275], "z_box": [0, 0]},
    ),
    "linear program on the simplex": (
        Problem(f64([[0, 0], [0, 0]]), f64([1, 2]), A=f64([[1, 1]]), b=f64([1]), lb=f64([0, 0])),
        {"x": [1, 0], "y": [-1], "z_box": [0, -1]},
    ),
    "equality only": (on_segment([0.5, -0.3], 1.0), {"x": [0.1, 0.9], "y": [-0.6]}),
    "duplicate row": (
        Problem(torch.eye(2, dtype=torch.float64), f64([-1, -2]), f64([[1, 0], [1, 0]]), f64([0, 0])),
        {"x": [0, 2]},
    ),
    "simplex of four": (
        Problem(
            torch.eye(4, dtype=torch.float64), f64([-0.5, -1.2, 0.3, -0.9]),
            A=f64([[1, 1, 1, 1]]), b=f64([1]), lb=f64([0, 0, 0, 0]),
        ),
        {"x": [0, 0.65, 0, 0.35]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fact", FACTS)
def test_acceptance_fact(fact):
    problem, expected = FACTS[fact]
    solution = solved(problem)
    for name, value in expected.items():
        close(getattr(solution, name), f64(value))


# --- optimality conditions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "p", "bounds"),
    [(3, 8, 0, None), (10, 20, 5, None), (8, 8, 2, 2), (5, 4, 0, None), (20, 20, 4, 5)],
)
def test_two_hundred_problems_with_half_of_the_rows_active_are_optimal(n, m, p, bounds, seed):
    known = known_optimum(seed, batch=(200,), n=n, m=m, p=p, bounds=bounds)
    solution = solved(known.problem)
    assert oracles.kkt(known.problem, solution).worst <= tol.KKT
    close(solution.x, known.x, tol.X_DEGENERATE)


@pytest.mark.parametrize("name", problems.REGULAR)
def test_regular_problems_are_solved_to_round_off_with_all_their_multipliers(name, seed):
    known = problems.regular(name, seed, batch=(30,))
    solution = solved(known.problem)
    assert oracles.kkt(known.problem, solution).worst <= tol.KKT_POLISHED
    for output in oracles.OUTPUTS:
        close(getattr(solution, output), getattr(known, output), tol.X_REGULAR)


@given(st.data())
def test_problems_of_any_class_and_size_are_optimal(data):
    n = data.draw(st.integers(1, 7))
    sizes = {
        "m": data.draw(st.integers(0, 9)),
        "p": data.draw(st.integers(0, n - 1)),
        "bounds": data.draw(st.none() | st.integers(0, n)),
        "active": data.draw(st.floats(0, 1)),
        "weak": data.draw(st.integers(0, 2)),
        "rank": data.draw(st.integers(0, n)),
    }
    known = known_optimum(data.draw(st.integers(0, 2**31)), batch=(8,), n=n, **sizes)
    solution = solved(known.problem)
    assert oracles.kkt(known.problem, solution).worst <= tol.KKT
    close(objective(known.problem, solution.x), objective(known.problem, known.x), tol.OPTIMALITY_GAP)


def objective(problem, x):
    return 0.5 * torch.einsum("...i,...ij,...j->...", x, problem.P, x) + (problem.q * x).sum(-1)


@pytest.mark.parametrize(
    "hardship",
    [problems.with_duplicates, problems.without_interior],
    ids=["every row twice", "equalities as pairs"],
)
def test_dependent_rows_do_not_change_the_answer(hardship, seed):
    known = known_optimum(seed, batch=(20,), n=6, m=6, p=2)
    problem = hardship(known)
    solution = solved(problem)
    assert oracles.kkt(problem, solution).worst <= tol.KKT
    close(solution.x, known.x, tol.X_DEGENERATE)


def test_nearly_dependent_rows_are_solved(seed, generator):
    known = known_optimum(seed, batch=(20,), n=6, m=4, p=2)
    P, q, G, h, A, _, _, _ = known.problem
    s = h - times(G, known.x)
    G = torch.cat([G, G + 1e-9 * torch.randn(G.shape, generator=generator, dtype=torch.float64)], -2)
    A = torch.cat([A, A + 1e-9 * torch.randn(A.shape, generator=generator, dtype=torch.float64)], -2)
    problem = Problem(P, q, G, times(G, known.x) + torch.cat([s, s], -1), A, times(A, known.x))
    solution = solved(problem)
    assert oracles.kkt(problem, solution).worst <= tol.KKT
    close(objective(problem, solution.x), objective(problem, known.x), tol.OPTIMALITY_GAP)


def test_weakly_active_rows_do_not_disturb_the_answer(seed):
    known = known_optimum(seed, batch=(40,), n=6, m=8, p=1, weak=2)
    solution = solved(known.problem)
    assert oracles.kkt(known.problem, solution).worst <= tol.KKT


@pytest.mark.parametrize("cost", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("decades", "columns"), [(0, False), (6, False), (3, True)])
def test_scaling_of_cost_rows_and_columns_does_not_change_the_answer(cost, decades, columns, seed):
    known = known_optimum(seed, batch=(200,), n=6, m=8, p=2)
    scaled = problems.badly_scaled(known, seed, decades=decades, columns=columns, cost=cost)
    solution = solved(scaled.problem)
    close(solution.x * known.x / scaled.x, known.x, tol.BADLY_SCALED)  # back in the units of `known`


@pytest.mark.parametrize("rank", [1000, 300])
def test_a_thousand_variables_are_solved(rank, seed):
    known = known_optimum(seed, n=1000, m=40, p=5, bounds=700, rank=rank)
    assert oracles.kkt(known.problem, solved(known.problem)).worst <= tol.KKT


def test_reported_residuals_never_flatter_the_returned_point(seed):
    known = known_optimum(seed, batch=(10,), n=30, m=50, p=3, bounds=2)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*known.problem, solver=InteriorPoint(max_iter=2))
    found = oracles.kkt(known.problem, solution)
    assert found.worst > tol.KKT  # two iterations are not enough: there is something to report
    assert (torch.from_numpy(found.primal) <= solution.primal_residual * (1 + 1e-9) + 1e-12).all()
    assert (torch.from_numpy(found.stationarity) <= solution.dual_residual * (1 + 1e-9) + 1e-12).all()


# --- other solvers --------------------------------------------------------------------------------


def test_answers_agree_with_clarabel_on_problems_not_built_backwards(generator):
    cp = pytest.importorskip("cvxpy")
    P, G, q = (torch.randn(4, *shape, generator=generator, dtype=torch.float64) for shape in [(6, 6), (9, 6), (6,)])
    problem = Problem(P @ P.mT + 0.1 * torch.eye(6), q, G, torch.ones(9, dtype=torch.float64), ub=0.3 * torch.ones(6))
    problem = problems.mapped(problem, lambda value: value.double())
    solution = solved(problem)
    for i in range(4):
        x = cp.Variable(6)
        cost = 0.5 * cp.quad_form(x, cp.psd_wrap(problem.P[i].numpy())) + q[i].numpy() @ x
        peer = cp.Problem(cp.Minimize(cost), [G[i].numpy() @ x <= 1, x <= 0.3])
        peer.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
        close(solution.x[i], torch.from_numpy(x.value), tol.PEER)


def test_linear_programs_agree_with_highs(generator):
    optimize = pytest.importorskip("scipy.optimize")
    c = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    G = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    h, one = torch.ones(9, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    solution = solved((torch.zeros(6, 6, dtype=torch.float64), c, G, h, None, None, -one, one))
    for i in range(8):
        peer = optimize.linprog(c[i].numpy(), G.numpy(), h.numpy(), bounds=(-1, 1), method="highs")
        close(solution.x[i], torch.from_numpy(peer.x), tol.PEER)
