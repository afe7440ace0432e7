"""Differentiable layers defined by a condition instead of a formula."""

from . import projections
from .argmin import ArgminLayer, LeastSquares, find_argmin
from .check import GradientReport, check_gradients
from .cvxpy_layer import CvxpyLayer
from .differentiation import Implicit, OneStep, Unrolled
from .errors import ProblemError, SolverError, SolverWarning
from .fixed_point import FixedPointLayer, find_fixed_point
from .iterations.anderson import Anderson
from .iterations.broyden import Broyden
from .iterations.gauss_newton import GaussNewton
from .iterations.gradient_descent import GradientDescent
from .iterations.lbfgs import LBFGS
from .iterations.levenberg_marquardt import LevenbergMarquardt
from .iterations.newton import Newton
from .iterations.picard import Picard
from .linear import CG, GMRES, DenseLU, Neumann
from .qp.elastic import Elastic
from .qp.interior_point import InteriorPoint
from .qp.layer import OptNetLayer, QPLayer
from .qp.problem import QPProblem
from .qp.solution import QPSolution
from .qp.solve import solve_qp
from .root import RootLayer, find_root
from .solution import ImplicitSolution
from .sqp.method import SQP
from .status import SolveStatus

__all__ = [
    "CG",
    "GMRES",
    "LBFGS",
    "SQP",
    "Anderson",
    "ArgminLayer",
    "Broyden",
    "CvxpyLayer",
    "DenseLU",
    "Elastic",
    "FixedPointLayer",
    "GaussNewton",
    "GradientDescent",
    "GradientReport",
    "Implicit",
    "ImplicitSolution",
    "InteriorPoint",
    "LeastSquares",
    "LevenbergMarquardt",
    "Neumann",
    "Newton",
    "OneStep",
    "OptNetLayer",
    "Picard",
    "ProblemError",
    "QPLayer",
    "QPProblem",
    "QPSolution",
    "RootLayer",
    "SolveStatus",
    "SolverError",
    "SolverWarning",
    "Unrolled",
    "check_gradients",
    "find_argmin",
    "find_fixed_point",
    "find_root",
    "projections",
    "solve_qp",
]
