"""From tensors in torch's sparse layouts to the entries and coordinates that everything inside works on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...errors import ProblemError
from ..matrices import Coordinates, SparseMatrices
from ..problem import Flat, QPProblem, Rows, flatten

SMALL = 100_000  # entries of P, G and A
_LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


def flatten_sparse(problem: QPProblem) -> tuple[Flat, SparseMatrices]:
    """Validate a problem and replace its matrices by their entries, in operations that autograd sees.

    A dense matrix beside sparse ones counts with all its entries.

    Raises:
        ProblemError: naming the argument, what was expected and what was found.
    """
    flat = flatten(problem)
    held: dict[str, tuple[Tensor, Coordinates]] = {}
    for name, v in problem._asdict().items():
        if v is None:
            continue
        if v.device.type != "cpu":
            raise ProblemError(
                f"{name}: expected a tensor on the CPU, where sparse programs are solved, got {v.device}"
            )
        if name in ("P", "G", "A"):
            held[name] = entries(name, v)
        elif v.layout != torch.strided:
            raise ProblemError(f"{name}: expected a dense vector, got layout {v.layout}; pass {name}.to_dense()")
    places = {name: place for name, (_, place) in held.items()}
    counts = [len(places[name].row) if name in places else 0 for name in ("G", "A")]
    layout = dataclasses.replace(flat.layout, entries=(counts[0], counts[1]))
    params = tuple(held[name][0] if name in held else v for name, v in zip(layout.names, flat.params, strict=True))
    places["C"] = _stacked(places, layout.rows.m, layout.rows.p, layout.rows.n)
    return flat._replace(params=params, layout=layout), SparseMatrices(places)


def is_small(rows: Rows) -> bool:
    """Return whether the dense core is faster, however few entries differ from zero."""
    return rows.n * (rows.n + rows.m + rows.p) <= SMALL


def densify(problem: QPProblem, flat: Flat, matrices: SparseMatrices) -> QPProblem:
    """Return the problem with dense matrices, in operations that autograd sees."""
    held = zip(flat.layout.names, flat.params, strict=True)
    dense = {name: matrices.places[name].dense(v) for name, v in held if name in ("P", "G", "A")}
    return problem._replace(**dense)


def entries(name: str, M: Tensor) -> tuple[Tensor, Coordinates]:
    """Return the entries `(nnz,)` of a matrix, and where they are."""
    if M.ndim != 2 or M.layout not in (torch.strided, *_LAYOUTS):
        raise ProblemError(
            f"{name}: expected a matrix without batch dimensions in layout strided, sparse_coo, sparse_csr or "
            f"sparse_csc, as the sparse solver takes it; got shape {tuple(M.shape)} in layout {M.layout}"
        )
    height, width = M.shape
    if M.layout == torch.strided:
        at = torch.arange(height * width)
        return M.reshape(-1), Coordinates(at // max(width, 1), at % max(width, 1), (height, width))
    if M.layout == torch.sparse_coo:
        if M.dense_dim():
            raise ProblemError(f"{name}: expected a sparse matrix of numbers, got one with dense dimensions")
        M = M.coalesce()
        row, column = M.indices()
        return M.values(), Coordinates(row, column, (height, width))
    by_row = M.layout == torch.sparse_csr
    ends, inner = (M.crow_indices(), M.col_indices()) if by_row else (M.ccol_indices(), M.row_indices())
    outer = torch.repeat_interleave(torch.arange(len(ends) - 1), ends.diff().long())
    row, column = (outer, inner.long()) if by_row else (inner.long(), outer)
    return M.values(), Coordinates(row, column, (height, width))


def _stacked(places: dict[str, Coordinates], m: int, p: int, n: int) -> Coordinates:
    """Return where the entries of C = [G; A] are."""
    none = torch.zeros(0, dtype=torch.int64)
    row, column = [none], [none]
    for name, above in (("G", 0), ("A", m)):
        if name in places:
            row.append(places[name].row + above)
            column.append(places[name].column)
    return Coordinates(torch.cat(row), torch.cat(column), (m + p, n))
