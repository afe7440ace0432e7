"""The theorem on general conditions: every transform, any order, pytrees, modules, captures, failures."""

from __future__ import annotations

import copy
import pickle

import oracles
import pytest
import tolerances as tol
import torch
import torch.utils.checkpoint
from conditions import F64, Cell, affine, affine_solution, cell, contraction, leaves, logistic, randn
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from implicit_layers import (
    CG,
    GMRES,
    LBFGS,
    Anderson,
    ArgminLayer,
    Broyden,
    DenseLU,
    FixedPointLayer,
    GradientDescent,
    Implicit,
    Neumann,
    Newton,
    OneStep,
    Picard,
    ProblemError,
    RootLayer,
    SolverWarning,
    SolveStatus,
    Unrolled,
    check_gradients,
    find_argmin,
    find_fixed_point,
    find_root,
    projections,
    solve_qp,
)

# torch itself warns when forward mode loads its decompositions
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture
def problem(generator):
    """W, x of a smooth contraction: 4 elements of 3 unknowns."""
    return contraction(generator, 3), randn(generator, 4, 3)


def fixed(W, x, solver=Picard(), **options):  # noqa: B008 - frozen
    options["solver"] = solver
    return find_fixed_point(cell, torch.zeros_like(x), W, x, **options).w


def root(W, x, **options):
    return find_root(lambda w, W, x: w - cell(w, W, x), torch.zeros_like(x), W, x, **options).w


def argmin(X, weight, **options):
    return find_argmin(logistic, X.new_zeros(*X.shape[:-2], X.shape[-1]), X, weight, **options).w


def close(got, expected, tolerance=tol.ROOT_GRADIENT):
    assert oracles.relative_error(got, expected) <= tolerance


# --- gradcheck: every rule, first and second order, reverse and forward -----------------------------

EXACT = {
    "dense": Implicit(),
    "GMRES": Implicit(linear=GMRES()),
    "Neumann": Implicit(linear=Neumann()),
    "unrolled to convergence": Unrolled(),
    "unrolled": Unrolled(iterations=5),
}


@pytest.mark.parametrize("rule", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("function", [fixed, root], ids=["fixed point", "root"])
def test_gradcheck_and_gradgradcheck_of_every_rule(function, rule, problem):
    def solve(W, x):
        return function(W, x, differentiate=rule)

    inputs = leaves(*problem)
    assert gradcheck(solve, inputs, fast_mode=True, check_forward_ad=True, **tol.GRADCHECK)
    assert gradgradcheck(solve, inputs, fast_mode=True, check_fwd_over_rev=True, **tol.GRADGRADCHECK)


@pytest.mark.parametrize("rule", [Implicit(), Implicit(linear=CG()), Unrolled(iterations=3)], ids=str)
def test_gradcheck_and_gradgradcheck_of_arg_mins(rule, generator):
    def solve(X, weight):
        solver = GradientDescent(step_length=0.3) if isinstance(rule, Unrolled) else Newton()
        return argmin(X, weight, solver=solver, differentiate=rule)

    inputs = leaves(randn(generator, 1, 4, 2), torch.tensor(0.7, dtype=F64))
    assert gradcheck(solve, inputs, fast_mode=True, check_forward_ad=True, **tol.GRADCHECK)
    assert gradgradcheck(solve, inputs, fast_mode=True, check_fwd_over_rev=True, **tol.GRADGRADCHECK)


@pytest.mark.parametrize(
    ("function", "solver"),
    [(fixed, Anderson()), (fixed, Broyden()), (root, Newton()), (root, Newton(linear=GMRES())), (root, Broyden())],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_every_root_finder_can_be_unrolled(function, solver, problem):
    def solve(W, x):
        return function(W, x, solver=solver, differentiate=Unrolled(iterations=3))

    assert gradcheck(solve, leaves(*problem), fast_mode=True, **tol.GRADCHECK)


@pytest.mark.parametrize("solver", [LBFGS(), GradientDescent(step_length=0.1), Newton()], ids=str)
def test_every_minimiser_can_be_unrolled(solver, generator):
    def solve(X, weight):
        return argmin(X, weight, solver=solver, differentiate=Unrolled(iterations=4))

    inputs = leaves(randn(generator, 2, 5, 3), torch.tensor(0.7, dtype=F64))
    assert gradcheck(solve, inputs, fast_mode=True, **tol.GRADCHECK)


# --- the rules beside each other --------------------------------------------------------------------


def test_implicit_and_unrolled_agree_with_the_closed_form(generator):
    W, x = leaves(contraction(generator, 3), randn(generator, 4, 3))
    v = randn(generator, 4, 3)
    expected = torch.autograd.grad((v * affine_solution(W, x)).sum(), (W, x))
    for rule in EXACT.values():
        if rule == Unrolled(iterations=5):
            continue
        w = find_fixed_point(affine, torch.zeros_like(x), W, x, solver=Picard(), differentiate=rule).w
        for got, exact in zip(torch.autograd.grad((v * w).sum(), (W, x)), expected, strict=True):
            close(got, exact)


def test_one_step_of_picard_is_the_jacobian_free_gradient(problem, generator):
    W, x = leaves(*problem)
    v = randn(generator, 4, 3)
    w = fixed(W, x).detach()
    expected = torch.autograd.grad((v * cell(w, W, x)).sum(), (W, x))
    one = fixed(W, x, solver=Picard(), differentiate=OneStep())
    close(one, w, tol.ROOT)
    for got, jacobian_free in zip(torch.autograd.grad((v * one).sum(), (W, x)), expected, strict=True):
        close(got, jacobian_free)


@pytest.mark.parametrize("function", [fixed, root], ids=["fixed point", "root"])
def test_one_step_of_newton_is_exact_to_first_order(function, problem):
    def solve(W, x):
        return function(W, x, solver=Newton(), differentiate=OneStep())

    assert gradcheck(solve, leaves(*problem), fast_mode=True, **tol.GRADCHECK)


def test_a_truncated_series_is_the_sum_of_its_terms(generator):
    W, x = contraction(generator, 3), *leaves(randn(generator, 4, 3))
    rule = Implicit(linear=Neumann(terms=3))
    w = find_fixed_point(affine, torch.zeros_like(x), W, x, differentiate=rule).w
    v = randn(generator, 4, 3)
    (got,) = torch.autograd.grad((v * w).sum(), x)
    close(got, v + v @ W + v @ W @ W)


# --- transforms -------------------------------------------------------------------------------------


def test_jacobians_agree_forward_and_reverse(problem):
    for function in (fixed, root):
        forward, reverse = (t(function, argnums=(0, 1))(*problem) for t in (torch.func.jacfwd, torch.func.jacrev))
        for f, r in zip(forward, reverse, strict=True):
            close(f, r)


def test_the_jacobian_of_a_linear_fixed_point_is_the_inverse(generator):
    W, x = contraction(generator, 3), randn(generator, 3)

    def solve(x):
        return find_fixed_point(affine, torch.zeros_like(x), W, x).w

    close(torch.func.jacrev(solve)(x), torch.linalg.inv(torch.eye(3, dtype=F64) - W))


def test_second_derivatives_agree_in_all_four_nestings_and_with_unrolling(problem):
    W, x = problem
    fwd, rev = torch.func.jacfwd, torch.func.jacrev

    def loss(W, **options):
        return fixed(W, x, **options).pow(3).sum()

    expected = rev(rev(loss))(W)
    for outer, inner in ((fwd, rev), (rev, fwd), (fwd, fwd)):
        close(outer(inner(loss))(W), expected)
    close(torch.func.hessian(lambda W: loss(W, differentiate=Unrolled()))(W), expected, 10 * tol.ROOT_GRADIENT)


def test_third_derivatives_are_the_slope_of_the_second(problem, generator):
    W, x = problem
    direction = randn(generator, 3, 3)

    def hessian(W):
        return torch.func.hessian(lambda W: fixed(W, x).pow(3).sum())(W)

    third = torch.func.jvp(hessian, (W,), (direction,))[1]
    step = tol.FD_STEP * direction
    close(third, (hessian(W + step) - hessian(W - step)) / (2 * tol.FD_STEP), tol.FD)


@pytest.mark.parametrize("rule", [Implicit(), Unrolled(), Unrolled(iterations=4), OneStep()], ids=str)
def test_vmap_equals_the_batch(rule, problem):
    W, x = problem
    solver = Picard()
    mapped = torch.func.vmap(lambda x: fixed(W, x, differentiate=rule, solver=solver))(x)
    close(mapped, fixed(W, x, differentiate=rule, solver=solver), tol.LOOP)


def test_vmap_nests_over_shared_and_batched_parameters(problem):
    W, x = problem
    many = torch.stack([W, 0.5 * W])
    vmap = torch.func.vmap
    nested = vmap(vmap(fixed, in_dims=(None, 0)), in_dims=(0, None))(many, x)
    close(nested, torch.stack([fixed(M, x) for M in many]), tol.LOOP)
    close(vmap(fixed, in_dims=(0, None))(many, x), nested, tol.LOOP)


def test_vmap_of_grad_gives_the_gradient_of_each_element(problem):
    W, x = problem
    each = torch.func.vmap(torch.func.grad(lambda W, x: fixed(W, x).sum()), in_dims=(None, 0))(W, x)
    close(each.sum(0), torch.func.grad(lambda W: fixed(W, x).sum())(W))


def test_arg_mins_have_hessians(generator):
    X, weight = randn(generator, 2, 5, 3), torch.tensor(0.7, dtype=F64)

    def loss(X):
        return argmin(X, weight).square().sum()

    close(torch.func.hessian(loss)(X), torch.func.jacrev(torch.func.jacrev(loss))(X))
    mapped = torch.func.vmap(lambda X: argmin(X, weight))(X)
    close(mapped, argmin(X, weight), tol.ROOT_GRADIENT)


def test_dual_numbers_carry_the_tangent(problem):
    W, x = problem
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(fixed(W, dual)).tangent
    close(tangent, torch.func.jvp(lambda x: fixed(W, x), (x,), (torch.ones_like(x),))[1])


def test_nothing_is_recorded_where_no_gradient_can_be_asked(problem):
    W, x = leaves(*problem)
    with torch.no_grad():
        assert not fixed(W, x).requires_grad
    with torch.inference_mode():
        close(fixed(W, x, solver=Newton()), fixed(*problem))
        assert argmin(torch.ones(2, 3, 2, dtype=F64), 1.0).shape == (2, 2)
    assert not fixed(*problem).requires_grad


def test_the_gradient_of_shared_data_is_summed(problem):
    W, x = problem
    shared, repeated = leaves(W)[0], leaves(W.expand(4, 3, 3))[0]
    torch.autograd.backward(fixed(shared, x).sum())
    find_fixed_point(
        lambda z, W, x: torch.tanh((W @ z.unsqueeze(-1)).squeeze(-1) + x), 0 * x, repeated, x
    ).w.sum().backward()
    close(shared.grad, repeated.grad.sum(0))


def test_implicit_memory_does_not_grow_with_the_iterations(problem):
    W, x = problem

    def saved(steps):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            solver = Picard(max_iter=steps, eps_abs=0.5)
            fixed(*leaves(W, x), solver=solver if steps < 50 else Picard(eps_abs=1e-12, eps_rel=0.0))
        return sum(kept)

    assert saved(40) == saved(1000)


# --- pytrees, modules, dtypes -----------------------------------------------------------------------


def test_unknowns_and_parameters_may_be_pytrees(generator):
    W, x = contraction(generator, 5), randn(generator, 4, 5)

    def structured(w, data):
        joined = cell(torch.cat([w["a"], w["b"][0].flatten(1)], -1), data["W"], data["x"][0])
        assert data["note"] == "passed on"
        return {"a": joined[:, :1], "b": (joined[:, 1:].reshape(4, 2, 2),)}

    W, x = leaves(W, x)
    w0 = {"a": torch.zeros(4, 1, dtype=F64), "b": (torch.zeros(4, 2, 2, dtype=F64),)}
    solution = find_fixed_point(structured, w0, {"W": W, "x": [x, None], "note": "passed on"})
    flat = find_fixed_point(cell, torch.zeros(4, 5, dtype=F64), W, x)
    assert solution.status.shape == (4,)
    got = torch.cat([solution.w["a"], solution.w["b"][0].flatten(1)], -1)
    close(got, flat.w, tol.LOOP)
    for a, b in zip(torch.autograd.grad(got.sum(), (W, x)), torch.autograd.grad(flat.w.sum(), (W, x)), strict=True):
        close(a, b)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_a_function_may_work_in_place_on_the_unknowns(grad):
    start, a = torch.zeros(2, 1, dtype=F64), torch.tensor([0.5], dtype=F64, requires_grad=grad)
    found = [  # all of them 2 a
        find_root(lambda w, a: w.mul_(0.5).sub_(a), start, a).w,
        find_fixed_point(lambda w, a: w.mul_(0.5).add_(a), start, a).w,
        find_argmin(lambda w, a: w.sub_(2 * a).square().sum(-1), start, a).w,
        find_argmin(lambda w, a: w.sub_(2 * a).square().sum(-1), start, a, ineq=lambda w, a: w.sub_(2)).w,
    ]
    for w in found:
        close(w, torch.ones_like(w))
        if grad:
            (slope,) = torch.autograd.grad(w.sum(), a)
            close(slope, torch.full_like(a, 4.0))
    assert (start == 0).all()


def test_batch_dims_say_what_is_one_element(problem):
    W, x = problem
    whole = find_fixed_point(cell, torch.zeros_like(x), W, x, batch_dims=0)
    assert whole.status.shape == ()
    close(whole.w, fixed(W, x), tol.ROOT)
    nested = find_fixed_point(cell, torch.zeros(2, 2, 3, dtype=F64), W, x.reshape(2, 2, 3))
    assert nested.status.shape == (2, 2)
    scalars = find_root(
        lambda w, a: w**2 - a, torch.ones(3, dtype=F64), torch.tensor([1.0, 4.0, 9.0]).double(), batch_dims=1
    )
    assert scalars.status.shape == (3,)
    close(scalars.w, torch.tensor([1.0, 2.0, 3.0], dtype=F64))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 0), ()])
def test_empty_batches_no_batch_no_unknowns_scalars(shape):
    a = torch.full(shape, 4.0, dtype=F64, requires_grad=True)
    solution = find_root(lambda w, a: w**2 - a, torch.ones(shape, dtype=F64), a)
    assert solution.w.shape == shape
    close(solution.w, torch.full(shape, 2.0, dtype=F64))
    solution.w.sum().backward()
    close(a.grad, torch.full(shape, 0.25, dtype=F64))


def test_float32_stays_float32(problem):
    W, x = leaves(*(v.float() for v in problem))
    for rule in (Implicit(), Implicit(linear=GMRES()), Unrolled()):
        w = fixed(W, x, differentiate=rule)
        gradient = torch.autograd.grad(w.sum(), W)[0]
        assert w.dtype == gradient.dtype == torch.float32
        exact = torch.func.grad(lambda W: fixed(W, problem[1]).sum())(problem[0])
        assert (gradient - exact).abs().max() <= tol.ROOT_FLOAT32


@pytest.mark.parametrize("how", ["module", "method", "argument"])
def test_the_parameters_of_a_module_get_gradients(how, generator):
    net, x = Cell(3), randn(generator, 4, 3)
    z0 = torch.zeros_like(x)
    if how == "module":
        w, f = find_fixed_point(net, z0, x).w, net
    elif how == "method":
        w, f = find_fixed_point(net.other, z0, x).w, net.other
    else:

        def f(z, x):
            return net(z, x)

        weight, bias = net.linear.weight, net.linear.bias
        w = find_fixed_point(lambda z, W, b, x: torch.tanh(z @ W.mT + b + x), z0, weight, bias, x).w
    w.sum().backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    z = z0
    for _ in range(60):
        z = f(z, x)
    z.sum().backward()
    for a, p in zip(got, net.parameters(), strict=True):
        close(a, p.grad)


class Owner(nn.Module):
    """A module that solves with its own method and a layer of its own."""

    def __init__(self):
        super().__init__()
        self.layer = FixedPointLayer(Cell(3), differentiate=Implicit(linear=GMRES()))

    def forward(self, x):
        return self.layer(torch.zeros_like(x), x)


class Tied(nn.Module):
    """A cell with one submodule of two names, and one parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.linear = Cell(3), nn.Linear(3, 3, dtype=F64)
        self.again = self.cell
        self.linear.weight = self.cell.linear.weight

    def forward(self, z, x):
        return 0.5 * self.again(z, x) + 0.1 * self.linear(z)


def test_tied_parameters_get_the_sum_and_stay_what_they_are(generator):
    module, x = Tied(), randn(generator, 4, 3)
    before = dict(module.named_parameters(remove_duplicate=False))
    layer = FixedPointLayer(module)
    layer(torch.zeros_like(x), x).sum().backward()
    after = dict(module.named_parameters(remove_duplicate=False))
    assert all(after[name] is p for name, p in before.items())
    weight = module.cell.linear.weight
    assert module.linear.weight is weight
    unrolled = FixedPointLayer(module, solver=Picard(eps_abs=1e-14), differentiate=Unrolled())
    (expected,) = torch.autograd.grad(unrolled(torch.zeros_like(x), x).sum(), weight)
    close(weight.grad, expected)
    assert check_gradients(layer, (torch.zeros_like(x), x)).ok


def test_layers_copy_pickle_and_learn(generator):
    x = randn(generator, 4, 3)
    owner = Owner()
    assert {name for name, _ in owner.named_parameters()} == {"layer.f.linear.weight", "layer.f.linear.bias"}
    for again in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
        assert torch.equal(again(x), owner(x))
    owner(x).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in owner.parameters())
    assert "GMRES" in repr(owner)
    close(RootLayer(lambda w, a: w**2 - a)(torch.ones(2, 1, dtype=F64), torch.full((2, 1), 9.0, dtype=F64)),
          torch.full((2, 1), 3.0, dtype=F64))  # fmt: skip
    minimum = ArgminLayer(lambda w, a: (w - a).square().sum(-1))(torch.zeros_like(x), x)
    close(minimum, x, tol.ROOT)


def test_autocast_does_not_lower_the_precision(generator):
    layer = FixedPointLayer(Cell(3).float())
    x = randn(generator, 4, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(torch.zeros_like(x), x)
        assert layer(torch.zeros_like(x), x.bfloat16()).dtype == torch.float32
    assert torch.equal(inside, layer(torch.zeros_like(x), x))


# --- captures ---------------------------------------------------------------------------------------

CAPTURES = {
    "a leaf": lambda W, x: find_fixed_point(lambda z: cell(z, W.clone().requires_grad_(), x), 0 * x),
    "grad": lambda W, x: torch.func.grad(lambda W: find_fixed_point(lambda z: cell(z, W, x), 0 * x).w.sum())(W),
    "jvp": lambda W, x: torch.func.jvp(lambda W: find_fixed_point(lambda z: cell(z, W, x), 0 * x).w, (W,), (W,)),
    "vmap": lambda W, x: torch.func.vmap(lambda x: find_fixed_point(lambda z, W: cell(z, W, x), 0 * x, W).w)(x),
    "vmap over w too": lambda W, x: torch.func.vmap(
        lambda x: torch.func.vmap(lambda z: find_fixed_point(lambda z: cell(z, W, x), z).w)(torch.zeros(2, 3).double())
    )(x),
    "the outer of two grads": lambda W, x: torch.func.grad(
        lambda W: torch.func.grad(lambda x: find_fixed_point(lambda z, x: cell(z, W, x), 0 * x, x).w.sum())(x).sum()
    )(W),
    "the outer of two jvps": lambda W, x: torch.func.jvp(
        lambda W: torch.func.jvp(lambda x: find_fixed_point(lambda z, x: cell(z, W, x), 0 * x, x).w, (x,), (x,))[1],
        (W,),
        (W,),
    ),
    "a cost": lambda W, x: find_argmin(lambda w: (w - W.clone().requires_grad_()).square().sum(-1), 0 * W),
    "a module in a closure": lambda W, x: (lambda net: find_fixed_point(lambda z, x: net(z, x), 0 * x, x))(Cell(3)),
}


@pytest.mark.parametrize("solve", CAPTURES.values(), ids=CAPTURES)
def test_a_captured_tensor_that_somebody_differentiates_is_an_error(solve, problem):
    with pytest.raises(ProblemError, match=r"captures a tensor that requires grad.*pass that tensor"):
        solve(*problem)


def test_a_captured_dual_number_is_an_error(problem):
    W, x = problem
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(W, W)
        with pytest.raises(ProblemError, match="captures a tensor"):
            find_fixed_point(lambda z: cell(z, dual, x), torch.zeros_like(x))


def test_captured_constants_are_welcome_and_so_is_everything_where_nobody_differentiates(problem):
    W, x = problem
    close(find_fixed_point(lambda z: cell(z, W, x), torch.zeros_like(x)).w, fixed(W, x), tol.ROOT)
    W.requires_grad_()
    with torch.no_grad():
        close(find_fixed_point(lambda z: cell(z, W, x), torch.zeros_like(x)).w, fixed(W, x), tol.ROOT)


# --- values that do not fit -------------------------------------------------------------------------

W0 = torch.zeros(2, 3)
MISFITS = {
    "shape": (
        lambda: find_root(lambda w: w[:1], W0),
        r"f\(w\): expected a value of shape \(2, 3\) like w0, got \(1, 3\)",
    ),
    "dtype": (lambda: find_root(lambda w: w.double(), W0), r"f\(w\): expected a value of torch.float32 on cpu like w0"),
    "device": (lambda: find_root(lambda w: w.to("meta"), W0), r"f\(w\): .* on cpu like w0, got torch.float32 on meta"),
    "number": (lambda: find_root(lambda w: 1.0, W0), r"f\(w\): expected a value like w0, a tensor, got float"),
    "structure": (lambda: find_root(lambda w: (w, w), W0), r"f\(w\): expected a value structured like w0"),
    "a leaf": (
        lambda: find_root(lambda w: {"a": w["a"], "b": w["a"]}, {"a": W0, "b": W0[:, :1]}),
        r"f\(w\)\['b'\]: expected a value of shape \(2, 1\) like w0\['b'\], got \(2, 3\)",
    ),
    "cost": (
        lambda: find_argmin(lambda w: w.sum(), W0),
        r"f\(w\): expected a value of shape \(2,\) like the batch of w0",
    ),
    "not a function": (lambda: find_root(W0, W0), "f: expected a function or a module, got Tensor"),
    "integer w0": (lambda: find_root(lambda w: w, W0.long()), "w0: expected a floating-point tensor, got torch.int64"),
    "no w0": (lambda: find_root(lambda w: w, ()), "w0: expected a tensor or a structure of tensors"),
    "mixed w0": (
        lambda: find_root(lambda w: w, [W0, W0.double()]),
        r"w0\[1\]: expected torch.float32 on cpu like w0\[0\]",
    ),
    "batch of w0": (lambda: find_root(lambda w: w, [W0, W0[:1]]), r"w0\[1\]: expected leading batch dimensions \(2,\)"),
    "batch_dims": (lambda: find_root(lambda w: w, W0, batch_dims=3), "batch_dims: expected an integer between 0 and 2"),
    "linear": (lambda: Implicit(linear="dense"), "linear: expected a LinearSolver"),
    "one step": (
        lambda: find_root(lambda w: w, W0, solver=Broyden(), differentiate=OneStep()),
        "OneStep needs a solver",
    ),
}


@pytest.mark.parametrize(("solve", "message"), MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_what_does_not_fit_is_named(solve, message, grad):
    with torch.set_grad_enabled(grad), pytest.raises(ProblemError, match=message):
        solve()


# --- failures carry no gradient ---------------------------------------------------------------------

ALL_RULES = [Implicit(), Implicit(linear=GMRES()), Unrolled(), OneStep()]


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_a_nan_element_neither_has_a_gradient_nor_harms_a_shared_one(rule, problem):
    W, x = problem
    healthy = [0, 2, 3]
    clean = leaves(W, x[healthy])
    fixed(*clean, solver=Picard(), differentiate=rule).sum().backward()
    poisoned = x.clone()
    poisoned[1, 2] = torch.nan
    W, poisoned = leaves(W, poisoned)
    with pytest.warns(SolverWarning, match="1 INVALID_INPUT"):
        w = fixed(W, poisoned, solver=Picard(), differentiate=rule)
    w.sum().backward()
    assert w[1].isnan().all()
    close(W.grad, clean[0].grad, tol.LOOP)
    close(poisoned.grad[healthy], clean[1].grad, tol.LOOP)
    assert (poisoned.grad[1] == 0).all()


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_an_element_that_diverges_has_zero_gradient_and_harms_nobody(rule):
    a = torch.tensor([[0.5], [3.0], [0.25]], dtype=F64, requires_grad=True)
    shared = torch.ones((), dtype=F64, requires_grad=True)
    with pytest.warns(SolverWarning, match="1 of 3"):
        solution = find_fixed_point(
            lambda w, a, s: a * w + s, torch.zeros(3, 1, dtype=F64), a, shared, solver=Picard(), differentiate=rule
        )
    solution.w.sum().backward()
    assert a.grad[1] == 0
    exact = 1.0 + 1.0 if rule == OneStep() else 2.0 + 4 / 3
    assert abs(float(shared.grad) - exact) <= tol.ROOT_GRADIENT


def test_second_derivatives_are_not_harmed_by_a_nan_element(problem):
    W, x = problem
    poisoned = x.clone()
    poisoned[1] = torch.nan

    def loss(W, x):
        return fixed(W, x).nan_to_num().pow(2).sum()

    with pytest.warns(SolverWarning):
        got = torch.func.hessian(loss)(W, poisoned)
    close(got, torch.func.hessian(loss)(W, x[[0, 2, 3]]))


@pytest.mark.parametrize("rule", ALL_RULES, ids=str)
def test_a_copy_that_vmap_makes_and_that_fails_harms_no_other(rule, problem):
    W, x = problem
    healthy = [0, 2, 3]
    clean = leaves(W, x[healthy])
    fixed(*clean, differentiate=rule).sum().backward()
    W, poisoned = leaves(W, x.index_fill(0, torch.tensor(1), torch.nan))
    with pytest.warns(SolverWarning, match="1 INVALID_INPUT"):
        w = torch.func.vmap(lambda x: fixed(W, x, differentiate=rule))(poisoned)
    w[healthy].sum().backward()
    close(W.grad, clean[0].grad)
    close(poisoned.grad[healthy], clean[1].grad)
    assert (poisoned.grad[1] == 0).all()


def log_root(a, s, M, rule):
    """w with Mw = s log a: a negative entry of a is finite, but nothing that follows from it."""
    return find_root(lambda w, a, s, M: w @ M.mT - s * a.log(), torch.zeros_like(a), a, s, M, differentiate=rule).w


def log_minimum(a, s, M, rule):
    def cost(w, a, s, M):
        return (w @ M.mT - s * a.log()).square().sum(-1)

    return find_argmin(cost, torch.zeros_like(a), a, s, M, solver=Newton(), differentiate=rule).w


def log_constrained(a, s, M, rule):
    def cost(w, a, s, M):
        return (w @ M.mT - s * a.log()).square().sum(-1)

    return find_argmin(cost, torch.zeros_like(a), a, s, M, ineq=lambda w, a, s, M: w - 10, differentiate=rule).w


@pytest.mark.parametrize(
    ("solution", "rule"),
    [*((log_root, r) for r in ALL_RULES), *((log_minimum, r) for r in (Implicit(), Unrolled())),
     (log_constrained, Implicit())],
)  # fmt: skip
def test_an_element_whose_finite_data_give_nan_harms_nobody(solution, rule, generator):
    a = 1 + torch.rand(3, 3, generator=generator, dtype=F64)
    bad, healthy = a.clone(), [0, 2]
    bad[1, 1] = -1.0
    s = torch.tensor(0.5, dtype=F64)
    M = 2 * torch.eye(3, dtype=F64) + contraction(generator, 3)  # shared, though it looks as batched as a
    clean, found = leaves(a[healthy], s, M), leaves(bad, s, M)
    solution(*clean, rule).sum().backward()
    with pytest.warns(SolverWarning, match="1 INVALID_INPUT"):
        w = solution(*found, rule)
    w[healthy].sum().backward()
    close(found[0].grad[healthy], clean[0].grad)
    assert (found[0].grad[1] == 0).all()
    close(found[1].grad, clean[1].grad)
    close(found[2].grad, clean[2].grad)


def test_where_everything_fails_the_gradient_is_zero():
    a = torch.full((2, 1), torch.nan, dtype=F64, requires_grad=True)
    shared = torch.ones((), dtype=F64, requires_grad=True)
    with pytest.warns(SolverWarning, match="2 of 2"):
        w = find_root(lambda w, a, s: w - a * s, torch.zeros(2, 1, dtype=F64), a, shared).w
    w.sum().backward()
    assert (a.grad == 0).all()
    assert shared.grad == 0


@pytest.mark.parametrize("linear", [DenseLU(), GMRES(), CG(), Neumann(), Neumann(terms=5)], ids=str)
def test_a_singular_jacobian_at_the_solution_warns_and_gives_zero(linear):
    # w'C = c has no unique solution where C is singular: element 0 of two.
    C = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.9, 0.0], [0.0, 0.8]]], dtype=F64, requires_grad=True)
    w0 = torch.ones(2, 2, dtype=F64)
    c = (w0.unsqueeze(-2) @ C.detach()).squeeze(-2)
    w = find_root(lambda w, C: (w.unsqueeze(-2) @ C).squeeze(-2) - c, w0, C, differentiate=Implicit(linear=linear)).w
    with pytest.warns(SolverWarning, match=r"1 of 2 linear systems not solved.*first: element 0.*set to zero"):
        w[:, 0].sum().backward()
    assert (C.grad[0] == 0).all()
    assert C.grad[1].abs().max() > 0.1


@pytest.mark.parametrize("rule", [OneStep(), Unrolled()], ids=str)
def test_a_newton_step_at_a_singular_jacobian_warns_and_gives_zero(rule):
    C = torch.ones(1, 2, 2, dtype=F64, requires_grad=True)
    w0 = torch.ones(1, 2, dtype=F64)

    def first_unknown(C):
        return find_root(lambda w, C: (w.unsqueeze(-2) @ C).squeeze(-2) - 2, w0, C, differentiate=rule).w[:, 0].sum()

    with pytest.warns(SolverWarning, match="linear systems not solved"):
        (gradient,) = torch.autograd.grad(first_unknown(C), C)
    assert (gradient == 0).all()


def test_unrolled_newton_knows_the_derivative_also_where_it_starts_at_the_solution():
    a = torch.tensor([[4.0], [9.0]], dtype=F64, requires_grad=True)
    w0 = torch.tensor([[2.0], [1.0]], dtype=F64)  # the second meets its root exactly in one halved step
    find_root(lambda w, a: w**2 - a, w0, a, differentiate=Unrolled()).w.sum().backward()
    close(a.grad, torch.tensor([[1 / 4], [1 / 6]], dtype=F64))


def test_a_linear_solver_that_stops_early_warns(problem):
    W, x = leaves(*problem)
    w = fixed(W, x, differentiate=Implicit(linear=GMRES(max_iter=1)))
    with pytest.warns(SolverWarning, match="4 of 4 linear systems not solved"):
        w.sum().backward()
    assert (W.grad == 0).all()
    (got,) = torch.autograd.grad(fixed(W, x, differentiate=Implicit(linear=GMRES(max_iter=2, tol=0.5))).sum(), W)
    assert got.abs().max() > 0  # what the caller calls good enough is passed on


def test_status_comes_out_under_transforms(problem):
    W, x = problem

    def status(x):
        return find_fixed_point(cell, torch.zeros_like(x), W, x).status

    assert (torch.func.vmap(status)(x) == SolveStatus.SOLVED).all()


# --- compositions -----------------------------------------------------------------------------------


class Equilibrium(nn.Module):
    """A module whose layer iterates a method of the module itself."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, dtype=F64)
        self.solve = FixedPointLayer(self.cell)

    def cell(self, z, x):
        return torch.tanh(0.3 * self.linear(z) + x)

    def forward(self, x):
        return self.solve(torch.zeros_like(x), x)


COMPILED = {
    "root": RootLayer(lambda w, a: w**3 + w - a),
    "fixed point": FixedPointLayer(lambda w, a: 0.5 * torch.tanh(w) + a),
    "arg-min": ArgminLayer(lambda w, a: (w - a).square().sum(-1)),
    "constrained": ArgminLayer(lambda w, a: (w - a).square().sum(-1), ineq=lambda w, a: w - 1),
    "Stiefel": lambda w, a: projections.project_stiefel(a + w),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of Dynamo
@pytest.mark.parametrize("layer", COMPILED.values(), ids=COMPILED)
def test_torch_compile_breaks_its_graph_around_a_layer(layer):
    def loss(a):
        return layer(torch.zeros(2, 1, dtype=F64), 2 * a).square().sum()

    a = torch.tensor([[2.0], [0.25]], dtype=F64, requires_grad=True)
    compiled = torch.compile(loss, backend="eager")
    got, expected = compiled(a), loss(a)
    assert got == expected
    assert torch.equal(*(torch.autograd.grad(v, a)[0] for v in (got, expected)))
    with torch.no_grad():
        assert compiled(a) == expected


def test_an_ensemble_of_modules_is_mapped_and_differentiated(generator):
    torch.manual_seed(0)
    x, members = randn(generator, 4, 3), [Equilibrium() for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(members)

    def loss(parameters):
        return torch.func.functional_call(members[0], parameters, (x,)).sum()

    gradients = torch.func.vmap(torch.func.grad(loss))(stacked)
    for i, member in enumerate(members):
        member(x).sum().backward()
        for name, parameter in member.named_parameters():
            close(gradients[name][i], parameter.grad)


def test_a_copied_module_iterates_its_own_parameters(generator):
    x, original = randn(generator, 4, 3), Equilibrium()
    copied = copy.deepcopy(original)
    with torch.no_grad():
        copied.linear.weight.zero_()
        copied.linear.bias.zero_()
    close(copied(x), torch.tanh(x))
    assert (original(x) - torch.tanh(x)).abs().max() > 0.01


def test_checkpointing_recomputes_the_layer(generator):
    x, model = leaves(randn(generator, 4, 3))[0], Equilibrium()
    (kept,) = torch.autograd.grad(model(x).sum(), x)
    again = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.sum(), x)[0], kept)


def inner_root(w, a):
    """u(w, a) with u³ + u = w + a."""
    return find_root(lambda u, w, a: u**3 + u - w - a, torch.zeros_like(w), w, a).w


def test_a_condition_may_hold_another_implicit_layer(generator):
    (a,) = leaves(randn(generator, 1, 2))

    def nested(a):
        return find_fixed_point(lambda w, a: 0.5 * inner_root(w, a), torch.zeros_like(a), a).w

    assert gradcheck(nested, a, fast_mode=True, check_forward_ad=True, **tol.GRADCHECK)

    def cost(w, a):
        return (inner_root(w, a) - 1).square().sum(-1) + 0.1 * w.square().sum(-1)

    def bilevel(a):
        return find_argmin(cost, torch.zeros_like(a), a, solver=Newton()).w

    assert gradgradcheck(bilevel, a, fast_mode=True, **tol.GRADGRADCHECK)


def test_a_condition_may_hold_a_quadratic_program(generator):
    P, bound = torch.eye(3, dtype=F64), torch.full((3,), -1.0, dtype=F64)

    def solve(q):
        return find_root(lambda w, q: w - 0.5 * solve_qp(P, q + 0.3 * w, lb=bound).x, torch.zeros_like(q), q).w

    assert gradcheck(solve, leaves(randn(generator, 2, 3)), fast_mode=True, **tol.GRADCHECK)
