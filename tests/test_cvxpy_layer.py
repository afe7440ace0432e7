"""cvxpy problems as layers: values against cvxpy, gradients against differences and cvxpylayers, failures, errors."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from tolerances import BATCH, CLOSED_FORM, CONE_GRADIENT, FD, FD_STEP, FLOAT32, GRADCHECK, PEER, X_REGULAR

from implicit_layers import CvxpyLayer, Implicit, InteriorPoint, ProblemError, SolverError, SolverWarning, cvxpy_program

cp = pytest.importorskip("cvxpy")


def drawn(*shape, seed=0, shift=0.0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__:DeprecationWarning",  # cvxpylayers hands torch's tensors to numpy in the old way
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
)


# --- problems: (problem, parameters, variables), and the parameters' values -------------------------


def nonnegative_least_squares():
    x, A, b = cp.Variable(4), cp.Parameter((6, 4)), cp.Parameter(6)
    return (cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0]), [A, b], [x]), (drawn(6, 4), drawn(6, seed=1))


def box_least_squares():
    x, A, b, lower, upper = cp.Variable(4), cp.Parameter((6, 4)), cp.Parameter(6), cp.Parameter(4), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [lower <= 2 * x, -x >= -upper])
    values = (drawn(6, 4), 3 * drawn(6, seed=1), -0.3 - drawn(4, seed=2).abs(), torch.tensor(0.2, dtype=torch.float64))
    return (problem, [A, b, lower, upper], [x]), values


def portfolio():
    x, F, mu = cp.Variable(4, nonneg=True), cp.Parameter((4, 3)), cp.Parameter(4)
    gain = mu @ x - cp.sum_squares(F.T @ x) - 0.1 * cp.sum_squares(x)
    return (cp.Problem(cp.Maximize(gain), [cp.sum(x) == 1]), [F, mu], [x]), (drawn(4, 3), drawn(4, seed=1))


def simplex():
    x, y = cp.Variable(5), cp.Parameter(5)
    return (cp.Problem(cp.Minimize(cp.sum_squares(x - y)), [x >= 0, cp.sum(x) == 1]), [y], [x]), (drawn(5),)


def total_variation():
    x, y, weight = cp.Variable(7), cp.Parameter(7), cp.Parameter(nonneg=True)
    cost = cp.sum_squares(x - y) + weight * cp.norm1(cp.diff(x))
    return (cp.Problem(cp.Minimize(cost)), [weight, y], [x]), (torch.tensor(0.6, dtype=torch.float64), drawn(7))


def robust_regression():
    x, A, b = cp.Variable(2), cp.Parameter((5, 2)), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(cp.norm1(A @ x - b) + cp.sum_squares(x)))
    return (problem, [b, A], [x]), (3 * drawn(5), drawn(5, 2, seed=1))


def all_rows():
    x, A, b, G, h = cp.Variable(4), cp.Parameter((2, 4)), cp.Parameter(2), cp.Parameter((3, 4)), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [A @ x == b, G @ x <= h, x[0] >= h[1] - 4])
    rows, above, inside = drawn(2, 4), drawn(3, 4, seed=1), drawn(4, seed=2)
    values = (rows, rows @ inside, above, above @ inside + 0.1)
    return (problem, [A, b, G, h], [x]), values


def matrices():
    X, M, r = cp.Variable((2, 3)), cp.Parameter((2, 3)), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - M)), [cp.sum(X, axis=1) == r, X >= -0.5, X[0, 1] == X[1, 2]])
    return (problem, [M, r], [X]), (drawn(2, 3), drawn(2, seed=1))


def several_variables():
    x, s, Y, a, M = cp.Variable(3), cp.Variable(), cp.Variable((2, 3)), cp.Parameter(), cp.Parameter((2, 3))
    cost = cp.sum_squares(Y - M) + cp.square(s - a) + cp.sum_squares(x) + cp.max(x)
    problem = cp.Problem(cp.Minimize(cost), [cp.sum(Y, axis=0) + x == a, s >= x[0]])
    return (problem, [a, M], [Y, s, x]), (torch.tensor(0.7, dtype=torch.float64), drawn(2, 3))


def linear_program():
    x, c, h = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    problem = cp.Problem(cp.Maximize(c @ x), [x >= 0, np.eye(3)[:2] @ x + 0.5 * x[2] <= h[:2], cp.sum(x) <= h[2]])
    return (problem, [c, h], [x]), tuple(torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0.7, 0.9], [1, 1.5, 2.2]))


def shaped():
    S, D = cp.Variable((2, 2), symmetric=True), cp.Variable((3, 3), diag=True)
    M, W = cp.Parameter((2, 2), symmetric=True), cp.Parameter((3, 3))
    cost = cp.sum_squares(S - M) + cp.sum_squares(D - W) + cp.square(S[0, 1] - W[1, 1])
    problem = cp.Problem(cp.Minimize(cost), [cp.trace(D) == 1, S <= 0.3])
    return (problem, [M, W], [D, S]), (drawn(2, 2) + drawn(2, 2).T, drawn(3, 3, seed=1))


PROBLEMS = [
    nonnegative_least_squares, box_least_squares, portfolio, simplex, total_variation, robust_regression, all_rows,
    matrices, several_variables, linear_program, shaped,
]  # fmt: skip


@pytest.fixture(params=["dense", "sparse"])
def form(request, monkeypatch):
    """Batches of dense matrices, and the sparse matrices that large problems have."""
    if request.param == "sparse":
        pytest.importorskip("qdldl")
        pytest.importorskip("qdldl")
        monkeypatch.setattr(cvxpy_program, "DENSE_UNKNOWNS", 0)
    return request.param


def by_cvxpy(problem, parameters, variables, values):
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value.detach().numpy()
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return [v.value.toarray() if hasattr(v.value, "toarray") else v.value for v in variables]


def batched(values, count=3):
    """The values, and others near them."""
    return [torch.stack([v * (1 + 0.03 * i) for i in range(count)]) for v in values]


def weighted(outputs):
    """Sum the outputs with weights, no two alike."""
    return sum((v * torch.arange(1, v.numel() + 1, dtype=v.dtype).sin().reshape(v.shape)).sum() for v in outputs)


def gradients(layer, values):
    values = [v.clone().requires_grad_() for v in values]
    weighted(layer(*values)).backward()
    return [torch.zeros_like(v) if v.grad is None else v.grad for v in values]


# --- values and gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", PROBLEMS)
def test_values_are_those_of_cvxpy(make, form):
    problem, values = make()
    layer = CvxpyLayer(*problem)
    assert layer.program is not None
    assert layer.program.sparse == (form == "sparse")
    for found, expected in zip(layer(*values), by_cvxpy(*problem, values), strict=True):
        assert found.shape == np.shape(expected)
        np.testing.assert_allclose(found.numpy(), expected, atol=PEER)


@pytest.mark.parametrize("make", PROBLEMS)
def test_gradients_are_those_of_finite_differences(make, form):
    problem, values = make()
    if make is shaped:  # as a function of what fills the symmetric parameter
        layer = CvxpyLayer(*problem)
        assert torch.autograd.gradcheck(
            lambda M, W: layer(M + M.mT, W), [v.requires_grad_() for v in values], **GRADCHECK
        )
    else:
        assert torch.autograd.gradcheck(CvxpyLayer(*problem), [v.requires_grad_() for v in values], **GRADCHECK)


@pytest.mark.parametrize("make", [make for make in PROBLEMS if make is not shaped])
def test_values_and_gradients_are_those_of_cvxpylayers(make):
    peer = pytest.importorskip("cvxpylayers.torch")
    (problem, parameters, variables), values = make()
    ours = CvxpyLayer(problem, parameters, variables)
    theirs = peer.CvxpyLayer(problem, parameters, variables, solver_args={"eps": 1e-10})
    for found, expected in zip(ours(*values), theirs(*values), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=PEER, rtol=0)
    for found, expected in zip(gradients(ours, values), gradients(theirs, values), strict=True):
        assert (found - expected).abs().max() <= CONE_GRADIENT * (1 + expected.abs().max())


def test_the_matrix_of_a_quadratic_form_may_be_a_parameter(form):
    x, Q, c = cp.Variable(3), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, Q) + c @ x), [cp.sum(x) == 1, x >= 0])
    try:
        layer = CvxpyLayer(problem, [c, Q], [x])
    except ProblemError:
        pytest.skip("this version of cvxpy takes no parameter there")
    L, values = drawn(3, 3), drawn(3, seed=1)
    found = layer(values, L @ L.mT)[0]
    np.testing.assert_allclose(found.numpy(), by_cvxpy(problem, [c, Q], [x], (values, L @ L.mT))[0], atol=PEER)
    inputs = values.requires_grad_(), L.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, L: layer(c, L @ L.mT), inputs, **GRADCHECK)


def test_a_quadratic_form_that_is_not_convex_fails_alone(form):
    x, Q, c = cp.Variable(2), cp.Parameter((2, 2), PSD=True), cp.Parameter(2)
    try:
        layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, Q) + c @ x)), [Q, c], [x])
    except ProblemError:
        pytest.skip("this version of cvxpy takes no parameter there")
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.warns(SolverWarning, match="1 of 2"):
        (found,) = layer(torch.stack([eye, -eye]), 2 * torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found[0], -torch.ones(2, dtype=torch.float64), atol=CLOSED_FORM, rtol=0)


def test_projection_to_the_simplex_has_its_closed_form():
    (problem, *leaves), _ = simplex()
    y = torch.tensor([0.5, 1.2, -0.3, 0.9, -1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.65, 0.0, 0.35, 0.0], dtype=torch.float64)
    torch.testing.assert_close(CvxpyLayer(problem, *leaves)(y)[0], expected, atol=CLOSED_FORM, rtol=0)


def test_a_large_problem_is_sparse_and_right():
    pytest.importorskip("qdldl")
    x, y, weight = cp.Variable(250), cp.Parameter(250), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + weight * cp.norm1(cp.diff(x))))
    layer = CvxpyLayer(problem, [y, weight], [x])
    assert layer.program.sparse
    signal = torch.linspace(0, 12, 250, dtype=torch.float64).sin().sign() + 0.1 * drawn(250)
    values = torch.stack([signal, -2 * signal]), torch.tensor([0.4, 0.7], dtype=torch.float64)
    found = layer(*values)[0]
    for i in range(2):
        (expected,) = by_cvxpy(problem, [y, weight], [x], [v[i] for v in values])
        np.testing.assert_allclose(found[i].numpy(), expected, atol=PEER)
    direction = [drawn(*v.shape, seed=i) for i, v in enumerate(values)]
    change = [weighted(layer(*(v + s * FD_STEP * d for v, d in zip(values, direction, strict=True)))) for s in (1, -1)]
    slope = sum((g * d).sum() for g, d in zip(gradients(layer, values), direction, strict=True))
    torch.testing.assert_close(slope, (change[0] - change[1]) / (2 * FD_STEP), atol=FD, rtol=FD)


# --- shapes, batches, types -------------------------------------------------------------------------


@pytest.mark.parametrize("make", PROBLEMS)
def test_a_batch_is_its_elements_one_by_one(make, form):
    problem, values = make()
    layer, batch = CvxpyLayer(*problem), batched(values)
    one_by_one = [layer(*element) for element in zip(*batch, strict=True)]
    for found, alone in zip(layer(*batch), zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(alone), atol=BATCH, rtol=BATCH)


@pytest.mark.parametrize("make", PROBLEMS)
def test_a_parameter_without_a_batch_is_shared_and_gets_the_sum_of_the_gradients(make, form):
    problem, values = make()
    layer, last = CvxpyLayer(*problem), batched(values)[-1]
    copies = [v.expand(3, *v.shape) for v in values[:-1]]
    found, expected = (gradients(layer, [*v, last]) for v in (values[:-1], copies))
    for shared, each in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(shared, each.sum(0), atol=X_REGULAR, rtol=X_REGULAR)
    torch.testing.assert_close(found[-1], expected[-1], atol=X_REGULAR, rtol=X_REGULAR)


def test_batch_dimensions_broadcast():
    problem, (A, b) = nonnegative_least_squares()
    layer = CvxpyLayer(*problem)
    many = layer(A.expand(2, 1, 6, 4), torch.stack([b, 2 * b, -b]))[0]
    assert many.shape == (2, 3, 4)
    torch.testing.assert_close(many[1, 2], layer(A, -b)[0], atol=BATCH, rtol=0)
    assert layer(A, b.expand(0, 6))[0].shape == (0, 4)
    x, constant = cp.Variable(2), cp.Parameter()  # which is in the optimal value alone
    (same,) = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x) + constant)), [constant], [x])(torch.ones(3))
    assert same.shape == (3, 2)


def test_matrices_that_depend_on_no_batched_parameter_are_shared(form):
    problem, (A, b) = nonnegative_least_squares()
    program = CvxpyLayer(*problem).program
    data = program([A.reshape(-1), b.expand(5, 6)])
    core = 1 if form == "sparse" else 2
    assert data.P.ndim == data.A.ndim == core
    assert data.b.shape == (5, 6)


def test_rows_of_one_unknown_are_bounds():
    problem, values = box_least_squares()
    data = CvxpyLayer(*problem).program([v.reshape(-1) for v in values])
    assert data.G is None
    assert data.lb.isfinite().sum() == data.ub.isfinite().sum() == 4
    # Of two bounds on the same side the second one stays a row; so does one whose coefficient is a parameter.
    x, a = cp.Variable(2), cp.Parameter()
    twice = cp.Problem(cp.Minimize(cp.sum_squares(x - 3)), [x <= a, x[0] <= 1, a * x[1] <= 4])
    layer = CvxpyLayer(twice, [a], [x])
    assert layer.program([torch.full((1,), 2.0, dtype=torch.float64)]).G.shape[0] == 2
    torch.testing.assert_close(layer(torch.tensor(2.0))[0], torch.tensor([1.0, 2.0]))


def test_float32_comes_in_and_goes_out():
    problem, values = portfolio()
    layer, single = CvxpyLayer(*problem), [v.float() for v in values]
    found = layer(*single)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), layer(*(v.double() for v in single))[0], atol=FLOAT32, rtol=0)
    assert all(g.dtype == torch.float32 for g in gradients(layer, single))


def test_a_cast_of_the_module_leaves_the_constants_of_the_problem_alone():
    problem, values = portfolio()
    layer = CvxpyLayer(*problem)
    cast = torch.nn.Sequential(copy.deepcopy(layer)).float()[0]
    assert torch.equal(cast(*values)[0], layer(*values)[0])
    assert torch.equal(pickle.loads(pickle.dumps(layer))(*values)[0], layer(*values)[0])
    assert not layer.state_dict()
    assert not list(layer.parameters())


def test_a_problem_without_parameters_is_a_constant():
    x = cp.Variable(2)
    (found,) = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x[0] <= 0.5]), [], [x])()
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0]))


def test_transforms_go_through():
    problem, (A, b) = nonnegative_least_squares()
    layer, many = CvxpyLayer(*problem), torch.stack([b, 2 * b, -b])

    def solve(A, b):
        return layer(A, b)[0]

    reverse, forward = (f(solve)(A, b) for f in (torch.func.jacrev, torch.func.jacfwd))
    torch.testing.assert_close(reverse, forward, atol=X_REGULAR, rtol=X_REGULAR)
    torch.testing.assert_close(torch.func.vmap(solve, (None, 0))(A, many), solve(A, many), atol=BATCH, rtol=0)
    assert torch.autograd.gradgradcheck(solve, (A.requires_grad_(), b.requires_grad_()))


def test_the_options_are_those_of_solve_qp():
    problem, values = nonnegative_least_squares()
    exact = gradients(CvxpyLayer(*problem, solver=InteriorPoint(eps_abs=1e-11)), values)
    smoothed = gradients(CvxpyLayer(*problem, differentiate=Implicit(gradient="smoothed", smoothing=1e-2)), values)
    assert (exact[1] - smoothed[1]).abs().max() > X_REGULAR
    assert torch.equal(CvxpyLayer(*problem)(*values, solver_args={"eps": 1e-8})[0], CvxpyLayer(*problem)(*values)[0])


# --- failures ---------------------------------------------------------------------------------------


def infeasible_in_the_middle():
    problem, (A, b, G, h) = all_rows()
    G, h = (torch.stack([v, v, v]) for v in (G, h))
    G[1, 0], h[1, 0] = 0, -1  # 0 <= -1
    return problem, (A, b, G, h)


def test_an_infeasible_element_has_no_gradient_and_leaves_the_others_alone(form):
    problem, values = infeasible_in_the_middle()
    layer = CvxpyLayer(*problem)
    with pytest.warns(SolverWarning, match="1 of 3") as caught:
        found = gradients(layer, values)
    assert len(caught) == 1
    alone = gradients(layer, (*values[:2], values[2][:1], values[3][:1]))
    assert all(g.isfinite().all() for g in found)
    for gradient, expected in zip(found[2:], alone[2:], strict=True):
        assert not gradient[1].any()
        torch.testing.assert_close(gradient[0], expected[0], atol=X_REGULAR, rtol=X_REGULAR)


def test_strict_raises_instead(form):
    problem, values = infeasible_in_the_middle()
    with pytest.raises(SolverError, match="1 of 3"):
        CvxpyLayer(*problem, strict=True)(*values)


def test_an_element_that_is_not_a_number_is_that_element_alone(form):
    problem, (A, b) = nonnegative_least_squares()
    many = torch.stack([b, b, b])
    many[1, 2] = torch.nan
    with pytest.warns(SolverWarning):
        (found,) = CvxpyLayer(*problem)(A, many)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[::2], CvxpyLayer(*problem)(A, many[::2])[0], atol=BATCH, rtol=0)


# --- other cones ------------------------------------------------------------------------------------


def second_order_cone():
    x, c = cp.Variable(3), cp.Parameter(3)
    return cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= 1]), [c], [x]


def test_a_second_order_cone_program_goes_to_cvxpylayers():
    pytest.importorskip("cvxpylayers")
    layer = CvxpyLayer(*second_order_cone())
    assert layer.program is None
    c = drawn(2, 2, 3).float().requires_grad_()
    (x,) = layer(c, solver_args={"eps": 1e-9})
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, -c / c.norm(dim=-1, keepdim=True), atol=PEER, rtol=0)
    (x * torch.arange(3)).sum().backward()
    expected = torch.autograd.functional.jacobian(lambda c: (-c / c.norm() * torch.arange(3)).sum(), c[0, 1].detach())
    torch.testing.assert_close(c.grad[0, 1], expected, atol=PEER, rtol=CONE_GRADIENT)
    assert layer(c[0, 0])[0].shape == (3,)


def test_multipliers_and_named_solvers_go_to_cvxpylayers():
    pytest.importorskip("cvxpylayers")
    (problem, parameters, variables), values = simplex()
    dual = problem.constraints[1].dual_variables[0]
    layer = CvxpyLayer(problem, parameters, [*variables, dual])
    assert layer.program is None
    x, _ = layer(*values, solver_args={"eps": 1e-10})
    torch.testing.assert_close(x, CvxpyLayer(problem, parameters, variables)(*values)[0], atol=PEER, rtol=0)
    assert CvxpyLayer(problem, parameters, variables, solver="DIFFCP").program is None


# --- errors -----------------------------------------------------------------------------------------


def test_errors_of_the_problem_say_what_was_expected():
    x, y, a, b = cp.Variable(2, name="x"), cp.Variable(2, name="y"), cp.Parameter(name="a"), cp.Parameter(2, name="b")
    good = cp.Problem(cp.Minimize(cp.sum_squares(x - b) + a * x[0]))
    whole = cp.Variable(2, integer=True)
    cases = [
        (("problem", [], []), r"problem: expected a cvxpy.Problem, got str"),
        ((good, [a, b], x), r"variables: expected a list of cvxpy.Variable"),
        ((good, [a, x], [x]), r"parameters: expected a list of cvxpy.Parameter"),
        ((good, [a], [x]), r"parameters: expected all of the problem's, each once: b, a; got a"),
        ((good, [a, b, b], [x]), r"parameters: expected all .* got a, b, b"),
        ((good, [a, b], [y]), r"variables: expected some of the problem's: x; got also y"),
        ((cp.Problem(cp.Minimize(cp.sum_squares(x - a * b))), [a, b], [x]), r"is_dpp\(\).*computed in torch"),
        ((cp.Problem(cp.Minimize(cp.sqrt(x[0]))), [], [x]), r"expected a convex problem"),
        ((cp.Problem(cp.Minimize(cp.sum_squares(whole - b))), [b], [whole]), r"expected continuous variables"),
    ]
    for arguments, message in cases:
        with pytest.raises(ProblemError, match=message):
            CvxpyLayer(*arguments)
    for option in ({"solver": 3}, {"differentiate": "exact"}):
        with pytest.raises(ProblemError, match=f"{next(iter(option))}: expected"):
            CvxpyLayer(good, [a, b], [x], **option)
    with pytest.raises(ProblemError, match="solver: expected None, because this goes to cvxpylayers"):
        CvxpyLayer(*second_order_cone(), solver=InteriorPoint())


def test_errors_of_the_call_say_what_was_expected():
    x, a, b = cp.Variable(2), cp.Parameter(name="a"), cp.Parameter(2, name="b")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - b) + a * x[0])), [a, b], [x])
    one, two = torch.ones(()), torch.ones(2)
    cases = [
        ((one,), r"tensors: expected one for each of the 2 parameters a, b, got 1"),
        ((1.0, two), r"a: expected a torch.Tensor, got float"),
        ((one, two.double()), r"b: expected a floating dtype, the same for all parameters, got torch.float64"),
        ((one, two.to("meta")), r"b: expected a tensor on cpu as the layer, got meta"),
        ((one, torch.ones(3)), r"b: expected shape \(\*batch, 2\), got \(3,\)"),
        ((torch.ones(3), torch.ones(4, 2)), r"b: expected batch dimensions that broadcast with \(3,\), got \(4,\)"),
    ]
    for tensors, message in cases:
        with pytest.raises(ProblemError, match=message):
            layer(*tensors)


def test_missing_packages_are_named(monkeypatch):
    cones = second_order_cone()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cvxpylayers.torch", None)
        assert CvxpyLayer(*simplex()[0]).program is not None
        with pytest.raises(ImportError, match=r"cvxpylayers.*pip install 'implicit-layers\[cvxpy\]'"):
            CvxpyLayer(*cones)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r"needs cvxpy .*pip install 'implicit-layers\[cvxpy\]'"):
        CvxpyLayer(*cones)


def test_the_toolkit_does_not_import_cvxpy():
    code = "import sys, implicit_layers; sys.exit('cvxpy' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
