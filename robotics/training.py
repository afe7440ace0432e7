"""Training: one loop for every model, and run folders that keep what it found."""

import csv
import importlib.metadata
import io
import math
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robotics.arm import PlanarArm, check_keys, shown
from robotics.dataset import IKDataset
from robotics.files import FileError, StrPath, read_json, write_bytes, write_csv, write_json
from robotics.models import MLP, MLPQP, build_model
from robotics.obstacles import Circles

Model = MLP | MLPQP
COLUMNS = ("epoch", "train_loss", "val_loss", "learning_rate", "seconds")
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

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 5e-3
    patience: int = 50
    epoch_samples: int | None = None
    validation_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            _check_integer(name, getattr(self, name), least)
        for name in ("epoch_samples", "validation_samples"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1)
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"learning_rate: expected a finite number > 0, found {shown(rate)}")


def fit(
    model: Model,
    dataset: IKDataset,
    circles: Circles,
    config: TrainingConfig,
    folder: StrPath | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a model on the training split; afterwards it holds the weights of the least validation loss.

    The weights at the start count too, so a trained model is never made worse. The result depends on
    the weights at the start, the data and the configuration alone. Whatever ends the training (Ctrl-C
    too), the model holds the best weights so far and the folder is a run that `load_run` reads.

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
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)

    best_epoch, best_loss, best_weights = 0, _mean_loss(model, validation, circles, config.batch_size), _weights(model)
    rows: list[dict[str, float]] = []
    if folder is not None:
        save_run(folder, model, dataset, circles, config)
        _write_metrics(folder, rows)
    bar = tqdm(
        range(1, config.epochs + 1),
        desc=f"train {model.config()['model']}",
        unit="epoch",
        file=sys.stderr,
        disable=None if progress else True,  # None: only where stderr is no terminal
    )
    try:
        for epoch in bar:
            start = time.perf_counter()
            order = torch.randperm(len(train), generator=generator)[: config.epoch_samples]
            rate = optimizer.param_groups[0]["lr"]
            train_loss = _train_epoch(model, train[order], circles, config.batch_size, optimizer)
            schedule.step()
            val_loss = _mean_loss(model, validation, circles, config.batch_size)
            if val_loss < best_loss:
                best_epoch, best_loss, best_weights = epoch, val_loss, _weights(model)
                if folder is not None:
                    _save_checkpoint(folder, best_weights)
            values = (epoch, train_loss, val_loss, rate, time.perf_counter() - start)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            if folder is not None:
                _write_metrics(folder, rows)
            bar.set_postfix(val_loss=f"{val_loss:.2e}", best=f"{best_loss:.2e}")
            if epoch - best_epoch >= config.patience:
                break
    finally:
        bar.close()
        model.load_state_dict(best_weights)
    return rows


def copy_network(model: Model, source: Model) -> None:
    """Give the network of `model` the weights of the network of `source`.

    Raises:
        ValueError: If the arms, the inputs or the sizes of the networks differ.
    """
    target, start = (each.network if isinstance(each, MLPQP) else each for each in (model, source))
    if start.arm != target.arm:
        raise ValueError(f"start: expected a run of {shown(target.arm)}, found one of {shown(start.arm)}")
    for key in ("inputs", "hidden"):
        expected, found = target.config()[key], start.config()[key]
        if expected != found:
            raise ValueError(f"start: expected a run with {key} {expected!r}, found {found!r}")
    target.load_state_dict(start.state_dict())


def save_run(folder: StrPath, model: Model, dataset: IKDataset, circles: Circles, training: TrainingConfig) -> None:
    """Write checkpoint.pt and config.json, which says how to build the model and what it was trained on.

    Args:
        folder: Made if it is not there.
        model: The model to keep.
        dataset: What it was trained on; its hash is kept.
        circles: Obstacles that it was trained with.
        training: How it was trained.

    Raises:
        FileError: If the folder cannot be written.
    """
    # The configuration goes first and comes last: an earlier run's never stands beside this checkpoint.
    path = make_folder(folder) / "config.json"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: expected a file to replace, found: {error.strerror}") from error
    _save_checkpoint(folder, model.state_dict())
    config = {
        "arm": model.arm.to_json(),
        "model": model.config(),
        **circles.to_json(),
        "dataset_hash": dataset.hash,
        "training": asdict(training),
        "version": importlib.metadata.version("implicit-layers"),
    }
    write_json(path, config)


def load_run(folder: StrPath) -> tuple[Model, dict[str, Any]]:
    """Return the model that `save_run` wrote, and its configuration.

    Raises:
        FileError: If a file is missing or damaged, or the checkpoint is not of this model.
    """
    path = Path(folder) / "config.json"
    data = read_json(path)
    try:
        config = check_keys("run", data, {"arm", "model", "circles", "dataset_hash", "training", "version"}, set())
        Circles.from_json({"circles": config["circles"]})
        names = {field.name for field in fields(TrainingConfig)}
        TrainingConfig(**check_keys("training", config["training"], names, set()))
        model = build_model(PlanarArm.from_json(config["arm"]), config["model"])
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    model.load_state_dict(_read_checkpoint(Path(folder) / "checkpoint.pt", model))
    return model, dict(config)


def read_metrics(folder: StrPath) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv, as `fit` returned them.

    Raises:
        FileError: With the number of the line, if a column is missing or a field is not a number.
    """
    path = Path(folder) / "metrics.csv"
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise FileError(f"{path}: expected a file to read, found: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: expected a CSV file, found: {error}") from error
    header = lines[0] if lines else []
    if tuple(header) != COLUMNS:
        raise FileError(f"{path}, line 1: expected the header {','.join(COLUMNS)}, found {shown(','.join(header))}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            rows.append(dict(zip(COLUMNS, map(float, line), strict=True)))
        except ValueError as error:
            found = shown(",".join(line))
            raise FileError(f"{path}, line {number}: expected {len(COLUMNS)} numbers, found {found}") from error
    return rows


def make_folder(path: StrPath) -> Path:
    """Return the folder, made with its parents if it is not there, or raise FileError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: expected a folder, found: {error.strerror}") from error
    return folder


def _targets(dataset: IKDataset, name: str) -> Tensor:
    targets = dataset.split(name).targets
    if not len(targets):
        raise ValueError(f"dataset: expected one or more targets in the split {name}, found none")
    return targets


def _train_epoch(
    model: Model, targets: Tensor, circles: Circles, batch_size: int, optimizer: torch.optim.Optimizer
) -> float:
    total = 0.0
    for batch in targets.split(batch_size):
        optimizer.zero_grad()
        loss = model.loss(batch, circles)
        loss.backward()  # type: ignore[no-untyped-call]
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


def _weights(model: Model) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _write_metrics(folder: StrPath, rows: list[dict[str, float]]) -> None:
    write_csv(Path(folder) / "metrics.csv", COLUMNS, [tuple(row.values()) for row in rows])


def _save_checkpoint(folder: StrPath, weights: dict[str, Tensor]) -> None:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_bytes(Path(folder) / "checkpoint.pt", buffer.getvalue())


def _read_checkpoint(path: Path, model: Model) -> dict[str, Tensor]:
    """Return the weights of a file if they are finite and fit the model."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{path}: expected a checkpoint, found: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise FileError(f"{path}: expected a whole checkpoint, found a damaged file") from error
    expected = model.state_dict()
    if not isinstance(weights, dict) or weights.keys() != expected.keys():
        found = list(weights) if isinstance(weights, dict) else weights
        raise FileError(f"{path}: expected the weights {', '.join(expected)}, found {shown(found)}")
    for name, like in expected.items():
        value = weights[name]
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
            found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
            raise FileError(f"{path}: expected {name} as {like.dtype} of shape {tuple(like.shape)}, found {found}")
        if not value.isfinite().all():
            raise FileError(f"{path}: expected finite weights, found {name} with NaN or infinity")
    return weights


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ValueError(f"{name}: expected an integer >= {least}, found {shown(value)}")
