"""The eight tensors of a quadratic program, and the one stacked form that everything inside works on."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..algebra import times
from ..errors import ProblemError

# Shapes as the caller knows them; None stands for the batch.
_CORE = {"P": "nn", "q": "n", "G": "mn", "h": "m", "A": "pn", "b": "p", "lb": "n", "ub": "n"}


class QPProblem(NamedTuple):
    """`min 1/2 x'Px + q'x  s.t.  Gx <= h, Ax = b, lb <= x <= ub`; unpack it: `solve_qp(*problem)`.

    Attributes:
        P: `(*batch, n, n)`, symmetric positive semidefinite.
        q: `(*batch, n)`.
        G: `(*batch, m, n)` or None.
        h: `(*batch, m)` or None; `inf` means "no such row".
        A: `(*batch, p, n)` or None.
        b: `(*batch, p)` or None.
        lb: `(*batch, n)` or None; `-inf` means "no such bound".
        ub: `(*batch, n)` or None; `inf` means "no such bound".
    """

    P: Tensor
    q: Tensor
    G: Tensor | None = None
    h: Tensor | None = None
    A: Tensor | None = None
    b: Tensor | None = None
    lb: Tensor | None = None
    ub: Tensor | None = None

    def violation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much x `(*batch, n)` violates `Gx <= h` and `Ax = b`, differentiably.

        Returns:
            `max(Gx - h, 0)` `(*batch, m)` and `Ax - b` `(*batch, p)`, of length 0 where there are no rows.
        """
        none = x[..., :0]
        above = none if self.G is None or self.h is None else (_row_values(self.G, x) - self.h).clamp(min=0)
        off = none if self.A is None or self.b is None else _row_values(self.A, x) - self.b
        return above, off


def _row_values(M: Tensor, x: Tensor) -> Tensor:
    if M.layout is torch.strided:
        return times(M, x)
    return (M @ x.reshape(-1, x.shape[-1]).mT).mT.reshape(*x.shape[:-1], M.shape[0])


@dataclass(frozen=True)
class Rows:
    """Layout of the stacked rows `R x = [Gx; Ax; x; -x]` with right-hand side `d = [h; b; ub; -lb]`.

    Bounds never become rows of a matrix: they act on the diagonal only. Multipliers carry the same layout.
    """

    n: int
    m: int
    p: int
    upper: bool
    lower: bool

    @property
    def total(self) -> int:
        """Number of rows, bounds included."""
        return self.m + self.p + self.n * (self.upper + self.lower)

    def apply(self, C: Tensor, x: Tensor) -> Tensor:
        """Return R x for `C = [G; A]` `(B, m+p, n)` and `x` `(B, n)`."""
        return self.with_bounds((x.unsqueeze(-2) @ C.mT).squeeze(-2), x)

    def with_bounds(self, Cx: Tensor, x: Tensor) -> Tensor:
        """Return R x from C x."""
        parts = [Cx]
        if self.upper:
            parts.append(x)
        if self.lower:
            parts.append(-x)
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def transpose(self, C: Tensor, v: Tensor) -> Tensor:
        """Return R'v."""
        k = self.m + self.p
        out = (v[..., :k].unsqueeze(-2) @ C).squeeze(-2)
        bounds = self.bounds(v)
        return out if bounds is None else out + bounds

    def bounds(self, v: Tensor) -> Tensor | None:
        """Return the bound blocks' share of R'v (upper minus lower): the layout's `z_box`."""
        k = self.m + self.p
        if self.upper and self.lower:
            return v[..., k : k + self.n] - v[..., k + self.n :]
        if self.upper:
            return v[..., k:]
        return 0.0 - v[..., k:] if self.lower else None

    def normal_matrix(self, P: Tensor, C: Tensor, w: Tensor, rho: Tensor) -> Tensor:
        """Return H = P + rho I + R' diag(w) R."""
        k = self.m + self.p
        H = P + (C * w[..., :k, None]).mT @ C if k else P.clone()
        diagonal = rho.expand(*H.shape[:-1])
        for block in w[..., k:].split(self.n, -1) if self.upper or self.lower else ():
            diagonal = diagonal + block
        return H + torch.diag_embed(diagonal)

    def equality(self, device: torch.device) -> Tensor:
        """Return a boolean mask `(total,)` of the equality rows."""
        mask = torch.zeros(self.total, dtype=torch.bool, device=device)
        mask[self.m : self.m + self.p] = True
        return mask

    def equality_mask(self) -> NDArray[np.bool_]:
        """Return the same mask as an array."""
        place = np.arange(self.total)
        return (place >= self.m) & (place < self.m + self.p)


@dataclass(frozen=True)
class Layout:
    """Which of the eight arguments are there, and how their rows are stacked.

    The arguments that are there, in order, are the parameters of the solution map: each is shared (no batch
    dimension) or `(B, ...)`.
    """

    names: tuple[str, ...]
    rows: Rows
    entries: tuple[int, int] | None = None  # of G and A, where the three matrices are held by their entries (nnz,)

    @functools.cached_property
    def core_dims(self) -> tuple[int, ...]:
        """Dimensions of each parameter without its batch."""
        return tuple(1 if self.entries else len(_CORE[name]) for name in self.names)

    @functools.cached_property
    def table(self) -> tuple[tuple[str, int, int], ...]:
        """Name, dimensions without the batch, and entries for one element, of each parameter."""
        return tuple((name, len(_CORE[name]), self.sizes[name]) for name in self.names)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Entries of each parameter for one element."""
        size = {"n": self.rows.n, "m": self.rows.m, "p": self.rows.p}
        return {name: math.prod(size[letter] for letter in _CORE[name]) for name in self.names}

    def stack(self, params: Sequence[Tensor | None], batch: int, like: Tensor) -> tuple[Tensor | None, ...]:
        """Return `P, q, C = [G; A], d = [h; b; ub; -lb]`, or their tangents; autograd sees every operation.

        A part that is None is zero; a result all of whose parts are None is None.
        """
        given = dict(zip(self.names, params, strict=False))
        rows = self.rows
        lb = given.get("lb")
        shapes: tuple[tuple[int, ...], ...] = ((rows.m, rows.n), (rows.p, rows.n))
        if self.entries:
            shapes = tuple((count,) for count in self.entries)
        matrices = list(zip((given.get("G"), given.get("A")), shapes, strict=True))
        sides = [(given.get("h"), (rows.m,)), (given.get("b"), (rows.p,))]
        sides += [(given.get("ub"), (rows.n,))] * rows.upper + [(None if lb is None else -lb, (rows.n,))] * rows.lower
        core = len(shapes[0])
        C = _join([part for part in matrices if part[1][0]], core, batch, like, (0, *shapes[0][1:]))
        return given["P"], given["q"], C, _join([part for part in sides if part[1][0]], 1, batch, like, (0,))

    def split(self, gC: Tensor | None, gd: Tensor | None, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the gradients of G, A, h, b, ub, lb from those of the stacked C and d, reduced where shared."""
        m, k, n = self.rows.m, self.rows.m + self.rows.p, self.rows.n
        gradients: dict[str, Tensor] = {}
        if gC is not None:
            gradients |= {"G": gC[..., :m, :], "A": gC[..., m:k, :]}
        if gd is not None:
            gradients |= {"h": gd[..., :m], "b": gd[..., m:k]}
            if self.rows.upper:
                gradients["ub"] = gd[..., k : k + n]
            if self.rows.lower:
                gradients["lb"] = -gd[..., gd.shape[-1] - n :]
        shapes = dict(zip(self.names, params, strict=False))
        return {name: g.sum(0) if g.ndim > shapes[name].ndim else g for name, g in gradients.items() if name in shapes}


def _join(
    parts: list[tuple[Tensor | None, tuple[int, ...]]], core: int, batch: int, like: Tensor, empty: tuple[int, ...]
) -> Tensor | None:
    if not parts:
        return like.new_zeros(empty)
    if all(part is None for part, _ in parts):
        return None
    blocks = [like.new_zeros(shape) if part is None else part for part, shape in parts]
    if len(blocks) == 1:
        return blocks[0]
    if any(block.ndim > core for block in blocks):
        blocks = [block.expand(batch, *block.shape[block.ndim - core :]) for block in blocks]
    return torch.cat(blocks, -core)


class Flat(NamedTuple):
    """A validated problem as one flat batch."""

    params: tuple[Tensor, ...]  # those of `layout.names`, each shared (no batch dimension) or `(B, ...)`
    layout: Layout
    batch_shape: torch.Size
    batch: int

    def stack(self) -> tuple[Tensor, ...]:
        """Return P, q, C, d in operations that autograd sees."""
        return self.layout.stack(self.params, self.batch, self.params[1])  # type: ignore[return-value]


def is_sparse(problem: QPProblem) -> bool:
    """Return whether any argument is in a sparse layout."""
    return any([getattr(v, "layout", torch.strided) is not torch.strided for v in problem])


def flatten(problem: QPProblem) -> Flat:
    """Validate shapes, dtypes and devices, and make the batch flat, all in operations that autograd sees.

    Raises:
        ProblemError: naming the argument, what was expected and what was found.
    """
    try:
        key = tuple([None if v is None else (v.shape, v.dtype, v.device) for v in problem])
        # Looking a problem up costs a tenth of checking it; a tracer has symbols for sizes, which no table should hold.
        layout, batch_shape, batch, changes = _check(key) if torch.compiler.is_compiling() else _checked(key)
    except (AttributeError, TypeError):  # arrays have shapes, but not what torch calls a device
        raise _not_a_tensor(problem) from None
    params = [v for v in problem if v is not None]
    for i, shared, core in changes:
        v = params[i]
        shape = v.shape[v.ndim - core :]
        params[i] = v.reshape(shape) if shared else v.expand(*batch_shape, *shape).reshape(batch, *shape)
    return Flat(tuple(params), layout, batch_shape, batch)


_Key = tuple[tuple[torch.Size, torch.dtype, torch.device] | None, ...]
_Plan = tuple[Layout, torch.Size, int, tuple[tuple[int, bool, int], ...]]


def _not_a_tensor(problem: QPProblem) -> ProblemError:
    for name, v in problem._asdict().items():
        if v is not None and not isinstance(v, Tensor):
            return ProblemError(f"{name}: expected a torch.Tensor, got {type(v).__name__}")
    raise AssertionError("every argument is a tensor or None")


def _check(key: _Key) -> _Plan:
    """Return the layout, the batch, and which parameters (index, whether shared, core dimensions) must be reshaped."""
    given = {name: found for name, found in zip(QPProblem._fields, key, strict=True) if found is not None}
    for name in ("P", "q"):
        if name not in given:
            raise ProblemError(f"{name}: expected a torch.Tensor, got None")
    for name, partner in (("G", "h"), ("h", "G"), ("A", "b"), ("b", "A")):
        if name in given and partner not in given:
            raise ProblemError(f"{partner}: expected a torch.Tensor because {name} is given, got None")
    _check_kinds(given)
    shapes = {name: found[0] for name, found in given.items()}
    sizes, batch_shape = _check_shapes(shapes)
    layout = Layout(tuple(given), Rows(sizes["n"], sizes["m"], sizes["p"], "ub" in given, "lb" in given))
    batch = batch_shape.numel()
    changes = []
    for i, (name, shape) in enumerate(shapes.items()):
        core = len(_CORE[name])
        leading = shape[: len(shape) - core]
        if not leading or (len(leading) == 1 and leading[0] == batch):
            continue
        changes.append((i, leading.numel() == 1 and batch != 0, core))
    return layout, batch_shape, batch, tuple(changes)


_checked = functools.lru_cache(maxsize=1024)(_check)


def _check_kinds(given: dict[str, tuple[torch.Size, torch.dtype, torch.device]]) -> None:
    _, dtype, device = given["P"]
    if dtype not in (torch.float32, torch.float64):
        raise ProblemError(f"P: expected dtype torch.float32 or torch.float64, got {dtype}")
    for name, (_, other, place) in given.items():
        if not isinstance(other, torch.dtype) or not isinstance(place, torch.device):
            raise TypeError(name)
        if other != dtype:
            raise ProblemError(f"{name}: expected dtype {dtype} as P, got {other}")
        if place != device:
            raise ProblemError(f"{name}: expected device {device} as P, got {place}")


def _check_shapes(given: dict[str, torch.Size]) -> tuple[dict[str, int], torch.Size]:
    # q tells n, then G tells m and A tells p: a size that is not known yet is asked for by its letter.
    sizes: dict[str, int] = {}
    for name in ("q", "P", "G", "h", "A", "b", "lb", "ub"):
        if name not in given:
            continue
        shape, core = given[name], _CORE[name]
        found = shape[len(shape) - len(core) :]
        if len(shape) < len(core) or any(sizes.get(c, size) != size for c, size in zip(core, found, strict=True)):
            expected = ", ".join(["*batch", *(str(sizes.get(c, c)) for c in core)])
            raise ProblemError(f"{name}: expected shape ({expected}), got {tuple(shape)}")
        sizes.update(zip(core, found, strict=True))
    if sizes["n"] == 0:
        raise ProblemError("q: expected shape (*batch, n) with n >= 1, got n = 0")
    sizes = {"m": 0, "p": 0} | sizes
    batch: tuple[int, ...] = ()
    for name, shape in given.items():
        leading = tuple(shape[: len(shape) - len(_CORE[name])])
        joint = broadcast(batch, leading)
        if joint is None:
            raise ProblemError(f"{name}: expected batch dimensions that broadcast with {batch}, got {leading}")
        batch = joint
    return sizes, torch.Size(batch)


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the joint shape, or None (torch.broadcast_shapes imports for almost a second at its first call)."""
    size = max(len(a), len(b))
    a, b = ((1,) * (size - len(v)) + v for v in (a, b))
    if any(i != j and i != 1 and j != 1 for i, j in zip(a, b, strict=True)):
        return None
    return tuple(j if i == 1 else i for i, j in zip(a, b, strict=True))
