"""Differentiable layers defined by a condition instead of a formula."""

from . import projections
from .differentiation import Implicit, Unrolled
from .errors import ProblemError, SolverError, SolverWarning
from .qp.elastic import Elastic
from .qp.interior_point import InteriorPoint
from .qp.layer import OptNetLayer, QPLayer
from .qp.problem import QPProblem
from .qp.solution import QPSolution
from .qp.solve import solve_qp
from .status import SolveStatus

__all__ = [
    "Elastic",
    "Implicit",
    "InteriorPoint",
    "OptNetLayer",
    "ProblemError",
    "QPLayer",
    "QPProblem",
    "QPSolution",
    "SolveStatus",
    "SolverError",
    "SolverWarning",
    "Unrolled",
    "projections",
    "solve_qp",
]
