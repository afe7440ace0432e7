"""The commands that learn a scene from demonstrations, and that make such demonstrations to try it."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from robotics.arm import PlanarArm
from robotics.checks import finite_numbers
from robotics.cli_group import PATH, common, examples
from robotics.files import FileError, read_scene, write_json
from robotics.learned_constraints import (
    CIRCLES,
    FitStatus,
    LearnedScene,
    demonstrate,
    fit_circles,
    fit_half_planes,
    read_demonstrations,
    write_demonstrations,
)

FORMAT = "x,y,theta_1,..,theta_n,step_1,..,step_n, or with theta after y where targets are poses"


@click.command(
    name="demonstrate",
    epilog=examples("demonstrate --scene scene.json --num 200 --out demos.csv"),
)
@click.option("--scene", type=PATH, required=True, help="JSON file with the hidden circles, and perhaps an arm.")
@click.option("--num", type=click.IntRange(1), default=200, show_default=True, help="Number of demonstrations.")
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Added to the steps [rad].")
@common("CSV file of demonstrations, as learn-scene reads them.")
def demonstrate_command(out: Path, seed: int, scene: Path, num: int, noise: float) -> None:
    """Make demonstrations among the circles of a scene, for learn-scene to find them.

    Each is a random clear posture, a random target and the step of the joints towards it: where a circle stopped the
    step, it shows where that circle is. The file does not hold the circles.
    """
    finite_numbers("noise", [noise])
    circles, arm = read_scene(scene)
    if not circles.radii.numel():
        raise FileError(f"{scene}: expected one or more circles to demonstrate, found none")
    numbers = torch.cat((circles.centers, circles.radii.log()[:, None]), -1)
    try:
        made = demonstrate(arm or PlanarArm.duka(), CIRCLES, numbers, num, seed, noise)
    except ValueError as error:
        raise FileError(f"{scene}: {error}") from error
    write_demonstrations(out, made)
    click.echo(f"{num} demonstrations -> {out}")


@click.command(
    name="learn-scene",
    epilog=examples(
        "learn-scene --demonstrations demos.csv --circles 1 --out scene.json",
        "learn-scene --demonstrations demos.csv --arm arm.json --half-planes 1 --tolerance 5e-3 --out scene.json",
    ),
)
@click.option("--demonstrations", type=PATH, required=True, help=f"CSV file with the columns {FORMAT} [m, rad].")
@click.option("--arm", "arm_file", type=PATH, help="JSON file whose arm it is; its circles are not read. Else Duka's.")
@click.option("--circles", type=click.IntRange(1), help="Number of circles to find.")
@click.option(
    "--half-planes", type=click.IntRange(1), help="Or number of walls to find, each written as a huge circle."
)
@click.option("--tolerance", type=float, default=1e-4, show_default=True,
              help="On steps [rad], five times their noise: a step further from the free one was stopped.")  # fmt: skip
@common("JSON scene for solve, track and why: the arm, and the obstacles grown by their margin.")
def learn_scene(
    out: Path,
    seed: int,
    demonstrations: Path,
    arm_file: Path | None,
    circles: int | None,
    half_planes: int | None,
    tolerance: float,
) -> None:
    """Find unknown circles or walls from how an arm moved about them.

    A line of the file is one step: where the tip was to go (x, y), the joint angles before it (theta_1, ..) and their
    change (step_1, ..), in metres and radians. Lines with a nan are left out. An obstacle that the steps do not
    determine is an error, and then nothing is written.
    """
    if (circles is None) == (half_planes is None):
        raise ValueError("circles: expected either --circles or --half-planes, found both or neither")
    arm = (read_scene(arm_file)[1] if arm_file else None) or PlanarArm.duka()
    given = read_demonstrations(demonstrations, arm)
    fit, num = (fit_circles, circles) if circles is not None else (fit_half_planes, half_planes)
    try:
        found = fit(arm, given, num or 0, tolerance=tolerance, seed=seed)
    except ValueError as error:
        raise FileError(f"{demonstrations}: {error}") from error
    click.echo("\n".join(_lines(found)))
    scene = found.scene(arm)
    click.echo(
        f"margin {found.margin:.3g} m, by which all are written larger; of further active demonstrations at most "
        f"{found.miss_rate:.1%} show more, on average over files like this"
    )
    write_json(out, {**scene.to_json(), "arm": arm.to_json()})
    click.echo(f"written: {out}")


def _lines(found: LearnedScene) -> list[str]:
    names = ("x", "y", "radius") if found.shape is CIRCLES else ("angle of the normal", "distance")
    left_out = int((found.active == -2).sum())
    lines = [f"{len(found.active)} demonstrations, {left_out} left out, {int((found.active >= 0).sum())} active"]
    for index, (numbers, status) in enumerate(zip(found.numbers, found.status.tolist(), strict=True)):
        values = [*numbers[:2].tolist(), *numbers[2:].exp().tolist()]
        shown = ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
        active = int((found.active == index).sum())
        lines.append(f"{found.shape.name} {index}: {shown}; {FitStatus(status).name}, active in {active}")
    return [*lines, f"residual {found.residual:.3g} rad"]
