"""Learn hyper-parameters by the gradient of the validation loss, through the training itself.

Training is an arg-min, and its solution is differentiable in whatever it depends on:

    ridge regression         one weight for each feature; `find_argmin` finds the coefficients
    support vector machine   price C of a violated margin and width of the kernel; `solve_qp` solves the dual, whose
                             multiplier of the equality row is the machine's offset

Grid search evaluates the validation loss everywhere; the gradient walks downhill, and ten weights are no harder than
one.

    python examples/bilevel.py [--steps 60] [--quick] [--out runs/bilevel.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor, nn

from implicit_layers import Newton, find_argmin, solve_qp


class Split(NamedTuple):
    """Standardised features `(N, d)` and targets `(N,)` for training, validation and test."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


def split(data: tuple[object, object], train: int, validation: int, standardise_target: bool) -> Split:
    """Shuffle and cut a data set; the scale comes from the training part alone."""
    x, y = (torch.as_tensor(v, dtype=torch.float64) for v in data)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    y = (y - y[:train].mean()) / y[:train].std() if standardise_target else 2 * y - 1
    cuts = (train, validation, len(y) - train - validation)
    return Split(*(v for pair in zip(x.split(cuts), y.split(cuts), strict=True) for v in pair))


# --- ridge regression -------------------------------------------------------------------------------


def ridge(w: Tensor, x: Tensor, y: Tensor, log_weights: Tensor) -> Tensor:
    """`|x w - y|² / 2N + Σ weight w² / 2` for w `(*batch, d)` and one weight for each feature."""
    misfit = (x @ w.unsqueeze(-1)).squeeze(-1) - y
    return 0.5 * misfit.square().mean(-1) + 0.5 * (log_weights.exp() * w.square()).sum(-1)


def ridge_loss(data: Split, log_weights: Tensor, part: str = "val") -> Tensor:
    """Return the mean squared error of the trained regression, `(*batch,)`, on a part of the data."""
    w = find_argmin(ridge, torch.zeros_like(log_weights), data.x, data.y, log_weights, solver=Newton()).w
    x, y = (data.x_val, data.y_val) if part == "val" else (data.x_test, data.y_test)
    return (w @ x.mT - y).square().mean(-1)


# --- support vector machine ---------------------------------------------------------------------------


def kernel(a: Tensor, b: Tensor, log_width: Tensor) -> Tensor:
    """Return `exp(-|a - b|² / (2 d width²))`, `(*batch, N, M)`."""
    squared = (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / a.shape[-1]
    return (-0.5 * squared * (-2 * log_width).exp()[..., None, None]).exp()


def decide(data: Split, hyper: Tensor, x: Tensor) -> Tensor:
    """Return the decision values `(*batch, M)` at x of machines trained with hyper = (log C, log width)."""
    log_price, log_width = hyper.unbind(-1)
    y = data.y
    P = kernel(data.x, data.x, log_width) * y.unsqueeze(-1) * y
    ceiling = log_price.exp().unsqueeze(-1).expand(*hyper.shape[:-1], len(y))
    dual = solve_qp(P, -torch.ones_like(y), None, None, y.unsqueeze(0), torch.zeros_like(y[:1]),
                    lb=torch.zeros_like(y), ub=ceiling)  # fmt: skip
    return ((dual.x * y).unsqueeze(-2) @ kernel(data.x, x, log_width)).squeeze(-2) + dual.y


def svm_loss(data: Split, hyper: Tensor, part: str = "val") -> Tensor:
    """Return the logistic loss of the decision values, `(*batch,)`, on a part of the data."""
    x, y = (data.x_val, data.y_val) if part == "val" else (data.x_test, data.y_test)
    return nn.functional.softplus(-2 * y * decide(data, hyper, x)).mean(-1)


# --- the upper level ---------------------------------------------------------------------------------


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Walk downhill; return the hyper-parameters on the way `(steps + 1, k)` and their losses `(steps + 1,)`."""
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.02)
    path, losses = [], []
    for _ in range(steps + 1):
        value = loss(theta)
        path.append(theta.detach().clone())
        losses.append(value.detach())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    return torch.stack(path), torch.stack(losses)


def main() -> None:
    """Search, descend, report and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="few steps, coarse grid, little data")
    parser.add_argument("--out", type=Path, default=Path("runs/bilevel.png"))
    options = parser.parse_args()
    steps, fine, few = (4, 4, 40) if options.quick else (options.steps, 13, 120)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)

    data = split(load_diabetes(return_X_y=True), 100, 150, standardise_target=True)
    features = data.x.shape[-1]
    grid = torch.linspace(-9, 4, 4 * fine, dtype=torch.float64)
    with torch.no_grad():
        curve = ridge_loss(data, grid.unsqueeze(-1).expand(-1, features))
    best = grid[curve.argmin()].expand(features)
    path, losses = descend(lambda t: ridge_loss(data, t), best, steps)
    report("ridge, one weight, grid", len(grid), float(curve.min()), float(ridge_loss(data, best, "test")))
    report(f"ridge, {features} weights, gradient", steps, float(losses[-1]), float(ridge_loss(data, path[-1], "test")))
    left.plot(grid, curve, label="one shared weight, grid")
    left.axhline(float(losses[-1]), color="C1", label=f"{features} weights, gradient")
    left.set(title="ridge regression: diabetes", xlabel="log weight", ylabel="validation error")
    left.legend()

    data = split(load_breast_cancer(return_X_y=True), few, 150, standardise_target=False)
    price, width = torch.linspace(-3, 7, fine, dtype=torch.float64), torch.linspace(-2, 4, fine, dtype=torch.float64)
    pairs = torch.cartesian_prod(price, width)
    with torch.no_grad():
        surface = torch.cat([svm_loss(data, part) for part in pairs.split(32)])
    best = pairs[surface.argmin()]
    path, losses = descend(lambda t: svm_loss(data, t), torch.zeros(2, dtype=torch.float64), steps)
    report("SVM, grid", len(pairs), float(surface.min()), float(svm_loss(data, best, "test")))
    report("SVM, gradient", steps, float(losses[-1]), float(svm_loss(data, path[-1], "test")))
    for name, theta in (("grid", best), ("gradient", path[-1])):
        right_ones = (decide(data, theta, data.x_test).sign() == data.y_test).double().mean()
        print(f"SVM, {name}: {float(right_ones):.1%} of the test set right, log C, log width = "
              f"{', '.join(f'{v:.2f}' for v in theta.tolist())}")  # fmt: skip
    shown = right.contourf(price, width, surface.reshape(fine, fine).mT.log(), levels=20)
    right.plot(*path.mT, "w.-", label="gradient")
    right.plot(*best, "r*", markersize=12, label="best of the grid")
    right.set(title="support vector machine: breast cancer", xlabel="log C", ylabel="log width")
    right.legend()
    figure.colorbar(shown, ax=right, label="log validation loss")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)
    print(f"written: {options.out}")


def report(name: str, trainings: int, validation: float, test: float) -> None:
    """Print one line of the table."""
    print(f"{name:30s} {trainings:4d} trainings   validation {validation:.4f}   test {test:.4f}")


if __name__ == "__main__":
    main()
