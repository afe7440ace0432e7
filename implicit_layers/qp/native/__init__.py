"""The compiled core: quadratic programs in C++, called through ctypes.

It is optional: without a compiler the package installs all the same and runs on plain torch. `available()` tells.
The foreign call releases the interpreter's lock; a long batch is cut into calls so that Ctrl-C gets through.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ProblemError
from ..problem import Layout, Rows
from ..solution import MEASURES, StackedSolution

LANE_LIMIT = 32  # up to this n, four problems share a SIMD register; beyond, one problem's rows fill it
SLICE_FLOPS = 4e9  # work per foreign call: about a second
INT_LIMIT = 2**31  # sizes of one problem are 32-bit inside
KEEP_LIMIT = 2**25  # most numbers that a forward pass keeps for its backward pass: 256 MiB

ASYMMETRIC, NO_MEMORY, INCOMPLETE = 1, 2, 4  # what the core's functions return, added up

_pointer = ctypes.c_void_p
_long = ctypes.c_int64

_ARGUMENTS = ("P", "q", "G", "h", "A", "b", "lb", "ub")
_PLACE = {name: 4 + i for i, name in enumerate(_ARGUMENTS)}  # of an argument in Problems


# The structure Problems, with which every other one begins.
_PROBLEMS: list[tuple[str, Any]] = [
    *((name, _long) for name in ("batch", "n", "m", "p")),
    *((name, _pointer) for name in _ARGUMENTS),
    *((f"stride_{name}", _long) for name in _ARGUMENTS),
]


class _SolveArguments(ctypes.Structure):
    _fields_ = [
        *_PROBLEMS,
        *((name, _long) for name in ("max_iter", "threads", "active_set")),
        *((name, ctypes.c_double) for name in ("eps_abs", "eps_rel")),
        *((name, _pointer) for name in ("warm_x", "warm_lam")),
        *((name, _long) for name in ("stride_x", "stride_lam")),
        *((name, _pointer) for name in ("x", "lam", "info", "flags")),
        ("keep", _long),
    ]


class _LinearArguments(ctypes.Structure):
    _fields_ = [
        *_PROBLEMS,
        ("threads", _long),
        *((name, _pointer) for name in ("c", "rx", "rl")),
        *((f"stride_{name}", _long) for name in ("c", "rx", "rl")),
        *((name, _pointer) for name in ("active", "ux", "ul", "bad")),
    ]


class _AdjointArguments(ctypes.Structure):
    _fields_ = [
        *_PROBLEMS,
        ("threads", _long),
        *((name, _pointer) for name in ("x", "lam", "info", "flags")),
        ("keep", _long),
        *((name, _pointer) for name in ("vx", "vl", "u", "gP", "gq", "gG", "gh", "gA", "gb", "glb", "gub")),
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
    if library() is None:
        return False
    return not tensors or (len(tensors) == 1 and tensors[0].is_cpu) or all([v.is_cpu for v in tensors])


def solve(
    params: Sequence[Tensor],
    layout: Layout,
    batch: int,
    *,
    eps_abs: float,
    eps_rel: float,
    max_iter: int,
    active_set: bool,
    keep: bool,
    warm: tuple[Tensor, ...] = (),
) -> tuple[StackedSolution, int]:
    """Solve the programs of `layout` in float64; scaling, checks and report included.

    Args:
        params: the arguments named by the layout, each shared or `(batch, ...)`.
        layout: which these are.
        batch: number of elements.
        eps_abs: absolute tolerance.
        eps_rel: relative tolerance.
        max_iter: most iterations.
        active_set: try the dual active set method first.
        keep: keep factors for the backward pass, if there is room for them.
        warm: x and stacked multipliers to start from, or nothing.

    Returns:
        The solution, and a sum of ASYMMETRIC (some P is not symmetric) and INCOMPLETE (some element failed).
    """
    rows = layout.rows
    _check_sizes(rows)
    n, total = rows.n, rows.total
    data, guards = _problems(params, layout, batch)
    kept = _kept_size(n, total, batch > 1 and params[0].ndim == 2) if keep else 0
    if batch * kept > KEEP_LIMIT:
        kept = 0
    empty = guards[0].new_empty  # half a microsecond less than torch.empty, whatever the default device is
    found = StackedSolution(
        empty((batch, n)), empty((batch, total)), empty((batch, MEASURES + total + kept)),
        empty((batch, 2, total), dtype=torch.bool),
    )  # fmt: skip
    warm_at: tuple[Any, ...] = (None, None, 0, 0)
    if warm:
        (warm_x, step_x), (warm_lam, step_lam) = (_contiguous(v, 1) for v in warm)
        guards += [warm_x, warm_lam]
        warm_at = (warm_x.data_ptr(), warm_lam.data_ptr(), step_x, step_lam)
    arguments = _SolveArguments(
        *data, min(max_iter, INT_LIMIT - 1), torch.get_num_threads(), active_set, eps_abs, eps_rel, *warm_at,
        found.x.data_ptr(), found.lam.data_ptr(), found.info.data_ptr(), found.flags.data_ptr(), kept,
    )  # fmt: skip

    def steps() -> dict[str, int]:
        of_warm = {"warm_x": 8 * warm_at[2], "warm_lam": 8 * warm_at[3]}
        return of_warm | {"x": 8 * n, "lam": 8 * total, "info": 8 * found.info.shape[1], "flags": 2 * total}

    work = (30 + 20 * (total + 1) / n) * n**3
    return found, _sliced(_library().il_solve, arguments, steps, batch, work, _lanes(n))


def solve_linear(params: tuple[Tensor, ...], rows: Rows, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve `[P R'; R -diag(c)] u = r` for params `(P, C, c, rx, rl)`; returns ux, ul and where it failed."""
    _check_sizes(rows)
    (P, sP), (C, sC), (c, sc), (rx, sx), (rl, sl) = (
        _contiguous(v, core) for v, core in zip(params, (2, 2, 1, 1, 1), strict=True)
    )
    ux, ul = _empty(batch, rows.n), _empty(batch, rows.total)
    bad = _empty(batch, dtype=torch.bool)
    pointers = (c.data_ptr(), rx.data_ptr(), rl.data_ptr(), sc, sx, sl, None, ux.data_ptr(), ul.data_ptr())
    arguments = _LinearArguments(batch, rows.n, rows.m, rows.p, *_NOTHING, torch.get_num_threads(), *pointers)
    arguments.bad = bad.data_ptr()
    arguments.P, arguments.stride_P = P.data_ptr(), sP
    arguments.G, arguments.stride_G = C.data_ptr(), sC
    arguments.A, arguments.stride_A = C.data_ptr() + 8 * rows.m * rows.n, sC
    arguments.ub, arguments.lb = (P.data_ptr() if given else None for given in (rows.upper, rows.lower))  # presence
    steps = {"c": 8 * sc, "rx": 8 * sx, "rl": 8 * sl, "ux": 8 * rows.n, "ul": 8 * rows.total, "bad": 1}
    work = (2 + 2 * (rows.total + 1) / rows.n) * rows.n**3
    _sliced(_library().il_linear, arguments, lambda: steps, batch, work, _lanes(rows.n))
    return ux, ul, bad


def adjoint(
    params: Sequence[Tensor],
    layout: Layout,
    batch: int,
    found: StackedSolution,
    cotangents: tuple[Tensor | None, Tensor | None],
    wanted: Sequence[bool],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Solve the adjoint system of a solution and form the gradients of the data, in float64.

    Args:
        params: as in `solve`.
        layout: as in `solve`.
        batch: number of elements.
        found: what `solve` returned.
        cotangents: of x and of the stacked multipliers.
        wanted: which of the parameters need a gradient.

    Returns:
        The gradients by name, only of parameters that are not shared by several elements; and, where it is of use,
        the adjoint `(B, n + total + 1)`: ux, ul, and a 1 in elements for which it was not found (their gradients are
        undefined).
    """
    rows = layout.rows
    n, total = rows.n, rows.total
    data, guards = _problems(params, layout, batch)
    vx, vl = (None if v is None else _contiguous(v, 0)[0] for v in cotangents)
    x, lam = (_contiguous(v, 0)[0] for v in (found.x, found.lam))
    guards += [x, lam, vx, vl]
    gradients: dict[str, Tensor] = {}
    reduce = False
    for name, v, core, want in zip(layout.names, guards, layout.core_dims, wanted, strict=False):
        if want and (v.ndim > core or batch == 1):
            gradients[name] = torch.empty_like(v)
        elif want:
            reduce = True
    kept = found.info.shape[1] - MEASURES - total

    def steps() -> dict[str, int]:
        of_solution = {"x": 8 * n, "lam": 8 * total, "info": 8 * found.info.shape[1], "flags": 2 * total}
        of_adjoint = {"vx": 8 * n, "vl": 8 * total, "u": 8 * (n + total + 1)}
        return of_solution | of_adjoint | {f"g{name}": 8 * layout.sizes[name] for name in gradients}

    work = (2 + 2 * (total + 1) / n) * n**3

    def call(u: Tensor | None) -> int:
        arguments = _AdjointArguments(
            *data, torch.get_num_threads(), x.data_ptr(), lam.data_ptr(), found.info.data_ptr(), found.flags.data_ptr(),
            kept, None if vx is None else vx.data_ptr(), None if vl is None else vl.data_ptr(),
            None if u is None else u.data_ptr(),
            *[gradients[name].data_ptr() if name in gradients else None for name in _ARGUMENTS],
        )  # fmt: skip
        return _sliced(_library().il_adjoint, arguments, steps, batch, work, _lanes(n))

    u = _empty(batch, n + total + 1) if reduce else None
    if call(u) & INCOMPLETE and u is None:
        u = _empty(batch, n + total + 1)
        call(u)
    return gradients, u


@functools.cache
def _kept_size(n: int, total: int, shared: bool) -> int:
    function = _library().il_kept_size
    function.restype, function.argtypes = _long, [_long, _long, ctypes.c_int]
    return int(function(n, total, shared))


def _library() -> Any:
    return library()


def _lanes(n: int) -> int:
    """Choose the layout: by the size alone, so that an element's digits do not depend on its batch."""
    return int(n <= LANE_LIMIT)


def _check_sizes(rows: Rows) -> None:
    if max(rows.n, rows.m + rows.p) < 2**14 and rows.total < 2**17:
        return
    k = rows.m + rows.p
    for name, shape in (("P", (rows.n, rows.n)), ("[G; A]", (k, rows.n)), ("the rows, bounds included", (rows.total,))):
        if math.prod(shape) >= INT_LIMIT:
            raise ProblemError(f"{name}: expected fewer than 2**31 entries per element, got shape {shape}")


def _problems(params: Sequence[Tensor], layout: Layout, batch: int) -> tuple[list[Any], list[Any]]:
    """Return the fields of Problems, and the tensors that must live until the call is over."""
    rows = layout.rows
    values: list[Any] = [batch, rows.n, rows.m, rows.p, *_NOTHING]
    guards: list[Any] = []
    for (name, core, size), v in zip(layout.table, params, strict=False):
        if v.dtype is not torch.float64 or not v.is_contiguous() or v.is_neg():
            v = v.detach().to(torch.float64).contiguous().resolve_neg()
        place = _PLACE[name]
        values[place], values[place + 8] = v.data_ptr(), size if v.ndim > core or batch == 1 else 0
        guards.append(v)
    return values, guards


_NOTHING = (None,) * 8 + (0,) * 8


def _empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")  # whatever the default device is


def _contiguous(v: Tensor, core: int) -> tuple[Tensor, int]:
    """Return float64 data that the core can walk through, and the step from element to element."""
    if v.dtype is not torch.float64 or not v.is_contiguous() or v.is_neg():
        v = v.detach().to(torch.float64).contiguous().resolve_neg()
    return v, 0 if v.ndim == core else math.prod(v.shape[1:])


def _sliced(
    function: Any, arguments: Any, steps: Callable[[], dict[str, int]], batch: int, work: float, lanes: int
) -> int:
    """Call a function of the core, for so many elements at a time that an interrupt gets through.

    Args:
        function: of the core.
        arguments: its structure, for the whole batch.
        steps: returns the bytes from element to element of the arrays beside the data.
        batch: number of elements.
        work: floating-point operations for one element.
        lanes: layout.
    """
    size = batch
    if work * batch > SLICE_FLOPS:
        least = 4 * torch.get_num_threads()  # one group for every thread
        size = math.ceil(SLICE_FLOPS / (work * least)) * least
    flags = 0
    for first in range(0, batch, size):
        if first:
            _advance(arguments, steps(), size)
        if batch > size:
            arguments.batch = min(size, batch - first)
        flags |= function(ctypes.byref(arguments), lanes)
    if flags & NO_MEMORY:
        raise MemoryError("the compiled core found no memory for its working arrays")
    return flags


def _advance(arguments: Any, steps: dict[str, int], size: int) -> None:
    for name in _ARGUMENTS:
        pointer = getattr(arguments, name)
        if pointer is not None:
            setattr(arguments, name, pointer + 8 * size * getattr(arguments, f"stride_{name}"))
    for name, step in steps.items():
        pointer = getattr(arguments, name)
        if pointer is not None:
            setattr(arguments, name, pointer + size * step)
