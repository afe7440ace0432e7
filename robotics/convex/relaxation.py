"""The sums-of-squares relaxation of Maric et al., of order one and two, with exact limits and whole links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.checks import check_count, require
from robotics.convex.answering import ConvexAnswer, answer_each, home, solved
from robotics.convex.chain import Array, Chain, View
from robotics.models.answer import IKAnswer, IKStatus
from robotics.obstacles import Circles

Monomial = tuple[int, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """The nearest posture to an anchor, as a semidefinite program whose answer is exact where its matrix has rank one.

        min  tr X - 2 ξ'x    s.t.  [1 x'; x X] positive semidefinite, and every row on lengths, limits and circles,

    linear in x and X. Limits are the inequalities (R z_i)'z_{i+1} >= cos(half range) with R the turn by their middle:
    exact, also where they are not symmetric. Order two has the moments up to degree four, the rows on lengths times
    every monomial up to degree two, and a localising matrix for every limit. With an anchor near a posture at the
    target, away from its limits, the relaxation is exact.

    Attributes:
        arm: the arm, n links.
        order: 1 or 2.
        solver: any of cvxpy's for semidefinite programs.

    References:
        Maric, Giamou, Khoubyarian, Petrovic and Kelly (2020), "Inverse Kinematics for Serial Kinematic Chains via
        Sum of Squares Optimization", arXiv 1909.09318.
    """

    arm: PlanarArm
    order: int = 1
    solver: str = "CLARABEL"
    _programs: dict[tuple[bool, int], _Program] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("order", self.order)
        if self.order > 2:
            raise ValueError(f"order: expected 1 or 2, found {self.order}")

    def config(self) -> dict[str, Any]:
        """Return the name and the options."""
        return {"model": "sdp", "order": self.order, "solver": self.solver}

    def answer(self, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> IKAnswer:
        """Answer targets `(N, 2|3)`, each from the middle of the limits."""
        return self.answer_near(home(self.arm, targets), targets, circles, tolerance).answer

    def answer_near(self, anchors: Tensor, targets: Tensor, circles: Circles, tolerance: float = 1e-3) -> ConvexAnswer:
        """Answer targets `(N, 2|3)` with the postures nearest to anchors `(N, n)` [rad].

        Raises:
            ImportError: cvxpy is not installed.
            ValueError: The arm has too few links to have an unknown joint.
        """
        key = (targets.shape[-1] == 3, circles.radii.shape[-1])
        if key not in self._programs:
            self._programs[key] = _Program(Chain(self.arm, *key), self.order, self.solver)
        return answer_each(self.arm, targets, circles, anchors, tolerance, self._programs[key].solve)

    def answer_in_turn(
        self, anchors: Tensor, targets: Tensor, circles: Circles, tolerance: float = 1e-3
    ) -> tuple[ConvexAnswer, Tensor]:
        """Answer targets `(N, 2|3)` near one of several anchors `(N, H, n)` [rad], such as all heads of a network.

        The next anchor is asked only where no answer is certified yet.

        Returns:
            The certified answer of each target, else the first that is SOLVED, else that of the first anchor; and how
            many anchors were asked, int64 (N,).

        Raises:
            ImportError: cvxpy is not installed.
            ValueError: There is no anchor, or the arm has too few links to have an unknown joint.
        """
        if anchors.ndim != 3 or not anchors.shape[1]:
            raise ValueError(f"anchors: expected shape (N, H, n) with H >= 1, found {tuple(anchors.shape)}")
        found = self.answer_near(anchors[:, 0], targets, circles, tolerance)
        asked = torch.ones(len(targets), dtype=torch.int64)
        hopeful = (found.answer.status != IKStatus.INVALID_INPUT) & (found.answer.status != IKStatus.UNREACHABLE)
        for number in range(1, anchors.shape[1]):
            left = (hopeful & ~found.certified).nonzero()[:, 0]
            if not len(left):
                break
            again = self.answer_near(anchors[left, number], targets[left], circles.pick(left), tolerance)
            asked[left] += 1
            solved, before = (each.answer.status == IKStatus.SOLVED for each in (again, found))
            better = again.certified | (solved & ~before[left])
            for column, new in zip((*found.answer, *found[1:]), (*again.answer, *again[1:]), strict=True):
                column[left[better]] = new[better]
        return found, asked


class _Program:
    """One program, built once; its parameters change from target to target."""

    def __init__(self, chain: Chain, order: int, solver: str) -> None:
        cp = require("cvxpy", "cvxpy", "cvxpy")
        self.chain, self.solver = chain, solver
        moments = _Moments(cp, 2 * chain.num_unknown, order)
        self.matrix, view = moments.matrix(), moments.view(())
        self.x = view.x
        constraints = [self.matrix >> 0, moments.y[0] == 1]
        for power in moments.monomials(2 * order - 2):
            constraints += [row == 0 for row in chain.lengths_of(moments.view(power))]
        basis = list(moments.monomials(order - 1))
        shifted = {power: chain.limits_of(moments.view(power)) for power in moments.monomials(2 * order - 2)}
        for i in range(len(shifted[()])):
            if order == 1:
                constraints.append(shifted[()][i] >= 0)
            else:
                entries = [[shifted[_times(a, b)][i] for b in basis] for a in basis]
                constraints.append(cp.bmat(entries) >> 0)
        if chain.num_circles:
            multipliers = cp.Variable((chain.num_links, chain.num_circles), nonneg=True)
            constraints += chain.circles_of(view, multipliers)
        cost = cp.trace(view.X) - 2 * chain.goal.anchor @ view.x
        self.problem = cp.Problem(cp.Minimize(cost), constraints)

    def solve(self, target: Array, anchor: Array, circles: Array) -> tuple[Array | None, float]:
        self.chain.set_goal(target, anchor, circles)
        if not solved(self.problem, self.solver):
            return None, np.nan
        values = np.linalg.eigvalsh(self.matrix.value)
        return np.asarray(self.x.value).reshape(-1, 2), float(max(values[-2], 0.0) / values[-1])


class _Moments:
    """A variable for every monomial up to degree 2 order in m unknowns, and the matrices made of them."""

    def __init__(self, cp: Any, num: int, order: int) -> None:
        self.num, self.order, self.cp = num, order, cp
        self.index = {power: i for i, power in enumerate(self.monomials(2 * order))}
        self.y = cp.Variable(len(self.index))

    def monomials(self, degree: int) -> Iterator[Monomial]:
        """Yield all monomials up to a degree, as sorted indices of their factors; () is 1."""
        for d in range(degree + 1):
            yield from combinations_with_replacement(range(self.num), d)

    def matrix(self) -> Any:
        """Return the moment matrix."""
        basis = list(self.monomials(self.order))
        return self._select([[_times(a, b) for b in basis] for a in basis])

    def view(self, power: Monomial) -> View:
        """Return what stands for 1, x and x x' in a row that is multiplied by a monomial."""
        x = self._select([[_times(power, (i,)) for i in range(self.num)]])[0]
        X = self._select([[_times(power, (i, j)) for j in range(self.num)] for i in range(self.num)])
        return View(self.y[self.index[power]], x, X)

    def _select(self, powers: list[list[Monomial]]) -> Any:
        numbers = np.array([[self.index[power] for power in row] for row in powers])
        return self.cp.reshape(self.y[numbers.ravel()], numbers.shape, order="C")


def _times(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted(a + b))
