"""Checks of options, with errors of one line that name the option."""

from __future__ import annotations

from .errors import ProblemError


def check_count(name: str, value: object, optional: bool = False) -> None:
    """Raise ProblemError unless an option is a positive integer, or None where it is optional."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        expected = "a positive integer or None" if optional else "a positive integer"
        raise ProblemError(f"{name}: expected {expected}, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise ProblemError unless a step length or a weight is positive."""
    if not value > 0:
        raise ProblemError(f"{name}: expected a positive number, got {value!r}")
