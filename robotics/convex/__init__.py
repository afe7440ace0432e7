"""The convex road: inverse kinematics as semidefinite programs, through cvxpy (an optional extra)."""

from robotics.convex.cidgik import CIDGIK
from robotics.convex.relaxation import Relaxation

__all__ = ["CIDGIK", "Relaxation"]
