"""Nonlinear programs with known solutions.

Reference: Hock and Schittkowski (1981), Test examples for nonlinear programming codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class NonlinearProgram:
    """`min f  s.t.  eq = 0, ineq <= 0`, where to start and where the minimum is; the number is the book's."""

    start: tuple[float, ...]
    cost: Callable[..., Tensor]
    minimum: float
    eq: Callable[..., Tensor] | None = None
    ineq: Callable[..., Tensor] | None = None
    solution: tuple[float, ...] | None = None

    def each(self, function: Callable[..., Tensor] | None) -> Callable[[Tensor], Tensor] | None:
        """Let a function of the entries of w be one of w."""
        return None if function is None else lambda w: function(*w.unbind(-1))

    @property
    def w0(self) -> Tensor:
        return torch.tensor(self.start, dtype=F64)


def rows(*values: Tensor) -> Tensor:
    return torch.stack(values, -1)


PROGRAMS = {
    6: NonlinearProgram(
        (-1.2, 1), lambda a, b: (1 - a) ** 2, 0.0, eq=lambda a, b: rows(10 * (b - a**2)), solution=(1, 1)
    ),
    7: NonlinearProgram(
        (2, 2), lambda a, b: torch.log(1 + a**2) - b, -math.sqrt(3),
        eq=lambda a, b: rows((1 + a**2) ** 2 + b**2 - 4), solution=(0, math.sqrt(3)),
    ),
    10: NonlinearProgram(
        (-10, 10), lambda a, b: a - b, -1.0,
        ineq=lambda a, b: rows(3 * a**2 - 2 * a * b + b**2 - 1), solution=(0, 1),
    ),
    12: NonlinearProgram(
        (0, 0), lambda a, b: 0.5 * a**2 + b**2 - a * b - 7 * a - 7 * b, -30.0,
        ineq=lambda a, b: rows(4 * a**2 + b**2 - 25), solution=(2, 3),
    ),
    15: NonlinearProgram(
        (-2, 1), lambda a, b: 100 * (b - a**2) ** 2 + (1 - a) ** 2, 306.5,
        ineq=lambda a, b: rows(1 - a * b, -a - b**2, a - 0.5), solution=(0.5, 2),
    ),
    28: NonlinearProgram(
        (-4, 1, 1), lambda a, b, c: (a + b) ** 2 + (b + c) ** 2, 0.0,
        eq=lambda a, b, c: rows(a + 2 * b + 3 * c - 1), solution=(0.5, -0.5, 0.5),
    ),
    35: NonlinearProgram(
        (0.5, 0.5, 0.5),
        lambda a, b, c: 9 - 8 * a - 6 * b - 4 * c + 2 * a**2 + 2 * b**2 + c**2 + 2 * a * b + 2 * a * c, 1 / 9,
        ineq=lambda a, b, c: rows(a + b + 2 * c - 3, -a, -b, -c), solution=(4 / 3, 7 / 9, 4 / 9),
    ),
    39: NonlinearProgram(
        (2, 2, 2, 2), lambda a, b, c, d: -a, -1.0,
        eq=lambda a, b, c, d: rows(b - a**3 - c**2, a**2 - b - d**2), solution=(1, 1, 0, 0),
    ),
    40: NonlinearProgram(
        (0.8, 0.8, 0.8, 0.8), lambda a, b, c, d: -a * b * c * d, -0.25,
        eq=lambda a, b, c, d: rows(a**3 + b**2 - 1, a**2 * d - c, d**2 - b),
    ),
    43: NonlinearProgram(
        (0, 0, 0, 0), lambda a, b, c, d: a**2 + b**2 + 2 * c**2 + d**2 - 5 * a - 5 * b - 21 * c + 7 * d, -44.0,
        ineq=lambda a, b, c, d: rows(
            a**2 + b**2 + c**2 + d**2 + a - b + c - d - 8,
            a**2 + 2 * b**2 + c**2 + 2 * d**2 - a - d - 10,
            2 * a**2 + b**2 + c**2 + 2 * a - b - d - 5,
        ), solution=(0, 1, 2, -1),
    ),
    71: NonlinearProgram(
        (1, 5, 5, 1), lambda a, b, c, d: a * d * (a + b + c) + c, 17.0140172891,
        eq=lambda a, b, c, d: rows(a**2 + b**2 + c**2 + d**2 - 40),
        ineq=lambda a, b, c, d: rows(
            25 - a * b * c * d, 1 - a, 1 - b, 1 - c, 1 - d, a - 5, b - 5, c - 5, d - 5
        ), solution=(1, 4.7429996, 3.8211499, 1.3794083),
    ),
    100: NonlinearProgram(
        (1, 2, 0, 4, 0, 1, 1),
        lambda a, b, c, d, e, f, g: (a - 10) ** 2 + 5 * (b - 12) ** 2 + c**4 + 3 * (d - 11) ** 2 + 10 * e**6
        + 7 * f**2 + g**4 - 4 * f * g - 10 * f - 8 * g, 680.6300573,
        ineq=lambda a, b, c, d, e, f, g: rows(
            2 * a**2 + 3 * b**4 + c + 4 * d**2 + 5 * e - 127, 7 * a + 3 * b + 10 * c**2 + d - e - 282,
            23 * a + b**2 + 6 * f**2 - 8 * g - 196, 4 * a**2 + b**2 - 3 * a * b + 2 * c**2 + 5 * f - 11 * g,
        ),
    ),
}  # fmt: skip
