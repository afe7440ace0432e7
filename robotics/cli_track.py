"""The command that follows a path of targets."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import shown
from robotics.cli_group import PATH, common, examples
from robotics.cli_inputs import ANSWERED, check_arm, read_numbers
from robotics.files import FileError, make_folder, read_scene, read_targets_csv, write_csv
from robotics.models import IKStatus
from robotics.models.mlp import INPUTS
from robotics.obstacles import Circles
from robotics.paths import SHAPES, line_path, shape_path
from robotics.player import write_track_player
from robotics.plots import plot_track
from robotics.runs import Model, load_run
from robotics.track_animation import write_track_gif
from robotics.track_recording import TrackRecording
from robotics.trajectories import LAYERS, Track, TrackStatus, track_best
from robotics.trajectories import track as follow

WRITERS = {".html": write_track_player, ".gif": write_track_gif}


@click.command(
    epilog=examples(
        "track --shape circle --center 2,3 --size 1 --orientation 0.2 --out runs/circle",
        "track --shape eight --scene scene.json --speed 0.05 --out runs/eight",
        "track --shape waypoints.csv --scene scene.json --ticks 400 --out runs/tour",
        "track --shape square --scene scene.json --out runs/square --animate runs/square/way.html",
    )
)
@click.option("--shape", required=True, help=f"{', '.join(SHAPES)}, or a CSV file of waypoints: x,y or x,y,theta.")
@click.option("--scene", type=PATH, help="JSON file with circles and perhaps an arm; without it Duka's arm is alone.")
@click.option("--model", type=PATH, help="Run whose answer to the first target is the start; else the best branch.")
@click.option("--center", help="x,y of the shape; a third and a half of the reach, if not given.")
@click.option("--size", type=float, help="Radius, half the side, half the width; a sixth of the reach, if not given.")
@click.option("--orientation", type=float, help="Of the tip, the same all along a shape; free if not given.")
@click.option("--ticks", type=int, default=200, show_default=True, help="Number of targets.")
@click.option("--speed", type=float, default=0.2, show_default=True, help="Largest step of a joint in one tick [rad].")
@click.option("--layers", type=int, default=LAYERS, show_default=True, help="Certified steps in one tick.")
@click.option("--animate", type=PATH, help="Also an animation: .html, a page that needs no network, or .gif.")
@common("Folder for track.csv and track.png.")
def track(
    out: Path,
    seed: int,
    shape: str,
    scene: Path | None,
    model: Path | None,
    center: str | None,
    size: float | None,
    orientation: float | None,
    ticks: int,
    speed: float,
    layers: int,
    animate: Path | None,
) -> None:
    """Follow a shape, or lines through waypoints, around the circles of a scene.

    Every step is proved clear of the circles along its whole way, and inside the limits and the speed. Where a circle
    is in the way the arm waits or slides along it; the status of each tick says so. Nothing in it is random.
    """
    if animate is not None and animate.suffix.lower() not in WRITERS:
        raise ValueError(f"animate: expected a file name that ends in .html or .gif, found {shown(animate.name)}")
    circles, own = read_scene(scene) if scene else (Circles.from_json({"circles": []}), None)
    run = load_run(model)[0] if model else None
    if scene and own and run and model:
        check_arm(scene, own, run.arm, model)
    arm = run.arm if run else own or PlanarArm.duka()
    targets = _targets(arm, shape, center, size, orientation, ticks)
    if run is None:
        found = track_best(arm, targets, circles, speed=speed, layers=layers)
    else:
        found = follow(arm, _start(run, targets[0], circles), targets, circles, speed=speed, layers=layers)
    make_folder(out)
    names = ["x", "y", "theta"][: targets.shape[1]]
    joints = [f"theta_{i + 1}" for i in range(arm.num_links)]
    write_csv(out / "track.csv", ["tick", *names, *joints, "status", "tip_error", "clearance"], _rows(targets, found))
    plot_track(out / "track.png", arm, circles, targets, found)
    recording = TrackRecording(arm=arm, circles=circles, targets=targets, track=found)
    if animate is not None:
        WRITERS[animate.suffix.lower()](animate, recording)
    click.echo(f"{ticks} ticks: {recording.counts()}")
    click.echo(
        f"largest tip error {float(found.tip_error.max()) / arm.reach:.3g} of the reach, "
        f"largest step {float(found.steps.abs().max()):.3g} rad"
    )
    for file in (out / "track.csv", out / "track.png", *([animate] if animate else [])):
        click.echo(f"written: {file}")


def _targets(
    arm: PlanarArm, shape: str, center: str | None, size: float | None, orientation: float | None, ticks: int
) -> Tensor:
    if shape in SHAPES:
        x, y = read_numbers("center", center, "x,y", (2,)) if center else (arm.reach / 3, arm.reach / 2)
        return shape_path(shape, (x, y), arm.reach / 6 if size is None else size, ticks, orientation)
    if not shape.endswith(".csv"):
        raise ValueError(f"shape: expected {', '.join(SHAPES)} or a .csv file, found {shown(shape)}")
    for name, value in (("center", center), ("size", size), ("orientation", orientation)):
        if value is not None:
            raise ValueError(f"{name}: expected none with a file of waypoints, found {shown(value)}")
    waypoints = torch.from_numpy(read_targets_csv(shape))
    try:
        return line_path(waypoints, ticks)
    except ValueError as error:
        raise FileError(f"{shape}: {error}") from error


def _start(run: Model, target: Tensor, circles: Circles) -> Tensor:
    """Return the posture that a model answers the first target with; it may miss it, but must be safe."""
    width = INPUTS[run.inputs]
    if len(target) < width:
        raise ValueError("orientation: expected one, which the model takes, found none")
    answer = run.answer(target[None, :width], circles)
    status = IKStatus(int(answer.status[0]))
    if status not in ANSWERED:
        raise ValueError(f"model: expected a safe answer to the first target, found {status.name}: {status.advice}")
    return answer.theta[0]


def _rows(targets: Tensor, found: Track) -> list[list[object]]:
    columns = (targets, found.theta, found.status, found.tip_error, found.clearance)
    lists = (column.tolist() for column in columns)
    return [
        [tick, *target, *theta, TrackStatus(status).name, error, clearance]
        for tick, (target, theta, status, error, clearance) in enumerate(zip(*lists, strict=True))
    ]
