"""Run folders: what a training leaves behind, and what the other commands read."""

import csv
import importlib.metadata
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_keys, shown
from robotics.dataset import IKDataset
from robotics.files import FileError, StrPath, make_folder, read_json, write_bytes, write_csv, write_json
from robotics.models import MLP, MLPQP, HeadsQP, OptNetIK, build_model
from robotics.obstacles import Circles

Model = MLP | MLPQP | HeadsQP | OptNetIK
COLUMNS = ("epoch", "train_loss", "val_loss", "learning_rate", "seconds")


def save_run(
    folder: StrPath,
    model: Model,
    dataset: IKDataset | None,
    circles: Circles,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write checkpoint.pt and config.json, which says how to build the model and what it was trained on.

    Args:
        folder: Made if it is not there.
        model: The model to keep.
        dataset: What it was trained on; its hash is kept. None if targets were drawn on the way.
        circles: Obstacles that it was trained with.
        training: How it was trained, ready for JSON; a note for people.

    Raises:
        FileError: If the folder cannot be written.
    """
    # The configuration goes first and comes last: an earlier run's never stands beside this checkpoint.
    path = make_folder(folder) / "config.json"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: expected a file to replace, found: {error.strerror}") from error
    save_checkpoint(folder, model.state_dict())
    config = {
        "arm": model.arm.to_json(),
        "model": model.config(),
        **circles.to_json(),
        "dataset_hash": dataset.hash if dataset is not None else None,
        "training": dict(training or {}),
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
        model = build_model(PlanarArm.from_json(config["arm"]), config["model"])
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    model.load_state_dict(_read_checkpoint(Path(folder) / "checkpoint.pt", model))
    return model, dict(config)


def save_checkpoint(folder: StrPath, weights: Mapping[str, Tensor]) -> None:
    """Write the weights as checkpoint.pt of a run, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    write_bytes(Path(folder) / "checkpoint.pt", buffer.getvalue())


def write_metrics(folder: StrPath, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the rows of a training, with the keys of `COLUMNS`, as metrics.csv of a run."""
    write_csv(Path(folder) / "metrics.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def read_metrics(folder: StrPath) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv.

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
        kind = (value.layout, value.shape, value.dtype) if isinstance(value, Tensor) else None
        if kind != (torch.strided, like.shape, like.dtype):
            found = (
                f"{value.layout} {value.dtype} of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else shown(value)
            )
            raise FileError(f"{path}: expected {name} as {like.dtype} of shape {tuple(like.shape)}, found {found}")
        if not value.isfinite().all():
            raise FileError(f"{path}: expected finite weights, found {name} with NaN or infinity")
    return weights
