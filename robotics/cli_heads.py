"""The command that trains labelled heads for scenes of all kinds, without a data set."""

from __future__ import annotations

from pathlib import Path

import click

from robotics.arm import PlanarArm
from robotics.cli_group import PATH, common, examples
from robotics.files import make_folder, read_scene
from robotics.head_training import STEPS, train_heads
from robotics.models import HeadsQP, build_model
from robotics.obstacles import Circles
from robotics.runs import save_run


@click.command(
    name="train-heads",
    epilog=examples(
        "train-heads --out runs/heads", "train-heads --arm scene.json --heads 2 --inputs xytheta --out runs/poses"
    ),
)
@click.option("--arm", "arm_file", type=PATH, help="JSON file whose arm it is; its circles are not read. Else Duka's.")
@click.option("--heads", type=int, default=8, show_default=True, help="Labelled starts; 2 for poses of three links.")
@click.option("--inputs", default="xy", show_default=True, help="xy or xytheta: positions or poses.")
@click.option("--hidden", type=int, default=100, show_default=True, help="Width of the hidden layers.")
@click.option("--layers", type=int, default=10, show_default=True, help="Certified steps from every start.")
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True, help="Of training.")
@click.option("--most-circles", type=click.IntRange(0), default=6, show_default=True, help="In the largest scene.")
@common("Folder of the run: config.json and checkpoint.pt, for solve, track, figures and animate.")
def train_heads_command(
    out: Path, seed: int, arm_file: Path | None, heads: int, inputs: str, hidden: int, layers: int, **how: int
) -> None:
    """Train starts for every scene at once: the network sees the circles, and they change with every target."""
    arm = (read_scene(arm_file)[1] if arm_file else None) or PlanarArm.duka()
    config = {"model": "mlp-qp", "inputs": inputs, "heads": heads, "hidden": hidden, "layers": layers}
    build_model(arm, config)  # before the training, as the folder: what is refused costs no time
    make_folder(out)
    model = HeadsQP(train_heads(arm, heads, inputs=inputs, hidden=hidden, seed=seed, progress=True, **how), layers)
    save_run(out, model, None, Circles.from_json({"circles": []}), {"seed": seed, **how})
    click.echo(f"{heads} heads for {inputs} of {arm.num_links} links, {how['steps']} steps of training -> {out}")
