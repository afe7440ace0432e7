"""Solvers to compare with: one per file, all with `arm`, `config` and `answer`, as the models have."""

from robotics.solvers.base import Solver
from robotics.solvers.differential_ik import DifferentialIK
from robotics.solvers.portfolio import Portfolio, Stage
from robotics.solvers.restarts import DampedLeastSquares, LevenbergMarquardt
from robotics.solvers.slsqp import SLSQP

__all__ = ["SLSQP", "DampedLeastSquares", "DifferentialIK", "LevenbergMarquardt", "Portfolio", "Solver", "Stage"]
