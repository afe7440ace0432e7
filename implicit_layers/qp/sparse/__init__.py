"""Programs with sparse matrices: found by a sparse solver, differentiated by the same map as dense ones."""

from .layout import densify as densify
from .layout import flatten_sparse as flatten_sparse
from .layout import is_small as is_small
from .linear_system import SparseSolves as SparseSolves
from .solver import solve_sparse as solve_sparse
