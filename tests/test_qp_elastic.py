"""Infeasible problems made feasible by a penalty on the violation: closest points, violations, gradients."""

from __future__ import annotations

import dataclasses

import oracles
import problems
import pytest
import tolerances as tol
import torch
from problems import Problem, f64, known_optimum

from implicit_layers import Elastic, QPLayer, SolveStatus, solve_qp

NORMS = ["l1", "l2"]
ZERO = torch.zeros(2, 2, dtype=torch.float64)
# x1 >= 6, x2 >= 6, x1 + x2 <= 11: no point satisfies all three
CORNER = {"G": f64([[-1, 0], [0, -1], [1, 1]]), "h": f64([-6, -6, 11])}


def close(got, expected, tolerance=tol.ELASTIC):
    assert oracles.relative_error(got, expected) <= tolerance


def solved(*problem, **elastic):
    """Solve elastically and insist on success; a warning is an error."""
    solution = solve_qp(*problem, infeasible=Elastic(**elastic))
    assert (solution.status == SolveStatus.SOLVED).all()
    return solution


def violation(problem: Problem, x):
    return ((problem.G @ x[..., None])[..., 0] - problem.h).clamp(min=0)


def test_fact_l2_shares_the_violation_equally():
    problem = Problem(ZERO, f64([0, 0]), **CORNER)
    x = solved(*problem, norm="l2").x
    close(x, f64([17 / 3, 17 / 3]))
    close(violation(problem, x), f64([1 / 3, 1 / 3, 1 / 3]))


def test_fact_l1_has_the_least_total_violation():
    problem = Problem(ZERO, f64([0, 0]), **CORNER)
    close(violation(problem, solved(*problem, norm="l1").x).sum(), f64(1))


def test_fact_l2_of_contradicting_equalities_is_their_mean():
    A, b = f64([[1], [1], [1]]), f64([1, 2, 6])
    close(solved(f64([[0]]), f64([0]), None, None, A, b, norm="l2").x, f64([3]))


def test_fact_l1_of_contradicting_equalities_is_their_median():
    A, b = f64([[1], [1], [1]]), f64([1, 2, 6])
    close(solved(f64([[0]]), f64([0]), None, None, A, b, norm="l1").x, f64([2]))


def test_gradient_of_the_closest_point_is_the_pseudo_inverse_of_the_violated_rows():
    h = CORNER["h"].clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda h: solved(ZERO, f64([0, 0]), CORNER["G"], h, norm="l2").x, h)
    close(jacobian, torch.linalg.pinv(CORNER["G"]))


def test_gradient_in_contradicting_equalities_is_an_equal_share():
    A, b = f64([[1], [1], [1]]), f64([1, 2, 6]).requires_grad_()
    x = solved(f64([[0]]), f64([0]), None, None, A, b, norm="l2").x
    close(torch.autograd.grad(x.sum(), b)[0], f64([1 / 3, 1 / 3, 1 / 3]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("p", [0, 2])
def test_gradient_through_point_and_violation_agrees_with_finite_differences(norm, p, seed, generator):
    problem, _, _ = problems.infeasible(seed, batch=(6,), n=4, m=5, p=p)
    direction = problems.random_direction(problem, generator)
    cotangent = torch.randn(6, 4, generator=generator, dtype=torch.float64)

    def loss(values):
        x = solved(*values, norm=norm, weight=10.0).x
        return (cotangent * x).sum(-1) + violation(values, x).square().sum(-1)

    leaves = problems.leaves(problem)
    slopes = torch.autograd.grad(loss(leaves).sum(), [getattr(leaves, name) for name in problems.given(leaves)])
    slope = oracles.inner(dict(zip(problems.given(leaves), slopes, strict=True)), direction)
    ahead, behind = (loss(problems.moved(problem, direction, t)) for t in (tol.FD_STEP, -tol.FD_STEP))
    close(slope, (ahead - behind) / (2 * tol.FD_STEP), tol.FD)


def test_a_heavy_l1_penalty_leaves_feasible_problems_as_they_are(seed):
    known = known_optimum(seed, batch=(10,), n=5, m=6, p=1)
    heaviest = max(known.z.max(), known.y.abs().max()).item()
    close(solved(*known.problem, norm="l1", weight=10 * heaviest).x, known.x)


def test_more_weight_on_l2_means_less_violation(seed):
    known = known_optimum(seed, batch=(10,), n=5, m=6)
    problem, _, _ = problems.infeasible(seed, batch=(10,), n=5, m=6)
    light, heavy = (solved(*problem, norm="l2", weight=w).x for w in (1.0, 1e4))
    excess = [((problem.G @ x[..., None])[..., 0] - problem.h).clamp(min=0).norm(dim=-1) for x in (light, heavy)]
    assert (excess[1] <= excess[0] * (1 + tol.ELASTIC)).all()
    assert (excess[1] > 0).all()  # it stays infeasible
    close(solved(*known.problem, norm="l2", weight=1e8).x, known.x)


@pytest.mark.parametrize("norm", NORMS)
def test_feasible_and_infeasible_elements_share_a_batch(norm, seed):
    bad, _, _ = problems.infeasible(seed, n=4, m=5)
    known = known_optimum(seed, batch=(3,), n=4, m=5)
    mixed = problems.with_element(known.problem, 1, bad)
    together = solved(*mixed, norm=norm, weight=1e3).x
    for i, single in enumerate(oracles.unbatched(mixed)):
        close(together[i], solved(*single, norm=norm, weight=1e3).x)


def test_the_layer_takes_an_elastic_and_float32():
    layer = QPLayer(infeasible=Elastic(norm="l2"))
    x = layer(ZERO.float(), torch.zeros(2), CORNER["G"].float(), CORNER["h"].float())
    assert x.dtype == torch.float32
    close(x, f64([17 / 3, 17 / 3]))


@pytest.mark.parametrize("options", [{"norm": "l3"}, {"weight": 0.0}, {"weight": -1.0}, {"weight": float("nan")}])
def test_a_senseless_penalty_is_refused_and_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Elastic(**options)


def test_the_penalty_is_a_frozen_keyword_only_object():
    with pytest.raises(TypeError):
        Elastic("l1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Elastic().norm = "l2"
