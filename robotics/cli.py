"""The commands of `python -m robotics`: they read files, call the package and write files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from robotics import demo as demonstration
from robotics.arm import PlanarArm
from robotics.checks import finite_numbers
from robotics.cli_group import PATH, Commands, common, examples
from robotics.cli_heads import train_heads_command
from robotics.cli_inputs import answer_rows, check_arm, held_out_targets, load_models, read_target
from robotics.cli_learn import demonstrate_command, learn_scene
from robotics.cli_look import animate, figures
from robotics.cli_track import track
from robotics.dataset import IKDataset, make_dataset
from robotics.dataset_config import DatasetConfig
from robotics.explain import explain
from robotics.files import FileError, read_scene, read_targets_csv, write_csv, write_json
from robotics.joint_training import OPTIMIZERS, JointTrainingConfig, fit_joints
from robotics.metrics import evaluate, table
from robotics.models import BUILDS, MLP, MODELS, NETWORKS, IKStatus, build_model
from robotics.obstacles import Circles
from robotics.runs import load_run, read_metrics
from robotics.solvers import Portfolio
from robotics.training import TrainingConfig, copy_network, fit

_COLUMNS = {"xy": "x,y", "xytheta": "x,y,theta"}
_DEFAULT = TrainingConfig()


@click.group(cls=Commands, no_args_is_help=False)
def main() -> None:
    """Learn inverse kinematics of planar arms among circles, with and without a QP layer.

    Angles are in radians, lengths in metres.
    """
    # Batches of problems this small gain nothing from more threads, and lose where the cores are shared.
    torch.set_num_threads(1)


main.add_command(train_heads_command)
main.add_command(track)
main.add_command(figures)
main.add_command(animate)
main.add_command(demonstrate_command)
main.add_command(learn_scene)


@main.command(epilog=examples("demo --out runs/demo", "demo --quick --out runs/quick --seed 1"))
@click.option("--quick", is_flag=True, help="A fifth of the work: less than 40 seconds.")
@click.option("--links", type=click.IntRange(2, 10), help="An arm of so many links of 1 m; Duka's arm if not given.")
@common("Folder for the data, one run for each model, metrics.json and the figures.")
def demo(quick: bool, links: int | None, out: Path, seed: int) -> None:
    """Run everything: data, a network, the same with QP layers, a table of scores, figures."""
    size = demonstration.QUICK if quick else demonstration.FULL
    rows, files = demonstration.run_demo(out, size, seed, say=_say, arm=PlanarArm.unit(links) if links else None)
    click.echo(f"\nTip errors are shares of the reach.\n\n{table(rows)}\n\nFiles written:")
    for file in files:
        click.echo(f"  {file}")


@main.command(
    epilog=examples(
        "dataset --out data --num-samples 5000", "dataset --scene scene.json --removal tip --inputs xytheta --out data"
    )
)
@click.option("--scene", type=PATH, help="JSON file with circles and perhaps an arm; without it Duka's arm is alone.")
@click.option("--num-samples", type=int, default=5000, show_default=True, help="Samples kept after removal.")
@click.option("--sampling", default="joints", show_default=True, help="joints or workspace: what is drawn uniformly.")
@click.option("--removal", default="whole-arm", show_default=True, help="none, tip or whole-arm: what may not touch.")
@click.option("--inputs", default="xy", show_default=True, help="xy or xytheta: what a network sees.")
@click.option("--labels", is_flag=True, help="Label every sample by the oracle: all its answers (three links).")
@common("Folder for config.json and data.npz.")
def dataset(out: Path, seed: int, scene: Path | None, **choices: Any) -> None:
    """Make a data set of targets and joint angles that reach them."""
    circles, arm = read_scene(scene) if scene else (Circles.from_json({"circles": []}), None)
    config = DatasetConfig(arm=arm or PlanarArm.duka(), seed=seed, **circles.to_json(), **choices)
    made = make_dataset(config)
    made.save(out)
    click.echo(f"{len(made)} samples kept, {len(made.removed)} removed, hash {made.hash[:12]} -> {out}")


@main.command(
    epilog=examples(
        "train --data data --model mlp --out runs/mlp",
        "train --data data --model mlp-qp --start runs/mlp --epochs 10 --epoch-samples 2000 --out runs/qp",
    )
)
@click.option("--data", type=PATH, required=True, help="Folder of a data set.")
@click.option("--model", default="mlp", show_default=True, help=f"{', '.join((*MODELS, *BUILDS))}.")
@click.option("--start", type=PATH, help="Run whose network's weights training starts from.")
@click.option("--hidden", type=int, default=100, show_default=True, help="Width of the hidden layer.")
@click.option("--network", default="plain", show_default=True, help=f"{', '.join(NETWORKS)}: kind of network.")
@click.option("--layers", type=int, help="Certified steps of mlp-qp.")
@click.option(
    "--heads", type=int, help="Labelled starts of mlp-qp that see the circles; if left out, one that does not."
)
@click.option("--joints", help=f"Train on joint angles, as Duka (2014) did, by one of {', '.join(OPTIMIZERS)}.")
@click.option("--epochs", type=int, default=_DEFAULT.epochs, show_default=True)
@click.option("--batch-size", type=int, default=_DEFAULT.batch_size, show_default=True)
@click.option("--learning-rate", type=float, default=_DEFAULT.learning_rate, show_default=True)
@click.option("--patience", type=int, default=_DEFAULT.patience, show_default=True, help="Epochs without a gain.")
@click.option("--epoch-samples", type=int, help="Training targets of one epoch; all if not given.")
@click.option("--validation-samples", type=int, help="Validation targets; all if not given.")
@common("Folder of the run: config.json, checkpoint.pt and metrics.csv.")
def train(
    out: Path,
    seed: int,
    data: Path,
    model: str,
    start: Path | None,
    hidden: int,
    network: str,
    layers: int | None,
    heads: int | None,
    joints: str | None,
    **how: Any,
) -> None:
    """Train a model on a data set, with its arm and its circles."""
    training = TrainingConfig(seed=seed, **how)
    training_set = IKDataset.load(data)
    config = training_set.config
    torch.manual_seed(seed)
    options = {"inputs": config.inputs, "hidden": hidden, "network": network, "heads": heads}
    trained = build_model(config.arm, {"model": model, **options} | ({"layers": layers} if layers is not None else {}))
    if start:
        copy_network(trained, load_run(start)[0])
    if joints:
        if not isinstance(trained, MLP):
            raise ValueError(f"joints: expected the model mlp, found {model}")
        joint_training = JointTrainingConfig(optimizer=joints, epochs=training.epochs)
        rows = fit_joints(trained, training_set, joint_training, out)
    else:
        rows = fit(trained, training_set, Circles.from_json({"circles": config.circles}), training, out)
    best = min((row["val_loss"] for row in rows), default=math.nan)
    click.echo(f"{model}: {len(rows)} epochs, least validation loss {best:.3e} -> {out}")


@main.command(name="evaluate", epilog=examples("evaluate --data data --model runs/mlp --model runs/qp --out m.json"))
@click.option("--data", type=PATH, required=True, help="Folder of a data set; its test split is used.")
@click.option("--model", "folders", type=PATH, required=True, multiple=True, help="Run; may be given again.")
@click.option("--targets", "num", type=click.IntRange(1), help="Number of targets, drawn at random; all if not given.")
@common("JSON file for the scores.")
def evaluate_command(out: Path, seed: int, data: Path, folders: Sequence[Path], num: int | None) -> None:
    """Score runs on the same held-out targets."""
    test_set = IKDataset.load(data)
    models = load_models(folders, test_set, data)
    circles = Circles.from_json({"circles": test_set.config.circles})
    targets = held_out_targets(test_set, num, seed)
    rows = [evaluate(model, targets, circles, name) for name, model in models.items()]
    write_json(out, [row.to_json() for row in rows])
    click.echo(f"{len(targets)} targets; tip errors are shares of the reach.\n\n{table(rows)}\n\nwritten: {out}")


@main.command(epilog=examples("solve --model runs/qp --targets targets.csv --scene scene.json --out angles.csv"))
@click.option("--model", type=PATH, required=True, help="Folder of a run.")
@click.option("--targets", type=PATH, required=True, help="CSV file with the columns x,y or x,y,theta.")
@click.option("--scene", type=PATH, required=True, help="JSON file with circles, and perhaps the run's arm.")
@click.option("--tolerance", type=float, default=1e-3, show_default=True, help="Largest tip error, of the reach.")
@click.option("--portfolio", is_flag=True, help="Where the model fails, try all else; three links: to a proof.")
@common("CSV file for theta_1, ..., theta_n, status, tip_error, clearance.")
def solve(out: Path, seed: int, model: Path, targets: Path, scene: Path, tolerance: float, portfolio: bool) -> None:
    """Answer a file of targets with a trained model.

    The angles are empty unless the status is SOLVED or NOT_REACHED: safe, but further from the target
    than the tolerance. They never collide, along the whole arm, and never violate a limit.
    """
    (tolerance,) = finite_numbers("tolerance", [tolerance])
    if tolerance <= 0:
        raise ValueError(f"tolerance: expected a number > 0, found {tolerance}")
    solver, _ = load_run(model)
    circles, arm = read_scene(scene)
    if arm is not None:
        check_arm(scene, arm, solver.arm, model)
    aims = torch.from_numpy(read_targets_csv(targets))
    found = "xy" if aims.shape[1] == 2 else "xytheta"
    if found != solver.inputs:
        raise FileError(
            f"{targets}, line 1: expected the columns {_COLUMNS[solver.inputs]}, which {model} takes, "
            f"found {_COLUMNS[found]}"
        )
    torch.manual_seed(seed)
    whole = Portfolio(arm=solver.arm, model=solver) if portfolio else solver
    answer = whole.answer(aims, circles, tolerance)
    header = [f"theta_{i + 1}" for i in range(solver.arm.num_links)]
    write_csv(out, [*header, "status", "tip_error", "clearance"], answer_rows(answer))
    counts = torch.bincount(answer.status, minlength=len(IKStatus)).tolist()
    summary = ", ".join(f"{count} {IKStatus(i).name}" for i, count in enumerate(counts) if count)
    click.echo(f"{len(aims)} targets: {summary} -> {out}")


@main.command(
    epilog=examples(
        "why --target 2.4,2.7 --scene scene.json", "why --target 2,3,1.57 --scene scene.json --out why.json"
    )
)
@click.option("--target", required=True, help="x,y or x,y,theta: metres and radians.")
@click.option("--scene", type=PATH, required=True, help="JSON file with circles and perhaps an arm; else Duka's.")
@common("JSON file for the explanation; printed only, if not given.", required=False)
def why(out: Path | None, seed: int, target: str, scene: Path) -> None:
    """Say why the arm does not get to a target.

    Names the circles, limits or the reach that stop it, with their multipliers, and the smallest changes
    that would let it get there, each verified. Nothing in it is random.
    """
    circles, arm = read_scene(scene)
    explanation = explain(arm or PlanarArm.duka(), read_target(target), circles)
    click.echo("\n".join(explanation.lines(circles)))
    if out is not None:
        write_json(out, explanation.to_json())
        click.echo(f"written: {out}")


@main.command(epilog=examples("plot --data data --model runs/mlp --model runs/qp --out figures"))
@click.option("--data", type=PATH, required=True, help="Folder of a data set; its test split is used.")
@click.option("--model", "folders", type=PATH, required=True, multiple=True, help="Run; may be given again.")
@click.option("--targets", "num", type=click.IntRange(1), help="Number of targets, drawn at random; all if not given.")
@common("Folder for the figures.")
def plot(out: Path, seed: int, data: Path, folders: Sequence[Path], num: int | None) -> None:
    """Draw the workspace, the loss curves, the arms on some targets and the tip errors."""
    test_set = IKDataset.load(data)
    models = load_models(folders, test_set, data)
    histories = {name: read_metrics(folder) for name, folder in zip(models, folders, strict=True)}
    for file in demonstration.draw_models(out, test_set, models, histories, held_out_targets(test_set, num, seed)):
        click.echo(f"written: {file}")


def _say(line: str) -> None:
    click.echo(line, err=True)
