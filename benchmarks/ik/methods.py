"""The rows of the table: names, what is made for an arm and its scene, and the function that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robotics import Circles, PlanarArm, oracle
from robotics.convex import CIDGIK, Relaxation
from robotics.convex.answering import home
from robotics.models import HeadsQP, IKAnswer, IKStatus, check_answer
from robotics.solvers import SLSQP, DampedLeastSquares, DifferentialIK, LevenbergMarquardt, Portfolio
from robotics.starts import diverse_starts
from robotics.steps import refine

from .networks import Networks

TOLERANCE = 1e-6  # asked of all that take one
SEQUENTIAL = {"model": "mlp-qp", "inputs": "xy", "network": "unit", "layers": 2}
HEADS = 8


class Answered(NamedTuple):
    """Answers, and of semidefinite programs which of them are certified (N,)."""

    answer: IKAnswer
    certified: Tensor | None = None


Answer = Callable[[Tensor, Circles], Answered]
"""From targets (N, 2|3) and one scene to answers."""
Candidates = Callable[[Tensor, Circles], Iterable[Tensor]]
"""From targets to postures (N, n), as many times as the method has tries."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table.

    Attributes:
        name: As printed.
        build: From the arm and its networks to the function that answers.
        poses: Whether it is asked for poses; else for positions.
        most: Most queries of a cell that it is asked: slow methods get fewer.
        arms: Numbers of links that it can do; None for any.
        only_duka: Whether it is a network for Duka's arm alone.
        candidates: All postures that it has for a target, of which it returns one.
    """

    name: str
    build: Callable[[PlanarArm, Networks], Answer]
    poses: bool = False
    most: int = 1_000_000
    links: tuple[int, ...] | None = None
    only_duka: bool = False
    candidates: Callable[[PlanarArm, Networks], Candidates] | None = None

    def asked(self, queries: int, feasible: bool) -> int:
        """Return how many of a cell's queries it gets; where none can be solved, restarts run to their last."""
        slow = self.most <= 1000
        return min(queries, self.most if feasible or not slow else max(4, self.most // 10))

    def takes(self, arm: PlanarArm) -> bool:
        """Return whether it can do an arm."""
        return (self.links is None or arm.num_links in self.links) and (not self.only_duka or arm == PlanarArm.duka())


def from_solver(make: Callable[[PlanarArm, Networks], Any]) -> Callable[[PlanarArm, Networks], Answer]:
    """Return `build` of a method whose object has `answer`."""

    def build(arm: PlanarArm, networks: Networks) -> Answer:
        solver = make(arm, networks)
        return lambda targets, circles: Answered(solver.answer(targets, circles, TOLERANCE))

    return build


def _layers(layers: int) -> Callable[[PlanarArm, Networks], Answer]:
    """One head: the network's start, certified steps, the check, and no second try."""

    def build(arm: PlanarArm, networks: Networks) -> Answer:
        model = networks.layered(SEQUENTIAL, layers)

        @torch.no_grad()
        def answer(targets: Tensor, circles: Circles) -> Answered:
            theta = model(targets, circles)
            judged = check_answer(arm, theta, targets, circles, TOLERANCE)
            unsafe = (judged.status == IKStatus.COLLISION) | (judged.status == IKStatus.LIMIT_VIOLATION)
            theta = torch.where(unsafe[:, None], torch.nan, theta)
            return Answered(check_answer(arm, theta, targets, circles, TOLERANCE))

        return answer

    return build


def _oracle(arm: PlanarArm, networks: Networks) -> Answer:
    def answer(targets: Tensor, circles: Circles) -> Answered:
        found = oracle.solve_positions(arm, targets, circles)
        theta = targets.new_full((len(targets), 3), torch.nan)
        theta[found.target] = found.theta
        judged = check_answer(arm, theta, targets, circles, TOLERANCE)
        proved = (found.verdict == oracle.Verdict.INFEASIBLE) & (judged.status == IKStatus.NO_SAFE_ANSWER)
        return Answered(judged._replace(status=judged.status.masked_fill(proved, int(IKStatus.INFEASIBLE))))

    return answer


def _oracle_candidates(arm: PlanarArm, networks: Networks) -> Candidates:
    def all_of(targets: Tensor, circles: Circles) -> Iterable[Tensor]:
        found = oracle.solve_positions(arm, targets, circles)
        for i in range(int(found.num_intervals.max())):
            theta = targets.new_full((len(targets), 3), torch.nan)
            first = found.num_intervals.cumsum(0) - found.num_intervals
            there = (found.num_intervals > i).nonzero()[:, 0]
            theta[there] = found.theta[first[there] + i]
            yield theta

    return all_of


@torch.no_grad()
def _refined(arm: PlanarArm, start: Tensor, targets: Tensor, circles: Circles) -> Tensor:
    return refine(arm, start, targets, circles, 10)


def _start_candidates(arm: PlanarArm, networks: Networks) -> Candidates:
    return lambda targets, circles: (
        _refined(arm, start, targets, circles) for start in diverse_starts(arm, targets, circles, HEADS)
    )


def _head_candidates(arm: PlanarArm, networks: Networks) -> Candidates:
    @torch.no_grad()
    def all_of(targets: Tensor, circles: Circles) -> Iterable[Tensor]:
        starts = networks.heads(HEADS).network(targets, circles)
        return [_refined(arm, start, targets, circles) for start in starts.unbind(-2)]

    return all_of


def _restart_candidates(make: Callable[..., Any]) -> Callable[[PlanarArm, Networks], Candidates]:
    def build(arm: PlanarArm, networks: Networks) -> Candidates:
        return lambda targets, circles: (
            make(arm=arm, restarts=1, seed=seed).answer(targets, circles, TOLERANCE).theta for seed in range(10)
        )

    return build


def _pose_heads(arm: PlanarArm, networks: Networks) -> HeadsQP:
    return networks.heads(2 if arm.num_links == 3 else HEADS, "xytheta")


def _sdp(order: int, anchors: int | None) -> Callable[[PlanarArm, Networks], Answer]:
    """The relaxation from the middle of the limits (0 anchors), or from so many heads in turn; None: from all."""

    def build(arm: PlanarArm, networks: Networks) -> Answer:
        program = Relaxation(arm=arm, order=order)

        @torch.no_grad()
        def answer(targets: Tensor, circles: Circles) -> Answered:
            if anchors == 0:
                found = program.answer_near(home(arm, targets), targets, circles, TOLERANCE)
            else:
                network = _pose_heads(arm, networks).network
                near = network.ranked(network(targets, circles), targets, circles)[:, :anchors]
                found, _ = program.answer_in_turn(near, targets, circles, TOLERANCE)
            return Answered(found.answer, found.certified)

        return answer

    return build


def _cidgik(arm: PlanarArm, networks: Networks) -> Answer:
    program = CIDGIK(arm=arm)

    def answer(targets: Tensor, circles: Circles) -> Answered:
        found = program.answer_with_rank(targets, circles, TOLERANCE)
        return Answered(found.answer, found.certified)

    return answer


def registry() -> list[Method]:
    """Return the rows of the table, in its order."""
    restarts = [
        Method(
            name=f"{label}, {number} restarts",
            build=from_solver(lambda arm, _, make=make, number=number: make(arm=arm, restarts=number)),  # type: ignore[misc]
            most=1000 if number == 10 else 300,
            candidates=_restart_candidates(make) if number == 10 else None,
        )
        for label, make in (("damped least squares", DampedLeastSquares), ("LM", LevenbergMarquardt))
        for number in (10, 100)
    ]
    one_shot = {"model": "mlp-qp-oneshot", "inputs": "xy", "network": "unit"}
    return [
        Method(name="closed form + sweep (oracle)", build=_oracle, links=(3,), candidates=_oracle_candidates),
        Method(
            name="Duka's network (LM, 1000 samples)",
            build=from_solver(lambda _, n: n.duka()),
            poses=True,
            only_duka=True,
        ),
        Method(name="MLP, tip loss", build=from_solver(lambda _, n: n.network("plain"))),
        Method(name="MLP, unit vectors", build=from_solver(lambda _, n: n.network("unit"))),
        Method(name="MLP + obstacle penalty", build=from_solver(lambda _, n: n.network("penalty"))),
        Method(name="MLP + clamp", build=from_solver(lambda _, n: n.network("clamp"))),
        Method(name="MLP + one-shot QP", build=from_solver(lambda _, n: n.layered(one_shot, 1))),
        *(Method(name=f"MLP + {k} certified layers, 1 head", build=_layers(k)) for k in (3, 6, 10)),
        Method(
            name="MLP + 8 diverse starts, 10 certified layers, check",
            build=from_solver(lambda _, n: n.layered(SEQUENTIAL, 10)),
            candidates=_start_candidates,
        ),
        Method(name="1 trained head that sees the circles, 10 certified layers, check",
               build=from_solver(lambda _, n: n.heads(1))),
        Method(
            name="8 trained heads, 10 certified layers, check",
            build=from_solver(lambda _, n: n.heads(HEADS)),
            candidates=_head_candidates,
        ),
        *restarts,
        Method(name="SLSQP, 10 restarts", build=from_solver(lambda arm, _: SLSQP(arm=arm)), most=30),
        Method(name="differential IK from home", build=from_solver(lambda arm, _: DifferentialIK(arm=arm)), most=300),
        Method(
            name="trained heads for poses, 10 certified layers, check", build=from_solver(_pose_heads), poses=True
        ),
        Method(name="SDP order 1, home anchor", build=_sdp(1, 0), poses=True, most=250),
        Method(name="SDP order 1, network anchor", build=_sdp(1, 1), poses=True, most=250),
        Method(name="SDP order 1, network anchors in turn", build=_sdp(1, None), poses=True, most=250),
        Method(name="SDP order 2, network anchor", build=_sdp(2, 1), poses=True, most=10, links=(3,)),
        Method(name="CIDGIK", build=_cidgik, poses=True, most=20),
        Method(
            name="portfolio (network, starts, soft, oracle)",
            build=from_solver(lambda arm, n: Portfolio(arm=arm, model=n.layered(SEQUENTIAL, 10))),
            candidates=_start_candidates,
        ),
    ]  # fmt: skip
