"""The main job, end to end: data, three models, their scores and their figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from robotics import plots
from robotics.arm import PlanarArm
from robotics.dataset import IKDataset, make_dataset
from robotics.dataset_config import DatasetConfig
from robotics.files import StrPath, make_folder, write_json
from robotics.metrics import Metrics, evaluate
from robotics.models import build_model
from robotics.obstacles import Circles
from robotics.runs import Model, read_metrics
from robotics.training import TrainingConfig, copy_network, fit

SCENE = ((2.4, 2.6, 0.5), (-1.6, 3.2, 0.6), (0.6, -2.0, 0.6))
"""Obstacles (x, y, r) [m] between which Duka's arm must pass; all are well inside its workspace."""

_DRAWN = 5  # targets in the figure of the arms: more cannot be told apart


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much work the demo does; the networks with a QP start from the trained plain one.

    Attributes:
        num_samples: Size of the data set.
        num_targets: Held-out targets that the models are scored on, the first ones of the test split.
        training: Configuration for each model.
    """

    num_samples: int
    num_targets: int
    training: Mapping[str, TrainingConfig]


def _fine_tuning(epochs: int, epoch_samples: int, validation_samples: int) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=5e-3,
        epoch_samples=epoch_samples,
        validation_samples=validation_samples,
    )


# Most of the time goes into the steps of mlp-qp, which take ten times as long without the compiled core.
FULL = DemoSize(
    num_samples=8000,
    num_targets=1000,
    training={
        "mlp": TrainingConfig(epochs=300, batch_size=64, learning_rate=1e-2),
        "mlp-qp-oneshot": _fine_tuning(15, 1920, 500),
        "mlp-qp": _fine_tuning(15, 5600, 500),
    },
)
QUICK = DemoSize(
    num_samples=3000,
    num_targets=300,
    training={
        "mlp": TrainingConfig(epochs=150, batch_size=64, learning_rate=1e-2),
        "mlp-qp-oneshot": _fine_tuning(4, 960, 200),
        "mlp-qp": _fine_tuning(3, 640, 200),
    },
)


def scene_for(arm: PlanarArm) -> tuple[tuple[float, float, float], ...]:
    """Return the obstacles (x, y, r) [m] at the size of an arm."""
    scale = arm.reach / PlanarArm.duka().reach
    return tuple((scale * x, scale * y, scale * radius) for x, y, radius in SCENE)


def run_demo(
    folder: StrPath,
    size: DemoSize,
    seed: int,
    say: Callable[[str], None],
    progress: bool = True,
    arm: PlanarArm | None = None,
) -> tuple[list[Metrics], list[Path]]:
    """Make the data, train the models, score them on the same targets and draw the figures.

    Args:
        folder: Where everything is written.
        size: How much work to do.
        seed: Seed of the data, the first weights and the order of the targets.
        say: Called with one line before every part.
        progress: Whether to show bars on stderr.
        arm: Duka's if None.

    Returns:
        The row of each model, and the files written.
    """
    folder = make_folder(folder)
    name = f"{arm.num_links} links" if arm else "Duka's arm"
    say(f"data: {size.num_samples} samples of {name} among {len(SCENE)} circles")
    arm = arm or PlanarArm.duka()
    config = DatasetConfig(
        arm=arm, circles=scene_for(arm), num_samples=size.num_samples, removal="whole-arm", seed=seed
    )
    dataset = make_dataset(config)
    dataset.save(folder / "data")
    circles = Circles.from_json({"circles": config.circles})
    models: dict[str, Model] = {}
    for name, training in size.training.items():
        say(f"{name}: up to {training.epochs} epochs")
        models[name] = _train(name, dataset, circles, replace(training, seed=seed), models, folder, progress)

    targets = dataset.split("test").targets[: size.num_targets]
    say(f"scores: {len(targets)} held-out targets")
    rows = [evaluate(model, targets, circles) for model in models.values()]
    write_json(folder / "metrics.json", [row.to_json() for row in rows])
    histories = {name: read_metrics(folder / name) for name in models}
    figures = draw_models(folder / "figures", dataset, models, histories, targets)
    runs = [folder / name / file for name in models for file in ("config.json", "metrics.csv", "checkpoint.pt")]
    data = [folder / "data" / file for file in ("config.json", "data.npz")]
    return rows, [*data, *runs, folder / "metrics.json", *figures]


def draw_models(
    folder: StrPath,
    dataset: IKDataset,
    models: Mapping[str, Model],
    histories: Mapping[str, list[dict[str, float]]],
    targets: Tensor,
) -> list[Path]:
    """Draw all figures of some models on the arm and the circles of one data set; return their paths.

    Args:
        folder: Made if it is not there.
        dataset: The set that the workspace is drawn from.
        models: Models by name.
        histories: For each name the rows of its training.
        targets: (N, 2) or (N, 3), for the histogram; a few of them, far apart, also for the arms.
    """
    folder = make_folder(folder)
    arm, circles = dataset.config.arm, Circles.from_json({"circles": dataset.config.circles})
    answers = {name: model.answer(targets, circles).theta for name, model in models.items()}
    chosen = _spread(targets[:, :2], min(_DRAWN, len(targets)))
    few = {name: theta[chosen] for name, theta in answers.items()}
    return [
        plots.plot_workspace(folder / "workspace.png", dataset),
        plots.plot_losses(folder / "losses.png", histories),
        plots.plot_arms(folder / "arms.png", arm, circles, targets[chosen], few),
        plots.plot_errors(folder / "errors.png", arm, targets, answers),
    ]


def _train(
    name: str,
    dataset: IKDataset,
    circles: Circles,
    training: TrainingConfig,
    earlier: Mapping[str, Model],
    folder: Path,
    progress: bool,
) -> Model:
    torch.manual_seed(training.seed)
    model = build_model(dataset.config.arm, {"model": name, "inputs": dataset.config.inputs})
    if "mlp" in earlier:
        copy_network(model, earlier["mlp"])
    fit(model, dataset, circles, training, folder / name, progress)
    return model


def _spread(points: Tensor, num: int) -> list[int]:
    """Return the indices of points far apart: the first, then always the one farthest from those chosen."""
    chosen = [0]
    while len(chosen) < num:
        chosen.append(int(torch.cdist(points, points[chosen]).amin(-1).argmax()))
    return chosen
