"""The problem families of the audit: a regular problem each, and often a hard way of writing it down.

What is hard is the writing: rows twice, rows in micro-units, a neighbour without a solution. It uses differentiable
operations and the answer is read back, so x, multipliers and gradients stay those of the regular problem, unique
whatever the writing: the gradient of a row given twice is the sum over both copies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .audit_problems import BATCH, Case, Tensors, draw_problem, same

SPOILED = 1  # the element that has no solution, in the families that have one


def _case(
    drawn: tuple[Tensors, Tensors],
    write: Callable[[Tensors], Tensors] = same,
    read: Callable[[Tensors], Tensors] = same,
    *,
    spoiled: int | None = None,
) -> Case:
    params, known = drawn
    return Case(params=params, known=known, write=write, read=read, spoiled=spoiled)


def _on(**changes: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    """Return a function that changes the tensors named, where they are there."""
    return lambda tensors: tensors | {name: f(tensors[name]) for name, f in changes.items() if name in tensors}


# --- regular problems -----------------------------------------------------------------------------


def strictly_convex(generator: Generator) -> Case:
    """Strictly convex, some rows active, two equalities."""
    return _case(draw_problem(generator, n=6, m=8, p=2, active=3))


def many_active_rows(generator: Generator) -> Case:
    """As many active rows as variables: the optimum is a vertex."""
    return _case(draw_problem(generator, n=8, m=14, active=8))


def equality_only(generator: Generator) -> Case:
    """Equalities only; G and h are None."""
    return _case(draw_problem(generator, n=6, p=3))


def bounds(generator: Generator) -> Case:
    """Bounds given as lb and ub, some active, beside rows."""
    return _case(draw_problem(generator, n=6, m=3, p=1, active=1, bounds=3))


def bounds_as_rows(generator: Generator) -> Case:
    """The same bounds written as 2n rows of G."""
    drawn = draw_problem(generator, n=6, m=3, p=1, active=1, bounds=3)
    m, n = drawn[0]["G"].shape[-2:]
    eye = torch.eye(n, dtype=torch.float64).expand(BATCH, n, n)

    def write(t: Tensors) -> Tensors:
        G, h = torch.cat([t["G"], eye, -eye], -2), torch.cat([t["h"], t["ub"], -t["lb"]], -1)
        return {"P": t["P"], "q": t["q"], "G": G, "h": h, "A": t["A"], "b": t["b"]}

    def read(t: Tensors) -> Tensors:
        if "z" not in t:
            return t
        z, upper, lower = t["z"].split((m, n, n), -1)
        return t | {"z": z, "z_box": upper - lower}

    return _case(drawn, write, read)


def infinite_entries(generator: Generator) -> Case:
    """Infinite entries of h, lb and ub: rows and bounds that are not there."""
    params, known = draw_problem(generator, n=6, m=4, p=1, active=1, bounds=2)
    inactive = known["z"] == 0
    params["h"] = torch.where(inactive & (inactive.cumsum(-1) == 1), torch.inf, params["h"])
    odd = torch.arange(6) % 2 == 1
    params["lb"] = torch.where((known["z_box"] >= 0) & odd, -torch.inf, params["lb"])
    params["ub"] = torch.where((known["z_box"] <= 0) & ~odd, torch.inf, params["ub"])
    return Case(params=params, known=known)


def singular_P(generator: Generator) -> Case:  # noqa: N802 - P is the field's name
    """P of half rank; active rows make the solution unique."""
    return _case(draw_problem(generator, n=6, m=8, p=1, active=4, rank=3))


def linear_program(generator: Generator) -> Case:
    """P = 0, the solution a unique vertex."""
    return _case(draw_problem(generator, n=5, m=8, p=1, active=4, rank=0))


def one_variable(generator: Generator) -> Case:
    """One variable, two rows."""
    return _case(draw_problem(generator, n=1, m=2, active=1))


def fifty_variables(generator: Generator) -> Case:
    """Fifty variables, forty rows, five equalities."""
    return _case(draw_problem(generator, n=50, m=40, p=5, active=15))


def shared(generator: Generator) -> Case:
    """P, G and A without a batch dimension: their gradient is the sum over the batch."""
    return _case(draw_problem(generator, n=6, m=8, p=2, active=3, shared=True))


# --- regular problems, written in a hard way ------------------------------------------------------


def duplicated_inequalities(generator: Generator) -> Case:
    """Every inequality row twice."""
    return _case(
        draw_problem(generator, n=6, m=6, p=1, active=3),
        _on(G=lambda v: torch.cat([v, v], -2), h=lambda v: torch.cat([v, v], -1)),
        _on(z=lambda v: v.unflatten(-1, (2, -1)).sum(-2)),
    )


def duplicated_equality(generator: Generator) -> Case:
    """One equality row twice."""
    return _case(
        draw_problem(generator, n=6, m=6, p=2, active=2),
        _on(A=lambda v: torch.cat([v, v[..., :1, :]], -2), b=lambda v: torch.cat([v, v[..., :1]], -1)),
        _on(y=lambda v: torch.cat([v[..., :1] + v[..., -1:], v[..., 1:-1]], -1)),
    )


def equality_pairs(generator: Generator) -> Case:
    """Equalities written as pairs of inequalities: no strictly feasible point."""
    drawn = draw_problem(generator, n=6, m=6, p=2, active=2)
    m, p = drawn[0]["h"].shape[-1], drawn[0]["b"].shape[-1]

    def write(t: Tensors) -> Tensors:
        G, h = torch.cat([t["G"], t["A"], -t["A"]], -2), torch.cat([t["h"], t["b"], -t["b"]], -1)
        return {"P": t["P"], "q": t["q"], "G": G, "h": h}

    def read(t: Tensors) -> Tensors:
        if "z" not in t:
            return t
        z, above, below = t["z"].split((m, p, p), -1)
        return t | {"z": z, "y": above - below}

    return _case(drawn, write, read)


def scaled_rows(generator: Generator) -> Case:
    """Rows multiplied by 1e-6 to 1e6."""
    drawn = draw_problem(generator, n=6, m=8, p=2, active=3)
    r, e = (
        10 ** (12 * torch.rand(drawn[0][name].shape, generator=generator, dtype=torch.float64) - 6)
        for name in ("h", "b")
    )
    return _case(
        drawn,
        _on(G=lambda v: r.unsqueeze(-1) * v, h=lambda v: r * v, A=lambda v: e.unsqueeze(-1) * v, b=lambda v: e * v),
        _on(z=lambda v: r * v, y=lambda v: e * v),
    )


def scaled_cost(generator: Generator) -> Case:
    """Cost multiplied by 1e6 and by 1e-6, in one batch."""
    cost = torch.tensor([1e6, 1e-6], dtype=torch.float64).repeat(BATCH // 2).unsqueeze(-1)
    return _case(
        draw_problem(generator, n=6, m=8, p=2, active=3),
        _on(P=lambda v: cost.unsqueeze(-1) * v, q=lambda v: cost * v),
        _on(z=lambda v: v / cost, y=lambda v: v / cost),
    )


def float32(generator: Generator) -> Case:
    """Arguments in float32."""
    params, known = draw_problem(generator, n=6, m=8, p=2, active=3)
    return Case(
        params=params,
        known=known,
        write=lambda t: {name: v.float() for name, v in t.items()},
        read=lambda t: {name: v.double() for name, v in t.items()},
        differences=False,
        looseness=100.0,
    )


# --- where there is no derivative, or no solution -------------------------------------------------


def weakly_active(generator: Generator) -> Case:
    """Active rows with a zero multiplier: no derivative, gradients must be finite."""
    params, known = draw_problem(generator, n=6, m=8, p=1, active=4, weak=2)
    return Case(params=params, known=known, has_gradient=False, differences=False, looseness=100.0)


def _with(new: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that exchanges the spoiled element; no gradient flows into what replaces it."""

    def exchange(v: Tensor) -> Tensor:
        spoiled = torch.arange(BATCH).reshape(BATCH, *(1,) * (v.ndim - 1)) == SPOILED
        return torch.where(spoiled, new(v.detach().clone()), v)

    return exchange


def _second_row(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def change(v: Tensor) -> Tensor:
        v[:, 1] = value(v[:, 0])
        return v

    return change


def one_infeasible(generator: Generator) -> Case:
    """One element without a feasible point; its neighbours must be right."""
    drawn = draw_problem(generator, n=6, m=8, p=2, active=3)
    # Row 1 becomes -g'x <= -h - 1 beside row 0's g'x <= h.
    write = _on(G=_with(_second_row(lambda g: -g)), h=_with(_second_row(lambda h: -h - 1)))
    return _case(drawn, write, spoiled=SPOILED)


def one_nan(generator: Generator) -> Case:
    """One element with a NaN in q; its neighbours must be right."""
    drawn = draw_problem(generator, n=6, m=8, p=2, active=3)
    return _case(drawn, _on(q=_with(lambda v: v.index_fill(-1, torch.tensor([2]), torch.nan))), spoiled=SPOILED)


def one_unbounded(generator: Generator) -> Case:
    """One element whose cost falls without bound along the first axis; its neighbours must be right."""
    first = torch.tensor([0])

    def no_curvature(P: Tensor) -> Tensor:
        return P.index_fill(-1, first, 0.0).index_fill(-2, first, 0.0)

    def no_obstacle(G: Tensor) -> Tensor:
        return torch.cat([-0.1 - G[..., :1].abs(), G[..., 1:]], -1)

    write = _on(
        P=_with(no_curvature),
        q=_with(lambda v: v.index_fill(-1, first, -1.0)),
        G=_with(no_obstacle),
        A=_with(lambda v: v.index_fill(-1, first, 0.0)),
    )
    return _case(draw_problem(generator, n=6, m=8, p=2, active=3), write, spoiled=SPOILED)


FAMILIES: dict[str, Callable[[Generator], Case]] = {
    family.__name__.replace("_", "-"): family
    for family in (
        *(strictly_convex, many_active_rows, equality_only, bounds, bounds_as_rows, infinite_entries),
        *(singular_P, linear_program, duplicated_inequalities, duplicated_equality, equality_pairs),
        *(scaled_rows, scaled_cost, weakly_active, one_infeasible, one_nan, one_unbounded),
        *(float32, shared, one_variable, fifty_variables),
    )
}
