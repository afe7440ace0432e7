"""What commands read must fit together; what they answer becomes rows."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import finite_numbers, shown
from robotics.dataset import IKDataset
from robotics.files import FileError
from robotics.models import IKAnswer, IKStatus
from robotics.runs import Model, load_run

ANSWERED = (IKStatus.SOLVED, IKStatus.NOT_REACHED)


def load_models(folders: Sequence[Path], data: IKDataset, path: Path) -> dict[str, Model]:
    """Return the models of some runs by the name of their folder; they must fit the data set."""
    models = {}
    for folder in folders:
        model, _ = load_run(folder)
        check_arm(path, data.config.arm, model.arm, folder)
        if model.inputs != data.config.inputs:
            raise ValueError(
                f"{path}: expected inputs {model.inputs}, which {folder} takes, found {data.config.inputs}"
            )
        name = folder.name if folder.name not in models else str(folder)
        if name in models:
            raise ValueError(f"--model: expected every run once, found {folder} again")
        models[name] = model
    return models


def held_out_targets(dataset: IKDataset, num: int | None, seed: int) -> Tensor:
    """Return so many targets of the test split in random order, all of them if not told how many."""
    targets = dataset.split("test").targets
    if not len(targets):
        raise ValueError("data: expected one or more targets in the split test, found none")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    return targets[order[:num]]


def check_arm(path: Path, found: PlanarArm, expected: PlanarArm, run: Path) -> None:
    """Raise FileError unless the arm of a file is that of a run."""
    for field in fields(PlanarArm):
        here, there = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "link_radius" and here == 0:
            continue  # a scene that says nothing of it means the run's
        if here != there:
            raise FileError(f"{path}: expected the arm of {run} with {field.name} {there}, found {here}")


def answer_rows(answer: IKAnswer) -> list[list[object]]:
    """Return a row for each target; what a status does not vouch for stays empty."""
    rows: list[list[object]] = []
    for theta, status, error, clearance in zip(*(column.tolist() for column in answer), strict=True):
        answered = IKStatus(status) in ANSWERED
        numbers = theta if answered else [""] * len(theta)
        rows.append([*numbers, IKStatus(status).name, error if answered else "", clearance if answered else ""])
    return rows


def read_numbers(name: str, text: str, expected: str, counts: tuple[int, ...]) -> list[float]:
    """Return comma-separated numbers, or raise ValueError unless there are as many as allowed."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise ValueError(f"{name}: expected {expected}, found {shown(text)}")
    return list(finite_numbers(name, values))


def read_target(text: str) -> Tensor:
    """Return x,y or x,y,theta as (2,) or (3,) [m, m, rad]."""
    return torch.tensor(read_numbers("target", text, "x,y or x,y,theta", (2, 3)), dtype=torch.float64)
