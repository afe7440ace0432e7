"""Iterations that find a solution: one method a file, one loop for all of them."""
