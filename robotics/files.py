"""Reading and writing files: whole or not at all, and errors of one line that name the file."""

import contextlib
import csv
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robotics.arm import PlanarArm
from robotics.checks import check_keys, shown
from robotics.obstacles import Circles

FloatArray = npt.NDArray[np.float64]
StrPath = str | os.PathLike[str]


class FileError(ValueError):
    """A file that cannot be used; one line: the file, what was expected and what was found."""


def make_folder(path: StrPath) -> Path:
    """Return the folder, made with its parents if it is not there, or raise FileError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: expected a folder, found: {_reason(error)}") from error
    return folder


def write_bytes(path: StrPath, data: bytes) -> None:
    """Write a file so that a reader sees the old file or the new one, never a half.

    Raises:
        FileError: If the file cannot be written; an earlier file of that name is then untouched.
    """
    target = Path(path)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        if target.exists() and not target.is_file():  # a folder, or a pipe or device: no file may take its place
            found = "a folder" if target.is_dir() else "what is no file"
            raise FileError(f"{target}: expected a place to write to, found {found}")
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the data must be on the disk before the name is
        os.replace(beside, target)
    except OSError as error:
        raise FileError(f"{target}: expected a place to write to, found: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # there is nothing left to remove, or no folder to remove it from
            beside.unlink()


def write_text(path: StrPath, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: StrPath, data: object) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_npz(path: StrPath, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write named arrays as an .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def write_csv(path: StrPath, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all; floats keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def read_json(path: StrPath) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileError: If there is no such file, or it is not JSON.
    """
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = shown(text) if len(text) <= 60 else f"{len(text)} characters"
        raise FileError(
            f"{path}, line {error.lineno}: expected JSON, found {found} ({error.msg}, column {error.colno})"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; too deep a nesting
        raise FileError(f"{path}: expected JSON, found what Python cannot read: {error}") from error


def read_npz(path: StrPath, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of an .npz file; it must hold these and no others.

    Raises:
        FileError: If there is no such file, or it is damaged, or holds other arrays.
    """
    expected = sorted(names)
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FileError(f"{path}: expected an .npz archive, found a single array")
            if sorted(archive.files) != expected:
                raise FileError(f"{path}: expected the arrays {', '.join(expected)}, found {shown(archive.files)}")
            return {name: archive[name] for name in expected}
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected an .npz archive, found: {_reason(error)}") from error
    except (
        ValueError,  # not an archive; a damaged array header
        EOFError,  # an empty file
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,  # damaged flags that read as encryption or an unknown compression
        MemoryError,  # a damaged shape
    ) as error:
        raise FileError(f"{path}: expected a whole .npz archive, found a damaged file") from error


def read_targets_csv(path: StrPath) -> FloatArray:
    """Return the targets of a CSV file with the header x,y or x,y,theta.

    Returns:
        (N, 2) or (N, 3) [m, m, rad], N >= 1.

    Raises:
        FileError: As from `read_table_csv`.
    """
    return read_table_csv(path, (("x", "y"), ("x", "y", "theta")), "targets")


def read_table_csv(path: StrPath, headers: Sequence[Sequence[str]], rows_are: str) -> FloatArray:
    """Return the numbers of a CSV file with one of some headers.

    Blank lines are skipped. A field `nan` stays NaN.

    Args:
        path: The file.
        headers: Names of columns, in order, that the first line may hold.
        rows_are: What the rows are called in errors.

    Returns:
        (N, columns), N >= 1.

    Raises:
        FileError: With the number of the line, if a column is missing or a field is not a number.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True, skipinitialspace=True)
    expected = " or ".join(",".join(names) for names in headers)
    names: list[str] = []
    rows = []
    try:
        for fields in reader:
            if not "".join(fields).strip() and len(fields) <= 1:
                continue
            where = f"{path}, line {reader.line_num}"
            if names:
                rows.append(_numbers(where, names, fields))
                continue
            names = [field.strip().lower() for field in fields]
            if names not in [list(header) for header in headers]:
                raise FileError(f"{where}: expected the header {expected}, found {shown(','.join(fields))}")
    except csv.Error as error:
        raise FileError(f"{path}, line {reader.line_num}: expected a CSV file, found: {error}") from error
    if not names:
        raise FileError(f"{path}, line 1: expected the header {expected}, found an empty file")
    if not rows:
        raise FileError(f"{path}, line {reader.line_num + 1}: expected one or more {rows_are}, found the header alone")
    return np.array(rows, dtype=np.float64)


def read_scene(path: StrPath) -> tuple[Circles, PlanarArm | None]:
    """Return the circles of a JSON scene, and the arm where it has one.

    The file reads {"circles": [[x, y, r], ...], "arm": {"lengths": [...], "limits": [[lower, upper], ...]}}
    in metres and radians; `arm` may be left out.

    Raises:
        FileError: If the file is not such a scene; unknown keys are an error too.
    """
    data = read_json(path)
    try:
        scene = check_keys("scene", data, {"circles"}, {"arm"})
        circles = Circles.from_json({"circles": scene["circles"]})
        arm = PlanarArm.from_json(scene["arm"]) if "arm" in scene else None
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    return circles, arm


def _read_text(path: StrPath) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # spreadsheets begin with a byte order mark
    except OSError as error:
        raise FileError(f"{path}: expected a file to read, found: {_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected UTF-8 text, found byte {error.start} that is not") from error


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _numbers(where: str, names: list[str], fields: list[str]) -> list[float]:
    if len(fields) != len(names):
        raise FileError(f"{where}: expected {len(names)} fields ({','.join(names)}), found {shown(','.join(fields))}")
    numbers = []
    for name, field in zip(names, fields, strict=True):
        try:
            number = float(field)
        except ValueError:
            number = np.inf
        if np.isinf(number):
            raise FileError(f"{where}, column {name}: expected a finite number or nan, found {shown(field)}")
        numbers.append(number)
    return numbers
