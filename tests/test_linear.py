"""Linear solvers of the theorem: each element its own system, its own end, its own residual."""

from __future__ import annotations

import pytest
import tolerances as tol
import torch
from conditions import F64, contraction, randn

from implicit_layers import CG, GMRES, DenseLU, Neumann, ProblemError

B, N = 5, 7
SOLVERS = {"DenseLU": DenseLU(), "CG": CG(), "GMRES": GMRES(), "restarted": GMRES(restart=3), "Neumann": Neumann()}


def systems(generator, batch=B, n=N):
    """Symmetric positive definite matrices with eigenvalues in (0, 2): every solver's home ground."""
    W = torch.stack([contraction(generator, n, 0.6) for _ in range(batch)])
    return torch.eye(n, dtype=F64) + 0.5 * (W + W.mT)


def product_of(J):
    return lambda u: (J @ u.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_every_solver_solves_and_reports_the_true_residual(solver, generator):
    J, exact = systems(generator), randn(generator, B, N)
    v = product_of(J)(exact)
    u, residual = solver.solve(product_of(J), v)
    assert (u - exact).abs().max() <= tol.LINEAR
    assert solver.accepts(residual).all()
    measured = (v - product_of(J)(u)).norm(dim=-1) / v.norm(dim=-1)
    assert (residual - measured).abs().max() <= 1e-15


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_an_element_does_not_notice_its_neighbours(solver, generator):
    J, v = systems(generator), randn(generator, B, N)
    alone, _ = solver.solve(product_of(J), v)
    J[1], J[3], v[4] = torch.nan, 0.0, 0.0
    together, residual = solver.solve(product_of(J), v)
    assert torch.equal(together[[0, 2]], alone[[0, 2]])
    assert solver.accepts(residual).tolist() == [True, False, True, False, True]
    assert (together[4] == 0).all()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_where_nothing_is_asked_nothing_is_answered_whatever_the_matrix(solver):
    u, residual = solver.solve(product_of(torch.full((2, 3, 3), torch.nan, dtype=F64)), torch.zeros(2, 3, dtype=F64))
    assert (u == 0).all()
    assert (residual == 0).all()
    assert solver.solve(product_of(torch.zeros(0, 3, 3)), torch.zeros(0, 3)).u.shape == (0, 3)


@pytest.mark.parametrize("solver", [DenseLU(), GMRES(), GMRES(restart=7)], ids=str)
def test_matrices_that_are_not_definite_are_solved_too(solver, generator):
    J = randn(generator, B, N, N) + 3 * torch.eye(N, dtype=F64).roll(1, 0)
    exact = randn(generator, B, N)
    u, residual = solver.solve(product_of(J), product_of(J)(exact))
    assert (u - exact).abs().max() <= 1e3 * tol.LINEAR  # condition up to 100
    assert solver.accepts(residual).all()


def test_gmres_solves_a_cyclic_shift_only_with_the_whole_space(generator):
    shift = torch.eye(N, dtype=F64).roll(1, 0).expand(1, N, N)  # no progress at all before step n
    v = torch.zeros(1, N, dtype=F64)
    v[0, 0] = 1
    assert GMRES().accepts(GMRES().solve(product_of(shift), v).residual).all()
    assert not GMRES(restart=3).accepts(GMRES(restart=3).solve(product_of(shift), v).residual).any()


@pytest.mark.parametrize("solver", [DenseLU(), GMRES(), CG(), Neumann(max_iter=50)], ids=str)
def test_a_singular_system_is_not_accepted(solver):
    J = torch.ones(1, 2, 2, dtype=F64)
    residual = solver.solve(product_of(J), torch.tensor([[1.0, 0.0]], dtype=F64)).residual
    assert not solver.accepts(residual).any()


@pytest.mark.parametrize("solver", [CG(max_iter=2), GMRES(max_iter=2), Neumann(max_iter=2)], ids=str)
def test_too_few_iterations_are_not_accepted_unless_the_tolerance_says_so(solver, generator):
    J, v = systems(generator), randn(generator, B, N)
    residual = solver.solve(product_of(J), v).residual
    assert not solver.accepts(residual).any()
    assert type(solver)(max_iter=2, tol=0.9).accepts(residual).all()


def test_truncated_neumann_is_the_partial_sum(generator):
    W, v = contraction(generator, N), randn(generator, B, N)
    J = torch.eye(N, dtype=F64) - W
    u, residual = Neumann(terms=4).solve(product_of(J), v)
    expected = v + v @ W.mT + v @ W.mT @ W.mT + v @ W.mT @ W.mT @ W.mT
    assert (u - expected).abs().max() <= 1e-14
    assert Neumann(terms=4).accepts(residual).all()


def test_a_series_that_diverges_is_not_accepted():
    J = torch.eye(2, dtype=F64).expand(1, 2, 2) * -1.5
    residual = Neumann(terms=5).solve(product_of(J), torch.ones(1, 2, dtype=F64)).residual
    assert not Neumann(terms=5).accepts(residual).any()


def test_relaxation_lets_the_series_converge_for_large_eigenvalues(generator):
    J, v = 10 * systems(generator), randn(generator, B, N)
    assert not Neumann().accepts(Neumann().solve(product_of(J), v).residual).any()
    relaxed = Neumann(relaxation=0.1)
    assert relaxed.accepts(relaxed.solve(product_of(J), v).residual).all()


@pytest.mark.parametrize("solver", [DenseLU(), CG(), GMRES(), Neumann()], ids=str)
def test_float32_stays_float32(solver, generator):
    J, exact = systems(generator).float(), randn(generator, B, N).float()
    u, residual = solver.solve(product_of(J), product_of(J)(exact))
    assert u.dtype == residual.dtype == torch.float32
    assert (u - exact).abs().max() <= tol.ROOT_FLOAT32
    assert solver.accepts(residual).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseLU(tol=0.0), "tol: expected a positive number"),
        (lambda: CG(max_iter=0), "max_iter: expected a positive integer"),
        (lambda: GMRES(restart=0), "restart: expected a positive integer"),
        (lambda: Neumann(terms=0), "terms: expected a positive integer"),
        (lambda: Neumann(relaxation=-1.0), "relaxation: expected a positive number"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()
