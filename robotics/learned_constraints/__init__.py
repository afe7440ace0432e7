"""Unknown circles and half-planes, recovered from how an arm moved about them."""

from robotics.learned_constraints.demonstrations import Demonstrations, demonstrate
from robotics.learned_constraints.fit import fit_circles, fit_half_planes
from robotics.learned_constraints.scene import FitStatus, LearnedScene
from robotics.learned_constraints.shapes import CIRCLES, HALF_PLANES, Shape
from robotics.learned_constraints.table import read_demonstrations, write_demonstrations

__all__ = [
    "CIRCLES",
    "HALF_PLANES",
    "Demonstrations",
    "FitStatus",
    "LearnedScene",
    "Shape",
    "demonstrate",
    "fit_circles",
    "fit_half_planes",
    "read_demonstrations",
    "write_demonstrations",
]
