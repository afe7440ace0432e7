"""Sequential quadratic programming: the solver of nonlinear programs; `method.py` says how it works."""
