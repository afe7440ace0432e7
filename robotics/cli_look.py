"""The commands that make something to look at: figures and animations of one way to one target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

from robotics.animation import write_gif
from robotics.arm import PlanarArm
from robotics.checks import shown
from robotics.cli_group import PATH, F, common, examples
from robotics.cli_inputs import check_arm, read_numbers, read_target
from robotics.figures import draw_recording
from robotics.files import read_scene
from robotics.models import MLPQP, HeadsQP, IKStatus
from robotics.obstacles import Circles
from robotics.player import write_player
from robotics.recording import LAYERS, Recording, record, record_best
from robotics.runs import Model, load_run

WRITERS = {".html": write_player, ".gif": write_gif}


def way(command: F) -> F:
    """Add the options that say which way of which arm is meant."""
    options: list[Callable[[F], F]] = [
        click.option("--scene", type=PATH, required=True, help="JSON file with circles and perhaps an arm."),
        click.option("--target", required=True, help="x,y or x,y,theta: metres and radians."),
        click.option("--start", help="Joint angles [rad], comma-separated; else the model's, or diverse ones."),
        click.option("--model", type=PATH, help="Run whose network says where to start, with its arm."),
        click.option("--layers", type=click.IntRange(1), help=f"Certified steps at most; else {LAYERS}."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(epilog=examples("figures --scene scene.json --target 3.3,3.4 --out figures"))
@way
@click.option("--joints", default="1,2", show_default=True, help="The two joints of the configuration space's slices.")
@common("Folder for workspace.png, reachable.png and configuration.png.")
def figures(
    out: Path,
    seed: int,
    scene: Path,
    target: str,
    start: str | None,
    model: Path | None,
    layers: int | None,
    joints: str,
) -> None:
    """Draw the way to a target: workspace, reachable set, configuration space."""
    recording = _record(scene, target, start, model, layers, seed)
    first, second = read_numbers("joints", joints, "two joints, as 1,2", (2,))
    numbers = range(1, recording.arm.num_links + 1)
    if len(numbers) > 1 and (first == second or first not in numbers or second not in numbers):
        raise ValueError(f"joints: expected two different ones from 1 to {len(numbers)}, found {shown(joints)}")
    for file in draw_recording(out, recording, (int(first) - 1, int(second) - 1)):
        click.echo(f"written: {file}")


@click.command(
    epilog=examples(
        "animate --scene scene.json --target 3.3,3.4 --start 0.3,-0.6,0.5 --out way.html",
        "animate --scene scene.json --target 3.3,3.4 --model runs/qp --out way.gif",
    )
)
@way
@common("Where to write: .html, a page with controls that needs no network, or .gif.")
def animate(
    out: Path, seed: int, scene: Path, target: str, start: str | None, model: Path | None, layers: int | None
) -> None:
    """Animate the way to a target, with the half-planes and multipliers of every layer's program."""
    if out.suffix.lower() not in WRITERS:
        raise ValueError(f"out: expected a file name that ends in .html or .gif, found {shown(out.name)}")
    recording = _record(scene, target, start, model, layers, seed)
    WRITERS[out.suffix.lower()](out, recording)
    last = recording.layers[-1]
    status = IKStatus(recording.status).name
    click.echo(f"{len(recording.layers)} layers: {status}, task error {last.error:.1e} of reach -> {out}")


def _record(
    scene: Path, target: str, start: str | None, model: Path | None, layers: int | None, seed: int
) -> Recording:
    circles, arm = read_scene(scene)
    aim = read_target(target)
    first: list[Tensor] = []
    if model is not None:
        solver, _ = load_run(model)
        if arm is not None:
            check_arm(scene, arm, solver.arm, model)
        arm = solver.arm
        expected = 2 if solver.inputs == "xy" else 3
        if len(aim) != expected:
            raise ValueError(f"target: expected {expected} numbers, which {model} takes, found {shown(target)}")
        if layers is None and (
            isinstance(solver, HeadsQP) or (isinstance(solver, MLPQP) and solver.mode == "sequential")
        ):
            layers = solver.layers
        first = _starts(solver, aim[None], circles)
    arm = arm or PlanarArm.duka()
    layers = layers or LAYERS
    if start is not None:
        angles = read_numbers("start", start, f"{arm.num_links} joint angles", (arm.num_links,))
        return record(arm, torch.tensor(angles, dtype=torch.float64), aim, circles, layers)
    return record_best(arm, aim, circles, first, layers, seed)


@torch.no_grad()
def _starts(model: Model, target: Tensor, circles: Circles) -> list[Tensor]:
    """Return where a model would have certified steps start, in its order; its answer if it takes none."""
    if isinstance(model, HeadsQP):
        return list(model.starts(target, circles)[0])
    network = model.network if isinstance(model, MLPQP) else model
    return [network(target)[0]]
