"""The columns of the table: one row of numbers for a method and a cell, from postures and geometry alone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robotics.angles import wrap_angle
from robotics.metrics import tip_errors
from robotics.models.answer import IKStatus

from .methods import Answer, Candidates, Method
from .networks import Networks
from .queries import Cell

Clock = Literal["cpu", "wall"]
BATCHES = (1, 100, 10_000)
MODE_TARGETS = 100  # whose modes are counted
AT_MODE = 1e-6  # of reach: largest tip error of a posture that counts as a mode
AT_END = 1e-6  # [rad]: a posture so far outside an oracle's interval is still in it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one cell. NaN where a column does not apply or was not measured.

    Attributes:
        cell: Name of the cell.
        data: First 12 digits of its hash.
        seed: Of its targets.
        method: Name of the method.
        queries: How many it was asked.
        success_1e2, success_1e3, success_1e6: Share of all targets with a safe answer within that much of reach;
            of cells of infeasible targets NaN.
        median_error, p95_error, max_error: Of the tip, of reach, over the answers given, safe or not.
        answered: Share of the targets with an answer, be it bad.
        collisions, tip_collisions: Share of the answers in which any link, or the tip, is in a circle.
        max_penetration: Deepest, of reach; zero if none.
        limit_violations: Number of answers beyond a limit.
        false_solved: Answers called SOLVED that are not safe or off target.
        wrong_infeasible: Verdicts INFEASIBLE or UNREACHABLE of feasible targets.
        called_infeasible: Share of the targets so called.
        us_1, us_100, us_10000: Time of a query in a batch of that size [µs].
        modes: Share of the oracle's intervals of all targets, that a posture of the method lies in.
        rank_one: Share of the targets whose semidefinite program is certified.
    """

    cell: str
    data: str
    seed: int
    method: str
    queries: int
    success_1e2: float
    success_1e3: float
    success_1e6: float
    median_error: float
    p95_error: float
    max_error: float
    answered: float
    collisions: float
    tip_collisions: float
    max_penetration: float
    limit_violations: int
    false_solved: int
    wrong_infeasible: int
    called_infeasible: float
    us_1: float
    us_100: float
    us_10000: float
    modes: float
    rank_one: float


def measure(cell: Cell, method: Method, networks: Networks, queries: int, clock: Clock, seconds: float) -> Row:
    """Ask a method the targets of a cell, at most `queries` and its own most; spend about `seconds` on times."""
    answer = method.build(cell.arm, networks)
    width = 3 if method.poses else 2
    targets = cell.targets[: method.asked(queries, cell.feasible), :width].contiguous()
    answer(targets[:4], cell.circles)  # what is built or trained on first use
    found = answer(targets, cell.circles)
    theta, status = found.answer.theta, found.answer.status
    given = theta.isfinite().all(-1)
    points = cell.arm.points(theta[given])
    depth = (-cell.circles.clearance(points, cell.arm.link_radius)).clamp(min=0)
    beyond = cell.arm.limit_violation(theta[given]) > 0
    safe = given.clone()
    safe[given] = (depth == 0) & ~beyond
    errors = tip_errors(cell.arm, theta, targets)
    good = {level: safe & (errors <= level * (1 + 1e-9)) for level in (1e-2, 1e-3, 1e-6)}
    refused = (status == IKStatus.INFEASIBLE) | (status == IKStatus.UNREACHABLE)
    finite = errors[given]
    times = _times(answer, targets, cell, clock, seconds)
    return Row(
        cell=cell.name,
        data=cell.hash[:12],
        seed=cell.seed,
        method=method.name,
        queries=len(targets),
        **{f"success_{name}": _share(good[level]) if cell.feasible else math.nan
           for name, level in (("1e2", 1e-2), ("1e3", 1e-3), ("1e6", 1e-6))},
        median_error=_quantile(finite, 0.5),
        p95_error=_quantile(finite, 0.95),
        max_error=_quantile(finite, 1.0),
        answered=_share(given),
        collisions=_share(depth > 0),
        tip_collisions=_share(cell.circles.tip_clearance(points, cell.arm.link_radius) < 0),
        max_penetration=float(depth.max()) / cell.arm.reach if len(depth) else 0.0,
        limit_violations=int(beyond.sum()),
        false_solved=int(((status == IKStatus.SOLVED) & ~good[1e-6]).sum()),
        wrong_infeasible=int(refused.sum()) if cell.feasible else 0,
        called_infeasible=_share(refused),
        us_1=times[0],
        us_100=times[1],
        us_10000=times[2],
        modes=_modes(cell, method, networks, theta, targets),
        rank_one=math.nan if found.certified is None else _share(found.certified),
    )  # fmt: skip


def _share(hits: Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else math.nan


def _quantile(values: Tensor, q: float) -> float:
    return float(torch.quantile(values, q, interpolation="higher")) if len(values) else math.nan


def _times(answer: Answer, targets: Tensor, cell: Cell, clock: Clock, seconds: float) -> list[float]:
    """Return the time of a query [µs] at each batch size; NaN where a call would take longer than allowed."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    found: list[float] = []
    for size in BATCHES:
        expected = found[-1] * 1e-6 * size if found else 0.0
        if not expected <= 20 * seconds:  # larger batches are cheaper by the query: NaN only where hopeless
            found.append(math.nan)
            continue
        batches = [targets[torch.arange(i * size, (i + 1) * size) % len(targets)] for i in range(16)]
        spent: list[float] = []
        while not spent or (len(spent) < 16 and sum(spent) < seconds / len(BATCHES)):
            begin = now()
            answer(batches[len(spent)], cell.circles)
            spent.append(now() - begin)
        found.append(1e6 * sum(spent) / len(spent) / size)
    return found


def _modes(cell: Cell, method: Method, networks: Networks, theta: Tensor, targets: Tensor) -> float:
    """Return the share of the oracle's intervals that the method's postures lie in."""
    if cell.truth is None or not cell.feasible:
        return math.nan
    num = min(MODE_TARGETS, len(targets))
    postures = [theta[:num]]
    if method.candidates is not None:
        every: Candidates = method.candidates(cell.arm, networks)
        postures += list(every(targets[:num], cell.circles))
    hit = torch.zeros(len(cell.truth.target), dtype=torch.bool)
    for posture in postures:
        hit |= _in_interval(cell, posture, num)
    asked = cell.truth.target < num
    return _share(hit[asked])


def _in_interval(cell: Cell, theta: Tensor, num: int) -> Tensor:
    """Return which of the oracle's intervals hold one of the postures of the first targets, (M,)."""
    assert cell.truth is not None
    truth, arm = cell.truth, cell.arm
    target = truth.target.clamp(max=num - 1)
    posture = theta[target]
    near = tip_errors(arm, posture, cell.targets[target]) <= AT_MODE
    clear = cell.circles.clearance(arm.points(posture), arm.link_radius) > 0
    safe = near & clear & (arm.limit_violation(posture) <= 0) & (truth.target < num)
    low, high = truth.orientation.unbind(-1)
    middle, half = (low + high) / 2, (high - low) / 2
    inside = wrap_angle(arm.orientation(posture) - middle).abs() <= half + AT_END
    bend = posture[:, 1].sin() * truth.elbow
    return safe & inside & (bend >= -AT_END)
