"""Programs with sparse matrices: the answers, derivatives and failures of dense ones, at sizes where dense ends."""

from __future__ import annotations

import sys
import warnings

import oracles
import problems
import pytest
import tolerances as tol
import torch
from oracles import OUTPUTS
from problems import INF, Problem, f64, known_optimum

from benchmarks.fuzz import examine
from benchmarks.fuzz_problems import CLASSES, Draw
from implicit_layers import (
    Elastic,
    Implicit,
    InteriorPoint,
    ProblemError,
    QPLayer,
    QPProblem,
    SolverError,
    SolverWarning,
    SolveStatus,
    Unrolled,
    solve_qp,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
MATRICES = ("P", "G", "A")
RULES = {rule: Implicit(gradient=rule) for rule in ("exact", "least_squares", "smoothed")}
TO = {
    "coo": lambda M: M.to_sparse_coo(),
    "csr": lambda M: M.to_sparse_csr(),
    "csc": lambda M: M.to_sparse_csc(),
}


@pytest.fixture(autouse=True)
def quiet_constructors():
    """torch says once that its sparse constructors check nothing; ours to check, not to warn of."""
    with torch.sparse.check_sparse_tensor_invariants(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Sparse (CSR|CSC|invariant).*")
        yield


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    """Small programs would go to the dense core."""
    monkeypatch.setattr("implicit_layers.qp.sparse.layout.SMALL", -1)


def sparse(problem: Problem, layout: str = "coo") -> Problem:
    """The same problem with sparse matrices."""
    held = {name: TO[layout](getattr(problem, name)) for name in MATRICES if getattr(problem, name) is not None}
    return problem._replace(**held)


def thinned(known, keep: float, generator) -> Problem:
    """The problem with some entries of its matrices zero; the old optimum stays feasible, and a new one is found."""

    def thin(M):
        return torch.where(torch.rand(M.shape, generator=generator, dtype=torch.float64) < keep, M, 0.0)

    P, q, G, h, A, _, lb, ub = known.problem
    L, rows, equalities = thin(torch.linalg.cholesky(P)) + torch.eye(len(q)), thin(G), thin(A)
    return Problem(L @ L.mT, q, rows, rows @ known.x + h - G @ known.x, equalities, equalities @ known.x, lb, ub)


def gradients(problem: Problem, cotangents: dict, **options) -> dict:
    """Gradients of sum <cotangent, output> in all arguments that are given, those of sparse ones made dense."""
    leaves = problems.leaves(problem)
    oracles.pairing(cotangents, solve_qp(*leaves, **options)).sum().backward()
    found = {name: getattr(leaves, name).grad for name in problems.given(problem)}
    return {name: g if g.layout == torch.strided else g.to_dense() for name, g in found.items()}


def weights(solution, generator) -> dict:
    shapes = {name: getattr(solution, name).shape for name in OUTPUTS}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


# --- the answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", TO)
@pytest.mark.parametrize("name", problems.REGULAR)
def test_the_optimum_and_its_multipliers_are_found(name, layout, seed):
    known = problems.regular(name, seed)
    solution = solve_qp(*sparse(known.problem, layout))
    assert solution.status == SolveStatus.SOLVED
    assert oracles.kkt(known.problem, solution).worst <= tol.KKT_POLISHED
    for output in OUTPUTS:
        torch.testing.assert_close(getattr(solution, output), getattr(known, output), atol=tol.X_REGULAR, rtol=0)


@pytest.mark.parametrize("name", problems.REGULAR)
def test_the_report_is_that_of_the_dense_solver(name, seed):
    known = problems.regular(name, seed)
    got, expected = solve_qp(*sparse(known.problem)), solve_qp(*known.problem)
    for field in ("s", "x", "z", "y", "z_box", "primal_residual", "dual_residual", "duality_gap"):
        value, like = getattr(got, field), getattr(expected, field)
        assert value.dtype == like.dtype
        torch.testing.assert_close(value, like, atol=tol.X_REGULAR, rtol=0)
    assert got.status.dtype == expected.status.dtype
    assert got.iterations.dtype == expected.iterations.dtype


def test_vectors_may_be_batched_and_broadcast(seed):
    known = known_optimum(seed, n=6, m=4, p=1, bounds=2)
    P, q, G, h, A, b, lb, ub = known.problem
    q, h = q + 0.1 * torch.arange(3.0, dtype=torch.float64)[:, None, None], h.expand(2, 4)
    got = solve_qp(*sparse(Problem(P, q, G, h, A, b, lb, ub)))
    expected = solve_qp(P, q, G, h, A, b, lb, ub)
    assert got.x.shape == (3, 2, 6)
    torch.testing.assert_close(got.x, expected.x, atol=tol.X_REGULAR, rtol=0)
    torch.testing.assert_close(got.z_box, expected.z_box, atol=tol.X_REGULAR, rtol=0)


def test_an_empty_batch_is_an_empty_answer():
    solution = solve_qp(torch.eye(3).to_sparse(), torch.zeros(0, 3))
    assert solution.x.shape == (0, 3)
    assert solution.status.shape == (0,)


def test_a_dense_matrix_beside_a_sparse_one_counts_with_all_its_entries(seed, generator):
    known = known_optimum(seed, n=6, m=4, p=2)
    mixed = known.problem._replace(P=known.problem.P.to_sparse_csr())
    cotangents = weights(known, generator)
    got, expected = gradients(mixed, cotangents), gradients(known.problem, cotangents)
    for name, value in expected.items():
        assert oracles.relative_error(got[name], value) <= tol.DENSE, name


def test_float32_comes_in_and_goes_out(seed, generator):
    known = known_optimum(seed, n=6, m=4, p=1)
    single = sparse(Problem(*(None if v is None else v.float() for v in known.problem)))
    solution = solve_qp(*single)
    assert solution.x.dtype == torch.float32
    rounded = Problem(*(None if v is None else v.float().double() for v in known.problem))
    assert oracles.relative_error(solution.x, solve_qp(*rounded).x) <= tol.FLOAT32
    leaves = problems.leaves(single)
    solve_qp(*leaves).x.sum().backward()
    assert leaves.q.grad.dtype == leaves.G.grad.dtype == torch.float32


def test_absent_rows_and_bounds_stay_absent(seed):
    known = known_optimum(seed, n=6, m=6, bounds=3)
    loose = (known.problem.h - known.problem.G @ known.x) > 0.1
    problem = known.problem._replace(h=torch.where(loose, INF, known.problem.h))
    solution = solve_qp(*sparse(problem))
    torch.testing.assert_close(solution.x, known.x, atol=tol.X_REGULAR, rtol=0)
    assert (solution.s[loose] == INF).all()
    assert (solution.z[loose] == 0).all()


def test_which_sides_are_infinite_may_differ_in_a_batch(seed):
    known = known_optimum(seed, n=5, m=4)
    h = known.problem.h.expand(4, -1).clone()
    h[[1, 2], [0, 3]] = INF
    problem = known.problem._replace(h=h)
    got, expected = solve_qp(*sparse(problem)), solve_qp(*problem)
    torch.testing.assert_close(got.x, expected.x, atol=tol.X_REGULAR, rtol=0)


def test_a_linear_program_without_any_entry_in_p(seed):
    known = problems.regular("linear program", seed)
    empty = torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), f64([]), (5, 5))
    solution = solve_qp(*sparse(known.problem)._replace(P=empty))
    torch.testing.assert_close(solution.x, known.x, atol=tol.X_REGULAR, rtol=0)


def test_dependent_rows_change_nothing(seed, generator):
    known = known_optimum(seed, n=6, m=4, p=2)
    solution = solve_qp(*sparse(problems.with_duplicates(known)))
    assert solution.status == SolveStatus.SOLVED
    torch.testing.assert_close(solution.x, known.x, atol=tol.X_DEGENERATE, rtol=0)


def test_rows_without_interior_are_solved(seed):
    known = known_optimum(seed, n=6, m=3, p=2)
    solution = solve_qp(*sparse(problems.without_interior(known)))
    torch.testing.assert_close(solution.x, known.x, atol=tol.X_DEGENERATE, rtol=0)


def test_rows_scaled_over_twelve_decades_are_solved(seed):
    known = problems.badly_scaled(known_optimum(seed, n=6, m=8, p=1), seed, decades=6)
    solution = solve_qp(*sparse(known.problem))
    assert solution.status == SolveStatus.SOLVED
    torch.testing.assert_close(solution.x, known.x, atol=tol.BADLY_SCALED, rtol=0)


def banded(n: int, generator) -> tuple[Problem, torch.Tensor, torch.Tensor]:
    """A large program with a known optimum: tridiagonal P, rows of three entries, half of them active."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    i, m = torch.arange(n), n // 4
    off = 0.5 * normal(n - 1)
    row = torch.cat([i, i[1:], i[:-1]])
    column = torch.cat([i, i[:-1], i[1:]])
    P = torch.sparse_coo_tensor(torch.stack([row, column]), torch.cat([3 + uniform(n), off, off]), (n, n)).coalesce()
    j = torch.arange(m)
    index = torch.stack([j.repeat_interleave(3), (4 * j[:, None] + torch.arange(3)).flatten()])
    G = torch.sparse_coo_tensor(index, normal(3 * m), (m, n)).coalesce()
    x, active = normal(n), torch.arange(m) % 2 == 0
    z = torch.where(active, 0.2 + uniform(m), 0.0)
    h = (G @ x) + torch.where(active, 0.0, 0.2 + uniform(m))
    return Problem(P, -(P @ x + G.t() @ z), G, h), x, z


def test_ten_thousand_unknowns_with_their_gradient(generator):
    problem, x, z = banded(10_000, generator)
    leaves = problems.leaves(problem)
    solution = solve_qp(*leaves)
    assert solution.status == SolveStatus.SOLVED
    torch.testing.assert_close(solution.x, x, atol=tol.X_REGULAR, rtol=0)
    torch.testing.assert_close(solution.z, z, atol=tol.X_REGULAR, rtol=0)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (solution.x @ v).backward()
    # dx/dq: the same program with q moved by epsilon keeps its active rows.
    step = tol.FD_STEP * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (solve_qp(*problem._replace(q=problem.q + sign * step)).x for sign in (1, -1))
    assert oracles.relative_error((leaves.q.grad @ step), (ahead - behind) @ v / 2) <= tol.FD
    assert leaves.P.grad.coalesce().values().shape == problem.P.values().shape


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("name", problems.REGULAR)
def test_every_gradient_is_the_dense_one(name, layout, seed, generator):
    known = problems.regular(name, seed)
    cotangents = weights(known, generator)
    got = gradients(sparse(known.problem, layout), cotangents)
    expected = oracles.active_set_gradient(known.problem, known, cotangents)
    for argument, value in expected.items():
        there = getattr(known.problem, argument) != 0 if argument in MATRICES else torch.ones_like(value)
        assert oracles.relative_error(got[argument], value * there) <= tol.DENSE, argument


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_the_dense_one_at_the_entries_that_are_there(rule, seed, generator):
    problem = thinned(known_optimum(seed, n=8, m=6, p=2, bounds=2), 0.5, generator)
    solution = solve_qp(*problem)
    cotangents = weights(solution, generator)
    got = gradients(sparse(problem), cotangents, differentiate=RULES[rule])
    expected = gradients(problem, cotangents, differentiate=RULES[rule])
    for argument, value in expected.items():
        there = getattr(problem, argument) != 0 if argument in MATRICES else torch.ones_like(value)
        assert oracles.relative_error(got[argument], value * there) <= tol.DENSE, argument


@pytest.mark.parametrize("name", ["everything", "singular P", "linear program"])
def test_gradients_agree_with_finite_differences(name, seed, generator):
    known = problems.regular(name, seed)
    cotangents, direction = weights(known, generator), problems.random_direction(known.problem, generator)
    slope = oracles.inner(gradients(sparse(known.problem), cotangents), direction)

    def solve(*problem):
        return solve_qp(*sparse(Problem(*problem)))

    difference = oracles.finite_difference(solve, known.problem, direction, cotangents, tol.FD_STEP)
    assert oracles.relative_error(slope, difference) <= tol.FD


def test_gradient_of_shared_data_is_summed(seed, generator):
    known = known_optimum(seed, n=6, m=4, p=1, bounds=2)
    q = known.problem.q + 0.05 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    problem = known.problem._replace(q=q)
    cotangents = weights(solve_qp(*problem), generator)
    got, expected = gradients(sparse(problem), cotangents), gradients(problem, cotangents)
    for name, value in expected.items():
        assert oracles.relative_error(got[name], value) <= tol.DENSE, name


def test_gradcheck_and_gradgradcheck_in_the_entries(seed):
    known = known_optimum(seed, n=4, m=3, p=1)
    P, q, G, h, A, b, _, _ = sparse(known.problem)
    places = {"P": P.indices(), "G": G.indices()}

    def outputs(P, q, G, h):
        # Half the sum with the transpose: a change of one entry of P is asymmetric.
        P = torch.sparse_coo_tensor(places["P"], P, (4, 4))
        P = 0.5 * (P + P.t())
        solution = solve_qp(P, q, torch.sparse_coo_tensor(places["G"], G, (3, 4)), h, A, b)
        return solution.x, solution.z, solution.y

    leaves = [v.detach().clone().requires_grad_() for v in (P.values(), q, G.values(), h)]
    assert torch.autograd.gradcheck(outputs, leaves, **tol.GRADCHECK)
    assert torch.autograd.gradgradcheck(outputs, leaves, **tol.GRADGRADCHECK)


@pytest.mark.parametrize("name", ["everything", "linear program"])
def test_transforms_over_the_vectors(name, seed, generator):
    known = problems.regular(name, seed)
    thin, q, h = sparse(known.problem), known.problem.q, known.problem.h
    q_moved = q + 0.01 * torch.randn(3, *q.shape, generator=generator, dtype=torch.float64)

    def x(held, q, h):
        return solve_qp(held.P, q, held.G, h, held.A, held.b, lb=held.lb, ub=held.ub).x

    def pair(transformed):
        return transformed(lambda q, h: x(thin, q, h)), transformed(lambda q, h: x(known.problem, q, h))

    for got, expected in (
        pair(lambda f: torch.func.jacrev(f)(q, h)),
        pair(lambda f: torch.func.jacfwd(f, argnums=1)(q, h)),
        pair(lambda f: torch.func.vmap(f, in_dims=(0, None))(q_moved, h)),
        pair(lambda f: torch.func.vmap(torch.func.jacrev(f), in_dims=(0, None))(q_moved, h)),
        pair(lambda f: torch.func.jvp(f, (q, h), (torch.ones_like(q), torch.ones_like(h)))[1]),
        pair(lambda f: torch.func.hessian(lambda q: f(q, h).square().sum())(q)),
    ):
        torch.testing.assert_close(got, expected, atol=1e2 * tol.DENSE, rtol=0)


def test_a_solution_that_is_not_unique_has_the_dense_minimum_norm_gradient():
    P, A = torch.diag(f64([1.0, 0.0, 0.0])), f64([[0.0, 1.0, 1.0]])
    problem = Problem(P, f64([-1.0, 0.0, 0.0]), A=A, b=f64([1.0]), lb=torch.full((3,), -5.0).double())
    cotangents = {"x": f64([1.0, 2.0, 3.0]), "z": f64([]), "y": f64([0.0]), "z_box": f64([0.0, 0.0, 0.0])}
    got, expected = gradients(sparse(problem), cotangents), gradients(problem, cotangents)
    torch.testing.assert_close(got["q"], expected["q"], atol=tol.DENSE, rtol=0)
    torch.testing.assert_close(got["b"], expected["b"], atol=tol.DENSE, rtol=0)


def test_dependent_active_rows_have_a_unique_gradient_in_x(seed, generator):
    known = known_optimum(seed, n=6, m=4, p=2)
    problem = problems.with_duplicates(known)
    cotangents = {name: torch.zeros_like(v) for name, v in weights(solve_qp(*problem), generator).items()}
    cotangents["x"] = torch.randn(6, generator=generator, dtype=torch.float64)
    got, expected = gradients(sparse(problem), cotangents), gradients(problem, cotangents)
    for name in ("P", "q"):
        assert oracles.relative_error(got[name], expected[name]) <= tol.DENSE


def test_the_backward_pass_does_not_factor_again(seed, monkeypatch):
    from implicit_layers.qp.sparse import linear_system

    leaves = problems.leaves(sparse(known_optimum(seed, n=6, m=4).problem))
    solution = solve_qp(*leaves)

    def refuse(*args, **kwargs):
        raise AssertionError("factored again")

    monkeypatch.setattr(linear_system, "KKT", refuse)
    solution.x.sum().backward()
    assert leaves.q.grad.abs().sum() > 0


@pytest.mark.parametrize("failures", ["one", "every polish"])
def test_a_factorisation_that_breaks_down_costs_accuracy_at_most(failures, seed, monkeypatch):
    from implicit_layers.qp.sparse import linear_system

    known = known_optimum(seed, n=8, m=6, p=2)
    factor, left = linear_system.qdldl.Solver, [1]

    def breaks(*args, **kwargs):
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("a pivot of zero")
        return factor(*args, **kwargs)

    expected = gradients(known.problem, cotangents := weights(known, torch.Generator().manual_seed(0)))
    if failures == "one":
        monkeypatch.setattr(linear_system.qdldl, "Solver", breaks)
    else:
        monkeypatch.setattr(linear_system, "LIFTS", ())
    got = gradients(sparse(known.problem), cotangents)
    assert failures != "one" or left[0] < 0
    for name, value in expected.items():
        assert oracles.relative_error(got[name], value) <= tol.PEER, name


# --- failures -------------------------------------------------------------------------------------


def bad_batch(kind: str, seed: int) -> tuple[Problem, int]:
    """Four problems that differ in their vectors, the third of them bad; sparse matrices."""
    known = known_optimum(seed, n=6, m=4, p=1, bounds=2)
    P, q, G, h, A, b, lb, ub = known.problem
    q, h, lb, ub = (v.expand(4, -1).clone() for v in (q, h, lb, ub))
    q += 0.01 * torch.arange(4.0, dtype=torch.float64)[:, None]
    if kind == "NaN":
        q[2, 1] = torch.nan
    elif kind == "infinite cost":
        q[2, 1] = INF
    elif kind == "crossing bounds":
        lb[2, 0], ub[2, 0] = 1.0, -1.0
    elif kind == "infeasible":
        G = torch.cat([G, -G[:1]])
        h = torch.cat([h, torch.full((4, 1), 1e3, dtype=torch.float64)], -1)
        h[2, -1] = -h[2, 0] - 1
    elif kind == "unbounded":
        P = torch.zeros(6, 6, dtype=torch.float64)
        lb[:], ub[:] = lb.clamp(-9, 9), ub.clamp(-9, 9)
        lb[2], ub[2], h[2] = -INF, INF, INF
    return sparse(Problem(P, q, G, h, A, b, lb, ub)), 2


STATUS = {
    "NaN": SolveStatus.INVALID_INPUT,
    "infinite cost": SolveStatus.INVALID_INPUT,
    "crossing bounds": SolveStatus.PRIMAL_INFEASIBLE,
    "infeasible": SolveStatus.PRIMAL_INFEASIBLE,
    "unbounded": SolveStatus.DUAL_INFEASIBLE,
}


@pytest.mark.parametrize("kind", STATUS)
def test_a_bad_element_stays_alone(kind, seed):
    problem, bad = bad_batch(kind, seed)
    others = [i for i in range(4) if i != bad]
    leaves = problems.leaves(problem)
    with pytest.warns(SolverWarning, match="1 of 4"):
        solution = solve_qp(*leaves)
    assert solution.status[bad] == STATUS[kind]
    assert (solution.status[others] == SolveStatus.SOLVED).all()
    assert solution.x[others].isfinite().all()
    assert bool(solution.x[bad].isnan().all()) == (STATUS[kind] == SolveStatus.INVALID_INPUT)
    solution.x[others].sum().backward()
    assert (leaves.q.grad[bad] == 0).all()
    assert leaves.q.grad[others].abs().sum() > 0
    without = Problem(*(v if v is None or v.ndim < 2 or v.is_sparse else v[others] for v in problem))
    alone = solve_qp(*without)
    for output in OUTPUTS:
        assert torch.equal(getattr(solution, output)[others], getattr(alone, output))


@pytest.mark.parametrize("kind", ["infeasible", "crossing bounds"])
def test_infeasible_programs_come_with_a_farkas_certificate(kind, seed):
    problem, bad = bad_batch(kind, seed)
    with pytest.warns(SolverWarning):
        out = solve_qp(*problem)
    z, y, box = (getattr(out, name)[bad] for name in ("z", "y", "z_box"))
    G, A = problem.G.to_dense(), problem.A.to_dense()
    if kind == "infeasible":
        value = problem.h[bad] @ z + problem.b @ y
        value = (
            value
            + torch.where(box > 0, problem.ub[bad] * box, 0.0).sum()
            + torch.where(box < 0, problem.lb[bad] * box, 0.0).sum()
        )
        torch.testing.assert_close(value, f64(-1.0), atol=tol.KKT, rtol=0)
    assert (z >= 0).all()
    assert (G.mT @ z + A.mT @ y + box).abs().max() <= tol.KKT


def test_costs_that_fall_slowly_without_end_are_dual_infeasible():
    for seed in range(10):
        problem = problems.slow_descent(seed)
        with pytest.warns(SolverWarning):
            solution = solve_qp(*sparse(problem))
        assert solution.status == SolveStatus.DUAL_INFEASIBLE, seed
        assert oracles.ray_holds(problem, solution.x, 1e-6), seed


@pytest.mark.parametrize("margin", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("kind", problems.BARELY)
def test_rows_that_contradict_others_by_little_are_primal_infeasible(kind, margin):
    for seed in range(5):
        problem = problems.barely_infeasible(kind, margin, seed)
        with pytest.warns(SolverWarning):
            solution = solve_qp(*sparse(problem))
        assert solution.status == SolveStatus.PRIMAL_INFEASIBLE, seed
        assert oracles.farkas_holds(problem, solution.z, solution.y, 1e-6), seed


@pytest.mark.parametrize(("n", "m", "p"), [(4, 6, 0), (6, 8, 2)])
def test_random_infeasible_programs_are_proved(n, m, p, seed):
    problem, *_ = problems.infeasible(seed, n=n, m=m, p=p)
    with pytest.warns(SolverWarning):
        out = solve_qp(*sparse(problem))
    assert out.status == SolveStatus.PRIMAL_INFEASIBLE
    assert oracles.farkas_holds(problem, out.z, out.y, tol.KKT)


@pytest.mark.parametrize(("n", "m", "p"), [(4, 3, 0), (6, 5, 2)])
def test_random_unbounded_programs_are_proved(n, m, p, seed):
    problem, _ = problems.unbounded(seed, n=n, m=m, p=p)
    with pytest.warns(SolverWarning):
        out = solve_qp(*sparse(problem))
    assert out.status == SolveStatus.DUAL_INFEASIBLE
    assert oracles.ray_holds(problem, out.x, tol.KKT)


def test_negative_curvature_is_invalid():
    P, q = torch.diag(f64([1.0, -1.0, 1.0])).to_sparse(), f64([0.0, 2.0, 0.0])
    with pytest.warns(SolverWarning, match="INVALID_INPUT"):
        out = solve_qp(P, q)
    assert out.status == SolveStatus.INVALID_INPUT
    assert out.x.isnan().all()


def test_round_off_in_a_singular_p_is_no_negative_curvature():
    # Active rows are held stiffly, and in one element round-off of eliminating them is above the regularisation of P.
    case = CLASSES["singular P"](Draw(22, 50))
    assert not any(mask.any() for mask in examine(case, InteriorPoint(core="sparse"))[1].values())


def test_too_few_iterations_are_said(seed):
    known = known_optimum(seed, n=30, m=60, bounds=10)
    with pytest.warns(SolverWarning, match="MAX_ITER"):
        out = solve_qp(*sparse(known.problem), solver=InteriorPoint(max_iter=1))
    assert out.status == SolveStatus.MAX_ITER


def test_strict_raises_with_the_solution(seed):
    problem, bad = bad_batch("infeasible", seed)
    with pytest.raises(SolverError, match="PRIMAL_INFEASIBLE") as caught:
        solve_qp(*problem, strict=True)
    assert caught.value.solution.status[bad] == SolveStatus.PRIMAL_INFEASIBLE


# --- options --------------------------------------------------------------------------------------


def test_a_warm_start_with_the_answer_takes_one_factorisation(seed):
    problem = sparse(known_optimum(seed, n=8, m=6, p=2, bounds=2).problem)
    first = solve_qp(*problem)
    again = solve_qp(*problem, warm_start=first)
    assert first.iterations > again.iterations == 1
    torch.testing.assert_close(again.x, first.x, atol=tol.X_REGULAR, rtol=0)


def test_a_wrong_warm_start_changes_no_answer(seed):
    problem = sparse(known_optimum(seed, n=8, m=6, p=2, bounds=2).problem)
    other = solve_qp(*sparse(known_optimum(seed + 1, n=8, m=6, p=2, bounds=2).problem))
    nan = other._replace(x=other.x * torch.nan)
    for start in (other, nan):
        torch.testing.assert_close(
            solve_qp(*problem, warm_start=start).x, solve_qp(*problem).x, atol=tol.X_REGULAR, rtol=0
        )


def test_the_layer_and_the_violation_take_sparse_matrices(seed):
    known = known_optimum(seed, n=6, m=4, p=1)
    problem = sparse(known.problem)
    torch.testing.assert_close(QPLayer()(*problem), known.x, atol=tol.X_REGULAR, rtol=0)
    above, off = QPProblem(*problem).violation(torch.stack([known.x, known.x + 1]))
    expected = QPProblem(*known.problem).violation(torch.stack([known.x, known.x + 1]))
    torch.testing.assert_close(above, expected[0])
    torch.testing.assert_close(off, expected[1])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("name", ["general", "equalities", "inequalities"])
def test_elastic_programs_are_those_of_dense_matrices(norm, name, seed, generator):
    known = known_optimum(seed, n=6, m=0 if name == "equalities" else 4, p=0 if name == "inequalities" else 2, bounds=2)
    P, q, G, h, A, b, lb, ub = known.problem
    h = None if h is None else torch.cat([h[:1] - 9, h[1:]])  # hardly to be had, or not at all
    b = None if b is None else torch.cat([b[:1] + 9, b[1:]])
    problem, how = Problem(P, q, G, h, A, b, lb, ub), {"infeasible": Elastic(norm=norm, weight=50.0)}
    expected, found = solve_qp(*problem, **how), solve_qp(*sparse(problem), **how)
    for name in ("x", "s", "z", "y", "z_box"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=tol.X_REGULAR, rtol=0)
    cotangents = weights(expected, generator)
    got, wanted = (gradients(one, cotangents, **how) for one in (sparse(problem), problem))
    for name, value in wanted.items():
        assert oracles.relative_error(got[name], value) <= tol.DENSE, name


@pytest.mark.parametrize("layout", TO)
def test_a_large_infeasible_program_is_answered_elastically(layout):
    n, ones = 2000, torch.ones(2000, dtype=torch.float64)
    eye = TO[layout](torch.sparse_coo_tensor(torch.arange(n).expand(2, n), ones, (n, n), check_invariants=True))
    # x <= 1 and x = 2 at once, at the price 1/2 (x - 1)² + 1/2 (x - 2)² each: halfway, and 1/2 off both.
    found = solve_qp(eye, 0 * ones, eye, ones, eye, 2 * ones, infeasible=Elastic(weight=1e6))
    torch.testing.assert_close(found.x, 1.5 * ones, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.y, -found.z - found.x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", ["coo", "csr"])  # torch accumulates no gradients of CSC leaves
@pytest.mark.parametrize("which", ["auto", "torch"])
def test_small_programs_go_to_the_dense_core(which, layout, seed, generator, monkeypatch):
    monkeypatch.setattr("implicit_layers.qp.sparse.layout.SMALL", 1000)
    monkeypatch.setattr("implicit_layers.qp.sparse.solve_sparse", None)
    known, solver = known_optimum(seed, n=6, m=4, p=1, bounds=2), InteriorPoint(core=which)
    expected, found = (solve_qp(*one, solver=solver) for one in (known.problem, sparse(known.problem, layout)))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0)
    cotangents = weights(expected, generator)
    leaves = problems.leaves(sparse(known.problem, layout))
    oracles.pairing(cotangents, solve_qp(*leaves, solver=solver)).sum().backward()
    assert leaves.P.grad.layout == leaves.P.layout
    for name, value in gradients(known.problem, cotangents, solver=solver).items():
        got = getattr(leaves, name).grad
        torch.testing.assert_close(
            got if got.layout == torch.strided else got.to_dense(), value, atol=1e-14, rtol=1e-12
        )


def test_a_small_program_fails_in_the_callers_terms(monkeypatch):
    monkeypatch.setattr("implicit_layers.qp.sparse.layout.SMALL", 1000)
    P, q = EYE.to_sparse(), torch.full((3,), torch.nan, dtype=torch.float64)
    with pytest.raises(SolverError, match="INVALID_INPUT") as caught:
        solve_qp(P, q, strict=True)
    assert caught.value.problem.P is P
    assert caught.value.solution.x.shape == (3,)


def test_entries_beyond_size_are_never_made_dense():
    n = 30_000  # 7 GB
    eye = torch.sparse_coo_tensor(torch.arange(n).expand(2, n), torch.ones(n, dtype=torch.float64), (n, n))
    q = torch.linspace(-1, 1, n, dtype=torch.float64)
    torch.testing.assert_close(solve_qp(eye, q).x, -q, atol=1e-12, rtol=0)


def test_the_sparse_solver_takes_dense_matrices_where_asked(seed):
    known = known_optimum(seed, n=6, m=4, p=1)
    found = solve_qp(*known.problem, solver=InteriorPoint(core="sparse"))
    torch.testing.assert_close(found.x, known.x, atol=tol.X_REGULAR, rtol=0)
    with pytest.raises(ProblemError, match="P: expected a matrix without batch dimensions"):
        solve_qp(known.problem.P.expand(2, 6, 6), *known.problem[1:], solver=InteriorPoint(core="sparse"))


def test_compiled_code_breaks_the_graph_and_answers(seed):
    known = known_optimum(seed, n=5, m=3)
    problem = sparse(known.problem)
    x = torch.compile(lambda q: 2 * solve_qp(problem.P, q, problem.G, problem.h).x, backend="eager")(problem.q)
    torch.testing.assert_close(x, 2 * known.x, atol=tol.X_REGULAR, rtol=0)


EYE = torch.eye(3, dtype=torch.float64)
ZERO = torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((EYE.expand(2, 3, 3).to_sparse(), ZERO), {}, r"P: expected a matrix without batch dimensions"),
        ((EYE.to_sparse(), ZERO, EYE.expand(2, 3, 3), ZERO), {}, r"G: expected a matrix without batch dimensions"),
        ((EYE.to_sparse(), ZERO.to_sparse()), {}, r"q: expected a dense vector"),
        ((EYE.triu().to_sparse() + (EYE.roll(1, 1)).triu().to_sparse(), ZERO), {}, r"P: expected a symmetric matrix"),
        ((EYE.to_sparse(), ZERO[:2]), {}, r"P: expected shape"),
        ((EYE.to_sparse(), ZERO), {"differentiate": Unrolled()}, r"differentiate: expected Implicit"),
    ],
)
def test_what_cannot_be_is_named(arguments, options, message):
    with pytest.raises(ProblemError, match=message):
        solve_qp(*arguments, **options)


def test_a_missing_solver_is_named_with_the_way_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("implicit_layers.qp.sparse")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdldl", None)
    with pytest.raises(ImportError, match=r"implicit-layers\[sparse\]"):
        solve_qp(EYE.to_sparse(), ZERO)


@pytest.mark.parametrize("name", problems.REGULAR)
def test_optimality_is_measured_as_for_dense_programs(name, seed, generator):
    from implicit_layers.qp import forward, kkt
    from implicit_layers.qp.problem import flatten
    from implicit_layers.qp.scaling import Scaling
    from implicit_layers.qp.sparse import SparseSolves, flatten_sparse
    from implicit_layers.qp.sparse.program import SparseProgram, build_matrices

    known = problems.regular(name, seed)
    dense, (flat, matrices) = flatten(QPProblem(*known.problem)), flatten_sparse(QPProblem(*sparse(known.problem)))
    rows = dense.layout.rows
    x = known.x + 1e-3 * torch.randn(known.x.shape, generator=generator, dtype=torch.float64)
    lam = torch.rand(rows.total, generator=generator, dtype=torch.float64)
    P, q, C, d = (v[None] for v in dense.stack())
    program = forward.build_program(P, q, C, d, rows, 1)
    ones = Scaling(torch.ones_like(x)[None], torch.ones_like(lam)[None], torch.ones(1, 1, dtype=torch.float64))
    right = torch.where(program.present > 0, d, 0.0)
    plain = program._replace(P=P, q=q, C=C, d=right, scaling=ones)
    s = torch.where(program.inequality, (right - rows.apply(C, x[None]) * program.present).clamp(min=0), 0.0)
    lam = lam * program.present[0]
    expected = kkt.residuals(plain, x[None], s, lam[None], 1e-3, 1e-3)
    values, _, stacked, _ = (v.numpy() for v in flat.stack())
    square, R = build_matrices(values, stacked, SparseSolves(matrices).matrices, rows)
    one = SparseProgram(square, q[0].numpy(), R, right[0].numpy(), program.present[0].numpy() > 0, rows.equality_mask())
    found = one.evaluate(x.numpy(), lam.numpy())
    for got, field in zip((*found.errors, found.score(1e-3, 1e-3)), ("primal", "dual", "gap", "score"), strict=True):
        torch.testing.assert_close(f64([got]), getattr(expected, field), rtol=1e-12, atol=1e-14)
