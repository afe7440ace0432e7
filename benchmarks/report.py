"""What a benchmark leaves behind: tables, CSV files and figures, each written beside and then renamed."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old file or the new one, never a half.

    Raises:
        click.ClickException: the file cannot be written.
    """
    if path.exists() and not path.is_file():  # a folder, a pipe or a device: no file may take its place
        raise click.ClickException(f"{path}: expected a place to write to, found what is no file")
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        raise click.ClickException(f"{path}: expected a place to write to, found: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file; floats keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_bytes(path, buffer.getvalue())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers."""
    cells = [[str(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(header))]
    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        aligned = [row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(aligned)} |"

    return "\n".join(line(row) for row in (cells[0], dashes, *cells[1:]))
