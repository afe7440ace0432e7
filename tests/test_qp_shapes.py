"""What may be missing, infinite, empty, batched, broadcast or float32, and the shapes that come out."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import problems
import pytest
import tolerances as tol
import torch
from problems import INF, Problem, known_optimum
from test_qp_solution import close, solved, times

from implicit_layers import QPLayer, QPProblem, solve_qp


@pytest.mark.parametrize("missing", [c for k in range(5) for c in itertools.combinations(["G", "A", "lb", "ub"], k)])
def test_every_optional_argument_may_be_missing(missing, seed):
    known = known_optimum(seed, batch=(3,), n=6, m=4, p=1, bounds=2)
    P, q, G, h, A, b, lb, ub = known.problem
    z_box, keep = known.z_box, {"G": G, "h": h, "A": A, "b": b, "lb": lb, "ub": ub}
    if "G" in missing:
        q, keep["G"], keep["h"] = q + times(G.mT, known.z), None, None
    if "A" in missing:
        q, keep["A"], keep["b"] = q + times(A.mT, known.y), None, None
    if "lb" in missing:
        q, keep["lb"] = q + z_box.clamp(max=0), None
    if "ub" in missing:
        q, keep["ub"] = q + z_box.clamp(min=0), None
    solution = solved(Problem(P, q, **keep))
    close(solution.x, known.x, tol.X_REGULAR)
    shapes = [solution.z.shape, solution.s.shape, solution.y.shape, solution.z_box.shape]
    assert shapes == [(3, 0 if "G" in missing else 4)] * 2 + [(3, 0 if "A" in missing else 1), (3, 6)]


@pytest.mark.parametrize("batch", [(), (3,)])
def test_rows_of_zero_length_mean_no_rows(batch, seed):
    known = known_optimum(seed, batch=batch, n=4, bounds=2)
    empty, none = torch.zeros(*batch, 0, 4, dtype=torch.float64), torch.zeros(*batch, 0, dtype=torch.float64)
    solution = solved(known.problem._replace(G=empty, h=none, A=empty, b=none))
    close(solution.x, known.x, tol.X_REGULAR)
    assert solution.z.shape == solution.y.shape == (*batch, 0)


def test_infinite_limits_are_rows_that_are_not_there(seed):
    known = known_optimum(seed, batch=(10,), n=5, m=6, active=0.5)
    P, q, G, h, *_ = known.problem
    inactive = known.z == 0
    solution = solved(Problem(P, q, G, torch.where(inactive, INF, h), lb=torch.full_like(q, -INF)))
    close(solution.x, known.x, tol.X_REGULAR)
    close(solution.z, known.z, tol.X_REGULAR)
    nothing = solved(Problem(P, q, G, torch.full_like(h, INF), ub=torch.full_like(q, INF)))
    close(nothing.x, torch.linalg.solve(P, -q))
    assert (nothing.z == 0).all()
    assert (nothing.z_box == 0).all()


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_outputs_have_the_batch_shape_of_the_inputs(batch, seed):
    known = problems.regular("everything", seed, batch=batch)
    solution = solved(known.problem)
    for output in oracles.OUTPUTS:
        close(getattr(solution, output), getattr(known, output), tol.X_REGULAR)  # compares the shapes too
    per_element = [solution.status, solution.iterations, solution.primal_residual, solution.dual_residual]
    assert {value.shape for value in [*per_element, solution.duality_gap]} == {torch.Size(batch)}
    assert not solution.status.is_floating_point()
    close(solution.s, known.problem.h - times(known.problem.G, known.x), tol.X_REGULAR)


def test_leading_dimensions_broadcast_as_in_torch(seed, generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    known = problems.regular("everything", seed)
    x, (P, _, G, h, A, _, _, _) = known.x, known.problem
    mixed = Problem(
        P,
        normal(2, 3, 8),
        G + 0.01 * normal(1, 3, 6, 8),
        h + 0.5,
        A,
        A @ x + 0.01 * normal(2, 1, 2),
        x - 1 - normal(3, 8).abs(),
        x + 1,
    )
    solution = solved(mixed)
    assert solution.x.shape == (2, 3, 8)
    sizes = Problem(2, 1, 2, 1, 2, 1, 1, 1)
    full = Problem(*(v.expand(2, 3, *v.shape[-k:]) for v, k in zip(mixed, sizes, strict=True)))
    for index in np.ndindex(2, 3):
        alone = solved(problems.element(full, index))
        for output in oracles.OUTPUTS:
            close(getattr(solution, output)[index], getattr(alone, output), tol.BATCH)


def test_a_batch_equals_a_loop_over_its_elements(seed):
    known = problems.regular("everything", seed, batch=(7,))
    together = solved(known.problem)
    for i, single in enumerate(oracles.unbatched(known.problem)):
        alone = solved(single)
        for output in oracles.OUTPUTS:
            close(getattr(together, output)[i], getattr(alone, output), tol.BATCH)


def test_a_batch_of_nothing_gives_a_batch_of_nothing(seed):
    known = problems.regular("everything", seed, batch=(0,))
    problem = problems.leaves(known.problem)
    solution = solve_qp(*problem)
    assert [getattr(solution, name).shape for name in oracles.OUTPUTS] == [(0, 8), (0, 6), (0, 2), (0, 8)]
    assert solution.status.shape == (0,)
    solution.x.sum().backward()
    assert problem.P.grad.shape == (0, 8, 8)


def test_the_layer_returns_x_of_solve_qp_and_a_qpproblem_can_be_unpacked(seed):
    known = problems.regular("everything", seed, batch=(2,))
    P, q, G, h, A, b, lb, ub = known.problem
    expected = solved(known.problem).x
    assert torch.equal(QPLayer()(P, q, G, h, A, b, lb=lb, ub=ub), expected)
    assert torch.equal(solved(QPProblem(*known.problem)).x, expected)


@pytest.mark.parametrize("name", problems.REGULAR)
def test_float32_gets_the_float64_answer_rounded(name, seed):
    problem = problems.mapped(problems.regular(name, seed, batch=(5,)).problem, lambda value: value.float())
    single, double = solved(problem), solved(problems.mapped(problem, lambda value: value.double()))
    for output in oracles.OUTPUTS:
        got = getattr(single, output)
        assert got.dtype == torch.float32
        close(got, getattr(double, output), tol.FLOAT32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_in_is_device_out(seed):
    known = problems.regular("everything", seed, batch=(5,))
    solution = solved(problems.mapped(known.problem, lambda value: value.cuda()))
    assert {value.device.type for value in solution} == {"cuda"}
    close(solution.x, known.x, tol.X_REGULAR)
