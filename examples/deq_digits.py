"""A deep equilibrium model on scikit-learn's digits: infinite depth with the memory of one layer.

The features are the fixed point `z = tanh(Wz + Ux + b)`: the output of infinitely many layers that share their weights.
Its derivative comes from the condition at the fixed point, so nothing of the way there is kept. Beside it an explicit
network of equal size: the same weights, 30 such layers written out, differentiated by backpropagation.

    python examples/deq_digits.py [--epochs 60] [--quick] [--out runs/deq_digits.png]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from implicit_layers import Anderson, FixedPointLayer

FEATURES, DEPTH, CONTRACTION = 64, 30, 0.9


class Cell(nn.Module):
    """The repeated layer `tanh(Wz + Ux + b)`; the injection `Ux + b` and the norm of W are computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(FEATURES, FEATURES) * 0.3 / FEATURES**0.5)
        self.U = nn.Linear(64, FEATURES)

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W, scaled down to a spectral norm of at most 0.9 so that a fixed point exists, and `Ux + b`."""
        norm = torch.linalg.matrix_norm(self.W, 2)
        return self.W * (CONTRACTION / norm.clamp(min=CONTRACTION)), self.U(x)

    @staticmethod
    def step(z: Tensor, W: Tensor, injection: Tensor) -> Tensor:
        """Return the next z `(N, features)`."""
        return torch.tanh(z @ W.mT + injection)


class Classifier(nn.Module):
    """Logits `(N, 10)` of images `(N, 64)`."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.readout = Cell(), nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        W, injection = self.cell.inputs(x)
        return self.readout(self.features(torch.zeros_like(injection), W, injection))


class Equilibrium(Classifier):
    """Features at the fixed point; `depth` is how many evaluations of the cell it took."""

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        self.features = FixedPointLayer(Cell.step, solver=Anderson(eps_abs=eps))


class Explicit(Classifier):
    """Features after `depth` layers."""

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        self.depth = depth

    def features(self, z: Tensor, W: Tensor, injection: Tensor) -> Tensor:
        """Apply the layers."""
        for _ in range(self.depth):
            z = Cell.step(z, W, injection)
        return z


def digits(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, test images and labels (a quarter)."""
    data = load_digits()
    x, y = torch.as_tensor(data.data / 16, dtype=torch.float32), torch.as_tensor(data.target)
    order = torch.randperm(len(x), generator=generator)
    test, train = order[: len(x) // 4], order[len(x) // 4 :]
    return x[train], y[train], x[test], y[test]


def fit(model: nn.Module, data: tuple[Tensor, ...], epochs: int, generator: torch.Generator) -> list[float]:
    """Train with Adam; return the test accuracy after each epoch."""
    x, y, x_test, y_test = data
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    scores = []
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(128):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        with torch.no_grad():
            scores.append(float((model(x_test).argmax(-1) == y_test).double().mean()))
    return scores


def kept_for_backward(model: nn.Module, x: Tensor) -> int:
    """Return how many bytes the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(v: Tensor) -> Tensor:
        kept[v.untyped_storage().data_ptr()] = v.untyped_storage().nbytes()
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
        output = model(x)
    del output
    return sum(kept.values())


def main() -> None:
    """Train both networks, print the comparison, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="two epochs on a few images")
    parser.add_argument("--out", type=Path, default=Path("runs/deq_digits.png"))
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    data = digits(generator)
    if options.quick:
        options.epochs, data = 2, (data[0][:256], data[1][:256], *data[2:])

    print(f"{'network':<12} {'weights':>8} {'test accuracy':>14} {'training':>9}")
    scores = {}
    for kind in (Equilibrium, Explicit):
        torch.manual_seed(0)
        model = kind()
        start = time.perf_counter()
        scores[kind.__name__] = fit(model, data, options.epochs, generator)
        weights = sum(p.numel() for p in model.parameters())
        accuracy, seconds = scores[kind.__name__][-1], time.perf_counter() - start
        print(f"{kind.__name__.lower():<12} {weights:>8} {accuracy:>14.1%} {seconds:>8.1f}s")

    depths, tolerances, memory = (1, 3, 10, 30, 100), (1e-1, 1e-2, 1e-3, 1e-4, 1e-5), {}
    x = data[0][:128]
    memory["explicit"] = [kept_for_backward(Explicit(d), x) / 2**20 for d in depths]
    memory["equilibrium"] = [kept_for_backward(Equilibrium(eps), x) / 2**20 for eps in tolerances]
    print(f"\nkept for the backward pass of {len(x)} images [MiB]")
    for name, row, settings in (("explicit", "layers", depths), ("equilibrium", "tolerance", tolerances)):
        cells = "  ".join(f"{s:g}: {m:.2f}" for s, m in zip(settings, memory[name], strict=True))
        print(f"  {name:<12} {row:<10} {cells}")
    draw(scores, depths, memory, options.out)
    print(f"written: {options.out}")


def draw(scores: dict[str, list[float]], depths: tuple[int, ...], memory: dict[str, list[float]], out: Path) -> None:
    """Plot accuracy over epochs, and memory over depth."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in scores.items():
        left.plot(range(1, len(values) + 1), values, label=name.lower())
    left.set(title="digits never seen in training", xlabel="epoch", ylabel="accuracy")
    left.legend()
    right.loglog(depths, memory["explicit"], "o-", label="explicit")
    right.axhline(memory["equilibrium"][-1], color="C1", label="equilibrium, to 1e-5")
    right.set(title="kept for the backward pass", xlabel="layers", ylabel="MiB")
    right.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
