"""solve_qp behaves like any other function of torch: every transform, every mode, copies, threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import oracles
import problems
import pytest
import tolerances as tol
import torch
from oracles import OUTPUTS
from problems import Problem, f64, known_optimum
from torch import nn

from implicit_layers import Implicit, InteriorPoint, OptNetLayer, QPLayer, Unrolled, solve_qp

# torch itself warns when forward mode loads its decompositions
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

ALL = Problem._fields


def close(got, expected, tolerance=tol.DENSE):
    assert oracles.relative_error(got, expected) <= tolerance


@pytest.fixture
def known(seed):
    """One regular problem with every argument, small enough for Jacobians."""
    return known_optimum(seed, n=4, m=3, p=1, bounds=1)


@pytest.fixture
def batch(seed):
    """Three such problems."""
    return known_optimum(seed, batch=(3,), n=4, m=3, p=1, bounds=1)


def x_of(*arguments):
    return solve_qp(*arguments).x


def outputs_of(*arguments):
    solution = solve_qp(*arguments)
    return tuple(getattr(solution, name) for name in OUTPUTS)


def dense_jacobian(known, argument: str, output: str = "x") -> torch.Tensor:
    """d output / d argument, one dense solve for each entry of the output."""
    size = getattr(known, output).numel()
    rows = []
    for row in torch.eye(size, dtype=torch.float64):
        cotangents = {name: torch.zeros_like(getattr(known, name)) for name in OUTPUTS} | {output: row}
        rows.append(oracles.active_set_gradient(known.problem, known, cotangents)[argument])
    return torch.stack(rows)


# --- torch.func, first order ----------------------------------------------------------------------


def test_func_grad_agrees_with_a_dense_solve(known):
    got = torch.func.grad(lambda *a: x_of(*a).sum(), argnums=tuple(range(8)))(*known.problem)
    for argument, value in zip(ALL, got, strict=True):
        close(value, dense_jacobian(known, argument).sum(0))


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("output", range(4), ids=OUTPUTS)
def test_jacobians_forward_and_reverse_agree_with_a_dense_solve(transform, output, known):
    got = transform(lambda *a: outputs_of(*a)[output], argnums=tuple(range(8)))(*known.problem)
    for argument, value in zip(ALL, got, strict=True):
        close(value, dense_jacobian(known, argument, OUTPUTS[output]))


def test_jvp_is_the_slope_along_its_direction_and_vjp_its_transpose(batch, generator):
    direction = problems.random_direction(batch.problem, generator)
    cotangents = {
        name: torch.randn(getattr(batch, name).shape, generator=generator, dtype=torch.float64) for name in OUTPUTS
    }
    values, tangents = torch.func.jvp(outputs_of, tuple(batch.problem), tuple(direction))
    slope = sum((cotangents[k] * t).sum(-1) for k, t in zip(OUTPUTS, tangents, strict=True))
    difference = oracles.finite_difference(solve_qp, batch.problem, direction, cotangents, tol.FD_STEP)
    close(slope, difference, tol.FD)
    close(values[0], batch.x, tol.X_REGULAR)
    _, pull_back = torch.func.vjp(outputs_of, *batch.problem)
    gradients = dict(zip(ALL, pull_back(tuple(cotangents.values())), strict=True))
    close(oracles.inner(gradients, direction), slope)


def test_dual_numbers_carry_the_tangent_of_a_subset_of_arguments(known, generator):
    direction = problems.random_direction(known.problem, generator)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(known.problem.h, direction.h)
        tangent = torch.autograd.forward_ad.unpack_dual(x_of(*known.problem._replace(h=dual))).tangent
    close(tangent, dense_jacobian(known, "h") @ direction.h)


@pytest.mark.parametrize("rule", ["least_squares", "smoothed"])
def test_forward_and_reverse_jacobians_agree_for_every_rule(rule, known):
    def function(q, h):
        P, _, G, _, *rest = known.problem
        return solve_qp(P, q, G, h, *rest, differentiate=Implicit(gradient=rule)).x

    arguments = (known.problem.q, known.problem.h)
    for forward, reverse in zip(
        torch.func.jacfwd(function, argnums=(0, 1))(*arguments),
        torch.func.jacrev(function, argnums=(0, 1))(*arguments),
        strict=True,
    ):
        close(forward, reverse)


# --- vmap -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mapped",
    [ALL, ("q",), ("P",), ("G", "h"), ("A", "b"), ("lb",), ("h", "ub"), ("P", "q", "G", "A")],
    ids="+".join,
)
def test_vmap_over_any_arguments_equals_broadcasting(mapped, batch):
    mixed = Problem(*(value if name in mapped else value[0] for name, value in batch.problem._asdict().items()))
    if set(mapped) != set(ALL):  # the pieces come from different problems: make room for all of them
        q = batch.problem.q if "q" in mapped else batch.problem.q[0]
        mixed = mixed._replace(q=q, h=mixed.h + 30, lb=mixed.lb - 30, ub=mixed.ub + 30)
    in_dims = tuple(0 if name in mapped else None for name in ALL)
    got, expected = torch.func.vmap(outputs_of, in_dims=in_dims)(*mixed), outputs_of(*mixed)
    for value, broadcast in zip(got, expected, strict=True):
        close(value, broadcast.expand_as(value), tol.BATCH)


def test_vmap_takes_its_dimension_from_anywhere(batch):
    P, q, G, h, A, b, lb, ub = batch.problem
    moved = (P.movedim(0, 2), q.mT, G.movedim(0, 1), h, A.movedim(0, -1), b.mT, lb, ub.mT)
    got = torch.func.vmap(x_of, in_dims=(2, 1, 1, 0, -1, 1, 0, -1), out_dims=1)(*moved)
    close(got.mT, batch.x, tol.X_REGULAR)


def test_vmap_nests_and_keeps_batch_dimensions_inside(seed):
    known = problems.regular("everything", seed, batch=(2, 3, 2))
    vmap = torch.func.vmap
    close(vmap(vmap(x_of))(*known.problem), known.x, tol.X_REGULAR)
    close(vmap(x_of, in_dims=1, out_dims=1)(*known.problem), known.x, tol.X_REGULAR)
    shared = known.problem._replace(P=known.problem.P[0, 0, 0])
    got = vmap(vmap(x_of, in_dims=(None, *[0] * 7)), in_dims=(None, *[0] * 7))(*shared)
    close(got, x_of(*shared), tol.BATCH)


def test_vmap_of_grad_gives_the_gradient_of_each_element(batch):
    got = torch.func.vmap(torch.func.grad(lambda *a: x_of(*a).sum(), argnums=(0, 1, 2)))(*batch.problem)
    ones = {name: torch.zeros_like(getattr(batch, name)) for name in OUTPUTS} | {"x": torch.ones_like(batch.x)}
    expected = oracles.active_set_gradient(batch.problem, batch, ones)
    for name, value in zip("PqG", got, strict=True):
        close(value, expected[name])


# --- higher orders --------------------------------------------------------------------------------


def test_hessian_is_the_slope_of_the_gradient_and_symmetric(known, generator):
    G, direction = (
        known.problem.G,
        torch.randn(known.problem.G.shape, generator=generator, dtype=torch.float64),
    )

    def loss(rows):
        return (solve_qp(*known.problem._replace(G=rows)).x ** 3).sum()

    hessian = torch.func.hessian(loss)(G).reshape(G.numel(), G.numel())
    gradient = torch.func.grad(loss)
    step = tol.FD_STEP * direction
    difference = (gradient(G + step) - gradient(G - step)) / (2 * tol.FD_STEP)
    close(hessian @ direction.flatten(), difference.flatten(), tol.FD)
    close(hessian, hessian.mT)
    close(torch.func.jacrev(torch.func.jacrev(loss))(G).reshape(hessian.shape), hessian)


@pytest.mark.parametrize("output", range(4), ids=OUTPUTS)
def test_gradgradcheck_of_every_output_over_all_arguments(output, known):
    leaves = tuple(problems.leaves(known.problem))
    assert torch.autograd.gradgradcheck(lambda *a: outputs_of(*a)[output], leaves, fast_mode=True, **tol.GRADGRADCHECK)


def test_gradgradcheck_entry_by_entry(seed):
    leaves = tuple(problems.leaves(known_optimum(seed, n=2, m=2, p=0).problem)[:4])
    assert torch.autograd.gradgradcheck(outputs_of, leaves, **tol.GRADGRADCHECK)


def test_gradcheck_holds_in_forward_mode(seed):
    leaves = tuple(problems.leaves(known_optimum(seed, n=3, m=2, p=1).problem)[:6])
    assert torch.autograd.gradcheck(outputs_of, leaves, check_forward_ad=True, **tol.GRADCHECK)


# --- torch.compile --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_without_a_graph_break_gives_the_same_solution_and_gradient(batch):
    def step(q, h):
        P, _, G, _, *rest = batch.problem
        return torch.sin(QPLayer()(P, 1.0 * q, G, h, *rest[:2], lb=rest[2], ub=rest[3])).sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        q, h = problems.leaves(batch.problem).q, problems.leaves(batch.problem).h
        loss = function(q, h)
        results.append([loss.detach(), *torch.autograd.grad(loss, [q, h])])
    for eager, traced in zip(*results, strict=True):
        close(traced, eager, tol.BATCH)


# --- modes ----------------------------------------------------------------------------------------


def test_nothing_is_saved_where_no_gradient_can_be_asked(known):
    def saved(problem):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            solution = solve_qp(*problem)
        return kept, solution.x.requires_grad

    leaves = problems.leaves(known.problem)
    with torch.no_grad():
        assert saved(leaves) == ([], False)
    assert saved(known.problem) == ([], False)
    kept, requires_grad = saved(leaves)
    assert kept
    assert requires_grad


def test_inference_mode_gives_the_same_answer(known):
    with torch.inference_mode():
        close(solve_qp(*known.problem).x, known.x, tol.X_REGULAR)


def test_the_default_dtype_is_of_no_influence(known):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        single = solve_qp(*problems.mapped(known.problem, lambda value: value.float())).x
    finally:
        torch.set_default_dtype(before)
    assert single.dtype == torch.float32
    assert torch.equal(solve_qp(*problems.mapped(known.problem, lambda value: value.float())).x, single)


def test_autocast_does_not_lower_the_precision_of_the_solve(known):
    single = problems.leaves(problems.mapped(known.problem, lambda value: value.float()))
    expected = solve_qp(*single).x
    (outside,) = torch.autograd.grad(expected.sum(), single.q)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = solve_qp(*single).x
    (inside,) = torch.autograd.grad(x.sum(), single.q)
    assert torch.equal(x, expected)
    assert torch.equal(inside, outside)


def test_a_qp_layer_behind_a_linear_layer_runs_under_autocast():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), OptNetLayer(4, 3))
    features = torch.linspace(-1, 1, 6).reshape(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = network(features)
    assert x.isfinite().all()
    close(x.float(), network(features), tol.BFLOAT16)
    x.float().sum().backward()
    assert network[0].weight.grad.abs().sum() > 0


# --- copies and threads ---------------------------------------------------------------------------

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copied_layer_gives_the_same_answer(copied, batch):
    P, q, G, h, A, b, lb, ub = batch.problem
    layer = QPLayer(solver=InteriorPoint(max_iter=60), differentiate=Implicit(gradient="least_squares"))
    layer(*batch.problem[:6], lb=lb, ub=ub)  # a used layer copies as well as a new one
    assert torch.equal(copied(layer)(P, q, G, h, A, b, lb=lb, ub=ub), layer(P, q, G, h, A, b, lb=lb, ub=ub))
    torch.manual_seed(0)
    optnet = OptNetLayer(4, 3, 1).double()
    assert torch.equal(copied(optnet)(q), optnet(q))
    assert not list(layer.parameters())


@pytest.mark.parametrize("option", [InteriorPoint(), Implicit(), Unrolled()], ids=lambda o: type(o).__name__)
def test_options_pickle_compare_and_hash(option):
    again = pickle.loads(pickle.dumps(option))
    assert again == option
    assert hash(again) == hash(option)


def test_one_layer_serves_several_threads(seed):
    layer, known = QPLayer(), problems.regular("everything", seed, batch=(6,))
    singles = oracles.unbatched(known.problem)

    def gradient(single):
        leaves = problems.leaves(single)
        layer(*leaves[:6], lb=leaves.lb, ub=leaves.ub).sum().backward()
        return leaves.q.grad

    with ThreadPoolExecutor(2) as pool:
        threaded = list(pool.map(gradient, singles))
    for got, single in zip(threaded, singles, strict=True):
        assert torch.equal(got, gradient(single))


# --- OptNetLayer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "p"), [(4, 6, 0), (4, 6, 2), (1, 1, 0), (3, 0, 1)])
def test_optnet_is_feasible_whatever_its_parameters(n, m, p, generator):
    layer = OptNetLayer(n, m, p).double()
    for _ in range(3):
        q = 10 * torch.randn(5, 2, n, generator=generator, dtype=torch.float64)
        x = layer(q)  # a failed element would warn, and a warning is an error here
        assert x.shape == q.shape
        assert x.isfinite().all()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def test_optnet_learns_every_parameter_and_passes_the_gradient_on(generator):
    torch.manual_seed(1)
    layer = OptNetLayer(3, 4, 1).double()
    q = (3 * torch.randn(6, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    layer(q).square().sum().backward()
    assert {"L", "G", "A"} <= {name for name, _ in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert layer.L.grad.abs().max() > 0
    assert torch.autograd.gradcheck(layer, (q[:2].detach().requires_grad_(),), **tol.GRADCHECK)


def test_optnet_keeps_the_dtype_and_an_unbatched_input():
    assert OptNetLayer(3, 2)(f64([1, 2, 3]).float()).dtype == torch.float32
    assert OptNetLayer(3, 2)(f64([1, 2, 3]).float()).shape == (3,)


def test_the_old_vmap_is_refused_with_the_way_that_works():
    q = f64([1.0, 2.0]).requires_grad_()
    P = torch.eye(2, dtype=torch.float64)
    x = solve_qp(P, q).x
    with pytest.raises(NotImplementedError, match=r"torch\.func\.jacrev"):
        torch.autograd.grad(x, q, P, is_grads_batched=True)
    torch.testing.assert_close(torch.func.jacrev(lambda q: solve_qp(P, q).x)(q.detach()), -P)
