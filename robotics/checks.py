"""Checks of what comes from outside, with errors of one line that name the argument."""

import importlib
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor


def shown(value: object) -> str:
    """Return `value` as one short line, for the end of an error message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def finite_numbers(name: str, values: object, count: int | None = None) -> tuple[float, ...]:
    """Return a list or tuple of finite numbers as floats, or raise ValueError naming the argument."""
    size = "" if count is None else f"{count} "
    problem = ValueError(f"{name}: expected a list of {size}finite numbers, found {shown(values)}")
    if not isinstance(values, list | tuple) or count not in (None, len(values)):
        raise problem
    if any(isinstance(value, bool) or not isinstance(value, Real) for value in values):
        raise problem
    try:
        numbers = tuple(float(value) for value in values)
    except OverflowError:  # an integer beyond the range of floats
        raise problem from None
    if not all(map(math.isfinite, numbers)):
        raise problem
    return numbers


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless an option is an integer that is `least` or more, and that torch can hold."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        expected = "a positive integer" if least == 1 else f"an integer >= {least}"
        raise ValueError(f"{name}: expected {expected}, found {shown(value)}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless an option is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {shown(value)}")


def check_one_scene(centers: Tensor, radii: Tensor) -> None:
    """Raise ValueError unless circles are one scene, centres (k, 2) and radii (k,), and not a batch of them."""
    if centers.ndim != 2 or radii.ndim != 1:
        found = f"{tuple(centers.shape)} with radii {tuple(radii.shape)}"
        raise ValueError(f"circles: expected one scene of shape (k, 2), found {found}")


def check_keys(name: str, data: object, required: set[str], optional: set[str]) -> Mapping[str, Any]:
    """Return `data` if it is a mapping with these keys and no others, or raise ValueError."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{name}: expected an object with keys {sorted(required)}, found {shown(data)}")
    if missing := sorted(required - set(data)):
        raise ValueError(f"{name}: expected the key {missing[0]!r}, found the keys {shown(list(data))}")
    if unknown := [key for key in data if key not in required | optional]:
        known = ", ".join(sorted(required | optional))
        raise ValueError(f"{name}: expected no other keys than {known}, found {shown(unknown[0])}")
    return data


def require(module: str, package: str, extra: str) -> Any:
    """Return an optional module, or raise ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module}: expected the optional package {package}, found none; install it with "
            f"pip install 'implicit-layers[{extra}]'"
        ) from error
