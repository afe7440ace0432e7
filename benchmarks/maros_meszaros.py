"""The Maros-Meszaros problems, solved densely by us and by our peers in one run, judged by one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import click
import numpy as np

from .isolation import CallFailedError, IsolatedFunction
from .peers.solvers import adapter
from .range_qp import Answer, RangeQP, floor, judge, load
from .report import markdown_table, write_csv

EPS = 1e-9
LEVELS = (1e-3, 1e-6, 1e-9)


@dataclass(frozen=True)
class Row:
    """One problem solved by one solver; residuals are absolute, in the units of the problem as given.

    `error` is the largest of the three, evaluated in float64 as the published yardstick does; `error_extended` is
    the same in extended precision, which measures the answer without the round-off of measuring it. The floors say
    how much of a float64 residual can be round-off: below them success is luck.
    """

    problem: str
    solver: str
    n: int
    rows: int
    equalities: int
    status: str
    iterations: int
    seconds: float
    primal_residual: float
    dual_residual: float
    duality_gap: float
    error: float
    error_extended: float
    primal_floor: float
    dual_floor: float
    gap_floor: float


def select(folder: Path, limit_n: int, limit_m: int) -> list[Path]:
    """Return the files whose problems have at most that many unknowns and rows (bounds not counted).

    Raises:
        click.ClickException: there is none.
    """
    paths = sorted(folder.glob("*.mat"))
    chosen = [path for path in paths if _fits(load(path), limit_n, limit_m)]
    if not chosen:
        raise click.ClickException(
            f"{folder}: expected .mat files with n <= {limit_n} and m <= {limit_m}, found {len(paths)} others"
        )
    return chosen


def _fits(problem: RangeQP, limit_n: int, limit_m: int) -> bool:
    return len(problem.q) <= limit_n and len(problem.u) <= limit_m


def run(paths: Sequence[Path], solvers: Sequence[str], timeout: float, log: Callable[[str], object]) -> list[Row]:
    """Solve every problem with every solver, each solver in a process of its own.

    Args:
        paths: files to solve.
        solvers: names of `peers.solvers.SOLVERS`.
        timeout: longest time of one solve [s].
        log: takes one line of progress for each row.
    """
    rows = []
    for solver in solvers:
        with IsolatedFunction(solve_file, timeout) as call:
            for path in paths:
                row = _attempt(call, path, solver)
                rows.append(row)
                log(f"{row.problem:10} {solver:9} {row.status:22} {row.iterations:5} {row.seconds:9.3f} s "
                    f"{row.error:.1e}")  # fmt: skip
    return sorted(rows, key=lambda row: (row.problem, solvers.index(row.solver)))


def _attempt(call: IsolatedFunction, path: Path, solver: str) -> Row:
    problem = load(path)
    sizes = (len(problem.q), len(problem.u), int((problem.l == problem.u).sum()))
    try:
        answer: Answer = call(path, solver)
    except CallFailedError as error:
        return Row(problem.name, solver, *sizes, f"failed: {error}", 0, *(float("inf"),) * 6, *(float("nan"),) * 3)
    found, extended = judge(problem, answer), judge(problem, answer, np.longdouble)
    measures = (*found, found.error, extended.error, *floor(problem, answer))
    return Row(problem.name, solver, *sizes, answer.status, answer.iterations, answer.seconds, *measures)


def solve_file(path: Path, solver: str) -> Answer:
    """Solve one file with one solver (runs in the child)."""
    import torch

    torch.set_num_threads(1)
    return adapter(solver)(load(path), EPS)


def success_table(rows: Sequence[Row], solvers: Iterable[str], field: str = "error") -> str:
    """Return the Markdown table of successes: all three residuals at or below the level."""
    lines = []
    for solver in solvers:
        mine = [row for row in rows if row.solver == solver]
        counts = [sum(getattr(row, field) <= level for row in mine) for level in LEVELS]
        seconds = np.array([row.seconds for row in mine if np.isfinite(row.seconds)])
        shifted = np.exp(np.log(seconds + 1e-3).mean()) - 1e-3 if len(seconds) else float("nan")
        cells = [f"{count} of {len(mine)} ({count / len(mine):.1%})" for count in counts]
        lines.append([solver, *cells, f"{1e3 * shifted:.1f}"])
    return markdown_table(["solver", *(f"<= {level:.0e}" for level in LEVELS), "mean time [ms]"], lines)


def failures(rows: Sequence[Row], solver: str, level: float) -> list[str]:
    """Return one line for each problem that a solver missed, with the residuals and their float64 floors."""
    return [
        f"{row.problem}: {row.status}, primal {row.primal_residual:.1e} (floor {row.primal_floor:.0e}), "
        f"dual {row.dual_residual:.1e} ({row.dual_floor:.0e}), gap {row.duality_gap:.1e} ({row.gap_floor:.0e})"
        for row in rows
        if row.solver == solver and not row.error <= level
    ]


def write(rows: Sequence[Row], out: Path) -> None:
    """Write one line for each problem and solver."""
    write_csv(out, [f.name for f in fields(Row)], [astuple(row) for row in rows])
