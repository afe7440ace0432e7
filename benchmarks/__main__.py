"""The command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from .ik.command import ik, ik_safety
from .peers.solvers import SOLVERS, SPARSE_SOLVERS
from .report import RESULTS


class OneLineErrors(click.Group):
    """A group of commands whose errors are one line on stderr and exit code 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and leave with its exit code."""
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except click.Abort:
            code = 130
        except click.ClickException as error:
            click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def examples(*lines: str) -> str:
    """Return an epilog of command lines that click does not re-wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  python -m benchmarks {line}" for line in lines)


@click.group(
    cls=OneLineErrors,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "peers",
        "qp --quick",
        "implicit-vs-unrolled",
        "maros-meszaros --data ../shared/data/maros_meszaros",
        "fuzz --count 1000000 --seed 0",
        "ik --quick",
        "ik-safety --count 1000000",
    ),
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Measure the QP layers: speed, memory, accuracy and robustness.

    Set OMP_NUM_THREADS=1 for times that can be compared.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


@cli.command("qp", epilog=examples("qp", "qp --quick", "qp --cases 'tiny;128,optnet' --peers moreau,qpth --rounds 5"))
@click.option("--cases", "chosen", default="", help="Comma-separated: families (tiny) or cases (tiny;128).")
@click.option("--peers", "rivals", default="", help="Comma-separated; default: all that are installed.")
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1), help="Interleaved rounds of timing.")
@click.option(
    "--seconds", default=3.0, show_default=True, type=click.FloatRange(0), help="Timing per peer and case [s]."
)
@click.option("--timeout", default=20.0, show_default=True, type=click.FloatRange(0.1), help="Longest single step [s].")
@click.option("--clock", default="wall", show_default=True, type=click.Choice(["wall", "cpu"]),
              help="CPU time is for a machine that others use too.")  # fmt: skip
@click.option("--experiments", is_flag=True, help="Also the experiments published by dQP, BPQP and SCQPTH.")
@click.option("--quick", is_flag=True, help="Tiny and small programs, few rounds, light peers: under half a minute.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "qp", show_default=True,
              help="Path without suffix; .csv, .md and _*.png are added.")  # fmt: skip
def qp(
    chosen: str,
    rivals: str,
    rounds: int,
    seconds: float,
    timeout: float,
    clock: Literal["wall", "cpu"],
    experiments: bool,
    quick: bool,
    out: Path,
) -> None:
    """Our differentiable QP against every installed peer: time, accuracy, ratio.

    Each peer runs in a process and environment of its own (`python -m benchmarks peers` builds them). Rounds are
    interleaved; the ratio is that of one round, its median is reported.
    """
    from .qp.rounds import Budget
    from .qp.run import run, select_cases, select_peers

    check_folder(out)
    cases = select_cases(names(chosen), quick, experiments)
    peers, missing = select_peers(names(rivals), quick)
    if quick:
        rounds, seconds, timeout = min(rounds, 5), 0.2, 5.0
    budget = Budget(rounds=rounds, seconds=seconds, timeout=timeout, clock=clock)
    click.echo(run(cases, peers, missing, budget, out, lambda line: click.echo(line, err=True)))
    for line in missing:
        click.echo(line)
    click.echo(f"written: {out}.csv, {out}.md, {out}_*.png")


@cli.command("peers", epilog=examples("peers", "peers torch jax"))
@click.argument("environments", nargs=-1)
def peers(environments: tuple[str, ...]) -> None:
    """Install the peers of `qp`, each in the environment it needs, under benchmarks/.envs.

    One file of pinned requirements stands for each of ENVIRONMENTS; default: all of them.
    """
    from .qp.environments import REQUIREMENTS, build

    known = sorted(file.stem for file in REQUIREMENTS.glob("*.txt"))
    unknown = [name for name in environments if name not in known]
    if unknown:
        raise click.UsageError(f"environments: expected names of {', '.join(known)}, got {unknown[0]!r}")
    build(environments or None, lambda line: click.echo(line, err=True))


@cli.command(
    "implicit-vs-unrolled",
    epilog=examples("implicit-vs-unrolled", "implicit-vs-unrolled --n 20 --m 30 --p 0 --batch 256 --out small"),
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "implicit_vs_unrolled", show_default=True,
              help="Path without suffix; .csv, .png and .md are added.")  # fmt: skip
@click.option("--n", default=50, show_default=True, type=click.IntRange(2), help="Unknowns.")
@click.option("--m", default=50, show_default=True, type=click.IntRange(0), help="Inequality rows.")
@click.option("--p", default=10, show_default=True, type=click.IntRange(0), help="Equality rows; fewer than n.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Programs in the batch.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1), help="Rounds of timing.")
@click.option("--seed", default=0, show_default=True, help="Of the random programs.")
@click.option("--quick", is_flag=True, help="Two k on small programs: seconds instead of minutes.")
def implicit_vs_unrolled(out: Path, n: int, m: int, p: int, batch: int, repeats: int, seed: int, quick: bool) -> None:
    """Time, peak memory and gradient error of implicit and unrolled differentiation."""
    from .implicit_vs_unrolled import Size, run

    if p >= n:
        raise click.UsageError(f"--p: expected fewer equality rows than unknowns ({n}), got {p}")
    size = Size(n=n, m=m, p=p, batch=batch, seed=seed)
    iterations = list(range(2, 31))
    if quick:
        size, iterations, repeats = Size(n=6, m=6, p=1, batch=4, seed=seed), [2, 8], 1
    check_folder(out)
    click.echo(run(size, iterations, repeats, out))
    click.echo(f"written: {out}.csv, {out}.png, {out}.md")


@cli.command(
    "maros-meszaros",
    epilog=examples(
        "maros-meszaros --data ../shared/data/maros_meszaros",
        "maros-meszaros --data DIR --solvers ours,piqp --limit-n 200 --out small.csv",
    ),
)
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of .mat files.")  # fmt: skip
@click.option("--solvers", default=",".join(SOLVERS), show_default=True,
              help=f"Comma-separated; {','.join(SPARSE_SOLVERS)} for large ones.")  # fmt: skip
@click.option("--limit-n", default=1000, show_default=True, type=click.IntRange(1), help="Most unknowns.")
@click.option("--limit-m", default=1000, show_default=True, type=click.IntRange(0), help="Most rows without bounds.")
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(1), help="Per solve [s].")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS / "maros_meszaros.csv",
              show_default=True, help="CSV file: one line for each problem and solver.")  # fmt: skip
def maros_meszaros(data: Path, solvers: str, limit_n: int, limit_m: int, timeout: float, out: Path) -> None:
    """Success at 1e-3, 1e-6 and 1e-9 on the Maros-Meszaros problems, ours beside our peers'.

    Every solver is asked for 1e-9 (absolute) and judged by the same function on the problem as given: success is
    a primal residual, a dual residual and a duality gap at or below the level, all absolute.
    """
    from .maros_meszaros import failures, run, select, success_table, write

    names = [name.strip() for name in solvers.split(",")]
    known = dict.fromkeys((*SOLVERS, *SPARSE_SOLVERS))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"--solvers: expected names of {', '.join(known)}, got {unknown[0]!r}")
    check_folder(out)
    rows = run(select(data, limit_n, limit_m), names, timeout, lambda line: click.echo(line, err=True))
    write(rows, out)
    for name in names:
        missed = failures(rows, name, 1e-9)
        click.echo(f"{name}: {len(missed)} above 1e-9")
        for line in missed:
            click.echo(f"  {line}")
    click.echo(f"\nresiduals evaluated in float64:\n\n{success_table(rows, names)}")
    click.echo(f"\nthe same answers evaluated in extended precision:\n\n{success_table(rows, names, 'error_extended')}")
    click.echo(f"\nwritten: {out}")


@cli.command(
    "fuzz",
    epilog=examples("fuzz --count 1000000 --seed 0", "fuzz --count 20000 --classes 'infeasible,unbounded'"),
)
@click.option("--count", default=100_000, show_default=True, type=click.IntRange(1), help="Programs to solve.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of everything.")
@click.option("--batch", default=4096, show_default=True, type=click.IntRange(1), help="Programs solved at once.")
@click.option("--classes", default="", help="Comma-separated names; default: all of them.")
@click.option("--core", default="auto", show_default=True, type=click.Choice(["auto", "native", "torch", "sparse"]),
              help="Implementation of the solver; sparse takes a millisecond or more a program.")  # fmt: skip
@click.option("--out", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
              help="Folder for problems that break a promise; default: here.")  # fmt: skip
@click.option("--replay", "saved", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Solve and verify one saved problem instead.")  # fmt: skip
@click.pass_context
def fuzz(
    context: click.Context,
    count: int,
    seed: int,
    batch: int,
    classes: str,
    core: Literal["auto", "native", "torch", "sparse"],
    out: Path,
    saved: Path | None,
) -> None:
    """Random programs of every class (n <= 8), each answer verified.

    Prints a table of classes by statuses. Exit code 1 if an element is SOLVED without being optimal, carries a
    certificate that does not hold, or has a NaN or a gradient that is not finite; such problems are saved.
    """
    from implicit_layers import InteriorPoint, ProblemError

    from .fuzz import replay, run
    from .fuzz_problems import CLASSES

    try:
        solver = InteriorPoint(core=core)
    except ProblemError as error:
        raise click.UsageError(str(error)) from error
    if saved is not None:
        text, holds = replay(saved, solver)
        click.echo(text)
        context.exit(0 if holds else 1)
    kinds = [name.strip() for name in classes.split(",")] if classes else list(CLASSES)
    unknown = [name for name in kinds if name not in CLASSES]
    if unknown:
        raise click.UsageError(f"--classes: expected names of {', '.join(CLASSES)}, got {unknown[0]!r}")
    report = run(count, seed, batch, kinds, solver, out, lambda line: click.echo(line, err=True))
    click.echo(report.table())
    context.exit(1 if report.violations else 0)


@cli.command("differentiation", epilog=examples("differentiation", "differentiation --n 20 --batch 8 --out small"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "differentiation", show_default=True,
              help="Path without suffix; .csv, .png and .md are added.")  # fmt: skip
@click.option("--n", default=60, show_default=True, type=click.IntRange(1), help="Unknowns of an element.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Elements.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1), help="Rounds of timing.")
@click.option("--quick", is_flag=True, help="Small, and without memory: seconds instead of minutes.")
def differentiation(out: Path, n: int, batch: int, repeats: int, quick: bool) -> None:
    """Implicit, Neumann, OneStep and Unrolled on the same roots and arg-mins: time, memory, gradient error."""
    from .differentiation import run

    check_folder(out)
    click.echo(run(5, 3, 1, out, memory=False) if quick else run(n, batch, repeats, out))
    click.echo(f"written: {out}.csv, {out}.png, {out}.md")


@cli.command("modes", epilog=examples("modes", "modes --hidden 32 --out small"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "modes", show_default=True,
              help="Path without suffix; .csv, .png and .md are added.")  # fmt: skip
@click.option("--hidden", default=64, show_default=True, type=click.IntRange(1), help="Unknowns of the fixed point.")
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1), help="Rounds of timing.")
@click.option("--quick", is_flag=True, help="Small widths: seconds instead of a minute.")
def modes(out: Path, hidden: int, repeats: int, quick: bool) -> None:
    """Forward mode against reverse mode over input and output width: time and memory of a Jacobian."""
    from .modes import run

    check_folder(out)
    click.echo(run(3 if quick else hidden, 1 if quick else repeats, out, quick))
    click.echo(f"written: {out}.csv, {out}.png, {out}.md")


@cli.command("sparse", epilog=examples("sparse", "sparse --quick --out small"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "sparse", show_default=True,
              help="Path without suffix; .csv and .md are added.")  # fmt: skip
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Rounds of timing.")
@click.option("--quick", is_flag=True, help="One small size: seconds instead of minutes.")
def sparse(out: Path, repeats: int, quick: bool) -> None:
    """Large sparse programs: ours with all gradients beside PIQP alone."""
    from .sparse import FAMILIES, run

    check_folder(out)
    sizes = [1000] if quick else [5000, 20_000, 100_000]
    programs = [(family, n) for family in FAMILIES for n in sizes]
    click.echo(run(programs, 1 if quick else repeats, out, lambda line: click.echo(line, err=True)))
    click.echo(f"written: {out}.csv, {out}.md")


@cli.command("cvxpy", epilog=examples("cvxpy", "cvxpy --quick --out small"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "cvxpy", show_default=True,
              help="Path without suffix; .csv and .md are added.")  # fmt: skip
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Rounds of timing.")
@click.option("--quick", is_flag=True, help="One element and one round: seconds.")
def cvxpy(out: Path, repeats: int, quick: bool) -> None:
    """Quadratic programs written in cvxpy: our CvxpyLayer beside that of cvxpylayers."""
    from .cvxpy_layers import run

    check_folder(out)
    click.echo(run([1] if quick else [1, 64], 1 if quick else repeats, out, lambda line: click.echo(line, err=True)))
    click.echo(f"written: {out}.csv, {out}.md")


cli.add_command(ik)
cli.add_command(ik_safety)


def check_folder(out: Path) -> None:
    """Refuse a path to write to before the work begins, not after it."""
    if not out.parent.is_dir():
        raise click.UsageError(f"--out: expected an existing folder, got {out.parent}")


if __name__ == "__main__":
    cli(prog_name="python -m benchmarks")
