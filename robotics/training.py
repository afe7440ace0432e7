"""Training: one loop for every model."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from robotics.checks import check_count, shown
from robotics.dataset import IKDataset
from robotics.files import StrPath
from robotics.models import MLP
from robotics.obstacles import Circles
from robotics.runs import COLUMNS, Model, save_checkpoint, save_run, write_metrics

_GRADIENT_NORM = 1.0  # a stretched arm makes the slope through a layer steep: one such target must not undo an epoch


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        epochs: Largest number of epochs; the learning rate falls to zero over them as a half cosine.
        batch_size: Targets for each step.
        learning_rate: Of Adam, at the start.
        patience: Epochs without a smaller validation loss before training stops.
        epoch_samples: Training targets of one epoch, drawn anew for each; None takes all.
        validation_samples: Validation targets, the first ones of the split; None takes all.
        seed: Seed of the order of the targets.
    """

    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 5e-3
    patience: int = 50
    epoch_samples: int | None = None
    validation_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least)
        for name in ("epoch_samples", "validation_samples"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate: expected a finite number > 0, found {shown(rate)}")


class Best:
    """The weights of the least validation loss so far; those at the start count as epoch 0.

    Attributes:
        epoch: When they were reached.
        loss: Their validation loss.
        weights: A copy of them, as `state_dict` names them.
    """

    def __init__(self, model: Model, loss: float) -> None:
        self._model = model
        self._keep(0, loss)

    def update(self, epoch: int, loss: float) -> bool:
        """Keep the model's weights if their loss is less than any before, and return whether it is."""
        less = loss < self.loss
        if less:
            self._keep(epoch, loss)
        return less

    def _keep(self, epoch: int, loss: float) -> None:
        self.epoch, self.loss = epoch, loss
        self.weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}


def fit(
    model: Model,
    dataset: IKDataset,
    circles: Circles,
    config: TrainingConfig,
    folder: StrPath | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a model on the training split; afterwards it holds the weights of the least validation loss.

    The weights at the start count too, so training never makes a model worse. The result depends on the
    weights at the start, the data and the configuration alone. Whatever ends the training (Ctrl-C too), the
    model holds the best weights so far, and the folder is a run that `load_run` reads.

    Args:
        model: Trained in place, on its own `loss`.
        dataset: The whole set; its splits train and validation are used.
        circles: Obstacles that the model is told of.
        config: How to train.
        folder: Where to write config.json, checkpoint.pt (after every improvement) and metrics.csv.
        progress: Whether to show a bar on stderr, if that is a terminal.

    Returns:
        One row for each epoch, with the keys of `COLUMNS`; losses as the model defines them, the
        training loss being the mean over the steps of the epoch.

    Raises:
        ValueError: If a split is empty, or the loss or its gradient does not stay finite.
        FileError: If the folder cannot be written.
    """
    train, validation = (_targets(dataset, name) for name in ("train", "validation"))
    validation = validation[: config.validation_samples]
    best = Best(model, _mean_loss(model, validation, circles, config.batch_size))
    rows: list[dict[str, float]] = []
    if folder is not None:
        save_run(folder, model, dataset, circles, asdict(config))
        write_metrics(folder, rows)

    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    bar = _bar(f"train {model.config()['model']}", config.epochs, progress)
    try:
        for epoch in bar:
            start = time.perf_counter()
            rate = optimizer.param_groups[0]["lr"]
            order = torch.randperm(len(train), generator=generator)[: config.epoch_samples]
            train_loss = _train_epoch(model, train[order], circles, config.batch_size, optimizer)
            schedule.step()
            val_loss = _mean_loss(model, validation, circles, config.batch_size)
            if best.update(epoch, val_loss) and folder is not None:
                save_checkpoint(folder, best.weights)
            values = (epoch, train_loss, val_loss, rate, time.perf_counter() - start)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            if folder is not None:
                write_metrics(folder, rows)
            bar.set_postfix(val_loss=f"{val_loss:.2e}", best=f"{best.loss:.2e}")
            if epoch - best.epoch >= config.patience:
                break
    finally:
        bar.close()
        model.load_state_dict(best.weights)
    return rows


def copy_network(model: Model, source: Model) -> None:
    """Give the network of `model` the weights of the network of `source`.

    Raises:
        ValueError: If the arms, the inputs, the heads or the sizes of the networks differ.
    """
    target, start = (each if isinstance(each, MLP) else each.network for each in (model, source))
    for name in ("arm", "heads", "inputs", "hidden", "kind"):
        missing = "none" if name == "heads" else None
        expected, found = getattr(target, name, missing), getattr(start, name, missing)
        if expected != found:
            called = "network" if name == "kind" else name
            raise ValueError(f"start: expected a run with {called} {expected}, found {found}")
    target.load_state_dict(start.state_dict())


def _targets(dataset: IKDataset, name: str) -> Tensor:
    targets = dataset.split(name).targets
    if not len(targets):
        raise ValueError(f"dataset: expected one or more targets in the split {name}, found none")
    return targets


def _bar(label: str, epochs: int, progress: bool) -> tqdm[int]:
    """Return the epochs, from 1, behind a bar on stderr."""
    quiet = None if progress else True  # None: where stderr is no terminal
    return tqdm(range(1, epochs + 1), desc=label, unit="epoch", file=sys.stderr, disable=quiet)


def _train_epoch(
    model: Model, targets: Tensor, circles: Circles, batch_size: int, optimizer: torch.optim.Optimizer
) -> float:
    """Take one step for every batch, in the order given, and return the mean loss."""
    total = 0.0
    for batch in targets.split(batch_size):
        optimizer.zero_grad()
        loss = model.loss(batch, circles)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        if not (loss.isfinite() and norm.isfinite()):
            raise ValueError(
                f"learning_rate: expected a loss and a gradient that stay finite, found {loss.item():.3g} and "
                f"{norm.item():.3g} at the rate {optimizer.param_groups[0]['lr']:.3g}"
            )
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(targets)


@torch.no_grad()
def _mean_loss(model: Model, targets: Tensor, circles: Circles, batch_size: int) -> float:
    return sum(model.loss(batch, circles).item() * len(batch) for batch in targets.split(batch_size)) / len(targets)
