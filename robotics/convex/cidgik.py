"""CIDGIK: inverse kinematics as a sequence of semidefinite programs that drive a matrix towards rank two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_count, require
from robotics.convex.answering import ConvexAnswer, answer_each, home, solved
from robotics.convex.chain import Array, Chain, View
from robotics.models.answer import IKAnswer
from robotics.obstacles import Circles

DIMENSION = 2
RANK_REACHED = 1e-7  # third over second eigenvalue: no round makes it better


@final
@dataclass(frozen=True, kw_only=True)
class CIDGIK:
    """Convex iteration for distance-geometric inverse kinematics.

    With the unknown joints as the columns of X, Z = [X I]'[X I] is positive semidefinite of rank two, and lengths,
    limits and circles are linear in it. Programs min <C, Z> follow each other, with C the projector on all but the two
    largest eigenvectors of the last Z, until the rank is two. Products of one coordinate with another are not in Z, so
    limits of the inner joints are about zero, as wide as their wider side; the check of the answer knows the rest.

    Attributes:
        arm: the arm, n links.
        rounds: programs solved for a target at most.
        solver: any of cvxpy's for semidefinite programs.

    References:
        Giamou, Maric, Rosen, Peretroukhin, Roy, Petrovic and Kelly (2022), "Convex Iteration for Distance-Geometric
        Inverse Kinematics", arXiv 2109.03374.
    """

    arm: PlanarArm
    rounds: int = 10
    solver: str = "CLARABEL"
    _programs: dict[tuple[bool, int], _Program] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        return {"model": "cidgik", "rounds": self.rounds, "solver": self.solver}

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`."""
        return self.answer_with_rank(targets, circles, tolerance).answer

    def answer_with_rank(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> ConvexAnswer:
        """Answer targets `(N, 2|3)`, and say how near to rank two the matrices came.

        Raises:
            ImportError: cvxpy is not installed.
            ValueError: The arm has too few links to have an unknown joint.
        """
        key = (targets.shape[-1] == 3, circles.radii.shape[-1])
        if key not in self._programs:
            self._programs[key] = _Program(Chain(self.arm, *key), self.rounds, self.solver)
        anchors = home(self.arm, targets)
        return answer_each(self.arm, targets, circles, anchors, tolerance, self._programs[key].solve)


class _Program:
    """One program, built once; its parameters change from target to target, its cost from round to round."""

    def __init__(self, chain: Chain, rounds: int, solver: str) -> None:
        cp = require("cvxpy", "cvxpy", "cvxpy")
        self.chain, self.rounds, self.solver = chain, rounds, solver
        num = chain.num_unknown
        self.Z = cp.Variable((num + DIMENSION, num + DIMENSION), PSD=True)
        self.C = cp.Parameter((num + DIMENSION, num + DIMENSION), PSD=True)
        self.positions = self.Z[:num, num:]
        x = cp.reshape(self.positions, (2 * num,), order="C")
        view = View(1.0, x, _Products(self.Z))
        constraints = [self.Z[num:, num:] == np.eye(DIMENSION)]
        constraints += [row == 0 for row in chain.lengths_of(view)]
        constraints += [row >= 0 for row in chain.limits_of(view, exact=False)]
        if chain.num_circles:
            multipliers = cp.Variable((chain.num_links, chain.num_circles), nonneg=True)
            constraints += chain.circles_of(view, multipliers)
        self.problem = cp.Problem(cp.Minimize(cp.trace(self.C @ self.Z)), constraints)

    def solve(self, target: Array, anchor: Array, circles: Array) -> tuple[Array | None, float]:
        self.chain.set_goal(target, anchor, circles)
        self.C.value = np.eye(self.C.shape[0])
        found, ratio = None, np.nan
        for _ in range(self.rounds):
            if not solved(self.problem, self.solver):
                break
            values, vectors = np.linalg.eigh(self.Z.value)
            ratio = float(max(values[-DIMENSION - 1], 0.0) / values[-DIMENSION])
            found = np.asarray(self.positions.value)
            if ratio < RANK_REACHED:
                break
            small = vectors[:, :-DIMENSION]
            self.C.value = small @ small.T
        return found, ratio


class _Products:
    """Blocks of x x' in Z, of which only the trace is known: that of a product with a multiple of the identity."""

    def __init__(self, Z: Any) -> None:
        self.Z = Z

    def __getitem__(self, block: tuple[slice, slice]) -> Any:
        rows, columns = block
        return self.Z[rows.start // 2, columns.start // 2] * (np.eye(DIMENSION) / DIMENSION)
