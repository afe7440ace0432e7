"""The command line of the toolkit: `python -m implicit_layers audit --help`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn

from . import ProblemError, solve_qp
from .audit import audit
from .audit_families import FAMILIES

EXAMPLES = """examples:
  python -m implicit_layers audit
  python -m implicit_layers audit --layer my_package.layers:solve --families scaled-rows,shared
"""


class _Parser(argparse.ArgumentParser):
    """Errors are one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 if all is well, 1 if the audit found something wrong. Wrong arguments exit with 2."""
    parser = _Parser(prog="python -m implicit_layers", description="Differentiable layers defined by a condition.")
    commands = parser.add_subparsers(dest="command", metavar="audit", required=True)
    check = commands.add_parser(
        "audit",
        help="check a QP layer's solutions and gradients on hard problems",
        description="Check a QP layer's solutions, multipliers and gradients on families of hard problems. "
        "Exit code 0: all right; 1: something is wrong; 2: wrong arguments.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "--layer", default="ours", help="'ours' (default) or module:attribute, called as layer(P, q, G, h, A, b)"
    )
    check.add_argument("--seed", type=int, default=0, help="of the random problems (default 0)")
    check.add_argument("--families", help="comma-separated names (default all)")
    check.add_argument("--list", action="store_true", help="show the families and leave")
    options = parser.parse_args(argv)
    if options.list:
        sys.stdout.write(_families())
        return 0
    names = None if options.families is None else [name.strip() for name in options.families.split(",")]
    try:
        report = audit(_load(options.layer), families=names, seed=options.seed)
    except ProblemError as error:
        parser.error(str(error))
    sys.stdout.write(report.table() + "\n")
    return 0 if report.ok else 1


def _families() -> str:
    width = max(map(len, FAMILIES))
    return "".join(f"{name:{width}}  {family.__doc__}\n" for name, family in FAMILIES.items())


def _load(name: str) -> Callable[..., Any]:
    """Import a layer; a class is built without arguments.

    Raises:
        ProblemError: there is no such thing, or it cannot be called.
    """
    if name == "ours":
        return solve_qp
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ProblemError(f"--layer: expected 'ours' or module:attribute, got {name!r}")
    try:
        found = attrgetter(attribute)(importlib.import_module(module))
        layer = found() if isinstance(found, type) else found
    except Exception as error:  # the user's module may raise anything
        raise ProblemError(f"--layer: cannot load {name!r}: {type(error).__name__}: {error}") from error
    if not callable(layer):
        raise ProblemError(f"--layer: expected something callable, got {type(layer).__name__}")
    return layer  # type: ignore[no-any-return]  # whatever the user's module holds


if __name__ == "__main__":
    sys.exit(main())
