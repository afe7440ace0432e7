"""A cvxpy problem as a quadratic program whose data are affine in the parameters: cvxpy's own canonical form, read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .cvxpy_maps import AffineMap, BoundMap, Entries, Ints, MatrixMap
from .errors import ProblemError
from .qp.problem import QPProblem

DENSE_UNKNOWNS = 300  # up to here batches of dense matrices, beyond it sparse ones, element by element
_SYMMETRIC = ("symmetric", "PSD", "NSD")


class CanonicalQP(nn.Module):
    """`min 1/2 x'Px + q'x  s.t.  Gx <= h, Ax = b, lb <= x <= ub` in cvxpy's canonical unknowns x.

    Args:
        program: cvxpy's `ParamConeProg`: rows `Fx + g` in the zero cone, and after these in the nonnegative one.
        columns: where the entries of cvxpy's parameter vector are in the caller's parameters, one after the other.
        sizes: of the caller's parameters.
        places: for each variable that the caller wants, where its entries are in x; -1: zero.
    """

    def __init__(self, program: Any, columns: Ints, sizes: Sequence[int], places: Sequence[Ints]) -> None:
        super().__init__()
        n, rows, zero = program.x.size, program.constr_size, program.cone_dims.zero
        q = program.q if hasattr(program, "q") else program.c  # its name in older versions
        P, cost, F = (_read(*v, columns) for v in ((program.P, n), (q, n + 1), (program.A, rows)))
        F, g = F.pick(F.column < n), F.pick(F.column == n)
        bounds = [_bounds(F, zero, sum(sizes), side, rows) for side in (1.0, -1.0)]
        others = np.setdiff1d(np.arange(zero, rows), np.concatenate([bound.row for bound in bounds]))
        equal, above = _numbers(np.arange(zero), rows), _numbers(others, rows)
        self.sparse = n > DENSE_UNKNOWNS

        def matrix(entries: Entries, height: int) -> MatrixMap | None:
            return MatrixMap(entries, sizes, (height, n), self.sparse) if height else None

        def vector(entries: Entries, height: int) -> AffineMap | None:
            return AffineMap(entries, sizes, height) if height else None

        def bound(of: Entries, none: float) -> BoundMap | None:
            factor, number = np.zeros(rows), _numbers(of.row, rows, of.column)
            factor[of.row] = -1 / of.value
            bounded = np.isin(np.arange(n), of.column)
            return BoundMap(g.times(factor[g.row]).renumber(number), sizes, bounded, none) if bounded.any() else None

        turned = P._replace(row=P.column, column=P.row)
        halves = Entries(*(np.concatenate(pair) for pair in zip(P, turned, strict=True))).times(0.5)
        self.P, self.q = matrix(halves, n), AffineMap(cost.pick(cost.row < n), sizes, n)
        self.G, self.h = matrix(F.renumber(above).times(-1.0), len(others)), vector(g.renumber(above), len(others))
        self.A, self.b = matrix(F.renumber(equal), zero), vector(g.renumber(equal).times(-1.0), zero)
        self.lb, self.ub = bound(bounds[0], -np.inf), bound(bounds[1], np.inf)
        self.shapes = [place.shape for place in places]
        for i, place in enumerate(places):
            self.register_buffer(f"place{i}", torch.from_numpy(place.ravel()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.q.value.device

    def forward(self, parts: Sequence[Tensor]) -> QPProblem:
        """Return the data for the parameters, each `(*batch, its size)`, shared where they depend on no batched one.

        Sparse matrices are given by their entries `(*batch, nnz)`: `assembled` makes matrices of them.
        """
        maps = (getattr(self, name) for name in QPProblem._fields)
        return QPProblem(*(None if f is None else f(parts) for f in maps))  # type: ignore[arg-type]  # None: G, h, ...

    def assembled(self, problem: QPProblem) -> QPProblem:
        """Return the problem with sparse matrices for their entries `(nnz,)`."""
        maps = ((name, getattr(self, name)) for name in ("P", "G", "A"))
        return problem._replace(**{name: f.assemble(getattr(problem, name)) for name, f in maps if f is not None})

    def variables(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the caller's variables from x `(*batch, n)`."""
        places = [getattr(self, f"place{i}") for i in range(len(self.shapes))]
        values = [torch.where(place >= 0, x[..., place.clamp(min=0)], 0.0) for place in places]
        return tuple(v.reshape((*x.shape[:-1], *shape)) for v, shape in zip(values, self.shapes, strict=True))


def check_problem(cp: Any, problem: Any, parameters: Any, variables: Any) -> None:
    """Raise ProblemError unless the problem is convex, affine in its parameters, and theirs and the variables' own."""
    if not isinstance(problem, cp.Problem):
        raise ProblemError(f"problem: expected a cvxpy.Problem, got {type(problem).__name__}")
    for name, given, kind in (("parameters", parameters, cp.Parameter), ("variables", variables, cp.Variable)):
        if not isinstance(given, (list, tuple)) or not all(isinstance(v, kind) for v in given):
            raise ProblemError(f"{name}: expected a list of cvxpy.{kind.__name__}, got {given!r}")
        if any(v.is_complex() for v in given):
            raise ProblemError(f"{name}: expected real ones, got complex ones; split them into two parts")
    if problem.is_mixed_integer():
        raise ProblemError(
            "problem: expected continuous variables, got integer or boolean ones: they have no derivative"
        )
    if not problem.is_dcp():
        raise ProblemError("problem: expected a convex problem by cvxpy's rules (problem.is_dcp()), got another")
    if not _is_dpp(problem):
        raise ProblemError(
            "problem: expected one that is affine in its parameters (problem.is_dpp()), got another; make a product or "
            "a function of parameters a parameter of its own, computed in torch"
        )
    if sorted(p.id for p in parameters) != sorted(p.id for p in problem.parameters()):
        raise ProblemError(
            f"parameters: expected all of the problem's, each once: {_listed(problem.parameters())}; "
            f"got {_listed(parameters)}"
        )
    duals = [v for constraint in problem.constraints for v in constraint.dual_variables]
    known = {v.id for v in (*problem.variables(), *duals)}
    strange = [v for v in variables if v.id not in known]
    if strange:
        raise ProblemError(
            f"variables: expected some of the problem's: {_listed(problem.variables())}; got also {_listed(strange)}"
        )


def _is_dpp(problem: Any) -> bool:
    if problem.is_dpp():
        return True
    try:
        return bool(problem.is_dpp(quad_form_dpp="qp"))
    except TypeError:  # an older version
        return False


def _listed(leaves: Sequence[Any]) -> str:
    return ", ".join(leaf.name() for leaf in leaves) or "none"


def canonicalise(cp: Any, problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> CanonicalQP | None:
    """Return a problem as a quadratic program, or None if cvxpy makes a program with other cones of it."""
    # In this scope newer versions let the matrix of a quadratic form be a parameter.
    scope = getattr(cp.utilities.scopes, "quad_form_dpp_scope", nullcontext)
    with scope():
        # For Clarabel the rows are Fx + g in every version; for others their signs have changed.
        data, chain, _ = problem.get_problem_data(cp.CLARABEL)
    program, cones = data["param_prob"], data["dims"]
    if cones.exp or cones.soc or cones.psd or cones.p3d or getattr(cones, "pnd", None):
        return None
    sizes = [parameter.size for parameter in parameters]
    columns = np.full(program.total_param_size + 1, sum(sizes))
    for parameter, offset in zip(parameters, np.cumsum([0, *sizes]), strict=False):
        name = _name(chain, "param", parameter)
        start, size = program.param_id_to_col[name], program.param_id_to_size[name]
        held, first = np.unique(_places(parameter, size), return_index=True)  # of two that are one, the upper entry
        columns[start : start + size] = offset + first[held >= 0]
    places = []
    for variable in variables:
        name = _name(chain, "var", variable)
        place = _places(variable, program.id_to_var[name].size)
        places.append(np.where(place >= 0, place + program.var_id_to_col[name], -1))
    return CanonicalQP(program, columns, sizes, places)


def _name(chain: Any, kind: str, leaf: Any) -> Any:
    """Return the id of a variable or parameter in the canonical problem; older versions keep it."""
    renamed: dict[int, list[int]] = getattr(chain, f"compose_{kind}_id_map", dict)()
    return renamed.get(leaf.id, [leaf.id])[0]


def _places(leaf: Any, held: int) -> Ints:
    """Return where the entries of a variable or parameter are among the `held` ones that cvxpy keeps; -1: zero."""
    places = np.full(leaf.shape, -1)
    if held == leaf.size:
        places = np.arange(held).reshape(leaf.shape, order="F")
    elif any(leaf.attributes[kind] for kind in _SYMMETRIC):
        upper = np.triu_indices(leaf.shape[-1])
        places[..., upper[0], upper[1]] = np.arange(held).reshape((*leaf.shape[:-2], -1), order="F")
        places = np.maximum(places, places.swapaxes(-1, -2))
    elif leaf.attributes["diag"]:
        np.fill_diagonal(places, np.arange(held))
    else:
        places[leaf.sparse_idx] = np.arange(held)
    return places


def _read(tensor: Any, height: int, columns: Ints) -> Entries:
    """Return the terms of cvxpy's map from its parameter vector to a matrix, column by column."""
    if tensor is None:  # the P of a linear cost
        none = np.zeros(0, dtype=np.int64)
        return Entries(none, none, none, np.zeros(0))
    terms = tensor.tocoo()
    terms.sum_duplicates()
    column, row = np.divmod(terms.row.astype(np.int64), max(height, 1))
    return Entries(row, column, columns[terms.col], terms.data.astype(float)).pick(terms.data != 0)


def _numbers(of: Ints, rows: int, number: Ints | None = None) -> Ints:
    """Return the number of each row, by default that in `of`; -1 for the rows that are not in it."""
    numbers = np.full(rows, -1)
    numbers[of] = np.arange(len(of)) if number is None else number
    return numbers


def _bounds(F: Entries, zero: int, constant: int, side: float, rows: int) -> Entries:
    """Return the rows `a x_j + g >= 0`, a a constant with the sign `side`, that bound an unknown: one for each."""
    alone = np.bincount(F.row, minlength=rows)[F.row] == 1
    found = F.pick(alone & (F.row >= zero) & (F.source == constant) & (F.value * side > 0))
    return found.pick(np.unique(found.column, return_index=True)[1])
