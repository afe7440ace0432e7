"""Certainty, sparsity and orthogonality by construction: three regularisers that are projections.

A small classifier of handwritten digits sees the image through 12 filters. What the filters may be is a set, and the
layer projects onto it; the gradient goes through the projection, so there is no penalty and no weight to tune.

    certainty       a filter is an entropy-regularised arg-max over pixels: cooled down, it looks at a single one
    sparsity        a filter lies in an l1 ball: most of its entries are exactly zero
    orthogonality   the filters are orthonormal: no two see the same thing

    python examples/regularisers.py [--epochs 60] [--quick] [--out runs/regularisers.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from implicit_layers import projections

FILTERS = 12


def certain(raw: Tensor, progress: float) -> Tensor:
    """Choose pixels, the more decided the further training is: the temperature falls from 1 to 0.01."""
    return projections.soft_argmax(raw, 0.01**progress)


STRUCTURES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "free": lambda raw, progress: raw,
    "certainty": certain,
    "sparsity": lambda raw, progress: projections.project_l1_ball(raw, 3.0),
    "orthogonality": lambda raw, progress: projections.project_stiefel(raw.mT).mT,
}


class Classifier(nn.Module):
    """64 pixels, 12 filters from a set, one hidden layer, 10 digits."""

    def __init__(self, structure: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.structure, self.progress = structure, 0.0
        self.raw = nn.Parameter(0.3 * torch.randn(FILTERS, 64))
        self.head = nn.Sequential(nn.Linear(FILTERS, 32), nn.ReLU(), nn.Linear(32, 10))

    @property
    def filters(self) -> Tensor:
        """The filters `(12, 64)`, in their set."""
        return self.structure(self.raw, self.progress)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(batch, 10)` of images `(batch, 64)`."""
        return self.head(images @ self.filters.mT)


def measures(filters: Tensor) -> dict[str, float]:
    """Return what each regulariser promises: entropy of |filter| [nats], share of zeros, largest |cosine|."""
    share = filters.abs() / filters.abs().sum(-1, keepdim=True)
    unit = filters / filters.norm(dim=-1, keepdim=True)
    return {
        "entropy": float(-torch.special.xlogy(share, share).sum(-1).mean()),
        "zeros": float((filters == 0).float().mean()),
        "cosine": float((unit @ unit.mT - torch.eye(FILTERS)).abs().max()),
    }


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and test images in [0, 1] with their digits, 1347 and 450."""
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits))
    x, y = torch.as_tensor(images, dtype=torch.float32)[order] / 16, torch.as_tensor(digits)[order]
    return x[:1347], y[:1347], x[1347:], y[1347:]


def train(structure: Callable[[Tensor, float], Tensor], epochs: int) -> tuple[Classifier, float]:
    """Return a trained classifier and its share of right answers on the test images."""
    torch.manual_seed(0)
    x, y, x_test, y_test = load()
    model = Classifier(structure)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(epochs):
        model.progress = epoch / max(epochs - 1, 1)
        for batch in torch.randperm(len(y)).split(64):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return model, float((model(x_test).argmax(-1) == y_test).float().mean())


def main() -> None:
    """Train with each structure, report and draw the filters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="two epochs")
    parser.add_argument("--out", type=Path, default=Path("runs/regularisers.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(FILTERS * 0.8, len(STRUCTURES) * 1.05), layout="constrained")
    axes = figure.subplots(len(STRUCTURES), FILTERS)
    print("filters         accuracy   entropy [nats]   exact zeros   largest cosine")
    for row, (name, structure) in zip(axes, STRUCTURES.items(), strict=True):
        model, accuracy = train(structure, 2 if options.quick else options.epochs)
        filters = model.filters.detach()
        found = measures(filters)
        print(f"{name:14s} {accuracy:9.1%} {found['entropy']:16.2f} {found['zeros']:13.0%} {found['cosine']:16.2g}")
        for axis, picture in zip(row, filters, strict=True):
            limit = float(picture.abs().max())
            axis.imshow(picture.reshape(8, 8).numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[])
        row[0].set_title(f"{name}: {accuracy:.1%}", loc="left", fontsize=9)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
