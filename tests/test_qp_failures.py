"""What happens to problems without an answer: an honest status, unharmed neighbours, and errors that help.

The first eight tests are the rows of the torture table: on each of them some published layer fails.
"""

from __future__ import annotations

import pickle
import warnings

import oracles
import problems
import pytest
import tolerances as tol
import torch
from problems import INF, Problem, f64, known_optimum

from implicit_layers import (
    InteriorPoint,
    ProblemError,
    QPLayer,
    SolverError,
    SolverWarning,
    SolveStatus,
    solve_qp,
)

NAN = float("nan")
ALL = Problem._fields
EYE = torch.eye(2, dtype=torch.float64)


def loss_of(solution, elements=slice(None)):
    """One number that depends on every entry of every differentiable output of the elements."""
    return sum((getattr(solution, name)[elements] ** 2).sum() for name in oracles.OUTPUTS)


# --- the torture table ----------------------------------------------------------------------------


def test_torture_a_duplicated_equality_row_changes_neither_answer_nor_gradient(seed):
    known = known_optimum(seed, batch=(4,), n=5, m=4, p=2)
    P, q, G, h, A, b, _, _ = known.problem
    plain = problems.leaves(known.problem)
    twice = problems.leaves(Problem(P, q, G, h, torch.cat([A, A], -2), torch.cat([b, b], -1)))
    expected, solution = solve_qp(*plain), solve_qp(*twice)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert oracles.relative_error(solution.x, known.x) <= tol.X_DEGENERATE
    expected.x.square().sum().backward()
    solution.x.square().sum().backward()
    assert oracles.relative_error(twice.q.grad, plain.q.grad) <= tol.FD
    halves = twice.b.grad.unflatten(-1, (2, 2))
    assert oracles.relative_error(halves.sum(-2), plain.b.grad) <= tol.FD


def batch_with(kind: str, seed: int) -> tuple[Problem, Problem]:
    """Four good problems, and the same with element 1 spoiled."""
    n, m, p = 5, 6, 2
    good = known_optimum(seed, batch=(4,), n=n, m=m, p=p, bounds=1).problem
    bad = problems.element(good, 1)
    free = torch.full((n,), INF, dtype=torch.float64)
    if kind == "infeasible":
        bad, z, y = problems.infeasible(seed, n=n, m=m, p=p)
        assert oracles.farkas_holds(bad, z, y, tol.CLOSED_FORM)
        bad = bad._replace(lb=-free, ub=free)
    elif kind == "unbounded":
        bad, ray = problems.unbounded(seed, n=n, m=m, p=p)
        assert oracles.ray_holds(bad, ray, tol.CLOSED_FORM)
        bad = bad._replace(lb=-free, ub=free)
    elif kind == "crossed bounds":
        bad = bad._replace(lb=torch.ones_like(free), ub=torch.zeros_like(free))
    else:  # "NaN in P", "-inf in h", ...
        value, _, name = kind.split()
        spoiled = getattr(bad, name).clone()
        spoiled.view(-1)[1 if kind == "nan in P" else 0] = float(value)
        bad = bad._replace(**{name: spoiled})
    return good, problems.with_element(good, 1, bad)


STATUS = {
    "infeasible": SolveStatus.PRIMAL_INFEASIBLE,
    "crossed bounds": SolveStatus.PRIMAL_INFEASIBLE,
    "unbounded": SolveStatus.DUAL_INFEASIBLE,
} | {
    f"{value} in {name}": SolveStatus.INVALID_INPUT
    for value, names in {
        "nan": ALL,
        "inf": ["P", "q", "G", "A", "b", "lb"],
        "-inf": ["h", "b", "q", "ub"],
    }.items()
    for name in names
}


def test_torture_one_infeasible_element_leaves_the_rest_of_its_batch_solved(seed):
    assert_only_element_one_fails("infeasible", seed)


@pytest.mark.parametrize("rank", [0, 3])
def test_torture_a_cost_without_full_rank_is_solved(rank, seed):
    known = known_optimum(seed, batch=(6,), n=6, m=8, p=2, rank=rank)
    solution = solve_qp(*known.problem)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert oracles.relative_error(solution.x, known.x) <= tol.X_REGULAR


def test_torture_rows_scaled_over_twelve_decades_are_solved(seed):
    known = known_optimum(seed, batch=(200,), n=6, m=8, p=2)
    scaled = problems.badly_scaled(known, seed, decades=6)
    solution = solve_qp(*scaled.problem)
    assert (solution.status == SolveStatus.SOLVED).all()
    assert oracles.relative_error(solution.x, known.x) <= tol.BADLY_SCALED


def test_torture_float32_is_accepted_and_answered_in_float32_gradients_too(seed):
    problem = problems.mapped(problems.regular("everything", seed, (4,)).problem, lambda value: value.float())
    problem = problems.leaves(problem)
    solution = solve_qp(*problem)
    assert (solution.status == SolveStatus.SOLVED).all()
    solution.x.sum().backward()
    assert {solution.x.dtype, *(value.grad.dtype for value in problem)} == {torch.float32}


def test_torture_one_nan_element_stays_alone(seed):
    assert_only_element_one_fails("nan in q", seed)


def test_torture_an_unbounded_element_is_called_unbounded(seed):
    assert_only_element_one_fails("unbounded", seed)


def test_torture_weakly_active_rows_have_an_answer_and_a_bounded_gradient(seed):
    known = known_optimum(seed, batch=(10,), n=6, m=8, p=1, weak=3)
    problem = problems.leaves(known.problem)
    solution = solve_qp(*problem)
    assert (solution.status == SolveStatus.SOLVED).all()
    loss_of(solution).backward()
    assert all((getattr(problem, k).grad.abs() < tol.BOUNDED).all() for k in problems.given(problem))


# --- one element never harms another --------------------------------------------------------------


def assert_only_element_one_fails(kind, seed):
    _, spoiled = batch_with(kind, seed)
    with pytest.warns(SolverWarning) as record:
        solution = solve_qp(*problems.leaves(spoiled))
    assert len(record) == 1
    solved, status = SolveStatus.SOLVED, STATUS[kind]
    assert solution.status.tolist() == [solved, status, solved, solved]
    others = problems.element(spoiled, [0, 2, 3])
    rest = type(solution)(*(value[[0, 2, 3]] for value in solution))
    assert oracles.kkt(others, rest).worst <= tol.KKT
    outputs = torch.cat([getattr(solution, name)[1] for name in oracles.OUTPUTS])
    assert outputs.isnan().all() if status == SolveStatus.INVALID_INPUT else outputs.isfinite().all()


@pytest.mark.parametrize("kind", STATUS)
def test_a_bad_element_has_its_own_status_and_only_nan_in_gives_nan_out(kind, seed):
    assert_only_element_one_fails(kind, seed)


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "crossed bounds", "nan in P", "nan in h", "inf in lb"])
def test_a_bad_element_has_zero_gradient_and_its_neighbours_keep_theirs_to_the_bit(kind, seed):
    good, spoiled = batch_with(kind, seed)
    with_bad, without = problems.leaves(spoiled), problems.leaves(good)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*with_bad)
    reference = solve_qp(*without)
    for got, expected in zip(solution, reference, strict=True):
        assert torch.equal(got[[0, 2, 3]], expected[[0, 2, 3]])
    loss_of(solution, [0, 2, 3]).backward()
    loss_of(reference, [0, 2, 3]).backward()
    for name in ALL:
        got, expected = getattr(with_bad, name).grad, getattr(without, name).grad
        assert torch.equal(got[[0, 2, 3]], expected[[0, 2, 3]]), name
        assert (got[1] == 0).all(), name


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "nan in q"])
def test_neighbours_are_to_the_bit_what_they_are_in_a_batch_without_the_bad_element(kind, seed):
    _, spoiled = batch_with(kind, seed)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*spoiled)
    alone = solve_qp(*problems.element(spoiled, [0, 2, 3]))
    for name in oracles.OUTPUTS:
        assert torch.equal(getattr(solution, name)[[0, 2, 3]], getattr(alone, name)), name


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "nan in q"])
def test_a_loss_over_the_whole_batch_sends_nothing_to_the_failed_element(kind, seed):
    _, spoiled = batch_with(kind, seed)
    problem = problems.leaves(spoiled)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*problem)
    sum(getattr(solution, name).sum() for name in oracles.OUTPUTS).backward()
    for name in ALL:
        gradient = getattr(problem, name).grad
        assert (gradient[1] == 0).all(), name
        assert gradient.isfinite().all(), name


def test_a_failed_element_adds_nothing_to_the_gradient_of_shared_data(seed):
    known = known_optimum(seed, n=4, m=5)
    q = known.problem.q.expand(3, 4).clone()
    q[2, 0] = NAN
    spoiled, good = (
        problems.leaves(known.problem._replace(q=q)),
        problems.leaves(known.problem._replace(q=q[:2])),
    )
    with pytest.warns(SolverWarning):
        solve_qp(*spoiled).x.sum().backward()
    solve_qp(*good).x.sum().backward()
    for name in "PGh":
        got, expected = getattr(spoiled, name).grad, getattr(good, name).grad
        assert oracles.relative_error(got, expected) <= tol.BATCH, name


# --- honest statuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (50,)])
@pytest.mark.parametrize(("n", "m", "p"), [(1, 2, 0), (3, 5, 0), (4, 6, 2), (12, 20, 4)])
def test_problems_with_a_farkas_certificate_are_called_primal_infeasible(n, m, p, batch, seed):
    problem, z, y = problems.infeasible(seed, batch=batch, n=n, m=m, p=p)
    assert oracles.farkas_holds(problem, z, y, tol.CLOSED_FORM)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*problem)
    assert (solution.status == SolveStatus.PRIMAL_INFEASIBLE).all()


@pytest.mark.parametrize("batch", [(), (50,)])
@pytest.mark.parametrize(("n", "m", "p"), [(1, 2, 0), (3, 5, 0), (4, 6, 2), (12, 20, 4)])
def test_problems_with_an_unbounded_ray_are_called_dual_infeasible(n, m, p, batch, seed):
    problem, ray = problems.unbounded(seed, batch=batch, n=n, m=m, p=p)
    assert oracles.ray_holds(problem, ray, tol.CLOSED_FORM)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*problem)
    assert (solution.status == SolveStatus.DUAL_INFEASIBLE).all()


def test_contradicting_equalities_are_primal_infeasible():
    with pytest.warns(SolverWarning):
        solution = solve_qp(EYE, f64([0, 0]), None, None, f64([[1, 1], [1, 1]]), f64([1, 2]))
    assert solution.status == SolveStatus.PRIMAL_INFEASIBLE


@pytest.mark.parametrize("margin", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("kind", problems.BARELY)
def test_rows_that_contradict_others_by_little_are_primal_infeasible(kind, margin):
    for seed in range(10):
        problem = problems.barely_infeasible(kind, margin, seed)
        with pytest.warns(SolverWarning):
            solution = solve_qp(*problem)
        assert solution.status == SolveStatus.PRIMAL_INFEASIBLE, seed
        assert oracles.farkas_holds(problem, solution.z, solution.y, 1e-6), seed


def test_costs_that_fall_slowly_without_end_are_dual_infeasible():
    for seed in range(30):
        problem = problems.slow_descent(seed)
        with pytest.warns(SolverWarning):
            solution = solve_qp(*problem)
        assert solution.status == SolveStatus.DUAL_INFEASIBLE, seed
        assert oracles.ray_holds(problem, solution.x, 1e-6), seed


def test_an_empty_row_with_a_side_is_primal_infeasible_whatever_other_rows_there_are():
    A = f64([[1, 0], [0, 0]])
    with pytest.warns(SolverWarning):
        solution = solve_qp(EYE, f64([1, 1]), None, None, A, f64([1, 1]))
    assert solution.status == SolveStatus.PRIMAL_INFEASIBLE
    assert solution.y[1] == -1


def test_running_out_of_iterations_is_said_and_gives_no_gradient(seed):
    problem = problems.leaves(known_optimum(seed, batch=(3,), n=30, m=60).problem)
    with pytest.warns(SolverWarning):
        solution = solve_qp(*problem, solver=InteriorPoint(max_iter=1))
    late = solution.status == SolveStatus.MAX_ITER
    assert late.any()
    assert solution.x.isfinite().all()
    loss_of(solution).backward()
    assert all((getattr(problem, name).grad[late] == 0).all() for name in problems.given(problem))


# --- warnings and strict --------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 2])
def test_one_warning_counts_the_failures_of_a_call(failures):
    q = f64([[1, 0]] * 5)
    q[:failures, 0] = NAN
    with pytest.warns(SolverWarning, match=rf"\b{failures}\b") as record:
        solve_qp(EYE, q)
    assert len(record) == 1
    assert issubclass(SolverWarning, UserWarning)


def test_success_warns_of_nothing(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve_qp(*problems.regular("everything", seed, (3,)).problem, strict=True)


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "nan in q"])
def test_strict_raises_an_error_that_holds_problem_and_solution(kind, seed):
    _, spoiled = batch_with(kind, seed)
    with pytest.raises(SolverError) as caught:
        solve_qp(*spoiled, strict=True)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.solution.status[1] == STATUS[kind]
    assert torch.equal(caught.value.problem.q[0], spoiled.q[0])


def test_the_layer_takes_strict_too():
    with pytest.raises(SolverError):
        QPLayer(strict=True)(EYE, f64([NAN, 0]))


def test_every_status_pickles_and_compares_as_an_integer():
    names = ["SOLVED", "MAX_ITER", "PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "NUMERICAL_ERROR", "INVALID_INPUT"]
    assert [status.name for status in SolveStatus] == names
    assert all(pickle.loads(pickle.dumps(status)) == int(status) for status in SolveStatus)


# --- malformed input ------------------------------------------------------------------------------

GOOD = Problem(EYE, f64([0, 0]), f64([[1, 0]]), f64([1]), f64([[0, 1]]), f64([1]), f64([-1, -1]), f64([2, 2]))
MALFORMED = {
    "P not square": ({"P": f64([[1, 0]])}, "P", "(1, 2)"),
    "P a vector": ({"P": f64([1, 1])}, "P", "(2,)"),
    "P not symmetric": ({"P": f64([[1, 1e-3], [0, 1]])}, "P", ""),
    "q a number": ({"q": f64(1)}, "q", ""),
    "G of another width": ({"G": f64([[1, 0, 0]])}, "G", "(1, 3)"),
    "G a vector": ({"G": f64([1, 0])}, "G", "(2,)"),
    "h of another length": ({"h": f64([1, 2])}, "h", "(2,)"),
    "A of another width": ({"A": f64([[1]])}, "A", "(1, 1)"),
    "b of another length": ({"b": f64([1, 2])}, "b", "(2,)"),
    "lb of another size": ({"lb": f64([1])}, "lb", "(1,)"),
    "ub of another size": ({"ub": f64([1, 1, 1])}, "ub", "(3,)"),
    "P of integers": ({"P": torch.eye(2, dtype=torch.int64)}, "P", "int64"),
    "q of another dtype": ({"q": torch.zeros(2)}, "q", "float32"),
    "h of another dtype": ({"h": torch.ones(1)}, "h", "float32"),
    "ub of integers": ({"ub": torch.tensor([2, 2])}, "ub", "int64"),
    "q on another device": ({"q": GOOD.q.to("meta")}, "q", "meta"),
    "b on another device": ({"b": GOOD.b.to("meta")}, "b", "meta"),
    "P a list": ({"P": [[1.0, 0.0], [0.0, 1.0]]}, "P", "list"),
    "h an array": ({"h": GOOD.h.numpy()}, "h", "ndarray"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_is_named_first_then_what_was_expected_and_found(case):
    change, name, found = MALFORMED[case]
    with pytest.raises(ProblemError) as caught:
        solve_qp(*GOOD._replace(**change))
    message = str(caught.value)
    assert message.startswith(f"{name}: expected ")
    assert found in message.partition(", got ")[2]
    assert "\n" not in message


def test_the_error_for_a_wrong_shape_reads_as_documented():
    with pytest.raises(ProblemError, match=r"^G: expected shape \(\*batch, m, 6\), got \(3, 5\)$"):
        solve_qp(torch.eye(6), torch.zeros(6), torch.zeros(3, 5), torch.zeros(3))


def test_p_and_q_of_different_sizes_are_malformed():
    with pytest.raises(ProblemError, match=r"^(P: expected .*, got \(2, 2\)|q: expected .*, got \(3,\))"):
        solve_qp(EYE, f64([1, 2, 3]))


@pytest.mark.parametrize("missing", ["G", "h", "A", "b"])
def test_half_of_a_constraint_is_malformed(missing):
    partner = {"G": "h", "h": "G", "A": "b", "b": "A"}[missing]
    with pytest.raises(ProblemError, match=f"^({missing}|{partner}): "):
        solve_qp(*GOOD._replace(**{missing: None}))


@pytest.mark.parametrize("name", ["q", "h", "ub"])
def test_batches_that_do_not_broadcast_are_malformed(name):
    shapes = {name: getattr(GOOD, name).expand(3, -1), "P": EYE.expand(2, 2, 2)}
    with pytest.raises(ProblemError, match=f"^(P|{name}): "):
        solve_qp(*GOOD._replace(**shapes))


def test_asymmetry_within_round_off_is_no_error():
    wobbly = EYE + f64([[0, 1e-6], [0, 0]])
    expected = solve_qp((wobbly + wobbly.mT) / 2, f64([1, 2])).x
    assert oracles.relative_error(solve_qp(wobbly, f64([1, 2])).x, expected) <= tol.CLOSED_FORM


def test_problem_error_is_a_value_error():
    assert issubclass(ProblemError, ValueError)


@pytest.mark.parametrize("curvature", [1e16, 1e30, 1e200])
def test_a_feasible_program_is_not_called_infeasible_because_of_a_huge_curvature(curvature):
    # x = (1, 0) is the only feasible point; y = (1, -1) leaves A'y = (-1, 0), which vanishes in scaled units only.
    P, A, b = torch.diag(f64([curvature, 1])), f64([[0, 1], [1, 1]]), f64([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = solve_qp(P, torch.zeros_like(b), A=A, b=b)
    assert solution.status != SolveStatus.PRIMAL_INFEASIBLE


def test_a_cost_that_curves_downwards_without_end_is_invalid():
    P = -torch.eye(2, dtype=torch.float64).expand(3, 2, 2).clone()
    P[0] = P[2] = torch.eye(2, dtype=torch.float64)
    with pytest.warns(SolverWarning, match="1 INVALID_INPUT"):
        solution = solve_qp(P, f64([2.0, 2.0]))
    assert solution.status.tolist() == [SolveStatus.SOLVED, SolveStatus.INVALID_INPUT, SolveStatus.SOLVED]
    assert solution.x[1].isnan().all()
