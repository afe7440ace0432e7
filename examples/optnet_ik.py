"""A quadratic program behind an inverse kinematics network, learned: one model in two builds.

The network's output is the linear term of a program whose P, G, h, A and b are learned with the network's weights.

    qp             `OptNetLayer`: the whole batch in one call
    cvxpylayers    the network's output is a `cvxpy.Parameter` of the problem; a cone program for each element

Both start from the same weights, see the same targets and must end at the same ones.

    python examples/optnet_ik.py [--steps 40] [--batch 64] [--out runs/optnet_ik.png]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure

from robotics import Circles, PlanarArm
from robotics.ik_qp import task_error
from robotics.models import BUILDS, OptNetIK, build_model

NO_CIRCLES = Circles.from_json({"circles": []})


def train(model: OptNetIK, targets: torch.Tensor) -> tuple[list[float], float]:
    """Take a step for each batch of targets `(steps, batch, 2)`; return the losses and the CPU seconds per step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    start = time.process_time()
    for batch in targets:
        loss = model.loss(batch, NO_CIRCLES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, (time.process_time() - start) / len(targets)


def main() -> None:
    """Train both builds, print the table and draw the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/optnet_ik.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    # cvxpylayers hands torch's tensors to numpy in the old way.
    warnings.filterwarnings("ignore", "__array__", DeprecationWarning)

    arm = PlanarArm.duka()
    count = options.steps * options.batch
    tips = arm.tip(arm.sample(count + 500, torch.Generator().manual_seed(0)))
    targets, test = tips[:count].reshape(options.steps, options.batch, 2), tips[count:]
    models = {}
    for name, build in BUILDS.items():
        torch.manual_seed(0)
        model = build_model(arm, {"model": name, "inputs": "xy", "hidden": 50})
        assert isinstance(model, OptNetIK)
        with torch.no_grad():
            model(targets[0, :1])  # cvxpy compiles its problem at the first call
        models[build] = model
    trained = {build: train(model, targets) for build, model in models.items()}

    print(f"{options.steps} steps of {options.batch} targets\n")
    print(f"{'build':12s} {'median tip error, of reach':>27s} {'CPU ms per step':>16s}")
    with torch.no_grad():
        for build, model in models.items():
            error = task_error(arm, model(test), test).norm(dim=-1).median()
            print(f"{build:12s} {float(error):27.4f} {1e3 * trained[build][1]:16.1f}")
        first, second = models.values()
        apart = max(float((a - b).abs().max()) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        second.load_state_dict(first.state_dict())
        same = float((first(test[:50]) - second(test[:50])).abs().max())
    print(f"\nlargest difference of outputs with the same weights {same:.1e} rad, of trained weights {apart:.1e}")

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (build, (losses, _)), line in zip(trained.items(), ("-", "--"), strict=True):
        axes.plot(losses, line, label=build)
    axes.set(xlabel="step", ylabel="loss", title="one model, two builds")
    axes.legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
