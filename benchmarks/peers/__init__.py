"""What we measure ourselves against: `solvers` (one problem in, one answer out) and differentiable `layers`."""
