"""The errors of the toolkit: one for the caller's mistakes, one for a solve that failed."""

from __future__ import annotations

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
