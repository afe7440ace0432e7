"""Poses: what labelled heads solve, against diverse random starts, and the programs that are certified near them.

Queries are poses of uniform joints, one random scene for each, without those whose posture touches it: all are
feasible. Certified is λ2/λ1 < 1e-4 and an answer at 1e-6 that the exact check accepts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from robotics import Circles, PlanarArm, oracle
from robotics.convex import Relaxation
from robotics.convex.answering import home
from robotics.head_training import STEPS, random_scenes, train_heads
from robotics.ik_qp import task_error
from robotics.models import HeadsQP, IKStatus
from robotics.models.answer import is_safe
from robotics.starts import diverse_starts
from robotics.steps import refine

from ..report import RESULTS, write_csv
from .queries import ARMS

TOLERANCE = 1e-6  # of reach and rad
LAYERS = 10
STARTS = 8  # random ones
TEST_SEED = 1000  # of the queries; training draws from another generator
REFINED = 2  # layers before an anchor


@dataclass(frozen=True)
class Row:
    """One way to answer `targets` poses.

    Attributes:
        arm, circles: the arm's name and the circles of each scene.
        kind: what answers.
        targets: how many poses.
        solved, share: how many are answered well.
        first: share answered well by the first try.
        tries: starts or programs of a pose, mean.
        microseconds: CPU time of a pose.
    """

    arm: str
    circles: int
    kind: str
    targets: int
    solved: int
    share: float
    first: float
    tries: float
    microseconds: float


def measure(
    arms: Sequence[str] = ("unit", "duka", "six", "ten"),
    circles: Sequence[int] = (0, 3, 6),
    num: int = 5000,
    programs: int = 1000,
    steps: int = STEPS,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train heads for each arm, two for three links and else eight, and ask every way the same poses.

    Args:
        arms: names of the benchmark's arms.
        circles: in the random scenes.
        num: queries before those that touch their scene are left out.
        programs: most queries of a semidefinite program.
        steps: of training.
        say: called with one line for each row.
    """
    rows: list[Row] = []
    for name in arms:
        arm = ARMS[name]
        model = HeadsQP(train_heads(arm, 2 if arm.num_links == 3 else 8, inputs="xytheta", steps=steps), LAYERS)
        for count in circles:
            targets, scene = _queries(arm, num, count)
            few, its = targets[:programs], scene.pick(slice(0, programs))
            for kind, ask, poses, among in (
                ("heads", _ask_heads(model), targets, scene),
                ("random starts", _ask_starts(arm), targets, scene),
                *((kind, ask, few, its) for kind, ask in _programs(model).items()),
            ):
                ask(poses[:2], among.pick(slice(0, 2)))  # programs are built when first asked
                begin = time.process_time()
                good, tries = ask(poses, among)
                spent = (time.process_time() - begin) / len(poses) * 1e6
                first = _mean(good & (tries == 1))
                row = Row(name, count, kind, len(poses), int(good.sum()), _mean(good), first, _mean(tries), spent)
                shares = f"{first:.2%} at first, {row.share:.2%} at last"
                say(f"{name}, {count} circles, {kind}: {shares}, {row.tries:.3f} tries, {spent:.0f} us")
                rows.append(row)
    return rows


Ask = Callable[[Tensor, Circles], tuple[Tensor, Tensor]]
"""From poses and a scene for each to which are answered well, and how many tries each took."""


def _ask_heads(model: HeadsQP) -> Ask:
    def ask(targets: Tensor, scene: Circles) -> tuple[Tensor, Tensor]:
        answer, used = model.answer_with_heads(targets, scene, TOLERANCE)
        return answer.status == IKStatus.SOLVED, used.clamp(max=model.network.heads)

    return ask


def _ask_starts(arm: PlanarArm) -> Ask:
    @torch.no_grad()
    def ask(targets: Tensor, scene: Circles) -> tuple[Tensor, Tensor]:
        good, tries = torch.zeros(len(targets), dtype=torch.bool), torch.zeros(len(targets))
        for start in diverse_starts(arm, targets, scene, STARTS):
            left = (~good).nonzero()[:, 0]
            tries[left] += 1
            here, goal = scene.pick(left), targets[left]
            theta = refine(arm, start[left], goal, here, LAYERS)
            good[left] = (task_error(arm, theta, goal).norm(dim=-1) <= TOLERANCE) & is_safe(arm, theta, here)
        return good, tries

    return ask


def _programs(model: HeadsQP) -> dict[str, Ask]:
    """The same program near other anchors."""
    arm, program = model.arm, Relaxation(arm=model.arm)

    def ranked(targets: Tensor, scene: Circles) -> Tensor:
        return model.network.ranked(model.network(targets, scene), targets, scene)

    def refined(targets: Tensor, scene: Circles) -> Tensor:
        number = model.network.heads
        every = torch.arange(len(targets)).repeat_interleave(number)
        starts = model.network(targets, scene).flatten(0, 1)
        ends = refine(arm, starts, targets[every], scene.pick(every), REFINED).unflatten(0, (-1, number))
        best = model.network.promise(ends, targets, scene).argmin(-1)
        chosen: Tensor = ends[torch.arange(len(targets)), best][:, None]
        return chosen

    anchors: dict[str, Callable[[Tensor, Circles], Tensor]] = {
        "SDP, home anchor": lambda targets, _: home(arm, targets)[:, None],
        "SDP, heads' anchors in turn": ranked,
        f"SDP, best head after {REFINED} certified layers": refined,
    }
    if arm.num_links == 3:
        anchors["SDP, the oracle's answers as anchors, in turn"] = lambda t, scene: _answers(arm, t, scene)

    def asked(near: Callable[[Tensor, Circles], Tensor]) -> Ask:
        @torch.no_grad()
        def ask(targets: Tensor, scene: Circles) -> tuple[Tensor, Tensor]:
            found, tries = program.answer_in_turn(near(targets, scene), targets, scene, TOLERANCE)
            return found.certified, tries

        return ask

    return {kind: asked(near) for kind, near in anchors.items()}


def _answers(arm: PlanarArm, targets: Tensor, scene: Circles) -> Tensor:
    """Return the first and the last of the oracle's postures, (N, 2, 3)."""
    found = oracle.solve(arm, targets, scene)
    end = found.num_intervals.cumsum(0)
    theta: Tensor = found.theta[torch.stack((end - found.num_intervals, end - 1), -1)]
    return theta


def _queries(arm: PlanarArm, num: int, count: int) -> tuple[Tensor, Circles]:
    generator = torch.Generator().manual_seed(TEST_SEED)
    theta = arm.sample(num, generator)
    scene = random_scenes(arm, num, count, generator)
    safe = is_safe(arm, theta, scene)
    return arm.pose(theta[safe]), scene.pick(safe)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def write(rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Write ik_poses.csv; return its path."""
    path = folder / "ik_poses.csv"
    write_csv(path, [field.name for field in fields(Row)], [astuple(row) for row in rows])
    return path


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(measure())
