"""Inverse kinematics as quadratic rows in the positions of the joints, written for lifted variables.

The chain runs from the base over unknown joints x_1 .. x_N to a given end: the last joint for a pose, which with the
orientation fixes the last link too, or the tip for a position. Lengths are divided by the reach. A row is a polynomial
of degree two, and a `View` says by what 1, the x and their products are replaced: for a relaxation of order one, by a
lifted matrix; for one of order two, by the moments of the same monomials times another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robotics.arm import PlanarArm
from robotics.checks import require

Array = npt.NDArray[np.float64]


class View(NamedTuple):
    """What stands for 1, for the unknown x, (2 N,), and for x x', (2 N, 2 N)."""

    one: Any
    x: Any
    X: Any


@dataclass(frozen=True, eq=False)
class Goal:
    """The parameters of one program: set anew for every target, so that it is built once.

    Attributes:
        end: end of the chain, (2,) of reach.
        end_square: its products with itself, (2, 2).
        last: direction e(Θ) of the last link, turned back by the middle of its limits, (2,); of poses alone.
        last_end: its product with the end.
        anchor: positions that the answer should be near, (2 N,) of reach.
        centers: of the circles, (k, 2) of reach.
        power: |o|² - R² of each, (k,).
        center_end: product of each centre with the end, (k,).
    """

    end: Any
    end_square: Any
    last: Any
    last_end: Any
    anchor: Any
    centers: Any
    power: Any
    center_end: Any


class Chain:
    """The rows of one kind of goal.

    Args:
        arm: the arm, n links.
        pose: whether goals have an orientation.
        num_circles: number k of circles.

    Raises:
        ValueError: There is no unknown joint: two links have one for positions, three for poses.
        ImportError: cvxpy is not installed.
    """

    def __init__(self, arm: PlanarArm, pose: bool, num_circles: int) -> None:
        self.arm, self.pose = arm, pose
        self.lengths = [length / arm.reach for length in arm.lengths]
        self.num_links = arm.num_links - pose
        self.num_unknown = self.num_links - 1
        if self.num_unknown < 1:
            kind, least = ("poses", 3) if pose else ("positions", 2)
            raise ValueError(f"arm: expected {least} links or more for {kind}, found {arm.num_links}")
        parameter = require("cvxpy", "cvxpy", "cvxpy").Parameter
        shapes = {"end": 2, "end_square": (2, 2), "last": 2, "last_end": (), "anchor": 2 * self.num_unknown}
        circles = {"centers": (num_circles, 2), "power": num_circles, "center_end": num_circles}
        shapes |= circles if num_circles else {}
        self.num_circles = num_circles
        self.goal = Goal(**dict.fromkeys(circles) | {name: parameter(shape) for name, shape in shapes.items()})

    def set_goal(self, target: Array, anchor: Array, circles: Array) -> None:
        """Give the parameters their values.

        Args:
            target: (2,) [m] or (3,) [m, m, rad].
            anchor: joint angles (n,) [rad].
            circles: (k, 3): x, y and radius with that of the links [m].
        """
        goal, reach = self.goal, self.arm.reach
        end = target[:2] / reach
        direction = np.zeros(2)
        if self.pose:
            direction = np.array([math.cos(target[2]), math.sin(target[2])])
            end = end - self.lengths[-1] * direction
            direction = rotation(sum(self.arm.limits[-1]) / 2).T @ direction
        goal.end.value, goal.end_square.value = end, np.outer(end, end)
        goal.last.value, goal.last_end.value = direction, direction @ end
        goal.anchor.value = np_points(self.lengths, anchor)[1 : 1 + self.num_unknown].ravel()
        if self.num_circles:
            centers, radii = circles[:, :2] / reach, circles[:, 2] / reach
            goal.centers.value, goal.center_end.value = centers, centers @ end
            goal.power.value = (centers**2).sum(-1) - radii**2

    def lengths_of(self, view: View) -> list[Any]:
        """Return what is zero: squared length of every link less what it should be."""
        eye = np.eye(2)
        return [
            self._product(view, i, i, eye)
            - 2 * self._product(view, i - 1, i, eye)
            + self._product(view, i - 1, i - 1, eye)
            - self.lengths[i - 1] ** 2 * view.one
            for i in range(1, self.num_links + 1)
        ]

    def limits_of(self, view: View, exact: bool = True) -> list[Any]:
        """Return what is not negative: cosine of each joint from the middle of its limits, less that at its limits.

        Args:
            view: what stands for the monomials.
            exact: whether limits are about their middle; else about zero, as wide as the wider side, which needs no
                products of one coordinate with another.
        """
        rows = []
        for joint, (lower, upper) in enumerate(self.arm.limits):
            linear = joint == 0 or joint == self.num_links
            middle, half = (lower + upper) / 2, (upper - lower) / 2
            if not (exact or linear):
                middle, half = 0.0, max(abs(lower), abs(upper))
            if half >= math.pi or joint > self.num_links:
                continue
            rows.append(self._cosine(view, joint, rotation(middle)) - math.cos(half) * view.one)
        return rows

    def circles_of(self, view: View, multipliers: Any) -> list[Any]:
        """Return the constraints that every link of the chain is wholly outside every circle, given λ >= 0, (links, k).

        |x + t (y - x) - o|² - R² = c + b t + l² t² is not negative on [0, 1] if, and only if, for some λ >= 0 it is at
        least λ t (1 - t) everywhere: if [[c, (b - λ)/2], [(b - λ)/2, l² + λ]] is positive semidefinite.
        """
        cp = require("cvxpy", "cvxpy", "cvxpy")
        eye, rows = np.eye(2), []
        for i in range(1, self.num_links + 1):
            square = self._product(view, i - 1, i - 1, eye)
            across = self._product(view, i - 1, i, eye)
            for j in range(self.num_circles):
                start, end = self._with_center(view, i - 1, j), self._with_center(view, i, j)
                c = square - 2 * start + self.goal.power[j]
                b = 2 * (across - square - end + start)
                free = multipliers[i - 1, j]
                first, second = c, self.lengths[i - 1] ** 2 + free
                rows.append(cp.SOC(first + second, cp.hstack([b - free, first - second])))
        return rows

    def _cosine(self, view: View, joint: int, turn: Array) -> Any:
        """Return (R z)'z' of the directions before and after a joint, with R the turn by the middle of its limits."""
        after = joint + 1
        if joint == self.num_links:  # the last link of a pose, whose direction is given
            length = self.lengths[joint - 1]
            known = self.goal.last_end * view.one
            return (known - self.goal.last @ self._unknown(view, joint - 1)) / length
        scale = self.lengths[joint]
        if joint == 0:
            return (turn[:, 0] @ self._point(view, 1)) / scale
        scale *= self.lengths[joint - 1]
        pairs = ((joint, after, 1), (joint, joint, -1), (joint - 1, after, -1), (joint - 1, joint, 1))
        return sum(sign * self._product(view, i, j, turn.T) for i, j, sign in pairs) / scale

    def _unknown(self, view: View, i: int) -> Any:
        return view.x[2 * i - 2 : 2 * i]

    def _point(self, view: View, i: int) -> Any:
        return self._unknown(view, i) if i <= self.num_unknown else self.goal.end * view.one

    def _with_center(self, view: View, i: int, circle: int) -> Any:
        """Return o'x_i."""
        if i == 0:
            return 0.0
        if i > self.num_unknown:
            return self.goal.center_end[circle] * view.one
        return self.goal.centers[circle] @ self._unknown(view, i)

    def _product(self, view: View, i: int, j: int, M: Array) -> Any:
        """Return x_i'M x_j."""
        cp = require("cvxpy", "cvxpy", "cvxpy")
        if i == 0 or j == 0:
            return 0.0
        if i > self.num_unknown and j > self.num_unknown:
            return cp.sum(cp.multiply(M, self.goal.end_square)) * view.one
        if i > self.num_unknown:
            return (M.T @ self.goal.end) @ self._unknown(view, j)
        if j > self.num_unknown:
            return (M @ self.goal.end) @ self._unknown(view, i)
        return cp.sum(cp.multiply(M, view.X[2 * i - 2 : 2 * i, 2 * j - 2 : 2 * j]))


def rotation(angle: float) -> Array:
    """Return the turn of the plane by an angle [rad]."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def np_points(lengths: list[float], theta: Array) -> Array:
    """Return p_0 .. p_n of joint angles (n,) [rad], (n + 1, 2)."""
    phi = np.cumsum(theta)
    links = np.array(lengths)[:, None] * np.stack((np.cos(phi), np.sin(phi)), -1)
    return np.concatenate((np.zeros((1, 2)), np.cumsum(links, 0)))
