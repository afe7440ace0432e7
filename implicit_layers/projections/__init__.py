"""Projections and structured layers: functions of a point and of a set, batched, differentiable in both."""

from .affine import project_affine, project_halfspace, project_hyperplane, project_polytope
from .balls import project_box, project_l2_ball, project_linf_ball, project_second_order_cone
from .entropic import soft_argmax
from .isotonic import isotonic_regression
from .simplex import project_capped_simplex, project_l1_ball, project_simplex
from .sorting import project_permutahedron, soft_rank, soft_sort
from .stiefel import project_stiefel

__all__ = [
    "isotonic_regression",
    "project_affine",
    "project_box",
    "project_capped_simplex",
    "project_halfspace",
    "project_hyperplane",
    "project_l1_ball",
    "project_l2_ball",
    "project_linf_ball",
    "project_permutahedron",
    "project_polytope",
    "project_second_order_cone",
    "project_simplex",
    "project_stiefel",
    "soft_argmax",
    "soft_rank",
    "soft_sort",
]
