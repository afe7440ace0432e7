"""Learn the rules of 4x4 Sudoku from solved boards alone: a network that is one quadratic program.

The puzzle enters as the linear term, the board leaves as the minimiser; what is learned are the equality constraints
`Ax = b`, which nobody tells the network. After Amos and Kolter (2017), OptNet, section 4.4.

    python examples/sudoku.py [--epochs 30] [--out runs/sudoku.png]
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from implicit_layers import QPLayer


def all_boards() -> Tensor:
    """Return the 288 valid boards as one-hot `(288, 4, 4, 4)`: row, column, digit."""
    rows = list(itertools.permutations(range(4)))
    boards = []
    for board in itertools.product(rows, repeat=4):
        lines = [set(column) for column in zip(*board, strict=True)]
        boxes = [{board[r + i][c + j] for i in (0, 1) for j in (0, 1)} for r in (0, 2) for c in (0, 2)]
        if all(len(group) == 4 for group in lines + boxes):
            boards.append(board)
    return nn.functional.one_hot(torch.tensor(boards), 4).double()


def puzzles(boards: Tensor, per_board: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide half of the fields of every board, `per_board` times; return puzzles and boards `(N, 64)`.

    Puzzles with more than one solution are left out: no rule could tell which one is meant.
    """
    known = all_boards().flatten(1)
    boards = boards.repeat(per_board, 1, 1, 1)
    order = torch.rand(boards.shape[0], 16, generator=generator).argsort(-1)
    puzzle = (boards * (order < 8).reshape(-1, 4, 4, 1)).flatten(1)
    unique = (puzzle @ known.mT == 8).sum(-1) == 1
    return puzzle[unique], boards.flatten(1)[unique]


class Sudoku(nn.Module):
    """`argmin 0.05 |x|² - puzzle'x  s.t.  Ax = A z0, x >= 0` with learned A `(40, 64)` and z0 > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.rand(40, 64, dtype=torch.float64))
        self.log_z0 = nn.Parameter(torch.full((64,), 0.25, dtype=torch.float64).log())
        self.qp = QPLayer()

    def forward(self, puzzle: Tensor) -> Tensor:
        """Return boards `(N, 64)`."""
        P = 0.1 * torch.eye(64, dtype=puzzle.dtype)
        return self.qp(P, -puzzle, None, None, self.A, self.A @ self.log_z0.exp(), lb=torch.zeros_like(puzzle[0]))


def correct(x: Tensor, board: Tensor) -> float:
    """Return the share of boards with all 16 digits right."""
    digits, truth = (v.reshape(-1, 16, 4).argmax(-1) for v in (x, board))
    return float((digits == truth).all(-1).double().mean())


def main() -> None:
    """Train, report and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/sudoku.png"))
    options = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    boards = all_boards()[torch.randperm(288, generator=generator)]
    train, test = puzzles(boards[:230], 8, generator), puzzles(boards[230:], 4, generator)
    model = Sudoku()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses, scores = [], []
    for epoch in range(options.epochs):
        order = torch.randperm(train[0].shape[0], generator=generator)
        total = 0.0
        for batch in order.split(64):
            loss = nn.functional.mse_loss(model(train[0][batch]), train[1][batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch) / len(order)
        with torch.no_grad():
            scores.append(correct(model(test[0]), test[1]))
        losses.append(total)
        print(f"epoch {epoch + 1:2d}  loss {total:.4f}  unseen boards solved {scores[-1]:.1%}")
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(range(1, len(losses) + 1), losses)
    left.set(title="training loss", xlabel="epoch", ylabel="mean squared error")
    right.plot(range(1, len(scores) + 1), scores)
    right.set(title="boards never seen in training", xlabel="epoch", ylabel="share solved", ylim=(0, 1.02))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=120)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
