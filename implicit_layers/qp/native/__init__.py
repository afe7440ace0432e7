"""The compiled core: the torch solver's algorithm in one C++ file, called through ctypes.

It is optional: without a compiler the package installs all the same and runs on plain torch. `available()` tells.
The foreign call releases the interpreter's lock; a long batch is cut into calls so that Ctrl-C gets through.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ProblemError
from ..problem import Rows
from ..solution import StackedSolution

LANE_LIMIT = 80  # up to this n, four problems share a SIMD register; beyond, one problem's rows fill it
SLICE_FLOPS = 4e9  # work per foreign call: about a second
INT_LIMIT = 2**31  # sizes of one problem are 32-bit inside

_pointer = ctypes.c_void_p
_long = ctypes.c_int64


class _SolveArguments(ctypes.Structure):
    _fields_ = [
        *((name, _long) for name in ("batch", "n", "m", "p", "upper", "lower", "max_iter", "threads")),
        *((name, ctypes.c_double) for name in ("eps_abs", "eps_rel")),
        *((name, _pointer) for name in ("P", "q", "C", "d", "warm_x", "warm_lam")),
        *((f"stride_{name}", _long) for name in ("P", "q", "C", "d", "x", "lam")),
        *((name, _pointer) for name in ("x", "lam", "s", "primal", "dual", "gap")),
        *((name, _pointer) for name in ("active", "touching", "status", "iterations")),
    ]


class _LinearArguments(ctypes.Structure):
    _fields_ = [
        *((name, _long) for name in ("batch", "n", "m", "p", "upper", "lower", "threads")),
        *((name, _pointer) for name in ("P", "C", "c", "rx", "rl")),
        *((f"stride_{name}", _long) for name in ("P", "C", "c", "rx", "rl")),
        *((name, _pointer) for name in ("ux", "ul", "bad")),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled core for this processor, or None."""
    folder = Path(__file__).parent
    for name in ("core_v3", "core_portable"):
        if name == "core_v3" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            continue
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.exists():
                try:
                    return ctypes.CDLL(str(path))
                except OSError:
                    continue
    return None


def available(*tensors: Tensor) -> bool:
    """Return whether the core is built and the tensors live where it can read them."""
    return library() is not None and all(v.device.type == "cpu" for v in tensors)


def solve(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    rows: Rows,
    batch: int,
    eps_abs: float,
    eps_rel: float,
    max_iter: int,
    warm: tuple[Tensor, ...] = (),
) -> tuple[StackedSolution, bool]:
    """Solve stacked programs `(P, q, C, d)` in float64; scaling, checks and report included.

    Returns:
        The solution, and whether some P is not symmetric.
    """
    _check_sizes(rows)
    total, lanes = rows.total, _lanes(batch, rows.n)
    flat = [_contiguous(v, core) for v, core in zip((*data, *warm), (2, 1, 2, 1, 1, 1), strict=False)]
    x, lam, s = (_empty(batch, size) for size in (rows.n, total, total))
    active, touching = (_empty(batch, total, dtype=torch.bool) for _ in range(2))
    status, iterations = (_empty(batch, dtype=torch.int64) for _ in range(2))
    measures = [_empty(batch) for _ in range(3)]
    work = (30 + 20 * (total + 1) / rows.n) * rows.n**3

    def call(first: int, count: int) -> int:
        inputs, strides = zip(*(_at(v, stride, first) for v, stride in flat), strict=True)
        missing: tuple[Any, ...] = (None,) * (6 - len(inputs))
        outputs = (_at(v, _step(v), first)[0] for v in (x, lam, s, *measures, active, touching, status, iterations))
        arguments = _SolveArguments(
            count, rows.n, rows.m, rows.p, rows.upper, rows.lower, min(max_iter, INT_LIMIT - 1),
            torch.get_num_threads(), eps_abs, eps_rel, *inputs, *missing, *strides, *(0 for _ in missing), *outputs,
        )  # fmt: skip
        return int(_library().il_solve(ctypes.byref(arguments), lanes))

    flags = _sliced(call, batch, work, lanes)
    solved = status == 0
    return StackedSolution(x, lam, s, active, touching, solved, status, iterations, *measures), bool(flags & 1)


def solve_linear(params: tuple[Tensor, ...], rows: Rows, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve `[P R'; R -diag(c)] u = r` for params `(P, C, c, rx, rl)`; returns ux, ul and where it failed."""
    _check_sizes(rows)
    lanes = _lanes(batch, rows.n)
    flat = [_contiguous(v, core) for v, core in zip(params, (2, 2, 1, 1, 1), strict=True)]
    ux, ul = (_empty(batch, size) for size in (rows.n, rows.total))
    bad = _empty(batch, dtype=torch.bool)
    work = (2 + 2 * (rows.total + 1) / rows.n) * rows.n**3

    def call(first: int, count: int) -> int:
        inputs, strides = zip(*(_at(v, stride, first) for v, stride in flat), strict=True)
        outputs = (_at(v, _step(v), first)[0] for v in (ux, ul, bad))
        arguments = _LinearArguments(
            count, rows.n, rows.m, rows.p, rows.upper, rows.lower, torch.get_num_threads(), *inputs, *strides, *outputs
        )
        return int(_library().il_linear(ctypes.byref(arguments), lanes))

    _sliced(call, batch, work, lanes)
    return ux, ul, bad


def _library() -> Any:
    return library()


def _lanes(batch: int, n: int) -> int:
    return int(batch > 2 and n <= LANE_LIMIT)


def _check_sizes(rows: Rows) -> None:
    k = rows.m + rows.p
    for name, shape in (("P", (rows.n, rows.n)), ("[G; A]", (k, rows.n)), ("the rows, bounds included", (rows.total,))):
        if math.prod(shape) >= INT_LIMIT:
            raise ProblemError(f"{name}: expected fewer than 2**31 entries per element, got shape {shape}")


def _empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")  # whatever the default device is


def _contiguous(v: Tensor, core: int) -> tuple[Tensor, int]:
    """Return float64 data that the core can walk through, and the step from element to element."""
    v = v.detach().to(torch.float64).contiguous().resolve_neg()
    return v, 0 if v.ndim == core else _step(v)


def _step(v: Tensor) -> int:
    return v.shape[1:].numel()


def _at(v: Tensor, stride: int, first: int) -> tuple[int, int]:
    return v.data_ptr() + first * stride * v.element_size(), stride


def _sliced(call: Any, batch: int, work: float, lanes: int) -> int:
    least = (4 if lanes else 1) * torch.get_num_threads()  # one group for every thread
    size = math.ceil(SLICE_FLOPS / (work * least)) * least
    flags = 0
    for first in range(0, batch, size):
        flags |= call(first, min(size, batch - first))
    if flags & 2:
        raise MemoryError("the compiled core found no memory for its working arrays")
    return flags
