"""Tables of a run: what `qp.md` and `qp.csv` say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..report import markdown_table, write_bytes, write_csv
from .comparison import by_case, compare, faster_layers, ours_of
from .judge import GRADIENT_LIMIT, KKT_LIMIT
from .peak import Peak
from .rounds import Budget, Row
from .shares import TARGETS, peak_share, share_rows
from .summary import Spread, ratio, spread


@dataclass(frozen=True)
class Report:
    """All that a run knows."""

    rows: Sequence[Row]
    machine: Sequence[tuple[str, str]]
    notes: Sequence[str]
    budget: Budget
    peak: Peak


def ms(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    value = 1e3 * seconds
    return "-" if np.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times_text(s: Spread) -> str:
    """A ratio with its quartiles."""
    return "-" if np.isnan(s.median) else f"{s.median:.3g} ({s.lower:.3g} .. {s.upper:.3g})"


def plain(value: float) -> str:
    """A number with three significant digits."""
    return "-" if np.isnan(value) else f"{value:.3g}"


def error_text(value: float) -> str:
    """An error with one digit."""
    return "-" if np.isnan(value) else f"{value:.0e}"


def main_table(rows: Sequence[Row], group_name: str = "table") -> str:
    """Return the ratio table: one line for each case of a group."""
    lines = []
    for group in by_case(rows).values():
        case = group[0].case
        ours = ours_of(group)
        if ours is None or ours.accuracy is None or case.group != group_name:
            continue
        total, forward = compare(group, "forward_backward"), compare(group, "forward")
        raw = compare(group, "forward", layers=False)
        target = case.target or 1.0
        reached = "-" if np.isnan(total.ratio.median) else "yes" if total.ratio.median >= target else "**no**"
        reached = reached if ours.counts else "**wrong**"
        lines.append([
            f"{case.name} ({case.n}, {case.m}, {case.p}); {case.batch}",
            ms(forward.ours.median), ms(total.ours.median),
            "-" if total.best is None else total.best.title, ms(total.peer.median), times_text(total.ratio),
            f"{target:g}", reached,
            plain(forward.ratio.median), plain(raw.ratio.median),
            error_text(ours.accuracy.kkt), error_text(ours.accuracy.gradient),
        ])  # fmt: skip
    header = ["case (n, m, p); batch", "ours fwd [ms]", "ours fwd + bwd [ms]", "best right peer", "its fwd + bwd [ms]",
              "times faster", "target", "reached", "fwd: times faster than layers", "than raw solvers", "KKT",
              "gradient error"]  # fmt: skip
    return markdown_table(header, lines)


def case_table(rows: Sequence[Row]) -> str:
    """Return every contender of one case."""
    lines = []
    for row in rows:
        a = row.accuracy
        mark = "" if row.counts or a is None else " (wrong: does not count)"
        kkt = "-" if a is None else error_text(a.kkt) + ("" if a.multipliers else " (x only)")
        gradient = "-" if a is None else error_text(a.gradient)
        forward, total = spread(row.forward), spread(row.forward_backward)
        lines.append([row.title + mark, *(f"{ms(s.median)} ({ms(s.lower)} .. {ms(s.upper)})" if s.count else "-"
                                          for s in (forward, total)),
                      f"{forward.count}/{total.count}", kkt, gradient, row.note or ""])  # fmt: skip
    header = ["implementation", "fwd [ms]", "fwd + bwd [ms]", "rounds", "KKT", "gradient error", "note"]
    return markdown_table(header, lines)


def faster_table(rows: Sequence[Row]) -> str:
    """Return where a layer is faster than ours: "never slower than any peer" is this table being empty."""
    lines = [
        [row.case.key, row.title, what.replace("_", " + "), times_text(times), "yes" if row.counts else "wrong"]
        for row, what, times in faster_layers(rows)
    ]
    return markdown_table(["case; batch", "layer", "phase", "ours times faster", "its answer right"], lines)


def thread_table(rows: Sequence[Row]) -> str:
    """Return ours with two threads against one."""
    lines = []
    for key, group in by_case(rows).items():
        found = {row.name: row for row in group}
        two = found.get("ours-2-threads")
        if two is not None and two.forward_backward and found["ours"].forward_backward:
            one = found["ours"]
            lines.append([key, times_text(ratio(one.forward, two.forward)),
                          times_text(ratio(one.forward_backward, two.forward_backward)), "1.8"])  # fmt: skip
    return markdown_table(["case; batch", "times faster fwd", "times faster fwd + bwd", "target"], lines)


def shared_table(rows: Sequence[Row]) -> str:
    """Return shared data against copies."""
    group = {row.name: row for row in rows if row.case.kind == "shared"}
    if not {"ours", "ours-expanded"} <= group.keys():
        return ""
    one, copies = group["ours"], group["ours-expanded"]
    faster = times_text(ratio(copies.forward_backward, one.forward_backward))
    lines = [["fwd + bwd, copied / shared", faster, ">= 2"],
             ["peak memory shared / copied", f"{one.peak_mib:.1f} / {copies.peak_mib:.1f} MiB = "
              f"{one.peak_mib / copies.peak_mib:.2f}", "<= 0.1"]]  # fmt: skip
    return markdown_table(["shared P, G; n = m = 100; batch 128", "measured", "target"], lines)


def share_table(rows: Sequence[Row], peak: Peak) -> str:
    """Return the share of the peak."""
    lines = [
        [row.case.key, row.case.n, f"{np.mean(row.iterations):.1f}", f"{peak_share(row, peak):.1%}",
         f"{TARGETS[row.case.n]:.0%}"]
        for row in share_rows(rows)
    ]  # fmt: skip
    table = markdown_table(["case; batch", "n", "factorisations", "share of peak", "target"], lines)
    return f"{MODEL}\n\n{table}" if lines else table


def document(report: Report) -> str:
    """Return the whole report as Markdown."""
    rows, groups = report.rows, by_case(report.rows)
    shares = [share for row in rows for share in row.cpu_share]
    busy = f"{np.median(shares):.2f}" if shares else "-"
    lines = [*report.machine,
             ("peak of one core", f"{report.peak.flops / 1e9:.1f} Gflop/s ({report.peak.method})"),
             ("quiet", f"median CPU time / wall time of one-thread samples: {busy} (1 on a quiet machine)"),
             ("rounds", f"up to {report.budget.rounds} interleaved; {report.budget.seconds:g} s for each contender and "
              f"case, nothing longer than {report.budget.timeout:g} s")]  # fmt: skip
    parts = ["# Differentiable QPs: ours against every installed peer",
             "Made by `python -m benchmarks qp`; how to read it: docs/benchmarks.md. float64, tolerance 1e-9, one "
             f"thread. {CLOCKS[report.budget.clock]} time of a whole batch, median; in brackets the quartiles. "
             "A peer counts if its answer is right: "
             f"KKT residual <= {KKT_LIMIT:g} and gradient error <= {GRADIENT_LIMIT:g}.",
             "\n".join(f"- {name}: {value}" for name, value in lines), "## Ratios", main_table(rows)]  # fmt: skip
    add_section(parts, "## Shared P and G", shared_table(rows))
    if report.budget.clock == "wall":  # CPU time does not tell what a second core gains
        add_section(parts, "## Two threads", thread_table(rows))
    add_section(parts, "## Share of the machine's peak", share_table(rows, report.peak))
    add_section(parts, "## Where a layer is faster than ours", faster_table(rows))
    add_section(parts, "## Published experiments", main_table(rows, "experiment"))
    parts += ["## Left out", "\n".join(f"- {line}" for line in [*report.notes, SPARSE, *failures(rows)])]
    parts += ["## Every case"]
    for key, group in groups.items():
        parts += [f"### {key} (n = {group[0].case.n}, m = {group[0].case.m}, p = {group[0].case.p})", case_table(group)]
    parts += ["## Versions", versions(rows)]
    return "\n\n".join(parts) + "\n"


MODEL = """Every iteration is counted as the full factorisation of an interior point method. The active set
method, which solves these cases, needs far fewer operations: the share says how busy an interior point method would
have to keep the core to be as fast, not how busy the core is. So it may exceed 100 %."""
CLOCKS = {"wall": "Wall", "cpu": "CPU"}
SPARSE = "Sparse programs (bands, n = 5000 and 20000): our library has no sparse solver."


def add_section(parts: list[str], title: str, table: str) -> None:
    """Append a section that has lines."""
    if table.count("\n") >= 2:
        parts += [title, table]


def failures(rows: Sequence[Row]) -> list[str]:
    """Return one line for each contender that failed in a case."""
    return [f"{row.title} in {row.case.key}: {row.note}" for row in rows if row.note]


def versions(rows: Sequence[Row]) -> str:
    """Return the versions of each peer and what it stands on."""
    found = {row.title: ", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in rows if row.versions}
    return "\n".join(f"- {title}: {text}" for title, text in found.items())


def write(report: Report, out: Path) -> None:
    """Write the CSV file, the Markdown file and the figures."""
    from . import plots

    header = ["case", "n", "m", "p", "batch", "group", "implementation"]
    header += [f"{what}_{part}" for what in ("forward", "forward_backward") for part in COLUMNS]
    header += ["kkt", "gradient_error", "judged", "counts", "cpu_share", "peak_mib", "note", "versions"]
    write_csv(Path(f"{out}.csv"), header, [csv_line(row) for row in report.rows])
    write_bytes(Path(f"{out}.md"), document(report).encode())
    plots.draw(report, out)


COLUMNS: dict[str, Callable[[Spread], float]] = {
    "seconds": lambda s: s.median, "lower": lambda s: s.lower, "upper": lambda s: s.upper, "rounds": lambda s: s.count,
}  # fmt: skip


def csv_line(row: Row) -> list[object]:
    """Return one line of the CSV file."""
    case, a = row.case, row.accuracy
    summaries = [read(spread(times)) for times in (row.forward, row.forward_backward) for read in COLUMNS.values()]
    judged = ["", "", "", ""] if a is None else [a.kkt, a.gradient, a.judged, row.counts]
    share = float(np.median(row.cpu_share)) if row.cpu_share else ""
    packages = " ".join(f"{k}=={v}" for k, v in row.versions.items())
    return [case.name, case.n, case.m, case.p, case.batch, case.group, row.name, *summaries, *judged, share,
            row.peak_mib, row.note, packages]  # fmt: skip
