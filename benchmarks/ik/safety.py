"""Ask for a great many answers among hostile circles, and let an independent check look for one that is unsafe.

Two batches in three ask for positions, the third for poses. The portfolio and models with untrained networks answer
every query: what they mark SOLVED or NOT_REACHED is judged again, and the verdicts INFEASIBLE and UNREACHABLE. And
from a posture that circles may touch, steps out of them and certified steps lead towards the target, with every
certified step judged along its whole length.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np
import torch
from tqdm import tqdm

from robotics import PlanarArm
from robotics.ik_qp import MARGIN
from robotics.models import MLP, MLPQP, Heads, HeadsQP
from robotics.models.answer import IKStatus
from robotics.solvers import Portfolio
from robotics.solvers.base import Solver
from robotics.steps import certified_step, escape

from . import independent
from .independent import Array, Body
from .safety_queries import Queries, draw

TOLERANCE = 1e-6
LAYERS = 6
BATCH = 2000
POSES_EVERY = 3  # batches
VIOLATIONS = ("unsafe answers", "answers off target", "unsafe certified steps", "wrong INFEASIBLE", "wrong UNREACHABLE")


def run(count: int, seed: int = 0, batch: int = BATCH, progress: bool = True, seconds: float = np.inf) -> Counter[str]:
    """Answer `count` queries, or as many as there is time for, and count what was found.

    Args:
        count: Queries.
        seed: Of everything.
        batch: Queries of one arm.
        progress: Whether to show a bar on stderr, if that is a terminal.
        seconds: Wall time after which no new batch is begun.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # of the networks
    generator = torch.Generator().manual_seed(seed)
    found: Counter[str] = Counter(dict.fromkeys(VIOLATIONS, 0))
    begin = time.monotonic()
    with tqdm(total=count, unit="query", file=sys.stderr, disable=None if progress else True) as bar:
        while found["queries"] < count and time.monotonic() - begin < seconds:
            poses = found["batches"] % POSES_EVERY == POSES_EVERY - 1
            found["batches"] += 1
            queries = draw(min(batch, count - found["queries"]), generator, poses)
            check(queries, found)
            bar.update(len(queries.targets))
            bar.set_postfix(violations=violations(found))
    return found


def violations(found: Counter[str]) -> int:
    """Return the number of broken promises."""
    return sum(found[name] for name in VIOLATIONS)


def body_of(arm: PlanarArm) -> Body:
    """Return an arm as the independent check knows it."""
    lower, upper = np.array(arm.limits).T
    return Body(np.array(arm.lengths), lower, upper, arm.link_radius)


def check(queries: Queries, found: Counter[str]) -> None:
    """Answer a batch and add what was found to the counts."""
    body = body_of(queries.arm)
    circles = torch.cat((queries.circles.centers, queries.circles.radii[..., None]), -1).numpy()
    found["queries"] += len(queries.targets)
    found["of poses"] += len(queries.targets) * (queries.targets.shape[1] == 3)
    for suffix, solver in _solvers(queries).items():
        _check_answers(solver, suffix, queries, body, circles, found)
    _check_paths(queries, body, circles, found)


def _solvers(queries: Queries) -> dict[str, Solver]:
    """Return who answers, by what is added to the names of its statuses; no network is trained."""
    arm, inputs = queries.arm, "xy" if queries.targets.shape[1] == 2 else "xytheta"
    solvers: dict[str, Solver] = {
        "": Portfolio(arm=arm, starts=2, more_starts=2, layers=LAYERS),
        " by MLPQP": MLPQP(MLP(arm, inputs), layers=LAYERS),
        " by one-shot MLPQP": MLPQP(MLP(arm, inputs), "one-shot"),
    }
    if inputs == "xy" or arm.num_links > 2:
        solvers[" by HeadsQP"] = HeadsQP(Heads(arm, 4, inputs=inputs), LAYERS)
    return solvers


def _check_answers(
    solver: Solver, suffix: str, queries: Queries, body: Body, circles: Array, found: Counter[str]
) -> None:
    answer = solver.answer(queries.targets, queries.circles, TOLERANCE)
    theta, targets, status = answer.theta.numpy(), queries.targets.numpy(), answer.status.numpy()
    for member in IKStatus:
        found[member.name + suffix] += int((status == member).sum())
    solved = status == IKStatus.SOLVED
    safe = solved | (status == IKStatus.NOT_REACHED)
    found["unsafe answers"] += int(independent.unsafe(body, theta[safe], circles[safe]).sum())
    off = independent.off_target(body, theta[solved], targets[solved], TOLERANCE * (1 + 1e-6))
    found["answers off target"] += int(off.sum())
    refused = status == IKStatus.INFEASIBLE
    if refused.any():
        search = independent.some_posture_at_pose if targets.shape[1] == 3 else independent.some_posture
        posture, _ = search(body, targets[refused], circles[refused])
        found["wrong INFEASIBLE"] += int(posture.sum())
    unreachable = targets[status == IKStatus.UNREACHABLE]
    found["wrong UNREACHABLE"] += int(independent.within_lengths(body, unreachable).sum())


def _check_paths(queries: Queries, body: Body, circles: Array, found: Counter[str]) -> None:
    arm, scene = queries.arm, queries.circles
    aim = torch.where(queries.targets.isfinite(), queries.targets, 0.0)
    theta = escape(arm, queries.starts, aim, scene)
    # Steps are certified from where they start clear; a start that no softened step freed proves nothing.
    clear = independent.clearance(body, theta.numpy(), circles) >= MARGIN * arm.reach
    found["starts not freed"] += int((~clear).sum())
    for _ in range(LAYERS):
        end = certified_step(arm, theta, aim, scene)
        moved = clear & (end != theta).any(-1).numpy()
        bad = independent.unsafe_steps(body, theta.numpy()[moved], end.numpy()[moved], circles[moved])
        found["certified steps"] += int(moved.sum())
        found["unsafe certified steps"] += int(bad.sum())
        theta = end


def describe(found: Counter[str], seed: int) -> str:
    """Return the counts as Markdown."""
    lines = [f"{found['queries']} queries, seed {seed}: {violations(found)} violations.", "", "| what | count |"]
    return "\n".join([*lines, "|---|---:|", *(f"| {name} | {value} |" for name, value in found.items())]) + "\n"
