"""The errors of the toolkit: one for the caller's mistakes, one for a solve that failed."""

from __future__ import annotations

import sys
import warnings
from typing import Any


class ProblemError(ValueError):
    """The arguments do not describe a problem: which argument, what was expected, what was found."""


class SolverError(RuntimeError):
    """A solve failed and the caller asked for `strict=True`.

    Attributes:
        problem: the problem as given.
        solution: the solution so far, with a status per element.
    """

    def __init__(self, message: str, problem: Any = None, solution: Any = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.solution = solution


class SolverWarning(UserWarning):
    """Some elements of a batch were not solved; their gradients are zero."""


def warn_solver(message: str) -> None:
    """Warn at the line of the caller's code, however deep in autograd the solve ran."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None:
        level, frame = level + 1, frame.f_back
        if frame.f_globals.get("__name__", "").split(".")[0] not in ("implicit_layers", "torch"):
            break
    warnings.warn(message, SolverWarning, stacklevel=level)
