"""The dual active set method: the same answers as from the interior, several times sooner, in clear cases only.

What it does not take must end as if it had not been tried; and it keeps things from element to element, none of which
may show in an answer.
"""

from __future__ import annotations

import math

import problems
import pytest
import torch
from oracles import kkt
from problems import INF, Known, Problem, known_optimum
from test_native import DEGENERATE, FAILING, REGULAR, answer, difference, identical, mixed_bag, needs_core, random_rows
from tolerances import ACTIVE_SET, FLOAT32, KKT_POLISHED, X_REGULAR

from implicit_layers import InteriorPoint, QPSolution, SolveStatus, solve_qp
from implicit_layers.qp import native
from implicit_layers.qp.problem import QPProblem, flatten
from implicit_layers.qp.solution import MEASURES, StackedSolution

pytestmark = needs_core

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 23, 24, 25, 33, 60, 120]  # from 24 on, many rows change at once


def sample(make, seed: int, sizes=SIZES) -> list[Problem]:
    """Problems of a class, one batch for each size."""
    return [make(seed + n, (5 if n < 20 else 2,), n) for n in sizes]


def taken(problem: Problem) -> torch.Tensor:
    """Which elements the active set method answers: those whose factors it keeps."""
    flat = flatten(QPProblem(*problem))
    options = {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iter": 100, "active_set": True, "keep": True}
    found, _ = native.solve(flat.params, flat.layout, flat.batch, **options)
    return found.info[:, MEASURES + flat.layout.rows.total] >= 0


def but_iterations(found: StackedSolution, chosen) -> tuple[torch.Tensor, ...]:
    measures = [0, *range(2, found.info.shape[1])]
    return found.x[chosen], found.lam[chosen], found.info[chosen][:, measures], found.flags[chosen]


def counted(found: StackedSolution) -> bool:
    """Whether every element has at least one factorisation behind it (an invalid one may have none)."""
    return bool((found.iterations[found.status != SolveStatus.INVALID_INPUT] > 0).all())


# --- the same answers -----------------------------------------------------------------------------


def rescaled(known: Known, seed: int, **how) -> Problem:
    return problems.badly_scaled(known, seed, **({"decades": 6} | how)).problem


def with_zero_rows(known: Known, room: float) -> Problem:
    """Two rows of zeros before the others, `0 <= room`."""
    G, h = known.problem.G, known.problem.h
    nothing = torch.zeros_like(G[..., :1, :]).expand(*G.shape[:-2], 2, -1)
    return known.problem._replace(G=torch.cat([nothing, G], -2), h=torch.cat([nothing[..., 0] + room, h], -1))


def fixed(known: Known) -> Problem:
    """Every other variable between two equal bounds, the others without."""
    free = torch.arange(known.x.shape[-1]) % 2 > 0
    limit = torch.tensor(INF, dtype=torch.float64)
    return known.problem._replace(lb=torch.where(free, -limit, known.x), ub=torch.where(free, limit, known.x))


def one_side(known: Known, side: str) -> Problem:
    """Only one of the two bounds is an argument; the active bounds of the other kind become costs."""
    problem, z_box = known.problem, known.z_box
    q = problem.q + (z_box.clamp(max=0) if side == "ub" else z_box.clamp(min=0))
    return problem._replace(q=q, lb=problem.lb if side == "lb" else None, ub=problem.ub if side == "ub" else None)


def boxed(seed: int, batch, n: int) -> Known:
    return known_optimum(seed, batch=batch, n=n, m=n, active=0.25, bounds=n // 2)


def diagonal(known: Known) -> Problem:
    """The same solution with the diagonal of P alone."""
    P = torch.diag_embed(known.problem.P.diagonal(dim1=-2, dim2=-1))
    return known.problem._replace(P=P, q=known.problem.q + ((known.problem.P - P) @ known.x[..., None])[..., 0])


CLEAR = {
    "only lower bounds": lambda s, b, n: one_side(boxed(s, b, n), "lb"),
    "only upper bounds": lambda s, b, n: one_side(boxed(s, b, n), "ub"),
    "rows and bounds": lambda s, b, n: boxed(s, b, n).problem,
    "diagonal P and bounds": lambda s, b, n: diagonal(known_optimum(s, batch=b, n=n, bounds=n // 2)),
    "diagonal P, bounds and an equality": lambda s, b, n: diagonal(known_optimum(s, batch=b, n=n, p=1, bounds=n // 2)),
    "many rows": lambda s, b, n: known_optimum(s, batch=b, n=n, m=9 * n, active=0.05).problem,
    "as many active rows as unknowns": lambda s, b, n: known_optimum(s, batch=b, n=n, m=2 * n).problem,
    "as many equalities as unknowns": lambda s, b, n: known_optimum(s, batch=b, n=n, p=n).problem,
    "rows of zeros": lambda s, b, n: with_zero_rows(known_optimum(s, batch=b, n=n, m=n), 1.0),
    "rows over twelve decades": lambda s, b, n: rescaled(known_optimum(s, batch=b, n=n, m=n, p=n // 4, active=0.4), s),
    "tiny cost": lambda s, b, n: rescaled(known_optimum(s, batch=b, n=n, m=n), s, rows=False, cost=1e-6),
    "huge cost": lambda s, b, n: rescaled(known_optimum(s, batch=b, n=n, m=n), s, rows=False, cost=1e6),
}
"""One solution, every margin 0.2 in the units of its row, P positive definite."""

OTHERS = {
    "fixed variables": lambda s, b, n: fixed(known_optimum(s, batch=b, n=n)),
    "rows of zeros that touch": lambda s, b, n: with_zero_rows(known_optimum(s, batch=b, n=n, m=n), 0.0),
    "a cost without size": lambda s, b, n: rescaled(known_optimum(s, batch=b, n=n, m=n), s, rows=False, cost=1e-150),
}
TAKEN = {*CLEAR, "inequalities", "equalities", "box", "unconstrained", "missing rows", "badly scaled"}
TAKEN -= {name for name in CLEAR if name.startswith("diagonal")}  # a closed form need keep no factors
UNIQUE = {**REGULAR, **CLEAR}


@pytest.mark.parametrize("other", ["native", "torch"])
@pytest.mark.parametrize("name", [*UNIQUE, *DEGENERATE, *OTHERS])
def test_the_answers_are_those_from_the_interior(name, other, seed):
    for problem in sample((UNIQUE | DEGENERATE | OTHERS)[name], seed, SIZES if other == "native" else SIZES[:10:2]):
        got, expected = answer(problem, active_set=True), answer(problem, core=other)
        assert got.solved.all()
        assert torch.equal(got.status, expected.status)
        assert difference(got.x, expected.x) <= ACTIVE_SET
        assert difference(got.s, expected.s) <= ACTIVE_SET
        assert counted(got)
        if name in UNIQUE:
            assert torch.equal(got.flags, expected.flags)
            assert difference(got.lam, expected.lam) <= ACTIVE_SET
        assert name not in TAKEN or taken(problem).all()


@pytest.mark.parametrize("name", ["inequalities", "rows and bounds", "many rows"])
def test_the_answer_is_the_one_the_problem_was_built_from(name, seed):
    for n in SIZES:
        known = {
            "inequalities": lambda n: known_optimum(seed, batch=(3,), n=n, m=n + 1, p=n // 3),
            "rows and bounds": lambda n: boxed(seed, (3,), n),
            "many rows": lambda n: known_optimum(seed, batch=(3,), n=n, m=9 * n, active=0.05),
        }[name](n)
        solution = solve_qp(*known.problem)
        assert taken(known.problem).all() or name == "inequalities"  # there, three active rows and n = 2
        assert difference(solution.x, known.x) <= X_REGULAR
        assert difference(solution.z_box, known.z_box) <= X_REGULAR
        assert kkt(known.problem, solution).worst <= KKT_POLISHED


@pytest.mark.parametrize("name", ["inequalities", "box", "everything", "many rows", "as many equalities as unknowns"])
def test_float32_gets_the_float64_answer_rounded(name, seed):
    for problem in sample(UNIQUE[name], seed):
        single = problems.mapped(problem, lambda v: v.float())
        got, expected = (answer(v, active_set=True) for v in (single, problems.mapped(single, lambda v: v.double())))
        assert got.x.dtype == torch.float32
        assert torch.equal(got.status, expected.status)
        assert difference(got.x.double(), expected.x) <= FLOAT32
        assert difference(got.lam.double(), expected.lam) <= FLOAT32


def test_a_problem_at_random_has_the_answer_from_the_interior(seed):
    statuses = set()
    for n in range(1, 34, 2):
        for m, p in ((n, 0), (3 * n, 0), (n, n // 2), (0, n // 2)):
            problem = random_rows(seed + n + m + p, (12,), n, m, p)
            got, expected = answer(problem, active_set=True), answer(problem)
            statuses |= set(got.status.tolist())
            assert torch.equal(got.status, expected.status)
            fine = got.solved
            assert difference(got.x[fine], expected.x[fine]) <= X_REGULAR
            assert identical(but_iterations(got, ~taken(problem)), but_iterations(expected, ~taken(problem)))
    assert statuses == {SolveStatus.SOLVED, SolveStatus.PRIMAL_INFEASIBLE}


# --- what is not clear is left alone --------------------------------------------------------------


@pytest.mark.parametrize("name", [*DEGENERATE, *FAILING, *OTHERS, "singular P", "linear program"])
def test_what_is_not_clear_ends_as_without_the_active_set_to_the_last_bit(name, seed):
    for problem in sample((REGULAR | DEGENERATE | FAILING | OTHERS)[name], seed):
        got, expected, rest = answer(problem, active_set=True), answer(problem), ~taken(problem)
        assert identical(but_iterations(got, rest), but_iterations(expected, rest))
        assert (got.iterations >= expected.iterations)[rest].all()
        assert counted(got)
        assert got.solved[~rest].all()
        if problem.q.shape[-1] > 3 and name not in ("crossing bounds", "random", "a cost without size"):
            assert rest.all()  # smaller ones may lack what is in their name


@pytest.mark.parametrize("distance", [0.0, 1e-14, 1e-11, -1e-11])
@pytest.mark.parametrize("n", [3, 30])
def test_a_row_that_touches_is_left_to_the_interior_point_method(distance, n, seed):
    known = known_optimum(seed, batch=(4,), n=n, m=n)
    row = (known.z == 0).to(torch.float64).argmax(-1, keepdim=True)
    h = known.problem.h.clone()
    h.scatter_(-1, row, (known.problem.G @ known.x[..., None])[..., 0].gather(-1, row) + distance)
    assert not taken(known.problem._replace(h=h)).any()
    assert taken(known.problem).all()


# --- an element by itself -------------------------------------------------------------------------

SHARED = {"nothing": (), "P": ("P",), "P and rows": ("P", "G", "A"), "rows": ("G", "A"), "all but q": "PGAhb"}


def with_shared(problem: Problem, names) -> Problem:
    """The same, with the named arguments those of the first element, without a batch dimension."""
    return problem._replace(**{name: getattr(problem, name)[0] for name in names if getattr(problem, name) is not None})


def part(problem: Problem, chosen) -> Problem:
    """Some elements of a problem, of which shared arguments have no batch dimension."""
    dims = (2, 1, 2, 1, 2, 1, 1, 1)
    return Problem(*(v if v is None or v.ndim == d else v[chosen] for v, d in zip(problem, dims, strict=True)))


def crowd(seed: int, batch: int, n: int, names, bounds: bool = True) -> Problem:
    """Problems that share what is named; few are built for it, so their active rows come and go at random."""
    known = known_optimum(seed, batch=(batch,), n=n, m=n + 2, p=n // 4, active=0.3, bounds=0 if bounds else None)
    problem = with_shared(known.problem, names)
    generator = torch.Generator().manual_seed(seed)
    q = problem.q + torch.randn(batch, n, generator=generator, dtype=torch.float64)
    if batch > 8:  # one that is invalid, one without a minimum or a feasible point
        q[3, -1], q[6] = math.nan, 1e9
    return problem._replace(q=q)


def same_but_iterations(got, expected, chosen) -> bool:
    """Whether `got` is the chosen part of `expected` to the last bit."""
    return identical(but_iterations(got, slice(None)), but_iterations(expected, chosen))


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("n", [1, 3, 4, 10, 24, 33])
def test_an_answer_does_not_depend_on_the_batch_to_the_last_bit(n, shared, seed):
    problem = crowd(seed, 19, n, SHARED[shared])
    whole = answer(problem, active_set=True)
    assert taken(problem).any()
    others = [slice(7), slice(2, 19), torch.randperm(19, generator=torch.Generator().manual_seed(seed))]
    for chosen in [slice(i, i + 1) for i in range(19)] + others:
        assert same_but_iterations(answer(part(problem, chosen), active_set=True), whole, chosen)


@pytest.mark.parametrize("max_iter", [3, 100])
@pytest.mark.parametrize("shared", ["P", "P and rows"])
def test_iterations_and_their_limit_do_not_depend_on_the_batch(shared, max_iter, seed):
    for n in (1, 4, 24, 33):
        problem = crowd(seed, 19, n, SHARED[shared])
        whole = answer(problem, active_set=True, max_iter=max_iter)
        for i in range(19):
            alone = answer(part(problem, slice(i, i + 1)), active_set=True, max_iter=max_iter)
            assert identical(alone, [v[i : i + 1] for v in whole])


@pytest.mark.parametrize("n", [1, 3, 4, 10, 33])
def test_an_answer_does_not_depend_on_failing_neighbours_to_the_last_bit(n, seed):
    problem = mixed_bag(seed, n)
    whole = answer(problem, active_set=True)
    assert set(whole.status.tolist()) >= {SolveStatus.SOLVED, SolveStatus.PRIMAL_INFEASIBLE, SolveStatus.INVALID_INPUT}
    for i in range(9):
        assert identical(answer(problems.element(problem, slice(i, i + 1)), active_set=True), [v[[i]] for v in whole])


@pytest.mark.parametrize("shared", ["nothing", "P and rows"])
@pytest.mark.parametrize(("n", "batch"), [(5, 2000), (33, 60)])
def test_an_answer_does_not_depend_on_threads_or_slices_to_the_last_bit(n, batch, shared, seed, monkeypatch):
    problem = crowd(seed, batch, n, SHARED[shared])
    one = answer(problem, active_set=True)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert same_but_iterations(answer(problem, active_set=True), one, slice(None))
            monkeypatch.setattr(native, "SLICE_FLOPS", 1e5)
            assert same_but_iterations(answer(problem, active_set=True), one, slice(None))
            monkeypatch.undo()
    finally:
        torch.set_num_threads(1)


# --- warm starts ----------------------------------------------------------------------------------


WARM = {
    "the right rows": lambda v: v,
    "no row": torch.zeros_like,
    "every row": torch.ones_like,
    "the wrong rows": lambda v: (v == 0).to(v.dtype),
    "another problem's": lambda v: v.roll(1, 0),
    "the next rows": lambda v: v.roll(1, -1),
    "negative": torch.neg,
    "not numbers": lambda v: torch.full_like(v, math.nan),
    "infinite": lambda v: torch.full_like(v, INF),
    "minus infinite": lambda v: torch.full_like(v, -INF),
    "one that is not a number": lambda v: torch.where(torch.arange(v.shape[-1]) == 0, math.nan, v),
    "tiny": lambda v: 1e-300 * v,
}


@pytest.mark.parametrize("kind", WARM)
@pytest.mark.parametrize(
    "name", ["inequalities", "everything", "rows and bounds", "many rows", "missing rows", "diagonal P and bounds"]
)
def test_a_warm_start_changes_nothing_but_the_way(name, kind, seed):
    for problem in sample(UNIQUE[name], seed, [1, 2, 3, 8, 13, 25, 40]):
        cold = solve_qp(*problem)
        spoiled = {field: WARM[kind](getattr(cold, field)) for field in ("x", "z", "y", "z_box")}
        warm = solve_qp(*problem, warm_start=cold._replace(**spoiled))
        assert torch.equal(warm.status, cold.status)
        for field in ("x", "s", "z", "y", "z_box"):
            assert difference(getattr(warm, field), getattr(cold, field)) <= ACTIVE_SET, field
        assert (warm.iterations > 0).all()


@pytest.mark.filterwarnings("ignore::implicit_layers.SolverWarning")
@pytest.mark.parametrize("shared", SHARED)
def test_a_warm_start_is_its_element_s_own_to_the_last_bit(shared, seed):
    problem = crowd(seed, 9, 12, SHARED[shared])
    found = solve_qp(*problem)
    start = QPSolution(*(v.roll(2, 0) for v in found))
    whole = solve_qp(*problem, warm_start=start)
    assert torch.equal(whole.status, found.status)
    fine = found.status == SolveStatus.SOLVED
    assert fine.any()
    assert difference(whole.x[fine], found.x[fine]) <= ACTIVE_SET
    for i in range(9):
        mine = slice(i, i + 1)
        alone = solve_qp(*part(problem, mine), warm_start=QPSolution(*(v[mine] for v in start)))
        but_count = [field for field in QPSolution._fields if field != "iterations"]
        assert identical([getattr(alone, f) for f in but_count], [getattr(whole, f)[mine] for f in but_count])


def test_a_right_warm_start_takes_one_factorisation_of_rows(seed):
    problem = known_optimum(seed, batch=(4,), n=40, m=60, p=5, active=0.3).problem
    cold = solve_qp(*problem)
    warm = solve_qp(*problem, warm_start=cold)
    assert (warm.iterations == 2).all()  # that of P, and that of the rows
    assert (cold.iterations > 2).all()


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 40])
def test_too_few_iterations_end_as_from_the_interior(n, seed):
    problem = known_optimum(seed, batch=(5,), n=n, m=3 * n, active=0.3).problem
    for max_iter in (1, 2, 3, 4, 6, 9, 100):
        got, expected = (answer(problem, active_set=chosen, max_iter=max_iter) for chosen in (True, False))
        assert counted(got)
        assert got.solved[expected.solved].all()
        if max_iter == 1:
            assert (got.status == SolveStatus.MAX_ITER).all()
            assert identical(but_iterations(got, slice(None)), but_iterations(expected, slice(None)))
        if max_iter == 100:
            assert got.solved.all()
        assert difference(got.x[got.solved], answer(problem).x[got.solved]) <= ACTIVE_SET


@pytest.mark.parametrize(("eps_abs", "eps_rel"), [(1e-9, 0.0), (1e-12, 0.0), (0.0, 1e-9)])
@pytest.mark.parametrize("name", ["inequalities", "everything", "rows and bounds", "many rows"])
def test_either_tolerance_may_be_zero(name, eps_abs, eps_rel, seed):
    for problem in sample(UNIQUE[name], seed, [1, 4, 9, 25, 60]):
        solution = solve_qp(*problem, solver=InteriorPoint(eps_abs=eps_abs, eps_rel=eps_rel))
        assert (solution.status == SolveStatus.SOLVED).all()
        assert difference(solution.x, answer(problem).x) <= ACTIVE_SET
        if eps_rel == 0:
            assert (solution.primal_residual <= eps_abs).all()
            assert (solution.dual_residual <= eps_abs).all()
            assert (solution.duality_gap <= eps_abs).all()
