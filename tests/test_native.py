"""The compiled core: the same answers as plain torch in either layout, and no input that hurts it or its caller.

Every test of tests/test_qp_*.py runs on both cores already; here stands what only a comparison or a hostile caller
shows. The tests that need the library are skipped where there was no compiler.
"""

from __future__ import annotations

import inspect
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import oracles
import problems
import pytest
import torch
from problems import INF, Known, Problem, f64, known_optimum

from implicit_layers import InteriorPoint, ProblemError, SolverWarning, SolveStatus, solve_qp
from implicit_layers.qp import certificates, forward, interior_point, kkt, linear_system, native, polish, scaling
from implicit_layers.qp.forward import solve_flat
from implicit_layers.qp.problem import Layout, QPProblem, Rows, flatten
from implicit_layers.qp.solution import StackedSolution

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "implicit_layers" / "qp" / "native"
SOURCES = [*sorted(NATIVE.glob("*.h")), NATIVE / "core.cpp"]

ROUND_OFF = 1e-9
"""Relative to the largest entry: the same sums in two orders end the polish at steps of 1e-11, times a condition
below 100 (measured: 1e-12 for x, 1e-10 for multipliers)."""

GRADIENT = 1e-8
"""The same for gradients: the two systems are refined separately."""

SHARE, STEPS = 0.03, 15
"""Iterations differ where round-off decides a comparison: measured in 12 of 49000 solves, 10 of them of linear
programs (1 in 300), by 3 to 12; in 3 of the 115 of a test at most."""

LAYOUTS = {"row-wise": 0, "lanes": 1}
FROM_THE_INTERIOR = {"eps_abs": 1e-9, "eps_rel": 1e-9, "max_iter": 100, "active_set": False, "keep": False}

needs_core = pytest.mark.skipif(native.library() is None, reason="the compiled core was not built here (no compiler)")
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def fixed_layout(monkeypatch):
    """A function that makes the core use one layout whatever the size."""
    return lambda layout: monkeypatch.setattr(native, "_lanes", lambda n: LAYOUTS[layout])


def answer(problem: Problem, core: str = "native", active_set: bool = False, **options) -> StackedSolution:
    """All that the numeric forward pass knows about a problem's solution; by default found from the interior."""
    flat = flatten(QPProblem(*problem))
    solver = InteriorPoint(core=core, active_set=active_set, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        return solve_flat(flat.params, flat.layout, flat.batch, options=solver, strict=False)


def identical(got, expected) -> bool:
    """Whether two tuples of tensors hold the same numbers, NaN included."""
    return all(
        a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(got, expected, strict=True)
    )


def difference(got, expected) -> float:
    """Largest difference of an element, relative to 1 + its largest entry; infinities must be at the same places."""
    if not torch.equal(got.isfinite(), expected.isfinite()):
        return INF
    got, expected = (v.nan_to_num(0.0, 0.0, 0.0).flatten(1) for v in (got, expected))
    if not got.numel():
        return 0.0
    return float(((got - expected).abs().amax(-1) / (1 + expected.abs().amax(-1))).max())


def run_python(code: str, timeout: float = 100, **environment: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the same algorithm ---------------------------------------------------------------------------


def some_rows_missing(known: Known) -> Problem:
    h = known.problem.h.clone()
    h[..., ::3] = INF
    return known.problem._replace(h=h)


def crossing_bounds(known: Known) -> Problem:
    ub = known.problem.ub.clone()
    ub[..., 0] = known.problem.lb[..., 0].clamp(min=-1) - 1
    return known.problem._replace(ub=ub)


def random_rows(seed: int, batch: tuple[int, ...], n: int, m: int, p: int) -> Problem:
    """Problems of no design, many of them infeasible."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    L = normal(n, n)
    P = L @ L.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)
    return Problem(P, normal(n), normal(m, n), normal(m), normal(p, n) if p else None, normal(p) if p else None)


# One solution, one set of multipliers.
REGULAR = {
    "inequalities": lambda s, b, n: known_optimum(s, batch=b, n=n, m=n + 1).problem,
    "equalities": lambda s, b, n: known_optimum(s, batch=b, n=n, p=(n + 1) // 2).problem,
    "box": lambda s, b, n: known_optimum(s, batch=b, n=n, bounds=(n + 1) // 2).problem,
    "unconstrained": lambda s, b, n: known_optimum(s, batch=b, n=n).problem,
    "everything": lambda s, b, n: (
        known_optimum(s, batch=b, n=n, m=n, p=n // 4, active=0.25, bounds=n // 4, rank=n - n // 4).problem
    ),
    "singular P": lambda s, b, n: known_optimum(s, batch=b, n=n, m=2 * n, rank=n // 2).problem,
    "linear program": lambda s, b, n: known_optimum(s, batch=b, n=n, m=2 * n, rank=0).problem,
    "missing rows": lambda s, b, n: some_rows_missing(known_optimum(s, batch=b, n=n, m=n + 1)),
    "badly scaled": lambda s, b, n: (
        problems.badly_scaled(known_optimum(s, batch=b, n=n, m=n, active=0.4, p=n // 4), s, decades=4).problem
    ),
}
# One solution, many multipliers, or no strictly feasible point.
DEGENERATE = {
    "weakly active": lambda s, b, n: known_optimum(s, batch=b, n=n, m=n + 1, weak=min(2, n // 2)).problem,
    "duplicates": lambda s, b, n: problems.with_duplicates(known_optimum(s, batch=b, n=n, m=n, p=n // 3, active=0.4)),
    "no interior": lambda s, b, n: problems.without_interior(
        known_optimum(s, batch=b, n=n, m=n, p=(n + 2) // 3, active=0.4)
    ),
}
# Their numbers are certificates or best attempts, of which there are many.
FAILING = {
    "infeasible": lambda s, b, n: problems.infeasible(s, batch=b, n=n, m=n + 2)[0],
    "infeasible equalities": lambda s, b, n: problems.infeasible(s, batch=b, n=n, m=n + 2, p=n // 3)[0],
    "crossing bounds": lambda s, b, n: crossing_bounds(known_optimum(s, batch=b, n=n, m=n, bounds=1)),
    "unbounded": lambda s, b, n: problems.unbounded(s, batch=b, n=n, m=n)[0],
    "random": lambda s, b, n: random_rows(s, b, n, 2 * n, n // 3),
}
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 31, 40, 79, 81, 120]


def sample(make, seed, sizes=SIZES):
    """Problems of a class, one batch for each size: the small ones fill lanes and leave a tail."""
    return [make(seed + n, (10 if n < 20 else 3,), n) for n in sizes]


def same_iterations(pairs: list[tuple[StackedSolution, StackedSolution]]) -> bool:
    steps = torch.cat([got.iterations - expected.iterations for got, expected in pairs])
    return int((steps != 0).sum()) <= SHARE * steps.numel() and int(steps.abs().max()) <= STEPS


@needs_core
@both_layouts
@pytest.mark.parametrize("name", [*REGULAR, *DEGENERATE])
def test_both_cores_take_the_same_steps_to_the_same_answer(name, layout, seed, fixed_layout):
    fixed_layout(layout)
    batch = sample((REGULAR | DEGENERATE)[name], seed)
    pairs = [(answer(problem), answer(problem, core="torch")) for problem in batch]
    assert same_iterations(pairs)
    for got, expected in pairs:
        assert (expected.status == SolveStatus.SOLVED).all()
        assert torch.equal(got.status, expected.status)
        assert torch.equal(got.solved, expected.solved)
        assert difference(got.x, expected.x) <= ROUND_OFF
        assert difference(got.s, expected.s) <= ROUND_OFF
        if name in REGULAR:
            assert difference(got.lam, expected.lam) <= ROUND_OFF
            assert torch.equal(got.active, expected.active)
        if name in REGULAR or name == "weakly active":  # there, round-off tells which rows are active
            assert torch.equal(got.touching, expected.touching)


@needs_core
@both_layouts
@pytest.mark.parametrize("name", FAILING)
def test_both_cores_fail_alike(name, layout, seed, fixed_layout):
    fixed_layout(layout)
    batch = sample(FAILING[name], seed, [n for n in SIZES if n <= 31])
    pairs = [(answer(problem), answer(problem, core="torch")) for problem in batch]
    assert same_iterations(pairs)
    assert all(torch.equal(got.status, expected.status) for got, expected in pairs)
    assert any(not expected.solved.all() for _, expected in pairs)


@needs_core
@both_layouts
@pytest.mark.parametrize("max_iter", [3, 100])
@pytest.mark.parametrize("name", [*REGULAR, *DEGENERATE])
def test_residuals_are_those_of_the_answer_by_their_definition(name, max_iter, layout, seed, fixed_layout):
    fixed_layout(layout)
    for problem in sample((REGULAR | DEGENERATE)[name], seed, [1, 3, 8, 31]):
        flat = flatten(QPProblem(*problem))
        (P, q, C, d), rows, batch = flat.stack(), flat.layout.rows, flat.batch
        found = answer(problem, max_iter=max_iter)
        bounds = [torch.eye(rows.n, dtype=torch.float64)] * rows.upper + [-torch.eye(rows.n).double()] * rows.lower
        R = torch.cat([v.expand(batch, -1, -1) for v in (C, *bounds)], -2)
        x, lam, right = found.x.unsqueeze(-1), found.lam, torch.where(d.isfinite(), d, 0.0)
        Px, Rx, Rl = ((M @ v).squeeze(-1) for M, v in ((P, x), (R, x), (R.mT, lam.unsqueeze(-1))))
        violation = torch.where(rows.equality(d.device), Rx - d, Rx + found.s - d).nan_to_num(0.0)
        expected = (violation, Px + q + Rl, (found.x * (Px + q)).sum(-1, True) + (right * lam).sum(-1, True))
        size = max(float(v.abs().max()) for v in (found.x, lam, R, P, q, right) if v.numel())
        for field, vector in zip(("primal_residual", "dual_residual", "duality_gap"), expected, strict=True):
            largest = vector.abs().amax(-1) if vector.numel() else torch.zeros(batch)
            assert ((getattr(found, field) - largest).abs() <= 1e-13 * size**2 * rows.n).all()


@needs_core
@both_layouts
@pytest.mark.parametrize("name", ["inequalities", "everything", "singular P", "box"])
@pytest.mark.parametrize("distance", [0.0, 1e-4, 1.0])
def test_both_cores_take_the_same_warm_start(name, distance, layout, seed, fixed_layout):
    fixed_layout(layout)
    for problem in sample(REGULAR[name], seed, [1, 4, 9, 31]):
        n = problem.q.shape[-1]
        near = problem._replace(q=problem.q + distance * torch.linspace(-1, 1, n, dtype=torch.float64))
        previous = solve_qp(*problem)
        got, expected = (
            solve_qp(*near, warm_start=previous, solver=InteriorPoint(core=core, active_set=False))
            for core in ("native", "torch")
        )
        assert torch.equal(got.status, expected.status)
        assert torch.equal(got.iterations, expected.iterations)
        assert difference(got.x, expected.x) <= ROUND_OFF


@needs_core
@both_layouts
@pytest.mark.parametrize("name", ["inequalities", "equalities", "box", "everything", "singular P", "missing rows"])
def test_both_cores_give_the_same_gradients(name, layout, seed, generator, fixed_layout):
    fixed_layout(layout)
    for problem in sample(REGULAR[name], seed, [1, 2, 4, 9, 31]):
        found, weights = {}, None
        for core in ("native", "torch"):
            leaves = problems.leaves(problem)
            solution = solve_qp(*leaves, solver=InteriorPoint(core=core))
            outputs = [getattr(solution, name) for name in oracles.OUTPUTS]
            if weights is None:
                weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in outputs]
            value = sum((w * v).sum() for w, v in zip(weights, outputs, strict=True))
            found[core] = torch.autograd.grad(value, [v for v in leaves if v is not None])
        for got, expected in zip(found["native"], found["torch"], strict=True):
            assert difference(got, expected) <= GRADIENT


@needs_core
@both_layouts
@pytest.mark.parametrize("smoothing", [False, True])
def test_both_cores_solve_the_same_linear_systems(smoothing, layout, generator, fixed_layout):
    fixed_layout(layout)
    rows = Rows(6, 4, 2, True, False)

    def normal(*shape: int):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    L = normal(7, 6, 6)
    held = torch.rand(7, rows.total, generator=generator) < 0.3
    c = torch.where(held, normal(7, rows.total).abs() if smoothing else 0.0, INF)
    system = (L @ L.mT, normal(7, 6, 6), c, normal(7, 6), normal(7, rows.total))
    got, expected = (linear_system.solve_linear_system(*system, rows, 7, core=core) for core in ("auto", "torch"))
    for a, b in zip(got, expected, strict=True):
        assert difference(a, b) <= GRADIENT


@needs_core
@both_layouts
@pytest.mark.parametrize("place", range(3))
def test_a_cotangent_that_is_not_a_number_is_not_hidden(place, layout, fixed_layout):
    fixed_layout(layout)
    cotangent = torch.zeros(5, 3, dtype=torch.float64)
    cotangent[1, place] = math.nan
    q = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    x = solve_qp(torch.eye(3, dtype=torch.float64), q).x
    (gradient,) = torch.autograd.grad(x, q, cotangent)
    assert gradient[1].isnan().all()
    assert (gradient[[0, 2, 3, 4]] == 0).all()


def source_constants() -> dict[str, float]:
    text = "\n".join(path.read_text() for path in SOURCES)
    section = text[text.index("// Constants of the Python files") : text.index("enum Status")]
    constants = {}
    for statement in re.findall(r"constexpr \w+ ([^;]*);", section):
        for name, value in re.findall(r"(\w+) = ([^,]+)", statement):
            constants[name] = float(value)
    return constants


def test_the_constants_of_the_compiled_core_are_those_of_the_python_files():
    found = source_constants()
    assert len(found) >= 14
    modules = (certificates, forward, interior_point, kkt, linear_system, polish, scaling)
    product = re.search(r"delta = (\S+) / rho", inspect.getsource(interior_point.newton_step))
    assert product
    known = {"PRODUCT": float(product[1])}
    for name, value in found.items():
        values = [getattr(module, name) for module in modules if hasattr(module, name)]
        values += [known[name]] if name in known else []
        assert values, f"{name} of core.cpp has no counterpart in the Python files"
        assert all(value == other for other in values), name


def test_the_statuses_and_arguments_of_the_compiled_core_are_those_of_the_python_files():
    text = "\n".join(path.read_text() for path in SOURCES)
    listed = re.search(r"enum Status \{([^}]*)\}", text)
    assert listed
    names = [name.strip() for name in listed[1].split(",")]
    assert {name: i for i, name in enumerate(names)} == {member.name: int(member) for member in SolveStatus}
    kinds = {"c_long": "int64_t", "c_longlong": "int64_t", "c_double": "double", "c_void_p": "pointer"}
    problems_fields = [(name, kinds[kind.__name__]) for name, kind in native._PROBLEMS]
    assert struct_fields(text, "Problems") == problems_fields
    for structure, mirror in (
        ("SolveArguments", native._SolveArguments),
        ("LinearArguments", native._LinearArguments),
        ("AdjointArguments", native._AdjointArguments),
    ):
        (first, kind), *rest = struct_fields(text, structure)
        assert (first, kind) == ("data", "Problems")
        assert [(name, kinds[kind.__name__]) for name, kind in mirror._fields_] == problems_fields + rest


def struct_fields(text: str, name: str) -> list[tuple[str, str]]:
    """Names and types of the fields of a structure of the C interface."""
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", text, re.DOTALL)
    assert body
    fields = []
    for statement in re.sub(r"//.*", "", body[1]).split(";")[:-1]:
        kind, rest = re.match(r"\s*(?:const )?(\w+) (.*)", statement, re.DOTALL).groups()
        fields += [(field.strip(" *"), "pointer" if "*" in field else kind) for field in rest.split(",")]
    return fields


# --- an element by itself -------------------------------------------------------------------------


def mixed_bag(seed: int, n: int) -> Problem:
    """Nine problems of one shape: regular ones beside NaN, infeasible, unbounded, huge and indefinite ones."""
    known = known_optimum(seed, batch=(9,), n=n, m=n + 2, bounds=0, active=0.3)
    P, q, G, h, _, _, lb, ub = (None if v is None else v.clone() for v in known.problem)
    q[1, 0] = math.nan
    ub[3, 0], lb[3, 0] = -1.0, 1.0
    P[4], G[4], lb[4], ub[4] = 0.0, 0.0, -INF, INF
    P[5] *= 1e300
    P[6, 0, 0] -= 100.0
    h[7] = INF
    return Problem(P, q, G, h, None, None, lb, ub)


@needs_core
@both_layouts
@pytest.mark.parametrize("n", [1, 3, 4, 10, 33])
def test_an_answer_does_not_depend_on_the_batch_to_the_last_bit(n, layout, seed, fixed_layout):
    fixed_layout(layout)
    problem = mixed_bag(seed, n)
    whole = answer(problem)
    assert set(whole.status.tolist()) >= {SolveStatus.SOLVED, SolveStatus.PRIMAL_INFEASIBLE, SolveStatus.INVALID_INPUT}
    for count in range(1, 10):
        for first in (0, 9 - count):
            chosen = slice(first, first + count)
            assert identical(answer(problems.element(problem, chosen)), [v[chosen] for v in whole])
    order = torch.tensor([5, 1, 4, 4, 0, 8, 3, 7, 2, 6, 5])
    assert identical(answer(problems.element(problem, order)), [v[order] for v in whole])


@needs_core
@both_layouts
def test_an_element_without_an_iterate_holds_nothing_of_its_neighbours(layout, fixed_layout):
    fixed_layout(layout)
    P = torch.eye(2, dtype=torch.float64).repeat(12, 1, 1)
    P[8:] *= 1.7e308  # the sum of an entry and its mirror image overflows: not one finite iterate
    q = torch.full((12, 2), -3.0, dtype=torch.float64)
    found = answer(Problem(P, q, P[:1] / 4, q[:1] / q[:1] / 4))
    assert (found.x[:8] > 0).all()
    assert (found.lam[:8] > 0).all()
    assert (found.status[8:] == SolveStatus.NUMERICAL_ERROR).all()
    for v in (found.x, found.lam):
        assert (v[8:] == 0).all()
        assert not v[8:].signbit().any()
    assert not found.active[8:].any()


@needs_core
@both_layouts
@pytest.mark.parametrize("n", [3, 33])
def test_an_answer_does_not_depend_on_the_threads_to_the_last_bit(n, layout, seed, fixed_layout):
    fixed_layout(layout)
    problem = problems.element(mixed_bag(seed, n), torch.arange(54) % 9)
    assert torch.get_num_threads() == 1
    one = answer(problem)
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert identical(answer(problem), one)
    finally:
        torch.set_num_threads(1)


class Counting:
    """The library, with its calls counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name):
        function = getattr(native.library(), name)

        def counted(*args):
            self.calls += 1
            return function(*args)

        return counted


@needs_core
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 9, 54])
@pytest.mark.parametrize("n", [30, 90])
def test_an_answer_does_not_depend_on_the_slices_to_the_last_bit(n, batch, seed, monkeypatch):
    problem = problems.element(mixed_bag(seed, n), torch.arange(batch) % 9)
    whole = answer(problem)
    counting = Counting()
    monkeypatch.setattr(native, "_library", lambda: counting)
    monkeypatch.setattr(native, "SLICE_FLOPS", 1.0)
    assert identical(answer(problem), whole)
    assert counting.calls == math.ceil(batch / 4)


@needs_core
@both_layouts
def test_a_linear_solve_does_not_depend_on_batch_threads_or_slices_to_the_last_bit(
    layout, generator, fixed_layout, monkeypatch
):
    fixed_layout(layout)
    rows = Rows(5, 3, 1, True, True)

    def normal(*shape: int):
        return torch.randn(9, *shape, generator=generator, dtype=torch.float64)

    L = normal(5, 5)
    c = torch.where(normal(rows.total) > 0, 0.0, INF)
    system = [L @ L.mT, normal(4, 5), c, normal(5), normal(rows.total)]
    system[0][2], system[3][2], system[4][2] = math.nan, 0.0, 0.0
    system[4][5, 0] = math.nan
    whole = native.solve_linear(tuple(system), rows, 9)
    for count in range(1, 10):
        assert identical(native.solve_linear(tuple(v[:count] for v in system), rows, count), [v[:count] for v in whole])
    monkeypatch.setattr(native, "SLICE_FLOPS", 1.0)
    try:
        torch.set_num_threads(2)
        assert identical(native.solve_linear(tuple(system), rows, 9), whole)
    finally:
        torch.set_num_threads(1)


# --- whatever the memory looks like ---------------------------------------------------------------


def shifted(v):
    """The same numbers, eight bytes further than vectors like them."""
    room = torch.empty(v.numel() + 1, dtype=v.dtype)[1:]
    return room.view(v.shape).copy_(v)


MEMORY = {
    "transposed": lambda v: v.mT.contiguous().mT if v.ndim > 2 else v.t().contiguous().t(),
    "every second": lambda v: v.repeat_interleave(2, -1)[..., ::2],
    "batch last": lambda v: v.movedim(0, -1).contiguous().movedim(-1, 0),
    "unaligned": shifted,
    "negated lazily": lambda v: torch.complex(torch.zeros_like(v), -v).conj().imag,
    "a parameter": torch.nn.Parameter,
    "expanded": lambda v: v[:1].expand(v.shape),
    "backwards": lambda v: v.flip(0),
}


@needs_core
@both_layouts
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("n", [1, 6])
def test_any_memory_layout_is_read_as_what_it_holds(memory, n, layout, seed, fixed_layout):
    fixed_layout(layout)
    problem = known_optimum(seed, batch=(6,), n=n, m=n + 1, p=n // 3, bounds=n // 3, active=0.3).problem
    arranged = problems.mapped(problem, MEMORY[memory])
    plain = problems.mapped(arranged, lambda v: v.detach().resolve_neg().clone(memory_format=torch.contiguous_format))
    assert identical(answer(arranged), answer(plain))


@needs_core
def test_a_number_negated_lazily_keeps_its_sign():
    # One entry is contiguous whatever its stride, so that nothing need be copied.
    q = torch.complex(*torch.tensor([[0.0], [1.0]], dtype=torch.float64)).conj().imag
    assert q.is_neg()
    assert q.is_contiguous()
    P = torch.eye(1, dtype=torch.float64)
    assert answer(Problem(P, q)).x.item() == 1.0
    (ux, *_) = native.solve_linear((P, P[:0], q[:0], q, q[:0]), Rows(1, 0, 0, False, False), 1)
    assert difference(ux, -torch.ones(1, 1, dtype=torch.float64)) <= ROUND_OFF


@needs_core
@both_layouts
def test_overlapping_memory_is_read_as_what_it_holds(layout, generator, fixed_layout):
    fixed_layout(layout)
    base = torch.randn(40, generator=generator, dtype=torch.float64)
    q = base.unfold(0, 4, 1)[:7]
    G = base.as_strided((7, 5, 4), (2, 3, 1))
    P = torch.eye(4, dtype=torch.float64).expand(7, 4, 4)
    bound = base[20:24].abs()
    overlapping = Problem(P, q, G, base.unfold(0, 5, 2)[:7].abs(), None, None, -bound, bound)
    plain = problems.mapped(overlapping, lambda v: v.clone(memory_format=torch.contiguous_format))
    before = base.clone()
    assert identical(answer(overlapping), answer(plain))
    assert torch.equal(base, before)


@needs_core
@both_layouts
@pytest.mark.parametrize("bounds", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("given", ["none", "empty", "rows"])
def test_any_selection_of_rows_may_be_absent(given, n, bounds, layout, seed, fixed_layout):
    fixed_layout(layout)
    P, q, G, h, A, b, lb, ub = known_optimum(seed, batch=(3,), n=n, m=2, p=1, active=0.0, bounds=0).problem
    if given == "none":
        G = h = A = b = None
    elif given == "empty":
        G, h, A, b = G[:, :0], h[:, :0], A[:, :0], b[:, :0]
    problem = Problem(P, q, G, h, A, b, lb if bounds[0] else None, ub if bounds[1] else None)
    got, expected = answer(problem), answer(problem, core="torch")
    assert got.lam.shape == (3, (3 if given == "rows" else 0) + n * sum(bounds))
    assert torch.equal(got.status, expected.status)
    assert difference(got.x, expected.x) <= ROUND_OFF
    assert difference(got.lam, expected.lam) <= ROUND_OFF


@needs_core
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_an_empty_batch_has_an_empty_answer_and_empty_gradients(shape):
    q = torch.ones(*shape, 2, dtype=torch.float64, requires_grad=True)
    P = torch.eye(2, dtype=torch.float64, requires_grad=True)
    solution = solve_qp(P, q, lb=torch.zeros(2, dtype=torch.float64), solver=InteriorPoint(core="native"))
    assert solution.x.shape == (*shape, 2)
    gradients = torch.autograd.grad(solution.x.sum(), (P, q))
    assert torch.equal(gradients[0], torch.zeros(2, 2, dtype=torch.float64))
    assert gradients[1].shape == q.shape


@needs_core
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_default_device_does_not_matter(device):
    P, q = torch.eye(3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    with torch.device(device):
        x = solve_qp(P, q).x
        (gradient,) = torch.autograd.grad(x.sum(), q)
    assert torch.equal(x, -torch.ones(4, 3, dtype=torch.float64))
    assert torch.equal(gradient, x)


# --- whatever the numbers are ---------------------------------------------------------------------

ODD = [math.nan, INF, -INF, 5e-324, -1e-310, 1e-200, 1e200, 1e300, -1e300, 1.7e308]


@needs_core
@both_layouts
@pytest.mark.parametrize("name", Problem._fields)
def test_any_number_anywhere_ends_in_a_status_and_leaves_its_neighbours_alone(name, layout, seed, fixed_layout):
    fixed_layout(layout)
    problem = known_optimum(seed, batch=(5,), n=3, m=3, p=1, active=0.3, bounds=0).problem
    problem = problem._replace(lb=problem.lb.clamp(min=-9), ub=problem.ub.clamp(max=9))
    others = torch.tensor([0, 1, 3, 4])
    whole = answer(problem)
    for number in ODD:
        for everywhere in (False, True):
            value = getattr(problem, name).clone()
            place = value[2] if everywhere else value[2].view(-1)[:1]
            place.copy_(place * number if everywhere and math.isfinite(number) else torch.full_like(place, number))
            found = answer(problem._replace(**{name: value}))
            assert identical([v[others] for v in found], [v[others] for v in whole])
            status = int(found.status[2])
            assert status in list(SolveStatus)
            if not math.isfinite(number) and name in ("P", "q", "G", "A", "b"):
                assert status == SolveStatus.INVALID_INPUT
            if status == SolveStatus.SOLVED:
                assert found.x[2].isfinite().all()
                assert found.lam[2].isfinite().all()
                assert found.primal_residual[2].isfinite()
                assert found.dual_residual[2].isfinite()
                assert found.duality_gap[2].isfinite()
            elif status == SolveStatus.INVALID_INPUT:
                assert found.x[2].isnan().all()


@needs_core
@both_layouts
@pytest.mark.parametrize("name", Problem._fields)
@pytest.mark.filterwarnings("ignore::implicit_layers.SolverWarning")
def test_an_element_that_was_not_solved_has_no_gradient_and_spoils_none(name, layout, seed, fixed_layout):
    fixed_layout(layout)
    problem = known_optimum(seed, batch=(5,), n=3, m=3, p=1, active=0.3, bounds=0).problem
    others = torch.tensor([0, 1, 3, 4])

    def gradients(problem):
        leaves = problems.leaves(problem)
        return torch.autograd.grad(solve_qp(*leaves).x.sum(), list(leaves))

    value = getattr(problem, name).clone()
    value[2] = math.nan
    expected, found = gradients(problem), gradients(problem._replace(**{name: value}))
    assert all((v[2] == 0).all() for v in found)
    assert identical([v[others] for v in found], [v[others] for v in expected])


@needs_core
@both_layouts
@pytest.mark.parametrize("exponent", [-308, -200, -100, -10, 10])
def test_the_unit_of_the_cost_does_not_matter_down_to_denormals(exponent, layout, seed, fixed_layout):
    fixed_layout(layout)
    known = known_optimum(seed, batch=(5,), n=3, m=4)
    P, q = (10.0**exponent * v for v in known.problem[:2])
    found = answer(known.problem._replace(P=P, q=q))
    assert (found.status == SolveStatus.SOLVED).all()
    assert difference(found.x, known.x) <= ROUND_OFF


@needs_core
@both_layouts
@pytest.mark.parametrize("unit", [2.0**-1070, 1e-300, 1e-150, 1e-20, 1e150, 1e300, 1.7e308])
def test_both_cores_judge_data_of_extreme_size_alike(unit, layout, fixed_layout):
    fixed_layout(layout)
    one = torch.ones(5, 2, dtype=torch.float64)
    problem = Problem(unit * torch.eye(2).double(), unit * one, -unit * one.unsqueeze(1), -unit * one[:, :1])
    got, expected = answer(problem), answer(problem, core="torch")
    if unit < 1:
        assert torch.equal(got.status, expected.status)
        assert (got.status == SolveStatus.SOLVED).all()
    else:  # where products overflow, the processor's fused ones decide; but nobody is wrong
        for found in (got, expected):
            assert difference(found.x[found.solved], 0.5 * one[found.solved]) <= ROUND_OFF


@needs_core
@both_layouts
def test_an_answer_whose_residuals_overflow_is_not_solved(layout, fixed_layout):
    fixed_layout(layout)
    # Multipliers of 1e308 each, given as warm start: the sum q + A'y is zero, but not on the way there.
    A, q = f64([[-1, -1], [2, 1]]), f64([[-1, 0], [-1e308, 0], [1, 0]])
    P, x = torch.eye(2, dtype=torch.float64), torch.full((3, 2), 1e-3, dtype=torch.float64)
    problem, warm = (P, q, A, 1e-3 * A.sum(-1)), (x, -q[:, :1].expand(3, 2).contiguous())
    layout = Layout(("P", "q", "A", "b"), Rows(2, 0, 2, False, False))
    found, _ = native.solve(problem, layout, 3, **FROM_THE_INTERIOR, warm=warm)
    assert found.status.tolist() == [SolveStatus.SOLVED, SolveStatus.NUMERICAL_ERROR, SolveStatus.SOLVED]
    assert found.dual_residual[1] == INF


@needs_core
@pytest.mark.parametrize("coupling", [0.0, 1e-3])
@pytest.mark.parametrize("n", [2, 9, 30])
def test_an_active_set_whose_gap_overflows_is_not_taken(n, coupling):
    # At the lower bounds x'Px = 2e308 overflows, while q'x and the bounds' share are half of it each.
    lb = torch.full((n,), 1e154 * (2 / n) ** 0.5, dtype=torch.float64)
    P = torch.eye(n, dtype=torch.float64) + coupling / n
    layout = Layout(("P", "q", "lb"), Rows(n, 0, 0, False, True))
    found, _ = native.solve((P, -0.5 * lb, lb), layout, 1, **FROM_THE_INTERIOR | {"active_set": True})
    assert found.status.item() != SolveStatus.SOLVED or found.duality_gap.isfinite()


@needs_core
@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (Rows(46341, 0, 0, False, False), "P: expected fewer than 2**31 entries per element, got shape (46341, 46341)"),
        (
            Rows(2, 2**29, 2**29, False, False),
            "[G; A]: expected fewer than 2**31 entries per element, got shape (1",
        ),
        (Rows(1, 2**31 - 2, 0, True, True), "the rows, bounds included: expected fewer than 2**31 entries per element"),
    ],
)
def test_two_to_the_31_entries_are_refused_before_any_memory_is_taken(rows, named):
    zero = torch.zeros((), dtype=torch.float64)
    m, n, p = rows.m, rows.n, rows.p
    shapes = {"P": (n, n), "q": (n,), "G": (m, n), "h": (m,), "A": (p, n), "b": (p,), "lb": (n,), "ub": (n,)}
    absent = set(("G", "h") * (not m) + ("A", "b") * (not p) + ("lb", "ub") * (not rows.upper))
    layout = Layout(tuple(name for name in shapes if name not in absent), rows)
    params = tuple(zero.expand(shapes[name]) for name in layout.names)
    with pytest.raises(ProblemError, match=re.escape(named)):
        native.solve(params, layout, 1, **FROM_THE_INTERIOR)
    system = tuple(zero.expand(shape) for shape in ((n, n), (m + p, n), (rows.total,), (n,), (rows.total,)))
    with pytest.raises(ProblemError, match=re.escape(named)):
        native.solve_linear(system, rows, 1)
    with pytest.raises(ProblemError, match=re.escape(named)):
        native.solve(tuple(v.expand(3, *v.shape) for v in params), layout, 3, **FROM_THE_INTERIOR)


@needs_core
def test_a_limit_of_iterations_beyond_32_bits_is_no_limit(seed):
    problem = problems.regular("everything", seed, batch=(3,)).problem
    assert identical(answer(problem, max_iter=2**32), answer(problem))
    assert identical(answer(problem, max_iter=2**70), answer(problem))


# --- interrupts, and machines without a compiler ---------------------------------------------------

LONG_BATCH = """
import torch
from implicit_layers import InteriorPoint, solve_qp
torch.manual_seed(0)
n = {n}
eye, G = torch.eye(n, dtype=torch.float64), torch.randn(n, n, dtype=torch.float64)
q = torch.randn({batch}, n, dtype=torch.float64)
print("started", flush=True)
solve_qp(eye, q, G, torch.ones(n, dtype=torch.float64), solver=InteriorPoint(core="native"))
print("finished", flush=True)
"""


@needs_core
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("n", "batch"), [(300, 6000), (30, 1_000_000)])
def test_an_interrupt_ends_a_long_batch(n, batch):
    command = [sys.executable, "-c", LONG_BATCH.format(n=n, batch=batch)]
    # A process group of its own that does not ignore the signal, as one started from a terminal.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout.readline() == "started\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)  # the solve is under way
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in errors
    assert "finished" not in output


SMALL_SOLVE = """
import torch
from implicit_layers import InteriorPoint, ProblemError, solve_qp
from implicit_layers.qp import native
{before}
q = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
x = solve_qp(torch.eye(3, dtype=torch.float64), q, lb=-torch.tensor([2.0, 0.5, 0.25], dtype=torch.float64)).x
x.sum().backward()
assert torch.allclose(x, torch.tensor([-1.0, -0.5, -0.25], dtype=torch.float64), atol=1e-12)
assert torch.allclose(q.grad, torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)
try:
    InteriorPoint(core="native")
    print("native")
except ProblemError as error:
    print(error)
print(None if native.library() is None else native.library()._name)
"""


def test_without_the_compiled_core_everything_works():
    empty = 'native.__file__ = "/nowhere/__init__.py"; native.library.cache_clear()'
    said = run_python(SMALL_SOLVE.format(before=empty)).splitlines()
    assert said[0].startswith("core: expected 'auto' or 'torch'")
    assert said[1] == "None"


@pytest.fixture
def another_library(monkeypatch, tmp_path):
    """A function that looks for the core in an empty folder, and forgets what it found there."""
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def test_a_library_that_does_not_load_is_as_good_as_none(another_library, seed):
    for path in NATIVE.glob("*.so"):
        (another_library / path.name).write_bytes(b"not a library")
    assert native.library() is None
    with pytest.raises(ProblemError, match="core: expected 'auto' or 'torch'"):
        InteriorPoint(core="native")
    known = problems.regular("everything", seed)
    assert difference(solve_qp(*known.problem).x[None], known.x[None]) <= ROUND_OFF


@needs_core
def test_a_processor_without_avx2_gets_the_portable_core_and_the_same_answers(seed, monkeypatch):
    problem = mixed_bag(seed, 10)
    expected = answer(problem)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    native.library.cache_clear()
    try:
        assert Path(native.library()._name).name.startswith("core_portable")
        got = answer(problem)
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
    fine = expected.solved
    assert torch.equal(got.solved, fine)
    assert torch.equal(got.iterations[fine], expected.iterations[fine])
    assert difference(got.x[fine], expected.x[fine]) <= ROUND_OFF


# --- under sanitizers -----------------------------------------------------------------------------

ADDRESS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
THREAD = ["-fsanitize=thread"]


def compiled(folder: Path, source: Path, *flags: str) -> subprocess.CompletedProcess:
    compiler = os.environ.get("CXX") or "g++"
    command = [compiler, "-std=c++17", "-O1", "-g", "-fopenmp-simd", "-Wno-psabi", *flags, "-pthread"]
    return subprocess.run(
        [*command, str(source), "-o", str(folder / source.stem)], capture_output=True, text=True, check=False
    )


def fuzz(folder: Path, cases: int, seed: int, *flags: str) -> None:
    """Run the driver under sanitizers, or skip the test where there are none."""
    if not shutil.which(os.environ.get("CXX") or "g++"):
        pytest.skip("no C++ compiler")
    probe = folder / "probe.cpp"
    probe.write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
    if compiled(folder, probe, *flags).returncode or subprocess.run([folder / "probe"], check=False).returncode:
        pytest.skip(f"this compiler cannot build with {flags[0]}")
    done = compiled(folder, ROOT / "tests" / "native_driver.cpp", "-Wall", "-Wextra", "-Werror", *flags)
    assert done.returncode == 0, done.stderr
    command = [folder / "native_driver", str(cases), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{cases} cases\n"


def test_no_access_outside_an_array_and_no_undefined_behaviour(tmp_path, seed):
    fuzz(tmp_path, 1500, seed, *ADDRESS)


@pytest.mark.slow
def test_no_access_outside_an_array_and_no_undefined_behaviour_at_length(tmp_path, seed):
    fuzz(tmp_path, 30_000, seed, *ADDRESS)
    if platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        fuzz(tmp_path, 30_000, seed + 1, "-march=x86-64-v3", *ADDRESS)


@pytest.mark.slow
def test_no_data_race(tmp_path, seed):
    fuzz(tmp_path, 2000, seed, *THREAD)


# --- installation ---------------------------------------------------------------------------------


def install(tmp_path: Path, **environment: str) -> Path:
    """Install a copy of the sources, without what was built in place, into an empty folder."""
    source, target = tmp_path / "source", tmp_path / "target"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "results")
    for name in ("implicit_layers", "robotics", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    flags = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the core is not built on Windows")
def test_installation_builds_the_core(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    target = install(tmp_path)
    said = run_python(SMALL_SOLVE.format(before=""), PYTHONPATH=str(target)).splitlines()
    assert said[0] == "native"
    assert Path(said[1]).is_relative_to(target)
    built = {path.name.split(".")[0] for path in (target / "implicit_layers" / "qp" / "native").glob("*.so")}
    x86 = platform.machine() in ("x86_64", "AMD64")
    assert built == ({"core_portable", "core_v3"} if x86 else {"core_portable"})


@pytest.mark.slow
def test_installation_without_a_compiler_runs_on_plain_torch(tmp_path):
    target = install(tmp_path, CC="/bin/false", CXX="/bin/false")
    assert not list(target.rglob("*.so"))
    said = run_python(SMALL_SOLVE.format(before=""), PYTHONPATH=str(target)).splitlines()
    assert said[0].startswith("core: expected 'auto' or 'torch'")
    assert said[1] == "None"
