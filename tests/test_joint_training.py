"""Duka's network as he trained it: Levenberg-Marquardt on joint angles, and what certified layers make of it."""

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from checker import np_points
from test_cli import refused, run
from torch.func import functional_call, jacrev

from robotics import Circles, DatasetConfig, PlanarArm, make_dataset
from robotics.joint_training import (
    OPTIMIZERS,
    JointTrainingConfig,
    _Part,
    fit_joints,
    nguyen_widrow,
    train_as_duka,
)
from robotics.models import MLP, MLPQP
from robotics.runs import COLUMNS, load_run, read_metrics

DUKA = PlanarArm.duka()
DATA = make_dataset(DatasetConfig(arm=DUKA, num_samples=200, inputs="xytheta"))
NO_CIRCLES = Circles.from_json({"circles": []})


def model(hidden=12, inputs="xytheta", seed=0):
    made = MLP(DUKA, inputs, hidden)
    nguyen_widrow(made, torch.Generator().manual_seed(seed))
    return made


def mean_square(network, part):
    """In half ranges of the limits, by hand."""
    lower, upper = np.array(DUKA.limits).T
    error = (network(part.targets).detach().numpy() - part.theta.numpy()) / ((upper - lower) / 2)
    return (error**2).mean()


@pytest.fixture(scope="module")
def duka():
    return train_as_duka(0, num_samples=400)


def test_the_jacobian_is_that_of_automatic_differentiation():
    network = model(5)
    part = _Part(network, DATA, "test")
    names = [name for name, _ in network.named_parameters()]

    def outputs(*values):
        state = {name.removeprefix("layers."): value for name, value in zip(names, values, strict=True)}
        return functional_call(network.layers, state, (part.inputs,)).flatten()

    slopes = jacrev(outputs, argnums=tuple(range(len(names))))(*network.parameters())
    expected = torch.cat([slope.flatten(1) for slope in slopes], -1)
    assert torch.allclose(part.jacobian(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_the_error_and_keeps_the_best_validation(optimizer):
    network = model()
    before = mean_square(network, DATA.split("validation"))
    rows = fit_joints(network, DATA, JointTrainingConfig(optimizer=optimizer, epochs=25))
    assert all(set(row) == set(COLUMNS) for row in rows)
    best = min(row["val_loss"] for row in rows)
    assert mean_square(network, DATA.split("validation")) == pytest.approx(best, rel=1e-10)
    assert best < 0.6 * before


def test_levenberg_marquardt_never_raises_the_training_error_and_stops_by_validation():
    network = model()
    rows = fit_joints(network, DATA, JointTrainingConfig())
    losses = [row["train_loss"] for row in rows]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert len(rows) < 200
    best = min(range(len(rows)), key=lambda i: rows[i]["val_loss"])
    assert len(rows) - 1 - best == 6


def test_a_network_that_already_fits_stops_at_once():
    network = model(3)
    data = dataclasses.replace(DATA, theta=network(DATA.targets).detach())
    before = [p.clone() for p in network.parameters()]
    assert len(fit_joints(network, data, JointTrainingConfig(patience=2))) <= 2
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(before, network.parameters(), strict=True))


def test_the_first_weights_spread_the_sigmoids_over_the_inputs():
    hidden = model(100).layers[0]
    steepness = hidden.weight.norm(dim=-1)
    assert torch.allclose(steepness, steepness[0].expand(100))
    offset = hidden.bias / steepness[0]
    assert offset.abs().max() == 1
    assert torch.allclose(offset.abs().sort().values[::2], torch.linspace(-1, 1, 100).double().abs().sort().values[::2])


def test_three_layers_after_dukas_network_track_a_circle_below_1e10_of_reach_and_four_to_round_off(duka):
    network, dataset = duka
    assert len(dataset) == 400
    turn = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)
    circle = torch.stack((2 + turn.cos(), 3 + turn.sin(), torch.full_like(turn, 0.2)), -1)

    def worst(theta):
        tip = np_points(DUKA.lengths, theta.detach().numpy())[:, -1]
        return np.linalg.norm(tip - circle[:, :2].numpy(), axis=-1).max() / DUKA.reach

    assert 1e-3 < worst(network(circle)) < 0.1
    assert worst(MLPQP(network, layers=3)(circle, NO_CIRCLES)) < 1e-9
    assert worst(MLPQP(network, layers=4)(circle, NO_CIRCLES)) < 1e-15


def test_positions_alone_average_their_many_answers_into_wrong_ones(duka):
    network, _ = train_as_duka(0, "xy", num_samples=400)
    errors = []
    for trained in (duka[0], network):
        targets = DUKA.pose(DUKA.sample(500, torch.Generator().manual_seed(9)))
        width = 3 if trained.inputs == "xytheta" else 2
        tip = np_points(DUKA.lengths, trained(targets[:, :width]).detach().numpy())[:, -1]
        errors.append(np.median(np.linalg.norm(tip - targets[:, :2].numpy(), axis=-1)) / DUKA.reach)
    assert errors[1] > 2 * errors[0]


def test_the_same_seed_gives_the_same_network():
    first, again = (train_as_duka(1, num_samples=40)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_folder_is_a_run(tmp_path):
    network = model()
    rows = fit_joints(network, DATA, JointTrainingConfig(epochs=3), tmp_path)
    loaded, config = load_run(tmp_path)
    assert config["training"]["optimizer"] == "levenberg-marquardt"
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    assert read_metrics(tmp_path) == rows


def test_the_command_trains_on_joints(tmp_path):
    run("dataset", "--inputs", "xytheta", "--num-samples", 60, "--out", tmp_path / "data")
    options = ("train", "--data", tmp_path / "data", "--hidden", 8, "--epochs", 5, "--out", tmp_path / "run")
    run(*options, "--joints", "levenberg-marquardt")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["optimizer"] == "levenberg-marquardt"
    assert "optimizer: expected one of" in refused(*options, "--joints", "sgd")
    assert "joints: expected the model mlp" in refused(*options, "--joints", "adam", "--model", "mlp-qp")


@pytest.mark.parametrize(("name", "value"), [("optimizer", "sgd"), ("epochs", 0), ("patience", True)])
def test_a_bad_configuration_names_its_field(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .* found {value!r}"):
        JointTrainingConfig(**{name: value})


def test_unit_vectors_have_no_joint_errors_and_empty_splits_are_named():
    with pytest.raises(ValueError, match=r"^model: expected a network with linear outputs"):
        fit_joints(MLP(DUKA, "xytheta", network="unit"), DATA, JointTrainingConfig())
    empty = make_dataset(DatasetConfig(arm=DUKA, num_samples=5, inputs="xytheta", fractions=(1, 0, 0)))
    with pytest.raises(ValueError, match=r"split validation, found none$"):
        fit_joints(model(), empty, JointTrainingConfig())
