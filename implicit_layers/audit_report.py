"""What the audit found: one row for each family, judged by tolerances, printed as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Largest accepted errors, relative to max(1, largest expected entry); the data is of size about 1.

    Families in float32 and weakly active rows get 100 times as much.

    Args:
        x: of the solution.
        duals: of the multipliers.
        gradient: against the dense solve.
        differences: against finite differences, which a solution with error e disturbs by up to 3000 e.
    """

    x: float = 1e-6
    duals: float = 1e-5
    gradient: float = 1e-5
    differences: float = 1e-4


@final
@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """What one family showed. None: not measured, because the layer did not get there or does not return it.

    Attributes:
        family: name.
        x_error: worst error of x.
        gradient_errors: error against the dense solve, for each output and input: `{"dx/dG": 1e-12, ...}`.
        difference_errors: the same against finite differences along random directions.
        dual_error: worst error of the multipliers returned.
        dual_sign: most negative multiplier of an inequality row, as a positive number.
        finite: whether x of the elements that have a solution and all gradients are finite.
        silent: whether an element without a solution came back as if it had one.
        error: what the layer raised, or what is wrong with the kind of its output, in one line.
        problems: what is wrong, in words; empty if nothing.
    """

    family: str
    x_error: float | None = None
    gradient_errors: Mapping[str, float] = field(default_factory=dict)
    difference_errors: Mapping[str, float] = field(default_factory=dict)
    dual_error: float | None = None
    dual_sign: float | None = None
    finite: bool = True
    silent: bool = False
    error: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def gradient_error(self) -> float | None:
        """Worst error against the dense solve."""
        return max(self.gradient_errors.values(), default=None)

    @property
    def difference_error(self) -> float | None:
        """Worst error against finite differences."""
        return max(self.difference_errors.values(), default=None)

    @property
    def worst_input(self) -> str | None:
        """The derivative with the largest error against the dense solve, as `dx/dG`."""
        return max(self.gradient_errors, key=self.gradient_errors.__getitem__, default=None)

    @property
    def verdict(self) -> str:
        """`ok`, or what is wrong in one line."""
        return "; ".join(self.problems) or "ok"

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        duals = _number(self.dual_error) + (" (sign)" if "wrong sign of z" in self.problems else "")
        errors = (_number(v) for v in (self.x_error, self.gradient_error, self.difference_error))
        return (self.family, *errors, self.worst_input or "-", duals, self.verdict)


@final
@dataclass(frozen=True)
class AuditReport:
    """One row for each family."""

    rows: tuple[AuditRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no family found anything wrong."""
        return all(row.ok for row in self.rows)

    def table(self) -> str:
        """Return the rows as aligned text."""
        header = ("family", "x error", "vs KKT", "vs differences", "worst input", "duals", "verdict")
        lines = [header, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        right = sum(row.ok for row in self.rows)
        return "\n".join([*text, f"{right} of {len(self.rows)} families right"])


def judge(row: AuditRow, tolerances: Tolerances, looseness: float) -> tuple[str, ...]:
    """Return what is wrong with a row, in words; looseness multiplies all tolerances."""

    def wrong(error: float | None, tolerance: float) -> bool:
        return error is not None and not error <= looseness * tolerance

    lost = row.x_error == math.inf
    differing = max(row.difference_errors, key=row.difference_errors.__getitem__, default="")
    findings = (
        (row.error is not None, row.error),
        (row.silent, "failure returned as if solved"),
        (lost, "x not finite"),
        (not row.finite and not lost, "gradient not finite"),
        (wrong(row.x_error, tolerances.x) and not lost, "wrong x"),
        (wrong(row.dual_error, tolerances.duals), "wrong duals"),
        (wrong(row.dual_sign, tolerances.duals), "wrong sign of z"),
        (wrong(row.gradient_error, tolerances.gradient), f"wrong {row.worst_input}"),
        (wrong(row.difference_error, tolerances.differences), f"{differing} against differences"),
    )
    return tuple(str(text) for found, text in findings if found)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0e}" if value else "0"
