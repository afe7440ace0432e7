"""Training on joint angles, as Duka (2014) did: the mean squared error of the angles, by Levenberg-Marquardt.

A position has many answers, and this loss averages them: with inputs (x, y) it is the wrong one, and here to show it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn

from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count
from robotics.dataset import IKDataset, make_dataset
from robotics.dataset_config import DatasetConfig
from robotics.files import StrPath
from robotics.models import MLP
from robotics.obstacles import Circles
from robotics.runs import COLUMNS, save_checkpoint, save_run, write_metrics
from robotics.training import Best

OPTIMIZERS = ("levenberg-marquardt", "lbfgs", "adam")
_DAMPING, _MOST_DAMPING = 1e-3, 1e10


@dataclass(frozen=True, kw_only=True)
class JointTrainingConfig:
    """How a network is trained on joint angles, with the whole training split at every step.

    Attributes:
        optimizer: "levenberg-marquardt", "lbfgs" or "adam".
        epochs: Largest number of steps (of L-BFGS: of twenty evaluations each).
        patience: Steps in a row without a smaller validation error before training stops.
        learning_rate: Of Adam.
    """

    optimizer: str = "levenberg-marquardt"
    epochs: int = 1000
    patience: int = 6
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("epochs", "patience"):
            check_count(name, getattr(self, name))


def fit_joints(
    model: MLP, dataset: IKDataset, config: JointTrainingConfig, folder: StrPath | None = None
) -> list[dict[str, float]]:
    """Train a network on the joint angles of a data set; afterwards it holds the weights of the least validation error.

    Args:
        model: A network with linear outputs, trained in place from the weights it has.
        dataset: The whole set; its splits train and validation are used.
        config: How to train.
        folder: Where to write a run, as `training.fit` does.

    Returns:
        One row for each step, with the keys of `COLUMNS`: losses in half ranges of the limits, squared; the rate is
        the damping of Levenberg-Marquardt.

    Raises:
        ValueError: If a split is empty, or the network's outputs are unit vectors.
    """
    if model.kind == "unit":
        raise ValueError("model: expected a network with linear outputs, found unit")
    train, validation = (_Part(model, dataset, name) for name in ("train", "validation"))
    best = Best(model, validation.loss().item())
    rows: list[dict[str, float]] = []
    if folder is not None:
        save_run(folder, model, dataset, Circles.from_json({"circles": dataset.config.circles}), asdict(config))
    step = _STEPS[config.optimizer](train, config)
    try:
        for epoch in range(1, config.epochs + 1):
            start = time.perf_counter()
            rate = step()
            if rate is None:
                break
            losses = train.loss().item(), validation.loss().item()
            rows.append(dict(zip(COLUMNS, (epoch, *losses, rate, time.perf_counter() - start), strict=True)))
            best.update(epoch, losses[1])
            if epoch - best.epoch >= config.patience:
                break
    finally:
        model.load_state_dict(best.weights)
        if folder is not None:
            save_checkpoint(folder, best.weights)
            write_metrics(folder, rows)
    return rows


def train_as_duka(seed: int, inputs: str = "xytheta", num_samples: int = 1000) -> tuple[MLP, IKDataset]:
    """Train the network of Duka (2014): 3-100-3 (2-100-3 for "xy"), his arm, so many uniform joint samples, 70/15/15.

    Weights start by Nguyen and Widrow's rule, as they did for him; training is by Levenberg-Marquardt, and stops when
    the validation error grows.

    Args:
        seed: Seed of the samples, the split and the first weights.
        inputs: "xytheta" or "xy".
        num_samples: Size of the set.

    References:
        Duka (2014), "Neural network based inverse kinematics solution for trajectory tracking of a robotic arm",
        doi 10.1016/j.protcy.2013.12.451. Nguyen and Widrow (1990, doi 10.1109/IJCNN.1990.137819).
    """
    config = DatasetConfig(arm=PlanarArm.duka(), num_samples=num_samples, inputs=inputs, seed=seed)  # type: ignore[arg-type]
    dataset, model = make_dataset(config), MLP(config.arm, inputs)
    nguyen_widrow(model, torch.Generator().manual_seed(seed))
    fit_joints(model, dataset, JointTrainingConfig())
    return model, dataset


@torch.no_grad()
def nguyen_widrow(model: MLP, generator: torch.Generator) -> None:
    """Spread the sigmoids of the hidden layer evenly over inputs in [-1, 1], at random directions."""
    hidden, output = _linear(model)
    width, num = hidden.weight.shape
    steepness = 2 * 0.7 * width ** (1 / num)  # a sigmoid bends over [-4, 4], twice the range of a hyperbolic tangent

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    directions = torch.nn.functional.normalize(uniform(width, num), dim=-1)
    hidden.weight.copy_(steepness * directions)
    hidden.bias.copy_(steepness * torch.linspace(-1, 1, width, dtype=torch.float64) * directions[:, 0].sign())
    output.weight.copy_(uniform(*output.weight.shape) / width)
    output.bias.copy_(uniform(*output.bias.shape) / width)


class _Part:
    """One split as residuals: outputs less joint angles, in half ranges from the middle of the limits."""

    def __init__(self, model: MLP, dataset: IKDataset, name: str) -> None:
        part = dataset.split(name)
        if not len(part):
            raise ValueError(f"dataset: expected one or more samples in the split {name}, found none")
        self.model, self.inputs = model, model.scaled(part.targets)
        lower, upper = model.arm.limits_tensor(part.theta)
        half = torch.where(upper > lower, (upper - lower) / 2, 1.0)
        self.outputs = (part.theta - (lower + upper) / 2) / half

    def residual(self) -> Tensor:
        outputs: Tensor = self.model.layers(self.inputs)
        return outputs - self.outputs

    def loss(self) -> Tensor:
        return self.residual().square().mean()

    @torch.no_grad()
    def jacobian(self) -> Tensor:
        """Return the derivative of all residuals by all parameters in their order, (N n, P)."""
        hidden, output = _linear(self.model)
        active = hidden(self.inputs).sigmoid()
        eye = torch.eye(output.weight.shape[0], dtype=active.dtype)
        by_hidden_bias = output.weight * (active * (1 - active))[:, None]
        by_hidden = by_hidden_bias[..., None] * self.inputs[:, None, None]
        by_output = eye[:, :, None] * active[:, None, None]
        by_output_bias = eye.expand(len(active), -1, -1)
        parts = (by_hidden.flatten(2), by_hidden_bias, by_output.flatten(2), by_output_bias)
        return torch.cat(parts, -1).flatten(0, 1)


def _levenberg_marquardt(part: _Part, config: JointTrainingConfig) -> Callable[[], float | None]:
    """Return a function that takes one step and returns its damping, or None if no damping lowers the loss."""
    parameters = list(part.model.parameters())
    damping = _DAMPING

    @torch.no_grad()
    def step() -> float | None:
        nonlocal damping
        jacobian, residual, before = part.jacobian(), part.residual().flatten(), part.loss()
        normal, slope = jacobian.T @ jacobian, jacobian.T @ residual
        start = torch.nn.utils.parameters_to_vector(parameters)
        eye = torch.eye(len(start), dtype=start.dtype)
        while damping <= _MOST_DAMPING:
            change = torch.linalg.solve(normal + damping * eye, slope)
            torch.nn.utils.vector_to_parameters(start - change, parameters)
            used = damping
            if part.loss() < before:
                damping = max(damping / 10, 1e-20)
                return used
            damping *= 10
        torch.nn.utils.vector_to_parameters(start, parameters)
        return None

    return step


def _gradient_steps(part: _Part, config: JointTrainingConfig) -> Callable[[], float | None]:
    parameters = list(part.model.parameters())
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    else:
        optimizer = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = part.loss()
        loss.backward()
        return loss

    def step() -> float | None:
        optimizer.step(closure)  # type: ignore[arg-type]
        return float(optimizer.param_groups[0]["lr"])

    return step


_STEPS = {"levenberg-marquardt": _levenberg_marquardt, "lbfgs": _gradient_steps, "adam": _gradient_steps}


def _linear(model: MLP) -> tuple[nn.Linear, nn.Linear]:
    hidden, _, output = model.layers
    return cast(nn.Linear, hidden), cast(nn.Linear, output)
