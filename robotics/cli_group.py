"""What the commands share: errors of one line, examples in the help, common options."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class NamedPath(click.Path):
    """A path that is not empty, as that of an unset variable of a shell would be: it would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("expected a path, found an empty one", param, ctx)
        return super().convert(value, param, ctx)


PATH = NamedPath(path_type=Path)


class Commands(click.Group):
    """A group that reports every mistake of the caller as one line, `error: ...`, with exit code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and, unless told otherwise, exit."""
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context else ""
            fail(error.format_message().rstrip(".") + hint, 2)
        except ValueError as error:  # FileError and ProblemError too
            fail(str(error), 2)
        except click.Abort:
            fail("interrupted; every file that was written is whole", 130)
        if standalone_mode:
            sys.exit(result if isinstance(result, int) else 0)
        return result


def fail(message: str, code: int) -> None:
    """Print one line and end the process."""
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(code)


def examples(*lines: str) -> str:
    """Return an epilog for --help; click leaves a paragraph that begins with a backspace as it is."""
    return "\b\nExamples:\n" + "\n".join(f"  python -m robotics {line}" for line in lines)


def common(out: str, required: bool = True) -> Callable[[F], F]:
    """Return the options of every command; `out` says what is written."""

    def decorate(command: F) -> F:
        seed = click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            show_default=True,
            help="Seed of all that is random.",
        )
        return click.option("--out", type=PATH, required=required, help=out)(seed(command))

    return decorate
