"""Success against the number of starts: labelled heads, most promising first, and diverse random starts.

After the heads come the starts midway between neighbouring ones. Random starts come in the order in which they are
drawn and, to tell what training does from what ranking does, most promising first too. All take the same certified
steps on the same queries: tips of uniform joints, one random scene for each. For three links the oracle says which
targets are feasible; for more links the posture that made the target must be clear of the scene, which leaves feasible
targets out but lets no infeasible one in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from robotics import Circles, PlanarArm, oracle
from robotics.head_training import STEPS, random_scenes, train_heads
from robotics.ik_qp import task_error
from robotics.models import HeadsQP, IKStatus
from robotics.models.answer import is_safe
from robotics.starts import diverse_starts
from robotics.steps import refine

from ..report import RESULTS, write_csv, write_figure

TOLERANCE = 1e-6  # of reach
LAYERS = 10
ARMS = {
    "Duka's arm": PlanarArm.duka(),
    "3 links": PlanarArm.unit(3),
    "6 links": PlanarArm.unit(6),
}  # links of 1 m, ±170°
STYLES = {"trained heads": "-o", "random starts, ranked": ":+", "random starts": "--x"}
TEST_SEED = 1000  # of the queries; training draws from another generator


@dataclass(frozen=True)
class Row:
    """Success of the first `starts` of one kind, of `targets` known to be feasible.

    CPU time is of the largest number of starts, and of all queries: what nothing can reach is tried from every start.
    """

    arm: str
    circles: int
    kind: str
    starts: int
    targets: int
    solved: int
    success: float
    seed: int
    microseconds_per_query: float


def measure(
    arms: Mapping[str, PlanarArm] = ARMS,
    circles: Sequence[int] = (1, 3, 6),
    heads: int = 8,
    num: int = 20_000,
    steps: int = STEPS,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train heads for each arm, and count what they and as many random starts solve, after 1, 2, ... starts.

    Args:
        arms: by name.
        circles: circles in the random scenes.
        heads: of each network.
        num: queries before those that are not known to be feasible are left out.
        steps: of training.
        seed: of training and of the random starts.
        say: called with one line for each measurement.
    """
    rows: list[Row] = []
    for name, arm in arms.items():
        model = HeadsQP(train_heads(arm, heads, steps=steps, seed=seed), LAYERS)
        most = model.most_starts
        for count in circles:
            targets, scene, known = _queries(arm, num, count)
            methods: dict[str, Callable[[], Tensor]] = {
                "trained heads": partial(_heads_needed, model, targets, scene),
                "random starts": partial(_starts_needed, model, targets, scene, most, seed),
                "random starts, ranked": partial(_starts_needed, model, targets, scene, most, seed, ranked=True),
            }
            for kind, method in methods.items():
                begin = time.process_time()
                needed = method()
                spent = (time.process_time() - begin) / len(targets) * 1e6
                solved = [int((needed[known] <= number).sum()) for number in range(1, most + 1)]
                shares = [each / int(known.sum()) for each in solved]
                say(f"{name}, {count} circles, {kind}: " + " ".join(f"{share:.2%}" for share in shares))
                for number, (each, share) in enumerate(zip(solved, shares, strict=True), 1):
                    rows.append(Row(name, count, kind, number, int(known.sum()), each, share, seed, spent))
    return rows


def write(rows: Sequence[Row], folder: Path = RESULTS) -> list[Path]:
    """Write ik_heads.csv and ik_heads.png; return their paths."""
    table, figure = folder / "ik_heads.csv", folder / "ik_heads.png"
    write_csv(table, [field.name for field in fields(Row)], [astuple(row) for row in rows])
    write_figure(figure, _figure(rows))
    return [table, figure]


def _queries(arm: PlanarArm, num: int, count: int) -> tuple[Tensor, Circles, Tensor]:
    """Return positions (N, 2), a scene for each, and which are known to be feasible (N,)."""
    generator = torch.Generator().manual_seed(TEST_SEED)
    theta = arm.sample(num, generator)
    targets, scene = arm.tip(theta), random_scenes(arm, num, count, generator)
    if arm.num_links == 3:
        known = oracle.solve_positions(arm, targets, scene).verdict == oracle.Verdict.FEASIBLE
    else:
        known = is_safe(arm, theta, scene)
    return targets, scene, known


def _heads_needed(model: HeadsQP, targets: Tensor, scene: Circles) -> Tensor:
    answer, used = model.answer_with_heads(targets, scene, TOLERANCE)
    return torch.where(answer.status == IKStatus.SOLVED, used, model.most_starts + 1)


@torch.no_grad()
def _starts_needed(
    model: HeadsQP, targets: Tensor, scene: Circles, num: int, seed: int, ranked: bool = False
) -> Tensor:
    arm = model.arm
    starts = torch.stack(list(diverse_starts(arm, targets, scene, num, seed)), -2)
    if ranked:
        starts = model.network.ranked(starts, targets, scene)
    needed = torch.full((len(targets),), num + 1)
    for number, each in enumerate(starts.unbind(-2), 1):
        left = (needed > num).nonzero()[:, 0]
        if not len(left):
            break
        here = scene.pick(left)
        theta = refine(arm, each[left], targets[left], here, LAYERS)
        reached = task_error(arm, theta, targets[left]).norm(dim=-1) <= TOLERANCE
        needed[left[reached & is_safe(arm, theta, here)]] = number
    return needed


def _figure(rows: Sequence[Row]) -> Figure:
    arms = list(dict.fromkeys(row.arm for row in rows))
    scenes = sorted({row.circles for row in rows})
    figure = Figure(figsize=(4.4 * len(arms) + 1, 4.2), layout="constrained")
    for axes, arm in zip(figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], arms, strict=True):
        for kind, style in STYLES.items():
            for i, circles in enumerate(scenes):
                mine = [row for row in rows if (row.arm, row.circles, row.kind) == (arm, circles, kind)]
                misses = [max(1 - row.success, 0.3 / row.targets) for row in mine]
                label = f"{kind}, {circles} circle{'s' if circles > 1 else ''}"
                axes.semilogy([row.starts for row in mine], misses, style, color=f"C{i}", label=label)
        axes.set(title=arm, xlabel="starts")
        axes.grid(alpha=0.3)
    figure.supylabel("share of feasible targets missed", fontsize="medium")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(f"{LAYERS} certified layers from each start, {TOLERANCE:g} of reach", fontsize="medium")
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(measure())
