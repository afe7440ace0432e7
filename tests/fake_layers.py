"""QP layers for the audit: one that is right in its own way, and many that are wrong in one way each."""

from __future__ import annotations

import warnings
from functools import partial

import torch

from implicit_layers import SolverWarning, SolveStatus, solve_qp


def textbook(P, q, G, h, A, b):
    """One dense solve with the rows that are active, differentiated by torch: right while they are independent."""
    detached = (v.detach() for v in (P, q, G, h, A, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        found = solve_qp(*detached)
    on = found.z > found.s
    x = []
    for i in range(len(q)):
        C, d = torch.cat([G[i][on[i]], A[i]]), torch.cat([h[i][on[i]], b[i]])
        K = torch.cat([torch.cat([P[i], C.mT], 1), torch.cat([C, torch.zeros(len(C), len(C), dtype=q.dtype)], 1)])
        x.append(torch.linalg.solve(K, torch.cat([-q[i], d]))[: q.shape[-1]])
    return torch.stack(x)


def scaled_gradient(v, factor):
    """The same value with `factor` times the gradient."""
    return v * factor + (v * (1 - factor)).detach()


def quiet(*arguments, **bounds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        return solve_qp(*arguments, **bounds)


def wrong_sign(*arguments, **bounds):
    return scaled_gradient(solve_qp(*arguments, **bounds).x, -1)


def mean_of_shared(P, q, G, h, A, b):
    G, P = (scaled_gradient(v, 1 / len(q)) if v.ndim == 2 else v for v in (G, P))
    return solve_qp(P, q, G, h, A, b)


def detached_dual(*arguments, **bounds):
    solution = solve_qp(*arguments, **bounds)
    return solution._replace(z=solution.z.detach())


def negative_dual(*arguments, **bounds):
    solution = solve_qp(*arguments, **bounds)
    return solution._replace(z=-solution.z)


def other_sign_of_bounds(*arguments, **bounds):
    solution = solve_qp(*arguments, **bounds)
    return solution._replace(z_box=-solution.z_box)


def garbage(name, P, q, G, h, A, b, **bounds):
    given = {"P": P, "q": q, "G": G, "h": h, "A": A, "b": b, **bounds}
    if given.get(name) is not None:
        given[name] = scaled_gradient(given[name], 3)
    return solve_qp(**given)


def nan_spreads(P, q, G, h, A, b):
    solution = quiet(P, q, G, h, A, b)
    return solution.x + 0 * q.sum() if q.isnan().any() else solution.x


def failure_stops_all_gradients(*arguments):
    solution = solve_qp(*arguments)
    return solution.x if (solution.status == SolveStatus.SOLVED).all() else solution.x.detach()


def failure_gives_nan_gradients(*arguments):
    solution = solve_qp(*arguments)
    failed = solution.status != SolveStatus.SOLVED
    x = solution.x.clone()
    x[failed] = arguments[1][failed] * torch.nan
    return x


def silent(*arguments, **bounds):
    return quiet(*arguments, **bounds).x.nan_to_num()


def float64_only(P, q, *arguments, **bounds):
    if q.dtype != torch.float64:
        raise TypeError("expected\nfloat64")
    return solve_qp(P, q, *arguments, **bounds)


def float64_out(*arguments, **bounds):
    return solve_qp(*arguments, **bounds).x.double()


def needs_G(P, q, G, h, A, b):  # noqa: N802
    return solve_qp(P, q, G.contiguous(), h, A, b)


def no_bounds(P, q, G, h, A, b):
    return solve_qp(P, q, G, h, A, b)


def explodes_at_weak_rows(*arguments):
    solution = solve_qp(*arguments)
    return scaled_gradient(solution.x, 1e12 if (solution.z + solution.s).min() < 1e-4 else 1)


def inaccurate(*arguments):
    return solve_qp(*arguments).x + 1e-4


def staircase(*arguments):
    x = solve_qp(*arguments).x
    return x + ((x / 1e-6).round() * 1e-6 - x).detach()


def tuple_out(*arguments):
    return tuple(solve_qp(*arguments))


def one_too_few(*arguments):
    return solve_qp(*arguments).x[:, 1:]


CAUGHT = {  # the fake, where it is caught, what is said, and where it is right
    wrong_sign: ("strictly-convex", "wrong dx/d", None),
    mean_of_shared: ("shared", "wrong d", "strictly-convex"),
    detached_dual: ("strictly-convex", "wrong dz/d", "equality-only"),
    negative_dual: ("strictly-convex", "wrong duals; wrong sign of z; wrong dz/d", "equality-only"),
    other_sign_of_bounds: ("bounds", "wrong duals; wrong dz_box/d", "strictly-convex"),
    partial(garbage, "G"): ("strictly-convex", "/dG", "equality-only"),
    partial(solve_qp, strict=True): ("one-infeasible", "raises SolverError: ", "strictly-convex"),
    nan_spreads: ("one-nan", "x not finite", "strictly-convex"),
    failure_stops_all_gradients: ("one-infeasible", "wrong dx/d", "strictly-convex"),
    failure_gives_nan_gradients: ("one-unbounded", "gradient not finite", "strictly-convex"),
    silent: ("one-unbounded", "failure returned as if solved", "strictly-convex"),
    float64_only: ("float32", "raises TypeError: expected float64", "strictly-convex"),
    float64_out: ("float32", "x: expected torch.float32 of shape (4, 6), got torch.float64 (4, 6)", "strictly-convex"),
    needs_G: ("equality-only", "raises AttributeError: ", "strictly-convex"),
    no_bounds: ("bounds", "raises TypeError: ", "bounds-as-rows"),
    explodes_at_weak_rows: ("weakly-active", "gradient not finite", "strictly-convex"),
    inaccurate: ("strictly-convex", "wrong x", None),
    staircase: ("one-variable", "against differences", None),
    tuple_out: ("strictly-convex", "x: expected a torch.Tensor, got NoneType", None),
    one_too_few: ("strictly-convex", "x: expected torch.float64 of shape (4, 6)", None),
    textbook: ("duplicated-equality", "", "scaled-cost"),
}
