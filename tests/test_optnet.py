"""The one-shot model: a learned program in two builds, one network output, the same numbers."""

from __future__ import annotations

import sys

import pytest
import torch
from tolerances import FD, FD_STEP, TWO_BUILDS
from torch import nn

from robotics import Circles, DatasetConfig, PlanarArm, make_dataset
from robotics.models import BUILDS, MLP, IKStatus, OptNetIK, build_model
from robotics.models.optnet_cvxpy import _program, solve_by_cvxpylayers
from robotics.runs import load_run
from robotics.training import TrainingConfig, copy_network, fit

DUKA = PlanarArm.duka()
# cvxpylayers hands torch's tensors to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
NO_CIRCLES = Circles.from_json({"circles": []})
SIZES = [{}, {"rows": 0, "equations": 0}, {"rows": 3, "equations": 2}]


def targets_of(arm, count, inputs="xy", seed=0):
    theta = arm.sample(count, torch.Generator().manual_seed(seed))
    tip = arm.tip(theta)
    return tip if inputs == "xy" else torch.cat((tip, arm.orientation(theta)[:, None]), -1)


def built(name="optnet", arm=DUKA, inputs="xy", seed=0, scale=30.0, **sizes):
    """A model with all parameters moved away from their tidy start, so that rows of every kind are active."""
    torch.manual_seed(seed)
    model = build_model(arm, {"model": name, "inputs": inputs, "hidden": 8, **sizes})
    with torch.no_grad():
        for parameter in model.program.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.network.layers[-1].weight *= scale
    return model


def both(**options):
    pytest.importorskip("cvxpylayers")
    first, second = built("optnet", **options), built("optnet-cvxpy", **options)
    second.load_state_dict(first.state_dict())
    return first, second


def outputs_and_gradients(model, targets):
    targets = targets.clone().requires_grad_()
    model.zero_grad()
    theta = model(targets, NO_CIRCLES)
    weights = torch.sin(torch.arange(theta.numel(), dtype=theta.dtype)).reshape(theta.shape)
    (theta * weights).sum().backward()
    return theta.detach(), {"targets": targets.grad, **{name: p.grad for name, p in model.named_parameters()}}


# --- two builds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
def test_both_builds_have_the_same_outputs_and_gradients_in_every_parameter(sizes):
    first, second = both(inputs="xytheta", **sizes)
    targets = targets_of(DUKA, 6, "xytheta")
    (theta, expected), (other, found) = (outputs_and_gradients(model, targets) for model in (first, second))
    assert (theta - other).abs().max() < TWO_BUILDS
    assert expected.keys() == found.keys()
    learned = {"program.L", "program.G", "program.z0", "program.raw_s0"} | ({"program.A"} if first.equations else set())
    for name, gradient in expected.items():
        if gradient is not None and gradient.numel():
            assert float((gradient - found[name]).abs().max()) < TWO_BUILDS, name
    for name in learned | {"targets"}:
        assert float(expected[name].abs().max()) > 1e-3, name  # or nothing was compared
    assert first.build != second.build


def test_one_step_of_training_leads_both_builds_to_the_same_weights():
    first, second = both()
    targets = targets_of(DUKA, 6)
    before = {name: p.detach().clone() for name, p in first.named_parameters()}
    for model in (first, second):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.loss(targets, NO_CIRCLES).backward()
        optimizer.step()
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert float((mine - other).detach().abs().max()) < TWO_BUILDS, name
        assert not torch.equal(mine, before[name]), name


def test_a_shape_of_batch_is_kept_by_both_builds_and_an_empty_one_is_none():
    first, second = both()
    grid = targets_of(DUKA, 4).reshape(2, 2, 2)
    for targets in (grid, grid[0, 0], grid[:0]):
        one, two = first(targets), second(targets)
        assert one.shape == two.shape == (*targets.shape[:-1], 3)
        if one.numel():
            assert float((one - two).detach().abs().max()) < TWO_BUILDS


def test_the_network_output_is_a_parameter_of_the_problem_and_the_problem_is_disciplined():
    pytest.importorskip("cvxpylayers")  # which refuses what is not disciplined
    layer = built().program
    q = torch.randn(1, layer.n, dtype=torch.float64, requires_grad=True)
    solve_by_cvxpylayers(layer, q).sum().backward()
    assert float(q.grad.abs().max()) > 1e-3
    assert _program(layer.n, layer.m, layer.p) is _program(layer.n, layer.m, layer.p)


def test_a_missing_cvxpylayers_is_said_in_one_line_and_the_other_build_needs_none(monkeypatch):
    _program.cache_clear()
    monkeypatch.setitem(sys.modules, "cvxpylayers.torch", None)
    with pytest.raises(ImportError, match=r"cvxpylayers.*pip install 'implicit-layers\[cvxpy\]'"):
        built("optnet-cvxpy")(targets_of(DUKA, 1))
    assert built("optnet")(targets_of(DUKA, 1)).isfinite().all()


def test_both_builds_answer_alike_without_gradients_and_isolate_a_bad_target():
    first, second = both()
    targets = targets_of(DUKA, 4)
    targets[1] = torch.nan
    one, two = (model.answer(targets, NO_CIRCLES) for model in (first, second))
    assert one.status.tolist() == two.status.tolist()
    assert one.status[1] == IKStatus.INVALID_INPUT
    assert torch.allclose(one.theta, two.theta, rtol=0, atol=TWO_BUILDS, equal_nan=True)


# --- the model ------------------------------------------------------------------------------------


def test_gradients_of_the_learned_program_are_those_of_finite_differences():
    model, targets = built(), targets_of(DUKA, 5)
    _, gradients = outputs_and_gradients(model, targets)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for side in (1, -1):
            with torch.no_grad():
                parameter += side * FD_STEP * direction
                theta = model(targets)
                parameter -= side * FD_STEP * direction
            values.append(float((theta * torch.sin(torch.arange(15.0).double()).reshape(5, 3)).sum()))
        slope = float((gradients[name] * direction).sum())
        assert abs((values[0] - values[1]) / (2 * FD_STEP) - slope) < FD * max(1.0, abs(slope)), name


def test_the_program_is_feasible_whatever_its_parameters():
    model = built()
    with torch.no_grad():
        for parameter in model.program.parameters():
            parameter.copy_(5 * torch.randn_like(parameter))
        targets = targets_of(DUKA, 50)
        x = model.program(torch.randn(50, 4, dtype=torch.float64))
        program = model.program
        assert x.isfinite().all()
        assert ((program.G @ (x - program.z0).mT).T - program.s0 <= 1e-6).all()
        assert (program.A @ (x - program.z0).mT).abs().max() < 1e-6
        assert model(targets).isfinite().all()


def test_at_the_start_the_program_cuts_off_at_the_joint_limits():
    torch.manual_seed(0)
    model = OptNetIK(MLP(DUKA, "xy", 8), rows=0, equations=0)
    nn.init.normal_(model.network.layers[-1].weight, std=20.0)
    targets = targets_of(DUKA, 40)
    with torch.no_grad():
        assert DUKA.limit_violation(model(targets)).max() < 1e-7
        assert DUKA.limit_violation(model.network(targets)).max() > 1


def test_training_lowers_the_loss_and_a_run_loads_into_either_build(tmp_path):
    data = make_dataset(DatasetConfig(arm=DUKA, num_samples=200, seed=0))
    torch.manual_seed(0)
    model = build_model(DUKA, {"model": "optnet", "inputs": "xy", "hidden": 20})
    start = model.loss(data.targets, NO_CIRCLES).item()
    before = {name: p.detach().clone() for name, p in model.program.named_parameters()}
    config = TrainingConfig(epochs=30, batch_size=35, learning_rate=0.02)
    fit(model, data, NO_CIRCLES, config, tmp_path, progress=False)
    assert model.loss(data.targets, NO_CIRCLES).item() < 0.5 * start
    assert all(not torch.equal(p, before[name]) for name, p in model.program.named_parameters())
    loaded, _ = load_run(tmp_path)
    assert torch.equal(loaded(data.targets), model(data.targets))
    twin = build_model(DUKA, {**model.config(), "model": "optnet-cvxpy"})
    assert twin.load_state_dict(loaded.state_dict()).missing_keys == []
    copy_network(twin, loaded.network)
    assert twin.config() == {**model.config(), "model": "optnet-cvxpy"}


def test_one_bad_target_never_harms_its_neighbours():
    model, targets = built(), targets_of(DUKA, 6)
    expected = model.answer(targets, NO_CIRCLES)
    broken = targets.clone()
    broken[2] = torch.nan
    found = model.answer(broken, NO_CIRCLES)
    others = [0, 1, 3, 4, 5]
    assert (found.theta[others] - expected.theta[others]).abs().max() < 1e-9
    assert found.status[2] == IKStatus.INVALID_INPUT
    assert found.theta[2].isnan().all()
    assert len(model.answer(targets[:0], NO_CIRCLES).theta) == 0


def test_a_locked_joint_stays_where_it_is():
    arm = PlanarArm(lengths=(1.0, 1.0), limits=((0.3, 0.3), (-2.0, 2.0)))
    theta = built(arm=arm)(targets_of(arm, 4))
    assert torch.equal(theta[:, 0], torch.full((4,), 0.3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": -1}, "rows: expected an integer >= 0, found -1"),
        ({"equations": 1.5}, "equations: expected an integer >= 0, found 1.5"),
        ({"network": "unit"}, "network: expected one output for each joint"),
    ],
)
def test_what_is_wrong_in_a_config_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_model(DUKA, {"model": "optnet", "inputs": "xy", **change})
    with pytest.raises(ValueError, match="build: expected one of qp, cvxpylayers, found 'x'"):
        OptNetIK(MLP(DUKA), build="x")
    assert set(BUILDS) == {"optnet", "optnet-cvxpy"}
