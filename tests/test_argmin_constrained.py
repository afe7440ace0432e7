"""find_argmin with constraints: solutions, multipliers, derivatives, and what becomes of elements that fail."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nonlinear_programs import F64, PROGRAMS
from tolerances import (
    BATCH,
    CLOSED_FORM,
    GRADCHECK,
    GRADGRADCHECK,
    GRADIENT_NONLINEAR,
    KKT_NONLINEAR,
    LOW_PRECISION,
    PUBLISHED,
    X_NONLINEAR,
)
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

from implicit_layers import (
    SQP,
    ArgminLayer,
    ProblemError,
    SolverError,
    SolverWarning,
    SolveStatus,
    Unrolled,
    check_gradients,
    find_argmin,
    projections,
    solve_qp,
)

# torch's own forward mode goes through it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def randn(generator, *shape) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def times(M, x):
    return (M @ x.unsqueeze(-1)).squeeze(-1)


# --- solutions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", PROGRAMS)
def test_a_hock_schittkowski_problem_is_solved(number):
    program = PROGRAMS[number]
    cost, eq, ineq = (program.each(g) for g in (program.cost, program.eq, program.ineq))
    found = find_argmin(cost, program.w0, eq=eq, ineq=ineq)
    assert found.status == SolveStatus.SOLVED
    assert found.residual < KKT_NONLINEAR
    assert abs(float(cost(found.w)) - program.minimum) < PUBLISHED * max(1, abs(program.minimum))
    if program.solution is not None:
        torch.testing.assert_close(found.w, torch.tensor(program.solution, dtype=F64), atol=PUBLISHED * 10, rtol=0)


@pytest.mark.parametrize("number", PROGRAMS)
def test_its_multipliers_satisfy_the_conditions(number):
    program = PROGRAMS[number]
    cost, eq, ineq = (program.each(g) for g in (program.cost, program.eq, program.ineq))
    found = find_argmin(cost, program.w0, eq=eq, ineq=ineq)
    stationary = jacrev(cost)(found.w)
    if eq is not None:
        stationary = stationary + found.y @ jacrev(eq)(found.w)
        assert eq(found.w).abs().max() < KKT_NONLINEAR
    if ineq is not None:
        stationary = stationary + found.z @ jacrev(ineq)(found.w)
        assert (found.z >= 0).all()
        assert ineq(found.w).max() < KKT_NONLINEAR
        assert torch.minimum(found.z, -ineq(found.w)).abs().max() < KKT_NONLINEAR
    assert stationary.abs().max() < KKT_NONLINEAR


def test_a_minimum_that_unconstrained_curvature_would_miss():
    # Maratos' example: full steps raise both the cost and the violation, a correction of second order saves them.
    def cost(w):
        return 2 * (w.square().sum(-1) - 1) - w[..., 0]

    def circle(w):
        return w.square().sum(-1, keepdim=True) - 1

    angle = torch.linspace(0.1, 3.0, 12, dtype=F64)
    found = find_argmin(cost, torch.stack([angle.cos(), angle.sin()], -1), eq=circle)
    torch.testing.assert_close(found.w, torch.tensor([1.0, 0.0], dtype=F64).expand(12, 2), atol=X_NONLINEAR, rtol=0)
    assert found.iterations.max() <= 15


def test_a_start_outside_of_the_constraints_is_fine(generator):
    start = 100 * randn(generator, 8, 3)
    found = find_argmin(lambda w: -w.sum(-1), start, ineq=lambda w: w.square().sum(-1, keepdim=True) - 1)
    torch.testing.assert_close(found.w, torch.full((8, 3), 3**-0.5, dtype=F64), atol=X_NONLINEAR, rtol=0)
    torch.testing.assert_close(found.z, torch.full((8, 1), 3**0.5 / 2, dtype=F64), atol=X_NONLINEAR, rtol=0)


def test_programs_built_backwards_from_their_solution_are_solved(generator):
    # Convex, so that there is one minimum: choose w, y and z, then the linear term that makes them optimal.
    batch, n, m, p = 32, 5, 4, 2
    w, y = randn(generator, batch, n), randn(generator, batch, p)
    z = torch.rand(batch, m, generator=generator, dtype=F64) * torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64) + 0.0
    slack = torch.tensor([0.0, 0.0, 0.3, 1.0], dtype=F64)
    A, G, L = randn(generator, batch, p, n), randn(generator, batch, m, n), 0.5 * randn(generator, batch, m, n, n)
    Q = L @ L.mT

    def bowls(v):
        return times(G, v) + 0.5 * torch.einsum("bi,bmij,bj->bm", v, Q, v)

    def convex(v):
        return torch.logsumexp(v, -1) + 0.1 * v.square().sum(-1)

    level, b = bowls(w).detach() + slack, times(A, w)
    gradient = w.softmax(-1) + 0.2 * w + (y.unsqueeze(-2) @ A).squeeze(-2)
    q = -gradient - torch.einsum("bm,bmi->bi", z, G + torch.einsum("bmij,bj->bmi", Q, w))
    found = find_argmin(
        lambda v: convex(v) + (q * v).sum(-1), torch.zeros(batch, n, dtype=F64),
        eq=lambda v: times(A, v) - b, ineq=lambda v: bowls(v) - level,
    )  # fmt: skip
    assert (found.status == SolveStatus.SOLVED).all()
    torch.testing.assert_close(found.w, w, atol=GRADIENT_NONLINEAR, rtol=0)
    torch.testing.assert_close(found.y, y, atol=GRADIENT_NONLINEAR, rtol=0)
    torch.testing.assert_close(found.z, z, atol=GRADIENT_NONLINEAR, rtol=0)


@pytest.mark.parametrize(("of_cost", "of_rows"), [(1e8, 1e-4), (1e8, 1e4), (1e-3, 1e4), (1.0, 1e-4)])
def test_units_of_cost_and_constraints_do_not_matter(of_cost, of_rows):
    program = PROGRAMS[43]
    cost, ineq = program.each(program.cost), program.each(program.ineq)
    found = find_argmin(lambda w: of_cost * cost(w), program.w0, ineq=lambda w: of_rows * ineq(w))
    assert found.status == SolveStatus.SOLVED
    torch.testing.assert_close(found.w, torch.tensor(program.solution, dtype=F64), atol=GRADIENT_NONLINEAR, rtol=0)
    expected = torch.tensor([1.0, 0.0, 2.0], dtype=F64) * of_cost / of_rows
    torch.testing.assert_close(found.z, expected, atol=0, rtol=GRADIENT_NONLINEAR)


# --- quadratic programs ------------------------------------------------------------------------------


def qp_data(generator, batch=4, n=4, m=3, p=1):
    L = randn(generator, batch, n, n)
    A, G, inside = randn(generator, batch, p, n), randn(generator, batch, m, n), randn(generator, batch, n)
    h = times(G, inside) + torch.tensor([0.2, 0.7, 1.5], dtype=F64)
    data = (L @ L.mT + torch.eye(n, dtype=F64), 3 * randn(generator, batch, n), G, h, A, times(A, inside))
    return tuple(v.requires_grad_() for v in data)


def quadratic(w, P, q, G, h, A, b):
    return 0.5 * (w * times(P, w)).sum(-1) + (q * w).sum(-1)


def equalities(w, P, q, G, h, A, b):
    return times(A, w) - b


def inequalities(w, P, q, G, h, A, b):
    return times(G, w) - h


def by_argmin(*data):
    q = data[1]
    start = torch.zeros(q.shape, dtype=q.dtype)
    found = find_argmin(quadratic, start, *data, eq=equalities, ineq=inequalities)
    return found.w, found.y, found.z


def test_a_quadratic_program_has_the_solution_and_all_gradients_of_solve_qp(generator):
    data = qp_data(generator, batch=16)
    ours, theirs = by_argmin(*data), solve_qp(*data)
    theirs = theirs.x, theirs.y, theirs.z
    cotangents = [randn(generator, *v.shape) for v in ours]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=X_NONLINEAR, rtol=0)
    assert (theirs[2] > 0.01).any()  # the example means something: some rows hold, some do not
    assert (theirs[2] == 0).any()
    for k, (a, b) in enumerate(
        zip(torch.autograd.grad(ours, data, cotangents), torch.autograd.grad(theirs, data, cotangents), strict=True)
    ):
        if k == 0:  # the cost sees the symmetric part of P alone
            a = 0.5 * (a + a.mT)
        torch.testing.assert_close(a, b, atol=X_NONLINEAR, rtol=X_NONLINEAR)


# --- derivatives -------------------------------------------------------------------------------------


def twisted(w, x):
    """A cost that is no polynomial."""
    return (w.exp() - x * w).sum(-1) + 0.3 * (w[..., 0] * w[..., 1]).sin()


def surface(w, x):
    return (w * w.roll(1, -1)).sum(-1, keepdim=True) - 0.5 - 0.1 * x.sum(-1, keepdim=True)


def walls(w, x):
    return torch.stack([w[..., 0].square() - 0.4 * x[..., 1], -w[..., 2] - 5.0], -1)


def solve_twisted(x):
    found = find_argmin(twisted, torch.ones(x.shape, dtype=F64), x, eq=surface, ineq=walls)
    return found.w, found.y, found.z


def test_derivatives_agree_with_finite_differences():
    x = torch.tensor([[2.0, 1.0, 1.5], [1.8, 0.9, 1.2]], dtype=F64, requires_grad=True)
    w, _, z = solve_twisted(x)
    assert (z[:, 0] > 0.1).all()
    assert (z[:, 1] == 0).all()
    assert gradcheck(solve_twisted, (x,), check_forward_ad=True, **GRADCHECK)
    assert gradgradcheck(solve_twisted, (x[:1].detach().requires_grad_(),), **GRADGRADCHECK)
    assert w.isfinite().all()


def test_every_transform_gives_the_same_derivatives():
    x = torch.tensor([2.0, 1.0, 1.5], dtype=F64)
    reverse, forward = jacrev(solve_twisted)(x), jacfwd(solve_twisted)(x)
    for a, b in zip(reverse, forward, strict=True):
        torch.testing.assert_close(a, b, atol=CLOSED_FORM, rtol=CLOSED_FORM)
    second = hessian(lambda x: solve_twisted(x)[0].square().sum())(x)
    torch.testing.assert_close(second, second.mT, atol=CLOSED_FORM, rtol=CLOSED_FORM)


def test_vmap_over_parameters_equals_a_batch_and_a_loop(generator):
    x = torch.tensor([2.0, 1.0, 1.5], dtype=F64) + 0.1 * randn(generator, 5, 3)
    mapped, batched = vmap(solve_twisted)(x), solve_twisted(x)
    for k in range(3):
        looped = torch.stack([solve_twisted(v)[k] for v in x])
        torch.testing.assert_close(mapped[k], looped, atol=BATCH, rtol=0)
        torch.testing.assert_close(batched[k], looped, atol=BATCH, rtol=0)
    jacobians = vmap(jacrev(lambda v: solve_twisted(v)[0]))(x)
    looped = torch.stack([jacrev(lambda v: solve_twisted(v)[0])(v) for v in x])
    torch.testing.assert_close(jacobians, looped, atol=BATCH, rtol=BATCH)


def test_the_gradient_of_shared_parameters_is_the_sum(generator):
    x = torch.tensor([2.0, 1.0, 1.5], dtype=F64, requires_grad=True)
    start = torch.ones(3, 3, dtype=F64)

    def shared(cost):
        return lambda w, x: cost(w, x.expand(w.shape))

    w = find_argmin(shared(twisted), start, x, eq=shared(surface), ineq=shared(walls)).w
    (ours,) = torch.autograd.grad(w.sum(), x)
    (one,) = torch.autograd.grad(solve_twisted(x)[0].sum(), x)
    torch.testing.assert_close(ours, 3 * one, atol=CLOSED_FORM, rtol=CLOSED_FORM)


# --- the worked examples of Gould et al. (2016) --------------------------------------------------------


def test_gould_scalar_example_without_constraints():
    # f = x y⁴ + 2 x² y³ - 12 y² has its minima at (-3 x² ± sqrt(9 x⁴ + 96 x)) / (4 x).
    def closed(x):
        return (-3 * x**2 - (9 * x**4 + 96 * x).sqrt()) / (4 * x)

    def ours(x):
        def cost(w, x):
            y = w[..., 0]
            return x * y**4 + 2 * x**2 * y**3 - 12 * y**2

        return find_argmin(cost, torch.full((1,), -5.0, dtype=F64), x).w[0]

    for x in torch.tensor([0.5, 1.0, 2.0], dtype=F64):
        torch.testing.assert_close(ours(x), closed(x), atol=X_NONLINEAR, rtol=0)
        torch.testing.assert_close(jacrev(ours)(x), jacrev(closed)(x), atol=X_NONLINEAR, rtol=0)


def test_gould_lemma_on_linear_equalities(generator):
    # g' = (H⁻¹A'(AH⁻¹A')⁻¹AH⁻¹ - H⁻¹) B with H = ∂²f/∂y², B = ∂²f/∂x∂y.
    A, b, x = randn(generator, 2, 4), randn(generator, 2), randn(generator, 3)
    M = randn(generator, 4, 3)

    def cost(y, x):
        return torch.logsumexp(y + times(M, x), -1) + 0.5 * (y.square() * (1 + x[0] ** 2)).sum(-1)

    def solve(x):
        return find_argmin(cost, torch.zeros(4, dtype=F64), x, eq=lambda y, x: times(A, y) - b).w

    y = solve(x)
    H, B = hessian(cost)(y, x), jacrev(jacrev(cost), 1)(y, x)
    inverse = torch.linalg.inv(H)
    lemma = (inverse @ A.mT @ torch.linalg.inv(A @ inverse @ A.mT) @ A @ inverse - inverse) @ B
    torch.testing.assert_close(jacrev(solve)(x), lemma, atol=CLOSED_FORM, rtol=CLOSED_FORM)


def test_gould_unit_norm_and_positivity(generator):
    x = randn(generator, 6, 4)

    def distance(y, x):
        return 0.5 * (y - x).square().sum(-1)

    def on_the_sphere(x):
        start = torch.full(x.shape, 0.1, dtype=F64) + x.detach()
        return find_argmin(distance, start, x, eq=lambda y, x: y.square().sum(-1, keepdim=True) - 1).w

    def positive(x):
        return find_argmin(distance, torch.zeros(x.shape, dtype=F64), x, ineq=lambda y, x: -y).w

    def in_the_ball(x):
        ball = find_argmin(
            distance, torch.zeros(x.shape, dtype=F64), x, ineq=lambda y, x: y.square().sum(-1, keepdim=True) - 1
        )
        return ball.w

    for ours, closed in (
        (on_the_sphere, lambda x: x / x.norm(dim=-1, keepdim=True)),
        (positive, lambda x: x.clamp(min=0)),
        (in_the_ball, projections.project_l2_ball),
    ):
        torch.testing.assert_close(ours(x), closed(x), atol=X_NONLINEAR, rtol=0)
        torch.testing.assert_close(jacrev(ours)(x), jacrev(closed)(x), atol=X_NONLINEAR, rtol=0)


# --- degenerate points --------------------------------------------------------------------------------


def test_dependent_active_constraints_leave_w_its_derivative():
    # The same wall twice: the multipliers are not unique, w is.
    x = torch.tensor([2.0, 0.3], dtype=F64)

    def solve(x):
        def walls(w, x):
            return torch.stack([w[..., 0] - 1, 2 * w[..., 0] - 2], -1)

        return find_argmin(lambda w, x: 0.5 * (w - x).square().sum(-1), torch.zeros(2, dtype=F64), x, ineq=walls).w

    torch.testing.assert_close(solve(x), torch.tensor([1.0, 0.3], dtype=F64), atol=X_NONLINEAR, rtol=0)
    torch.testing.assert_close(jacrev(solve)(x), torch.diag(torch.tensor([0.0, 1.0], dtype=F64)))


def test_a_weakly_active_constraint_counts_as_inactive():
    def solve(x):
        return find_argmin(
            lambda w, x: 0.5 * (w - x).square().sum(-1), torch.zeros(1, dtype=F64), x, ineq=lambda w, x: w
        ).w

    assert jacrev(solve)(torch.zeros(1, dtype=F64)).item() == 1.0
    assert abs(jacrev(solve)(torch.ones(1, dtype=F64)).item()) < CLOSED_FORM


# --- failures -----------------------------------------------------------------------------------------


def test_a_failed_element_leaves_its_neighbours_alone(generator):
    # x decides: solvable, infeasible (w² + 1 <= 0 at x < 0), NaN, solvable.
    def cost(w, x):
        return (w - 2).square().sum(-1)

    def disc(w, x):
        return w.square().sum(-1, keepdim=True) - x

    x = torch.tensor([[1.0], [-1.0], [torch.nan], [4.0]], dtype=F64, requires_grad=True)
    with pytest.warns(SolverWarning, match=r"find_argmin: 2 of 4 elements failed.*1 PRIMAL_INFEASIBLE"):
        found = find_argmin(cost, torch.ones(4, 2, dtype=F64), x, ineq=disc)
    assert found.status.tolist() == [
        SolveStatus.SOLVED, SolveStatus.PRIMAL_INFEASIBLE, SolveStatus.INVALID_INPUT, SolveStatus.SOLVED,
    ]  # fmt: skip
    assert found.w[2].isnan().all()
    torch.testing.assert_close(found.w[1], torch.zeros(2, dtype=F64), atol=LOW_PRECISION, rtol=0)  # the least violation
    alone = find_argmin(cost, torch.ones(2, 2, dtype=F64), x[[0, 3]], ineq=disc)
    torch.testing.assert_close(found.w[[0, 3]], alone.w, atol=BATCH, rtol=0)
    torch.testing.assert_close(found.z[[0, 3]], alone.z, atol=BATCH, rtol=0)
    (gradient,) = torch.autograd.grad(found.w[[0, 3]].sum() + found.z[[0, 3]].sum(), x)
    (expected,) = torch.autograd.grad(alone.w.sum() + alone.z.sum(), x)
    torch.testing.assert_close(gradient, expected, atol=BATCH, rtol=BATCH)
    assert torch.equal(gradient[1:3], torch.zeros(2, 1, dtype=F64))


def test_equations_that_contradict_each_other_are_infeasible():
    def lines(w):
        return torch.stack([w.sum(-1) - 1, w.sum(-1) - 2], -1)

    with pytest.warns(SolverWarning, match="PRIMAL_INFEASIBLE"):
        found = find_argmin(lambda w: w.square().sum(-1), torch.tensor([3.0, 2.0], dtype=F64), eq=lines)
    assert found.status == SolveStatus.PRIMAL_INFEASIBLE


def test_an_unbounded_cost_is_told():
    with pytest.warns(SolverWarning, match="DUAL_INFEASIBLE"):
        found = find_argmin(lambda w: w.sum(-1), torch.zeros(2, dtype=F64), eq=lambda w: w[..., :1] - 1)
    assert found.status == SolveStatus.DUAL_INFEASIBLE


def test_too_few_iterations_are_told_or_raised():
    program = PROGRAMS[71]
    cost, eq, ineq = (program.each(g) for g in (program.cost, program.eq, program.ineq))
    options = {"eq": eq, "ineq": ineq, "solver": SQP(max_iter=2)}
    with pytest.warns(SolverWarning, match="MAX_ITER"):
        found = find_argmin(cost, program.w0, **options)
    assert found.iterations == 2
    with pytest.raises(SolverError) as error:
        find_argmin(cost, program.w0, strict=True, **options)
    assert error.value.solution.status == SolveStatus.MAX_ITER


def test_a_cost_that_is_not_finite_beyond_the_constraints_is_no_trouble():
    # log w is NaN for w < 0, where full steps lead.
    found = find_argmin(
        lambda w: w.sum(-1) - 1e-3 * w.log().sum(-1), torch.full((2,), 5.0, dtype=F64), ineq=lambda w: 1e-4 - w
    )
    torch.testing.assert_close(found.w, torch.full((2,), 1e-3, dtype=F64), atol=X_NONLINEAR, rtol=0)


def ball(w):
    return w.square().sum(-1, keepdim=True) - 1


W0 = torch.zeros(2, 3, dtype=F64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_argmin(lambda w: w.sum(-1), W0, ineq=lambda w: w.sum(-1)), r"ineq\(w\): expected a value"),
        (lambda: find_argmin(lambda w: w.sum(-1), W0, eq=lambda w: [w]), r"eq\(w\): expected a tensor, got list"),
        (lambda: find_argmin(lambda w: w.sum(), W0, eq=ball), r"f\(w\): expected a value of shape \(2,\)"),
        (lambda: find_argmin(lambda w: w.sum(-1), W0, eq=3), r"eq: expected a function or a module, got int"),
        (lambda: find_argmin(lambda w: w.sum(-1), W0, eq=ball, differentiate=Unrolled()), r"differentiate: expected"),
        (lambda: find_argmin(lambda w: w.sum(-1), W0, solver=SQP()), r"solver: expected LBFGS or"),
        (lambda: SQP(max_iter=0), r"max_iter: expected a positive integer, got 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call()


def test_a_captured_tensor_is_an_error():
    radius = torch.ones((), dtype=F64, requires_grad=True)
    with pytest.raises(ProblemError, match=r"ineq: .*captures a tensor that requires grad"):
        find_argmin(lambda w: w.sum(-1), W0, ineq=lambda w: w.square().sum(-1, keepdim=True) - radius)


# --- forms of input -------------------------------------------------------------------------------------


def test_unknowns_may_be_a_structure(generator):
    target = {"a": randn(generator, 3, 2), "b": randn(generator, 3, 2, 2)}

    def cost(w, t):
        return sum(0.5 * (w[k] - t[k]).square().flatten(1).sum(-1) for k in w)

    def balanced(w, t):
        return (w["a"].sum(-1) - w["b"].sum((-2, -1))).unsqueeze(-1)

    start = {k: torch.zeros_like(v) for k, v in target.items()}
    found = find_argmin(cost, start, target, eq=balanced)
    gap = target["a"].sum(-1) - target["b"].sum((-2, -1))  # spread over the six entries
    torch.testing.assert_close(found.w["a"], target["a"] - gap[:, None] / 6, atol=X_NONLINEAR, rtol=0)
    torch.testing.assert_close(found.w["b"], target["b"] + gap[:, None, None] / 6, atol=X_NONLINEAR, rtol=0)
    assert found.z is None
    assert found.y.shape == (3, 1)


class Ball(nn.Module):
    """|w|² <= radius², with a radius to learn."""

    def __init__(self):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(0.5, dtype=F64))

    def forward(self, w, x):
        return w.square().sum(-1, keepdim=True) - self.radius**2


def test_constraints_may_be_modules_whose_parameters_learn(generator):
    layer = ArgminLayer(lambda w, x: 0.5 * (w - x).square().sum(-1), ineq=Ball())
    layer = pickle.loads(pickle.dumps(copy.deepcopy(layer.ineq))) and layer
    x = 2 + randn(generator, 3, 2).abs()
    radius = torch.tensor(0.5, dtype=F64, requires_grad=True)
    ours, closed = layer(torch.zeros(3, 2, dtype=F64), x), projections.project_l2_ball(x, radius)
    torch.testing.assert_close(ours, closed, atol=X_NONLINEAR, rtol=0)
    ours.sum().backward()
    closed.sum().backward()
    torch.testing.assert_close(layer.ineq.radius.grad, radius.grad, atol=X_NONLINEAR, rtol=0)


def test_its_gradients_can_be_checked_as_those_of_any_layer():
    layer = ArgminLayer(lambda w, x: 0.5 * (w - x).square().sum(-1), ineq=Ball())
    x = torch.tensor([[2.0, 1.0], [0.1, 0.2]], dtype=F64)
    report = check_gradients(layer, (torch.zeros(2, 2, dtype=F64), x))
    assert report.ok, str(report)
    assert "unrolled" in report.unavailable


def test_float32_stays_float32_and_a_batch_of_zero_is_empty():
    x = torch.tensor([[3.0, 4.0]])

    def solve(x):
        return find_argmin(
            lambda w, x: 0.5 * (w - x).square().sum(-1), torch.zeros_like(x), x,
            ineq=lambda w, x: w.square().sum(-1, keepdim=True) - 1,
        )  # fmt: skip

    found = solve(x)
    assert found.w.dtype == torch.float32
    assert found.status == SolveStatus.SOLVED
    torch.testing.assert_close(found.w, torch.tensor([[0.6, 0.8]]), atol=LOW_PRECISION, rtol=0)
    empty = solve(x[:0])
    assert empty.w.shape == (0, 2)
    assert empty.z.shape == (0, 1)
