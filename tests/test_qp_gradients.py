"""Gradients of the solution are right: differences, a dense solve and the unrolled iterations agree."""

from __future__ import annotations

import oracles
import problems
import pytest
import tolerances as tol
import torch
from oracles import OUTPUTS
from problems import INF, Problem, f64, known_optimum

from implicit_layers import Implicit, InteriorPoint, SolveStatus, Unrolled, solve_qp

ALL = Problem._fields
RULES = {rule: Implicit(gradient=rule) for rule in ("exact", "least_squares", "smoothed")}


def weights(known, generator) -> dict:
    """A random cotangent for every output."""
    return {name: torch.randn(getattr(known, name).shape, generator=generator, dtype=torch.float64) for name in OUTPUTS}


def gradients(problem, cotangents, names=None, **options) -> dict:
    """Gradients of sum <cotangent, output> in the named arguments (default: all that are given)."""
    problem = problems.leaves(problem, names)
    loss = oracles.pairing(cotangents, solve_qp(*problem, **options)).sum()
    names = problems.given(problem) if names is None else names
    return dict(zip(names, torch.autograd.grad(loss, [getattr(problem, name) for name in names]), strict=True))


def compare(got: dict, expected: dict, tolerance: float):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert oracles.relative_error(got[name], value) <= tolerance, name


# --- three witnesses ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", problems.REGULAR)
def test_gradient_agrees_with_finite_differences(name, seed, generator):
    known = problems.regular(name, seed, batch=(8,))
    cotangents, direction = weights(known, generator), problems.random_direction(known.problem, generator)
    slope = oracles.inner(gradients(known.problem, cotangents), direction)
    difference = oracles.finite_difference(solve_qp, known.problem, direction, cotangents, tol.FD_STEP)
    assert oracles.relative_error(slope, difference) <= tol.FD


@pytest.mark.parametrize("rule", ["exact", "least_squares"])
@pytest.mark.parametrize("name", problems.REGULAR)
def test_gradient_agrees_with_a_dense_solve_of_the_active_rows(name, rule, seed, generator):
    known = problems.regular(name, seed, batch=(8,))
    cotangents = weights(known, generator)
    expected = oracles.active_set_gradient(known.problem, known, cotangents)
    compare(gradients(known.problem, cotangents, differentiate=RULES[rule]), expected, tol.DENSE)


@pytest.mark.parametrize("name", problems.REGULAR)
def test_gradient_agrees_with_the_one_through_the_iterations(name, seed, generator):
    known = problems.regular(name, seed, batch=(8,))
    cotangents = weights(known, generator)
    unrolled = gradients(known.problem, cotangents, differentiate=Unrolled())
    compare(unrolled, gradients(known.problem, cotangents), tol.UNROLLED)


# --- gradcheck ------------------------------------------------------------------------------------


def outputs_of(problem, names):
    """The outputs as a function of the named arguments alone, and those arguments."""
    problem = problems.leaves(problem, names)

    def function(*values):
        solution = solve_qp(*problem._replace(**dict(zip(names, values, strict=True))))
        return tuple(getattr(solution, output) for output in OUTPUTS)

    return function, tuple(getattr(problem, name) for name in names)


def small(seed, **changes):
    """Few entries, every argument given, both kinds of bound active."""
    return known_optimum(seed, **({"n": 4, "m": 2, "p": 1, "bounds": 2} | changes))


@pytest.mark.parametrize("name", ALL)
def test_gradcheck_of_each_argument(name, seed):
    function, arguments = outputs_of(small(seed).problem, [name])
    assert torch.autograd.gradcheck(function, arguments, **tol.GRADCHECK)


def test_gradcheck_of_all_arguments_together_in_a_batch(seed):
    function, arguments = outputs_of(small(seed, batch=(2,)).problem, ALL)
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True, **tol.GRADCHECK)


def test_gradcheck_of_a_linear_program(seed):
    function, arguments = outputs_of(known_optimum(seed, n=3, m=4, p=1, rank=0).problem, ALL[1:6])
    assert torch.autograd.gradcheck(function, arguments, **tol.GRADCHECK)


# --- batches and shared data ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradient_of_shared_data_is_summed(name, seed, generator):
    known = small(seed)
    cotangents = weights(known_optimum(seed, batch=(5,), n=4, m=2, p=1, bounds=2), generator)
    batched = problems.mapped(known.problem, lambda value: value.expand(5, *value.shape))
    shared = batched._replace(**{name: getattr(known.problem, name)})
    each = gradients(batched, cotangents, [name])[name]
    got = gradients(shared, cotangents, [name])[name]
    assert got.shape == getattr(known.problem, name).shape
    assert oracles.relative_error(got, each.sum(0)) <= tol.BATCH


def test_gradient_of_everything_shared_but_q_is_the_sum_over_a_loop(seed, generator):
    known = small(seed)
    q = known.problem.q + 0.01 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    cotangents = weights(known_optimum(seed, batch=(4,), n=4, m=2, p=1, bounds=2), generator)
    together = gradients(known.problem._replace(q=q), cotangents)
    loop = [gradients(known.problem._replace(q=q[i]), {k: v[i] for k, v in cotangents.items()}) for i in range(4)]
    stacked = {name: torch.stack([part[name] for part in loop]) for name in ALL}
    expected = {name: value if name == "q" else value.sum(0) for name, value in stacked.items()}
    compare(together, expected, tol.BATCH)


def test_gradient_of_a_batch_equals_a_loop(seed, generator):
    known = problems.regular("everything", seed, batch=(4,))
    cotangents = weights(known, generator)
    together = gradients(known.problem, cotangents)
    loop = [
        gradients(single, {k: v[i] for k, v in cotangents.items()})
        for i, single in enumerate(oracles.unbatched(known.problem))
    ]
    compare(together, {name: torch.stack([part[name] for part in loop]) for name in ALL}, tol.BATCH)


# --- subsets, layouts, types ----------------------------------------------------------------------


@pytest.mark.parametrize("names", [["q"], ["P"], ["h"], ["lb"], ["G", "ub"], ["A", "b"], ["q", "h", "b"]])
def test_any_subset_may_require_a_gradient(names, seed, generator):
    known = problems.regular("everything", seed, batch=(3,))
    cotangents = weights(known, generator)
    everything = gradients(known.problem, cotangents)
    compare(gradients(known.problem, cotangents, names), {name: everything[name] for name in names}, tol.BATCH)


@pytest.mark.parametrize("output", OUTPUTS)
def test_any_single_output_may_carry_the_loss(output, seed, generator):
    known = problems.regular("everything", seed, batch=(3,))
    cotangents = weights(known, generator)
    cotangents = {k: v if k == output else torch.zeros_like(v) for k, v in cotangents.items()}
    problem = problems.leaves(known.problem)
    (cotangents[output] * getattr(solve_qp(*problem), output)).sum().backward()
    expected = oracles.active_set_gradient(known.problem, known, cotangents)
    compare({name: getattr(problem, name).grad for name in ALL}, expected, tol.DENSE)


def test_only_x_z_y_and_z_box_carry_a_gradient(seed):
    solution = solve_qp(*problems.leaves(small(seed).problem))
    assert [name for name in solution._fields if getattr(solution, name).requires_grad] == list(OUTPUTS)


LAYOUTS = {
    "transposed storage": lambda v: v.movedim(0, -1).contiguous().movedim(-1, 0),
    "every second element of a larger array": lambda v: torch.stack([v, v + 1], -1).flatten(-2)[..., ::2],
    "a slice with an offset": lambda v: torch.cat([v[:1], v])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_in_memory_does_not_matter(layout, seed, generator):
    known = problems.regular("everything", seed, batch=(3,))
    cotangents = weights(known, generator)
    leaves = problems.leaves(known.problem)
    strange = problems.mapped(leaves, LAYOUTS[layout])
    loss = oracles.pairing(cotangents, solve_qp(*strange)).sum()
    got = dict(zip(ALL, torch.autograd.grad(loss, list(leaves)), strict=True))
    compare(got, gradients(known.problem, cotangents), tol.BATCH)


def test_expanded_inputs_give_the_gradient_of_what_was_expanded(seed, generator):
    known = small(seed)
    leaves = problems.leaves(known.problem)
    expanded = problems.mapped(leaves, lambda value: value.expand(3, *value.shape))
    cotangents = weights(known, generator)
    oracles.pairing(cotangents, solve_qp(*expanded)).sum().backward()
    once = gradients(known.problem, cotangents)
    compare({k: getattr(leaves, k).grad for k in ALL}, {k: 3 * v for k, v in once.items()}, tol.BATCH)


def test_float32_gets_the_float64_gradient_rounded(seed, generator):
    known = problems.regular("everything", seed, batch=(5,))
    single = problems.mapped(known.problem, lambda value: value.float())
    cotangents = {k: v.float() for k, v in weights(known, generator).items()}
    got = gradients(single, cotangents)
    double = {k: v.double() for k, v in cotangents.items()}
    assert {value.dtype for value in got.values()} == {torch.float32}
    compare(got, gradients(problems.mapped(single, lambda v: v.double()), double), tol.FLOAT32)


# --- where the derivative does not exist ----------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weak", [1, 3])
def test_weakly_active_rows_give_a_bounded_gradient(rule, weak, seed, generator):
    known = known_optimum(seed, batch=(10,), n=6, m=8, p=1, weak=weak)
    got = gradients(known.problem, weights(known, generator), differentiate=RULES[rule])
    assert max(value.abs().max() for value in got.values()) < tol.BOUNDED  # False for NaN too


@pytest.mark.parametrize("rule", RULES)
def test_at_a_weakly_active_row_the_gradient_lies_between_the_one_sided_ones(rule):
    target = f64([[0.0]]).requires_grad_()  # x = min(target, 0): slopes 1 and 0
    x = solve_qp(f64([[1]]), -target, f64([[1]]), f64([0]), differentiate=RULES[rule]).x
    (slope,) = torch.autograd.grad(x.sum(), target)
    assert -tol.SMOOTHED <= slope.item() <= 1 + tol.SMOOTHED


DEGENERATE = {
    "linear program at a vertex": lambda seed: problems.regular("linear program", seed, (6,)).problem,
    "linear program with a face of solutions": lambda _: Problem(
        torch.zeros(2, 2, dtype=torch.float64), f64([1, 1]), A=f64([[1, 1]]), b=f64([1]), lb=f64([0, 0])
    ),
    "no cost at all": lambda _: Problem(
        torch.zeros(2, 2, dtype=torch.float64), f64([0, 0]), lb=f64([-1, -1]), ub=f64([1, 1])
    ),
    "singular P, solutions on a line": lambda _: Problem(
        f64([[1, 1], [1, 1]]), f64([-1, -1]), lb=f64([-5, -5]), ub=f64([5, 5])
    ),
    "more active rows than variables": lambda seed: known_optimum(seed, batch=(6,), n=3, m=8, p=1).problem,
    "every row twice": lambda seed: problems.with_duplicates(known_optimum(seed, batch=(6,), n=6, m=6, p=2)),
    "no interior": lambda seed: problems.without_interior(known_optimum(seed, batch=(6,), n=6, m=6, p=2)),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_problems_give_a_bounded_gradient(case, seed):
    problem = problems.leaves(DEGENERATE[case](seed))
    solve_qp(*problem).x.sum().backward()
    largest = [getattr(problem, name).grad.abs().max() for name in problems.given(problem)]
    assert max(largest) < tol.BOUNDED
    assert all(torch.isfinite(value) for value in largest)


@pytest.mark.parametrize("rule", ["exact", "least_squares"])
@pytest.mark.parametrize("hardship", [problems.with_duplicates, problems.without_interior])
def test_dependent_rows_do_not_change_the_gradient_of_the_cost(rule, hardship, seed, generator):
    known = known_optimum(seed, batch=(6,), n=6, m=6, p=2)
    cotangents = {k: torch.zeros_like(v) for k, v in weights(known, generator).items()}
    cotangents["x"] = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    expected = oracles.active_set_gradient(known.problem, known, cotangents)
    problem = problems.leaves(hardship(known), ["P", "q"])
    x = solve_qp(*problem, differentiate=RULES[rule]).x
    (cotangents["x"] * x).sum().backward()
    compare({"P": problem.P.grad, "q": problem.q.grad}, {k: expected[k] for k in "Pq"}, tol.FD)


def test_a_row_that_is_not_there_gets_no_gradient(seed, generator):
    known = known_optimum(seed, batch=(4,), n=5, m=6)
    missing = known.z == 0
    problem = known.problem._replace(h=torch.where(missing, INF, known.problem.h))
    problem = problem._replace(lb=torch.full_like(known.x, -INF))
    got = gradients(problem, weights(known, generator))
    assert (got["h"][missing] == 0).all()
    assert (got["G"][missing] == 0).all()
    assert (got["lb"] == 0).all()
    assert all(value.isfinite().all() for value in got.values())


# --- closed forms ---------------------------------------------------------------------------------


def test_fact_multiplier_of_a_budget_falls_by_the_mean_of_the_costs():
    c, b, eye = (
        f64([0.5, -0.3]).requires_grad_(),
        f64([1]).requires_grad_(),
        torch.eye(2, dtype=torch.float64),
    )
    dc, db = torch.autograd.grad(solve_qp(eye, c, None, None, f64([[1, 1]]), b).y.sum(), [c, b])
    assert oracles.relative_error(dc, f64([-0.5, -0.5])) <= tol.DENSE
    assert oracles.relative_error(db, f64([-0.5])) <= tol.DENSE


@pytest.mark.parametrize("rule", ["exact", "least_squares"])
def test_fact_a_row_given_twice_shares_its_sensitivity(rule):
    eye, G = torch.eye(2, dtype=torch.float64), f64([[1, 0], [1, 0]])

    def solution_map(target, h):
        return solve_qp(eye, -target, G, h, differentiate=RULES[rule]).x

    by_target, by_h = torch.autograd.functional.jacobian(solution_map, (f64([1, 2]), f64([0, 0])))
    assert oracles.relative_error(by_target, f64([[0, 0], [0, 1]])) <= tol.DENSE
    assert oracles.relative_error(by_h.sum(-1), f64([1, 0])) <= tol.DENSE


def test_fact_an_unconstrained_minimiser_has_the_inverse_of_p_as_its_slope(seed):
    problem = problems.leaves(known_optimum(seed, n=4).problem, ["q"])
    jacobian = torch.stack([torch.autograd.grad(x, problem.q, retain_graph=True)[0] for x in solve_qp(*problem).x])
    assert oracles.relative_error(jacobian, -torch.linalg.inv(problem.P)) <= tol.DENSE


def test_gradient_of_p_is_that_of_its_symmetric_part(seed, generator):
    known = small(seed)
    gradient = gradients(known.problem, weights(known, generator), ["P"])["P"]
    assert oracles.relative_error(gradient, gradient.mT) <= tol.BATCH


@pytest.mark.parametrize("active_set", [True, False])
@pytest.mark.parametrize("curvature", [5e-324, 1e-310, 1e-300, 1e-200])
def test_curvature_of_next_to_nothing_spoils_no_gradient(curvature, active_set, seed):
    known = known_optimum(seed, batch=(5,), n=3, m=8, p=1, bounds=0)
    P = known.problem.P.clone()
    P[2] = 0
    P[2, 1, 1] = curvature
    lb, ub = (torch.full((3,), side, dtype=torch.float64) for side in (-10.0, 10.0))
    problem = problems.leaves(known.problem._replace(P=P, q=known.problem.q[0], lb=lb, ub=ub))
    solution = solve_qp(*problem, solver=InteriorPoint(active_set=active_set))
    assert (solution.status == SolveStatus.SOLVED).all()
    (solution.x.sum() + solution.z.sum()).backward()
    for name in problems.given(problem):
        assert getattr(problem, name).grad.isfinite().all(), name
