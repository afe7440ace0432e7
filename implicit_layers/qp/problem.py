"""The eight tensors of a quadratic program, and the one stacked form that everything inside works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

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
        above = none if self.G is None or self.h is None else (_times(self.G, x) - self.h).clamp(min=0)
        off = none if self.A is None or self.b is None else _times(self.A, x) - self.b
        return above, off


def _times(M: Tensor, x: Tensor) -> Tensor:
    product: Tensor = M @ x.unsqueeze(-1)
    return product.squeeze(-1)


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
        parts = [(x.unsqueeze(-2) @ C.mT).squeeze(-2)]
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


class Stacked(NamedTuple):
    """A validated problem as one flat batch. Each tensor is shared (no batch dimension) or `(B, ...)`."""

    P: Tensor
    q: Tensor
    C: Tensor
    d: Tensor
    rows: Rows
    batch_shape: torch.Size
    batch: int


def stack(problem: QPProblem) -> Stacked:
    """Validate shapes, dtypes and devices, and stack rows, all in operations that autograd sees.

    Raises:
        ProblemError: naming the argument, what was expected and what was found.
    """
    sizes, batch_shape = _check(problem)
    batch = batch_shape.numel()

    def flat(v: Tensor, core: int) -> Tensor:
        shape = v.shape[v.ndim - core :]
        if v.shape[: v.ndim - core].numel() == 1 and batch != 0:
            return v.reshape(shape)
        return v.expand(*batch_shape, *shape).reshape(batch, *shape)

    def join(parts: list[Tensor], core: int) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        if any(part.ndim > core for part in parts):
            parts = [part.expand(batch, *part.shape[part.ndim - core :]) for part in parts]
        return torch.cat(parts, -core)

    P, q, G, h, A, b, lb, ub = problem
    like = P.new_zeros
    C = join([flat(M, 2) for M in (G, A) if M is not None] or [like(0, sizes["n"])], 2)
    right = [h, b, ub, None if lb is None else -lb]
    d = join([flat(v, 1) for v in right if v is not None] or [like(0)], 1)
    rows = Rows(sizes["n"], sizes["m"], sizes["p"], ub is not None, lb is not None)
    return Stacked(flat(P, 2), flat(q, 1), C, d, rows, batch_shape, batch)


def _check(problem: QPProblem) -> tuple[dict[str, int], torch.Size]:
    given = {name: v for name, v in problem._asdict().items() if v is not None}
    for name, v in given.items():
        if not isinstance(v, Tensor):
            raise ProblemError(f"{name}: expected a torch.Tensor, got {type(v).__name__}")
    for name in ("P", "q"):
        if name not in given:
            raise ProblemError(f"{name}: expected a torch.Tensor, got None")
    for name, partner in (("G", "h"), ("h", "G"), ("A", "b"), ("b", "A")):
        if name in given and partner not in given:
            raise ProblemError(f"{partner}: expected a torch.Tensor because {name} is given, got None")
    _check_tensors(given)
    return _check_shapes(given)


def _check_tensors(given: dict[str, Tensor]) -> None:
    P = given["P"]
    if P.dtype not in (torch.float32, torch.float64):
        raise ProblemError(f"P: expected dtype torch.float32 or torch.float64, got {P.dtype}")
    for name, v in given.items():
        if v.dtype != P.dtype:
            raise ProblemError(f"{name}: expected dtype {P.dtype} as P, got {v.dtype}")
        if v.device != P.device:
            raise ProblemError(f"{name}: expected device {P.device} as P, got {v.device}")


def _check_shapes(given: dict[str, Tensor]) -> tuple[dict[str, int], torch.Size]:
    # q tells n, then G tells m and A tells p: a size that is not known yet is asked for by its letter.
    sizes: dict[str, int] = {}
    for name in ("q", "P", "G", "h", "A", "b", "lb", "ub"):
        if name not in given:
            continue
        shape, core = given[name].shape, _CORE[name]
        found = shape[len(shape) - len(core) :]
        if len(shape) < len(core) or any(sizes.get(c, size) != size for c, size in zip(core, found, strict=True)):
            expected = ", ".join(["*batch", *(str(sizes.get(c, c)) for c in core)])
            raise ProblemError(f"{name}: expected shape ({expected}), got {tuple(shape)}")
        sizes.update(zip(core, found, strict=True))
    if sizes["n"] == 0:
        raise ProblemError("q: expected shape (*batch, n) with n >= 1, got n = 0")
    sizes = {"m": 0, "p": 0} | sizes
    batch = torch.Size()
    for name, v in given.items():
        leading = v.shape[: v.ndim - len(_CORE[name])]
        if not leading or leading == batch:  # the common cases, without the cost of the general one
            continue
        try:
            batch = torch.broadcast_shapes(batch, leading)
        except RuntimeError:
            raise ProblemError(
                f"{name}: expected batch dimensions that broadcast with {tuple(batch)}, got {tuple(leading)}"
            ) from None
    return sizes, batch
