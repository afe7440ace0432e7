"""Projections: closest points, their derivatives by three witnesses, and what they do with bad input."""

from __future__ import annotations

import warnings

import pytest
import torch
from projection_problems import CASES, PROGRAMS, N
from tolerances import (
    CLOSED_FORM,
    GRADCHECK,
    GRADGRADCHECK,
    GRADIENT_NONLINEAR,
    LOW_PRECISION,
    PEER,
    ROUND_OFF,
    X_DEGENERATE,
    X_NONLINEAR,
    X_REGULAR,
)
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev, vmap

from implicit_layers import ProblemError, SolverWarning, find_argmin, projections

# torch's own forward mode goes through it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
everywhere = pytest.mark.parametrize("name", CASES)
as_a_program = pytest.mark.parametrize("name", PROGRAMS)


def arguments_of(name, generator, batch=3, requires_grad=False):
    return tuple(v.requires_grad_(requires_grad) for v in CASES[name].arguments(batch, generator))


@as_a_program
def test_a_projection_is_the_solution_of_its_quadratic_program(name, generator):
    arguments = arguments_of(name, generator, batch=20)
    torch.testing.assert_close(CASES[name].function(*arguments), CASES[name].by_program(*arguments), atol=PEER, rtol=0)


@as_a_program
def test_the_gradient_of_every_argument_is_that_of_the_quadratic_program(name, generator):
    arguments = arguments_of(name, generator, batch=20, requires_grad=True)
    cotangent = torch.randn(20, N, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(CASES[name].function(*arguments), arguments, cotangent)
    theirs = torch.autograd.grad(CASES[name].by_program(*arguments), arguments, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=X_DEGENERATE, rtol=X_DEGENERATE)


@everywhere
def test_derivatives_agree_with_finite_differences(name, generator):
    # Four elements: chances are that points inside and outside of every set are among them.
    arguments = arguments_of(name, generator, batch=4, requires_grad=True)
    assert gradcheck(
        CASES[name].function, arguments, check_forward_ad=True,
        check_batched_grad=name != "polytope", check_batched_forward_grad=name != "polytope", **GRADCHECK,
    )  # fmt: skip


@everywhere
def test_second_derivatives_agree_with_finite_differences(name, generator):
    arguments = arguments_of(name, generator, batch=2, requires_grad=True)
    assert gradgradcheck(CASES[name].function, arguments, **GRADGRADCHECK)


@everywhere
def test_a_batch_equals_a_loop_and_vmap(name, generator):
    function, arguments = CASES[name].function, arguments_of(name, generator, batch=5)
    batched = function(*arguments)
    looped = torch.stack([function(*(v[i] for v in arguments)) for i in range(5)])
    torch.testing.assert_close(batched, looped, atol=CLOSED_FORM, rtol=0)
    torch.testing.assert_close(batched, vmap(function)(*arguments), atol=CLOSED_FORM, rtol=0)


@everywhere
def test_forward_and_reverse_mode_give_the_same_jacobian(name, generator):
    function, arguments = CASES[name].function, tuple(v[0] for v in arguments_of(name, generator, batch=1))
    which = tuple(range(len(arguments)))
    for a, b in zip(jacrev(function, which)(*arguments), jacfwd(function, which)(*arguments), strict=True):
        torch.testing.assert_close(a, b, atol=CLOSED_FORM, rtol=0)


@everywhere
def test_an_element_that_is_not_finite_leaves_its_neighbours_alone(name, generator):
    function, arguments = CASES[name].function, arguments_of(name, generator, batch=4)
    clean = function(*arguments)
    for k in range(len(arguments)):
        for bad in (torch.nan, -torch.inf):
            spoilt = [v.clone() for v in arguments]
            spoilt[k].reshape(4, -1)[1, 0] = bad
            for v in spoilt:
                v.requires_grad_()
            if name == "box" and k == 1 and bad == -torch.inf:
                continue  # no bound, which is allowed
            if name == "polytope" and k == 2 and bad == -torch.inf:
                continue  # solve_qp says what that is
            with pytest.warns(SolverWarning, match=r"1 of 4"):
                result = function(*spoilt)
            gradients = torch.autograd.grad(result[[0, 2, 3]].sum() + 0 * result[1].sum().detach(), spoilt)
            assert result[1].isnan().all()
            if name != "polytope":  # a solver's kernels depend on the batch
                assert torch.equal(result[[0, 2, 3]], clean[[0, 2, 3]])
            assert all(v.isfinite().all() and (v[1] == 0).all() for v in gradients)


@everywhere
def test_a_failed_element_sends_no_gradient_into_shared_arguments(name, generator):
    arguments = arguments_of(name, generator, batch=3)
    if len(arguments) == 1:
        pytest.skip("nothing to share")
    shared = [v[0].clone().requires_grad_() for v in arguments[1:]]
    points = arguments[0].clone()
    clean = torch.autograd.grad(CASES[name].function(points[1:], *shared).sum(), shared)
    points[0] = torch.nan
    with pytest.warns(SolverWarning):
        result = CASES[name].function(points, *shared)
    for a, b in zip(torch.autograd.grad(result.sum(), shared), clean, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSED_FORM, rtol=0)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_point(name, dtype, generator):
    arguments = arguments_of(name, generator)
    exact = CASES[name].function(*arguments)
    result = CASES[name].function(*(v.to(dtype) for v in arguments))
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), exact, atol=LOW_PRECISION, rtol=LOW_PRECISION)


@everywhere
def test_a_batch_of_zero_and_a_batch_of_many_dimensions(name, generator):
    function, arguments = CASES[name].function, arguments_of(name, generator, batch=6)
    assert function(*(v[:0] for v in arguments)).shape[0] == 0
    deep = function(*(v.reshape(1, 2, 3, *v.shape[1:]) for v in arguments))
    torch.testing.assert_close(deep.flatten(0, 2), function(*arguments), atol=CLOSED_FORM, rtol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "stiefel"])
def test_a_projection_compiles_without_a_graph_break(name, generator):
    # Traced ahead of time too where sorting and pooling make it interesting; that takes a second each.
    backend = "aot_eager" if name in ("capped simplex", "soft rank") else "eager"
    arguments = arguments_of(name, generator, requires_grad=True)
    compiled = torch.compile(CASES[name].function, fullgraph=True, backend=backend, dynamic=False)
    result, expected = compiled(*arguments), CASES[name].function(*arguments)
    torch.testing.assert_close(result, expected, atol=CLOSED_FORM, rtol=0)
    for a, b in zip(
        torch.autograd.grad(result.sin().sum(), arguments), torch.autograd.grad(expected.sin().sum(), arguments),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, atol=CLOSED_FORM, rtol=0)


def test_numbers_in_place_of_tensors_compile_too():
    def all_of_them(v):
        return (
            projections.project_simplex(v) + projections.project_capped_simplex(v, 2) + projections.project_l1_ball(v)
            + projections.project_l2_ball(v) + projections.project_linf_ball(v) + projections.project_box(v, 0.0, 1.0)
            + projections.isotonic_regression(v) + projections.soft_sort(v) + projections.soft_rank(v)
            + projections.soft_argmax(v) + projections.soft_argmax(v, total=2, cap=1)
        )  # fmt: skip

    v = torch.tensor([[0.3, -1.0, 2.0], [1.0, 1.1, 0.9]], dtype=torch.float64)
    compiled = torch.compile(all_of_them, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(v), all_of_them(v), atol=CLOSED_FORM, rtol=0)


@pytest.mark.parametrize("name", ["l2 ball", "second-order cone"])
def test_a_round_set_holds_no_point_that_is_closer(name, generator):
    # x is the projection of v onto a convex set iff (v - x)'(z - x) <= 0 for every z of the set.
    function = CASES[name].function
    v, *rest = (a[:, None] for a in arguments_of(name, generator, batch=50))
    x = function(v, *rest)
    z = function(torch.randn(50, 200, N, generator=generator, dtype=torch.float64), *rest)
    assert ((v - x) * (z - x)).sum(-1).max() < CLOSED_FORM
    torch.testing.assert_close(function(x, *rest), x, atol=CLOSED_FORM, rtol=0)


CONVEX = [name for name in CASES if name not in ("soft sort", "soft rank", "soft arg-max", "stiefel")]


@pytest.mark.parametrize("name", [*CONVEX, "stiefel"])
def test_a_projection_leaves_points_of_its_set_where_they_are(name, generator):
    arguments = arguments_of(name, generator, batch=30)
    x = CASES[name].function(*arguments)
    torch.testing.assert_close(CASES[name].function(x, *arguments[1:]), x, atol=PEER, rtol=0)


@pytest.mark.parametrize("name", CONVEX)
def test_a_projection_onto_a_convex_set_brings_points_closer(name, generator):
    u, *sets = arguments_of(name, generator, batch=30)
    v = u + torch.randn(u.shape, generator=generator, dtype=u.dtype)
    function = CASES[name].function
    # In the norm that it minimises: isotonic regression has weights.
    weight = sets[0] if name == "isotonic" else torch.ones_like(u)
    moved = (weight * (function(u, *sets) - function(v, *sets)).square()).sum(-1)
    assert (moved <= (weight * (u - v).square()).sum(-1) + PEER).all()


# --- closed forms -----------------------------------------------------------------------------------


def test_the_jacobian_of_sparsemax_is_its_closed_form():
    v = torch.tensor([0.9, 0.5, 0.2, -1.0], dtype=torch.float64)
    # 0.9 + 0.5 + 0.2 - 3 τ = 1: τ = 0.2, so the third is at its kink; shifted down, two are left with τ = 0.2.
    v[2] = 0.1
    torch.testing.assert_close(projections.project_simplex(v), torch.tensor([0.7, 0.3, 0.0, 0.0], dtype=torch.float64))
    support = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    expected = torch.diag(support) - torch.outer(support, support) / 2
    torch.testing.assert_close(jacrev(projections.project_simplex)(v), expected)


def test_the_jacobian_of_the_l2_ball_is_its_closed_form(generator):
    v = 3 * torch.randn(5, generator=generator, dtype=torch.float64)
    size, unit = v.norm(), v / v.norm()
    expected = 0.7 / size * (torch.eye(5, dtype=torch.float64) - torch.outer(unit, unit))
    torch.testing.assert_close(jacrev(lambda v: projections.project_l2_ball(v, 0.7))(v), expected)


def test_the_jacobian_of_isotonic_regression_averages_blocks():
    y = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 3.9], dtype=torch.float64)
    w = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    expected = torch.block_diag(
        torch.ones(1, 1), torch.tensor([[1.0, 3.0]] * 2) / 4, torch.tensor([[1.0, 1.0, 2.0]] * 3) / 4
    ).double()
    torch.testing.assert_close(jacrev(projections.isotonic_regression)(y, w), expected)
    torch.testing.assert_close(projections.isotonic_regression(y, w), expected @ y)


def test_the_jacobian_of_the_affine_projection_is_its_closed_form(generator):
    v, A, b = (v[0] for v in CASES["affine"].arguments(1, generator))
    projector = torch.eye(N, dtype=torch.float64) - A.mT @ torch.linalg.solve(A @ A.mT, A)
    torch.testing.assert_close(jacrev(projections.project_affine)(v, A, b), projector)


def test_the_derivative_of_the_polar_factor_at_a_diagonal_matrix_is_its_closed_form():
    sizes = torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)  # two of them equal, where an SVD has no derivative
    jacobian = jacrev(projections.project_stiefel)(torch.diag(sizes))
    change = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    expected = (change - change.mT) / (sizes[:, None] + sizes[None, :])
    torch.testing.assert_close(torch.einsum("ijkl,kl->ij", jacobian, change), expected)


def test_the_polar_factor_is_the_closest_orthonormal_matrix(generator):
    M = torch.randn(20, 5, 3, generator=generator, dtype=torch.float64)
    Q = projections.project_stiefel(M)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    others = torch.linalg.qr(Q + 0.3 * torch.randn(50, 20, 5, 3, generator=generator, dtype=torch.float64)).Q
    # QR chooses signs of its own; only the distance counts.
    assert ((others - M).square().sum((-2, -1)) > (Q - M).square().sum((-2, -1))).all()


def test_soft_argmax_is_softmax_and_respects_its_cap(generator):
    s = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(projections.soft_argmax(s, 0.3), (s / 0.3).softmax(-1))
    x = projections.soft_argmax(s, 0.3, 3.0, 1.0)
    torch.testing.assert_close(x.sum(-1), torch.full((5,), 3.0, dtype=torch.float64))
    assert (x <= 1).all()
    # Optimality: temperature log x - scores is constant where x is free, and at most that where it is capped.
    level = s - 0.3 * x.log()
    free = x < 1
    tau = (level * free).sum(-1, keepdim=True) / free.sum(-1, keepdim=True)
    torch.testing.assert_close(level[free], tau.expand_as(level)[free])
    assert (level >= tau - CLOSED_FORM).all()


def test_a_cold_soft_argmax_picks_the_largest(generator):
    s = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    picked = torch.zeros_like(s).scatter(-1, s.topk(3).indices, 1.0)
    torch.testing.assert_close(projections.soft_argmax(s, 1e-4, 3, 1), picked)
    torch.testing.assert_close(projections.project_capped_simplex(1e4 * s, 3, 1), picked)


def test_soft_sorting_and_ranking_are_exact_where_values_lie_apart():
    v = torch.tensor([3.0, -1.0, 8.0, 5.0], dtype=torch.float64)
    up, down = (torch.tensor(r, dtype=torch.float64) for r in ([2.0, 1.0, 4.0, 3.0], [3.0, 4.0, 1.0, 2.0]))
    for scale in (1.0, 1e3, 1e30):  # exactly: the values' digits do not drown the ranks'
        assert torch.equal(projections.soft_sort(scale * v, 0.25 / scale), (scale * v).sort().values)
        assert torch.equal(projections.soft_rank(scale * v, 2.0), up)
        assert torch.equal(projections.soft_rank(scale * v, 2.0, descending=True), down)
    assert torch.equal(projections.soft_sort(v, 0.25, descending=True), v.sort(descending=True).values)
    flat = projections.soft_sort(v, 1e9)
    torch.testing.assert_close(flat, v.mean().expand(4))


# --- kinks, as documented ------------------------------------------------------------------------


def test_constraints_that_are_only_touched_count_as_inactive():
    v = torch.tensor([1.0, 0.0], dtype=torch.float64)  # τ = 0: the second entry is just zero
    half = torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(jacrev(projections.project_simplex)(v), half)
    torch.testing.assert_close(jacrev(projections.project_capped_simplex)(v), half)
    eye = torch.eye(2, dtype=torch.float64)
    for touched in (
        lambda v: projections.project_box(v, 0.0, 1.0),
        projections.project_l1_ball,
        projections.project_l2_ball,
        projections.project_linf_ball,
        projections.project_second_order_cone,
        lambda v: projections.project_halfspace(v, torch.ones_like(v), 1.0),
        lambda v: projections.isotonic_regression(v * 0 + v.detach().mean() + v - v.detach()),
    ):
        torch.testing.assert_close(jacrev(touched)(v), eye)


def test_the_origin_is_no_trouble():
    zero = torch.zeros(3, dtype=torch.float64)
    for f in (projections.project_l1_ball, projections.project_l2_ball, projections.project_second_order_cone):
        assert torch.equal(jacrev(f)(zero), torch.eye(3, dtype=torch.float64))
        assert torch.func.hessian(lambda v, f=f: f(v).square().sum())(zero).isfinite().all()
    shrunk = jacrev(projections.project_l2_ball, 1)(zero + 1, torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(shrunk, torch.full((3,), 3**-0.5, dtype=torch.float64))


def test_a_total_at_the_end_of_its_range_has_the_derivative_of_the_inside():
    v = torch.tensor([0.3, 0.1], dtype=torch.float64)

    def move(total):
        return jacrev(projections.project_capped_simplex, 1)(v, torch.tensor(total, dtype=torch.float64))

    assert torch.equal(move(0.0), torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert torch.equal(move(2.0), torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [projections.project_capped_simplex, projections.soft_argmax])
def test_caps_that_fill_the_total_but_for_rounding_are_feasible(function, dtype, generator):
    v = torch.randn(10, generator=generator, dtype=dtype)
    for cap in (0.1, 0.7, 0.3):
        total = torch.tensor(10 * cap, dtype=dtype)
        x = function(v, total=total, cap=torch.full((10,), cap, dtype=dtype))
        torch.testing.assert_close(x, torch.full_like(x, cap))


def test_ties_are_pooled_only_where_they_must_be():
    y = torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.equal(projections.isotonic_regression(y), torch.full((4,), 1.5, dtype=torch.float64))
    assert torch.equal(
        jacrev(projections.isotonic_regression)(torch.ones(3, dtype=torch.float64)), torch.eye(3, dtype=torch.float64)
    )


# --- size and scale -----------------------------------------------------------------------------


def test_a_hundred_thousand_entries(generator):
    v = torch.randn(100_000, generator=generator, dtype=torch.float64)
    x = projections.project_simplex(v)
    tau = (v - x)[x > 0]
    assert abs(x.sum() - 1) < CLOSED_FORM
    assert tau.max() - tau.min() < CLOSED_FORM
    assert (v[x == 0] <= tau.max()).all()
    assert abs(projections.project_l1_ball(v, 3.0).abs().sum() - 3) < CLOSED_FORM
    assert abs(projections.project_capped_simplex(v, 70.0, 1.0).sum() - 70) < X_REGULAR


@pytest.mark.parametrize("kind", ["random", "falling", "rising", "one low value at the end", "ties", "sawtooth"])
@pytest.mark.parametrize("n", [1, 2, 3, 31, 1000])
def test_isotonic_regression_of_every_shape_agrees_with_a_sequential_one(kind, n, generator):
    optimize = pytest.importorskip("scipy.optimize")
    rise = torch.arange(n, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    y = {
        "random": noise,
        "falling": -rise,
        "rising": rise,
        "one low value at the end": torch.cat([rise[:-1], -rise[-1:] * n - 1]),
        "ties": noise.round(),
        "sawtooth": rise % 7 + 0.1 * rise,
    }[kind]
    w = 0.1 + torch.rand(n, generator=generator, dtype=torch.float64)
    for increasing in (True, False):
        found = optimize.isotonic_regression(y.numpy(), weights=w.numpy(), increasing=increasing)
        x = projections.isotonic_regression(y, w, increasing=increasing)
        torch.testing.assert_close(x, torch.tensor(found.x.copy()), atol=ROUND_OFF * float(y.abs().max()), rtol=0)


def test_elements_that_need_different_numbers_of_rounds_share_a_batch():
    rise = torch.arange(64.0, dtype=torch.float64)
    y = torch.stack([rise, -rise, torch.cat([rise[:-1], torch.tensor([-5000.0])]), (rise * 7) % 11])
    x = projections.isotonic_regression(y)
    for i in range(4):
        torch.testing.assert_close(x[i], projections.isotonic_regression(y[i]), atol=CLOSED_FORM, rtol=0)
        assert (x[i].diff() >= -CLOSED_FORM).all()


def test_huge_and_tiny_numbers():
    v = torch.tensor([3e200, 4e200], dtype=torch.float64)
    torch.testing.assert_close(projections.project_l2_ball(v, 5.0), torch.tensor([3.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(projections.project_l2_ball(v * 1e-500, 5.0), v * 0)
    tiny = torch.tensor([3e-200, 4e-200], dtype=torch.float64)
    torch.testing.assert_close(projections.project_l2_ball(tiny, 5e-201), tiny / 10, rtol=1e-12, atol=0)
    vast = torch.tensor([1e308, -1e308, 0.5e308], dtype=torch.float64)
    torch.testing.assert_close(
        projections.isotonic_regression(vast), torch.tensor([0.0, 0.0, 0.5e308], dtype=vast.dtype)
    )
    assert torch.equal(projections.soft_rank(vast), torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64))
    shared = torch.tensor([1e308, -1e308, 1e308], dtype=torch.float64)
    assert projections.project_simplex(shared).tolist() == [0.5, 0.0, 0.5]
    assert projections.project_simplex(shared[:2], 1e300).tolist() == [1e300, 0.0]
    # A common offset costs only the digits that the point itself has lost.
    offset = torch.tensor([2.0**30 + 0.5, 2.0**30, -(2.0**40)], dtype=torch.float64)
    expected = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    assert torch.equal(projections.project_simplex(offset), expected)
    assert torch.equal(projections.project_capped_simplex(offset, 1.0, 2.0), expected)


def test_dependent_rows_are_fine_if_they_agree():
    v = torch.tensor([3.0, 1.0], dtype=torch.float64)
    A = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    x = projections.project_affine(v, A, torch.tensor([2.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor([2.0, 0.0], dtype=torch.float64))
    with pytest.warns(SolverWarning, match="rows of Ax = b that agree"):
        assert projections.project_affine(v, A, torch.tensor([2.0, 5.0], dtype=torch.float64)).isnan().all()


# --- bad input --------------------------------------------------------------------------------------

V = torch.zeros(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: projections.project_simplex([1.0]), r"point: expected a torch.Tensor, got list"),
        (lambda: projections.project_simplex(torch.zeros(2, dtype=torch.int64)), r"point: expected a floating-point"),
        (lambda: projections.project_simplex(torch.zeros(())), r"point: expected shape \(\*batch, n\), got \(\)"),
        (lambda: projections.project_simplex(torch.zeros(2, 0)), r"point: expected shape .* got \(2, 0\)"),
        (lambda: projections.project_simplex(V, -1.0), r"total: expected a number >= 0, got -1"),
        (lambda: projections.project_simplex(V, float("nan")), r"total: expected a number"),
        (lambda: projections.project_simplex(V, "1"), r"total: expected a number or a torch.Tensor, got '1'"),
        (lambda: projections.project_simplex(V, torch.zeros(2)), r"total: expected torch.float64 on cpu like point"),
        (lambda: projections.project_simplex(V, V[:, 0].expand(5, 2)[:, :1].expand(5, 3)), r"total: expected batch"),
        (lambda: projections.project_box(V, 1.0, 0.0), r"lb, ub: expected lb <= ub, got 1, 0"),
        (lambda: projections.project_box(V, V[0, :2]), r"lb: expected shape \(\*batch, 3\), got \(2,\)"),
        (lambda: projections.project_capped_simplex(V, 4.0), r"total, cap: expected total <= the sum of cap .*, got 4"),
        (lambda: projections.project_l2_ball(V, -0.5), r"radius: expected a number >= 0, got -0.5"),
        (lambda: projections.project_hyperplane(V, V[0, :2]), r"normal: expected shape \(\*batch, 3\), got \(2,\)"),
        (lambda: projections.project_affine(V, V, V), r"b: expected shape \(\*batch, 2\), got \(2, 3\)"),
        (lambda: projections.project_polytope(V, torch.zeros(1, 4).double(), V[:1, 0]), r"G: expected shape"),
        (lambda: projections.soft_rank(V, 0.0), r"strength: expected a number > 0, got 0"),
        (lambda: projections.soft_argmax(V, 0.0), r"temperature: expected a number > 0, got 0"),
        (lambda: projections.project_stiefel(V), r"point: expected shape \(\*batch, n, p\) with n >= p, got \(2, 3\)"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda v, bad: projections.project_simplex(v, bad),
        lambda v, bad: projections.project_capped_simplex(v, 2 - 3 * bad),
        lambda v, bad: projections.project_l1_ball(v, bad),
        lambda v, bad: projections.project_l2_ball(v, bad),
        lambda v, bad: projections.project_linf_ball(v, bad),
        lambda v, bad: projections.project_box(v, 0.0, bad[:, None].expand_as(v)),
        lambda v, bad: projections.soft_rank(v, bad),
        lambda v, bad: projections.soft_argmax(v, bad),
        lambda v, bad: projections.isotonic_regression(v, bad[:, None].expand_as(v)),
        lambda v, bad: projections.project_halfspace(v, (bad > 0)[:, None].to(v) * (1 + v.abs())),
    ],
)
def test_one_bad_set_does_not_end_a_batch(call, generator):
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    bad = torch.tensor([0.5, -1.0, 0.5], dtype=torch.float64)
    with pytest.warns(SolverWarning, match=r"1 of 3 elements .*first: element 1"):
        result = call(v, bad)
    assert result.isnan().all(-1).tolist() == [False, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(call(v[[0, 2]], bad[[0, 2]]), result[[0, 2]])


def test_a_matrix_without_full_rank_has_no_closest_orthonormal_one(generator):
    M = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    M[1, :, 1] = 2 * M[1, :, 0]
    M.requires_grad_()
    with pytest.warns(SolverWarning, match="1 of 3 .*linearly independent columns"):
        Q = projections.project_stiefel(M)
    (gradient,) = torch.autograd.grad(Q[[0, 2]].sum(), M)
    assert Q[1].isnan().all()
    assert gradient.isfinite().all()


def test_bounds_may_be_absent_or_infinite():
    v = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    assert torch.equal(projections.project_box(v), v)
    assert torch.equal(projections.project_box(v, 0.0, torch.inf), v.clamp(min=0))
    assert torch.equal(projections.project_l2_ball(v, torch.inf), v)
    assert torch.equal(projections.project_l1_ball(v, torch.inf), v)
    assert torch.equal(
        projections.project_capped_simplex(v, 1.0, torch.inf), torch.tensor([0.0, 1.0], dtype=torch.float64)
    )


# --- what is no quadratic program, as a nonlinear one --------------------------------------------------


def distance(x, v, *_):
    return 0.5 * (x - v).square().flatten(-1 if v.ndim == 2 else -2).sum(-1)


def orthonormal(Q, M):
    gram = Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype)
    i, j = torch.triu_indices(*gram.shape[-2:])
    return gram[..., i, j]


def negative_entropy(x, s, t, total, cap):
    return (t.unsqueeze(-1) * x * x.log() - s * x).sum(-1)


NONLINEAR = {
    "l2 ball": {"f": distance, "ineq": lambda x, v, r: x.square().sum(-1, keepdim=True) - r.square().unsqueeze(-1)},
    # Squared, the cone has no derivative at its tip; of its two halves the start chooses the upper one.
    "second-order cone": {
        "f": distance, "ineq": lambda x, v: x[..., 1:].square().sum(-1, keepdim=True) - x[..., :1].square()
    },
    "stiefel": {"f": distance, "eq": orthonormal},
    "soft arg-max": {
        "f": negative_entropy, "eq": lambda x, s, t, total, cap: x.sum(-1, keepdim=True) - total.unsqueeze(-1),
        "ineq": lambda x, s, t, total, cap: x - cap,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_projection_has_the_solution_and_gradients_of_its_nonlinear_program(name, generator):
    arguments = [v.clone() for v in arguments_of(name, generator, batch=6)]
    if name == "second-order cone":
        arguments[0][:, 0] = arguments[0][:, 0].abs() * 0.2  # between the cone and its polar
    arguments = [v.requires_grad_() for v in arguments]
    projected = CASES[name].function(*arguments)
    start = projected.detach() + 0.01
    found = find_argmin(NONLINEAR[name]["f"], start, *arguments, eq=NONLINEAR[name].get("eq"),
                        ineq=NONLINEAR[name].get("ineq"), batch_dims=1).w  # fmt: skip
    torch.testing.assert_close(projected, found, atol=X_NONLINEAR, rtol=0)
    cotangent = torch.randn(projected.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(projected, arguments, cotangent)
    theirs = torch.autograd.grad(found, arguments, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=GRADIENT_NONLINEAR, rtol=GRADIENT_NONLINEAR)
