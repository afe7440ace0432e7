"""Differentiable quadratic programs."""
