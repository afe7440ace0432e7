"""Random small programs of every class, solved in batches and verified one by one.

Each element must be SOLVED with a certificate of optimality, or carry a failure status whose own certificate holds.
MAX_ITER and NUMERICAL_ERROR claim nothing and are counted. Gradients of a random functional must be finite.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from implicit_layers import InteriorPoint, QPProblem, QPSolution, SolverWarning, SolveStatus, solve_qp

from .fuzz_checks import violations
from .fuzz_problems import CLASSES, Case, Draw, Units
from .report import markdown_table


@dataclass
class Report:
    """What a run found."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return classes by statuses, with the violations in the last column."""
        names = [status.name for status in SolveStatus]
        lines = [
            [kind, *(count[name] or "" for name in names), count["violation"] or ""]
            for kind, count in self.counts.items()
        ]
        total: Counter[str] = sum(self.counts.values(), Counter())
        lines.append(["total", *(total[name] for name in names), total["violation"]])
        return markdown_table(["class", *names, "violations"], lines)


def run(
    count: int,
    seed: int,
    batch: int,
    kinds: Sequence[str],
    solver: InteriorPoint,
    folder: Path,
    log: Callable[[str], object],
) -> Report:
    """Solve and verify `count` programs, the classes in turn, each batch with sizes of its own.

    Args:
        count: programs in all.
        seed: of everything.
        batch: largest number of programs solved at once.
        kinds: names of `CLASSES`.
        solver: what is tested.
        folder: where problems that break a promise are saved.
        log: takes one line for each violation.
    """
    torch.set_num_threads(1)
    report = Report({kind: Counter() for kind in kinds})
    batch = min(batch, max(1, count // len(kinds)))
    for index, start in enumerate(range(0, count, batch)):
        kind = kinds[index % len(kinds)]
        case = CLASSES[kind](Draw(seed * 1_000_003 + index, min(batch, count - start)))
        solution, found = examine(case, solver)
        statuses = Counter(SolveStatus(code).name for code in solution.status.tolist())
        report.counts[kind].update(statuses)
        for promise, mask in found.items():
            elements = mask.nonzero().flatten().tolist()
            if not elements:
                continue
            report.counts[kind]["violation"] += len(elements)
            path = folder / f"fuzz-{seed}-{index}-{promise.replace(' ', '-')}.pt"
            save(case, elements[0], solver, path)
            report.violations.append(
                f"{kind}: {promise}, {len(elements)} of {len(mask)} elements; reproduce the first with: "
                f"python -m benchmarks fuzz --core {solver.core} --replay {path}"
            )
            log(report.violations[-1])
    return report


def solve(problem: Sequence[Tensor | None], solver: InteriorPoint) -> QPSolution:
    """Solve a batch; sparsely its elements one by one, since sparse matrices have no batch dimension."""
    if solver.core != "sparse":
        return solve_qp(*problem, solver=solver)  # type: ignore[arg-type]
    batch = next(v.shape[0] for v in problem if v is not None)
    elements = [solve_qp(*(None if v is None else v[b] for v in problem), solver=solver) for b in range(batch)]  # type: ignore[arg-type]
    return QPSolution(*(torch.stack(parts) for parts in zip(*elements, strict=True)))


def examine(case: Case, solver: InteriorPoint) -> tuple[QPSolution, dict[str, Tensor]]:
    """Solve a batch, differentiate it, and return the solution and who breaks which promise."""
    leaves = [None if v is None else v.clone().requires_grad_() for v in case.problem]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = solve(leaves, solver)
    bad = violations(case, QPSolution(*(v.detach() for v in solution)))
    generator = torch.Generator().manual_seed(0)
    functional = sum(
        (torch.randn(v.shape, generator=generator, dtype=v.dtype) * torch.where(v.isnan(), 0.0, v)).sum()
        for v in (solution.x, solution.z, solution.y, solution.z_box)
    )
    assert isinstance(functional, Tensor)
    functional.backward()
    gradients = [leaf.grad.flatten(1) for leaf in leaves if leaf is not None and leaf.grad is not None]
    finite = torch.cat(gradients, -1).isfinite().all(-1)
    return solution, bad | {"gradient not finite": ~finite}


def save(case: Case, element: int, solver: InteriorPoint, path: Path) -> None:
    """Save one element; the whole batch where the element alone keeps its promises."""
    single = _select(case, [element])
    alone = any(bool(mask.any()) for mask in examine(single, solver)[1].values())
    chosen = single if alone else case
    beside = path.with_name(f".{path.name}")
    torch.save(
        {"problem": chosen.problem._asdict(), "units": chosen.units._asdict(), "invalid": chosen.invalid}, beside
    )
    beside.replace(path)


def replay(path: Path, solver: InteriorPoint) -> tuple[str, bool]:
    """Solve a saved problem again; return what came out, and whether every promise holds.

    Raises:
        click.ClickException: the file does not hold a saved problem.
    """
    try:
        data: dict[str, Any] = torch.load(path, weights_only=True)
        case = Case(QPProblem(**data["problem"]), Units(**data["units"]), data["invalid"])
    except Exception as error:  # torch raises whatever its unpickler trips over
        raise click.ClickException(f"{path}: expected a problem saved by fuzz, found: {error}") from error
    solution, found = examine(case, solver)
    broken = {promise: mask.nonzero().flatten().tolist() for promise, mask in found.items() if bool(mask.any())}
    lines = [f"{name} = {getattr(solution, name).detach()[:1].tolist()}" for name in solution._fields]
    lines += [f"{promise}: elements {elements[:10]}" for promise, elements in broken.items()]
    return "\n".join([*lines, "violations found" if broken else "every promise holds"]), not broken


def _select(case: Case, index: list[int]) -> Case:
    return Case(
        QPProblem(*(None if v is None else v[index] for v in case.problem)),  # type: ignore[arg-type]
        Units(*(v[index] for v in case.units)),
        case.invalid[index],
    )
