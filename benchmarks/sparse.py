"""Large sparse programs: ours with its derivative beside PIQP's forward pass."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import piqp
import scipy.sparse as sp
import torch
from torch import Tensor

from implicit_layers import solve_qp

from .measure import interleaved_medians
from .report import markdown_table, write_bytes, write_csv

EPS = 1e-9
STEP = 1e-6  # of the finite difference that a gradient is compared with


@dataclass(frozen=True)
class Row:
    """One size; CPU seconds, and errors of our answer and of PIQP's.

    `kkt` is the largest absolute residual of the optimality conditions; `gradient_error` is relative, of the slope in
    q and h along a random direction, against a central difference of our own answers.
    """

    family: str
    n: int
    m: int
    piqp: float
    forward: float
    forward_backward: float
    kkt: float
    kkt_piqp: float
    gradient_error: float


def bands(n: int, seed: int = 0) -> dict[str, Any]:
    """Return P = LL', L with three bands, G of n/2 rows of four entries, and h = G z0 + s0, half of s0 zero."""
    rng = np.random.default_rng(seed)
    m = n // 2
    diagonals = [1 + abs(rng.standard_normal(n)), 0.3 * rng.standard_normal(n - 1), 0.3 * rng.standard_normal(n - 2)]
    L = sp.diags_array(diagonals, offsets=[0, -1, -2])
    columns = (2 * np.arange(m)[:, None] + np.arange(4)) % n
    G = sp.csr_array((rng.standard_normal(4 * m), (np.repeat(np.arange(m), 4), columns.ravel())), shape=(m, n))
    slack = rng.random(m) * (np.arange(m) % 2)
    return {"P": sp.csr_array(L @ L.T), "q": rng.standard_normal(n), "G": G, "h": G @ rng.standard_normal(n) + slack}


def signal(n: int, seed: int = 0) -> dict[str, Any]:
    """Return the README's example: the signal nearest to a random walk whose neighbours differ by at most 0.05.

    Its multipliers are sums of thousands of entries of q, which interior point methods reach slowly.
    """
    D = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
    walk = np.random.default_rng(seed).standard_normal(n).cumsum()
    return {
        "P": sp.eye_array(n, format="csr"),
        "q": -walk,
        "G": sp.csr_array(sp.vstack([D, -D])),
        "h": np.full(2 * n - 2, 0.05),
    }


FAMILIES = {"bands": bands, "signal": signal}


def tensor(v: Any) -> Tensor:
    """Return an array as a tensor, a sparse one in coordinates."""
    if isinstance(v, np.ndarray):
        return torch.from_numpy(v)
    v = v.tocoo()
    place = torch.from_numpy(np.stack([v.row, v.col]).astype(np.int64))
    return torch.sparse_coo_tensor(place, torch.from_numpy(v.data), v.shape, check_invariants=True).coalesce()


def solve_piqp(data: dict[str, Any]) -> tuple[Any, Any]:
    """Return x and z of PIQP at our tolerance."""
    solver = piqp.SparseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_rel = settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = EPS
    settings.check_duality_gap, settings.max_iter = True, 1000
    solver.setup(P=sp.csc_matrix(data["P"]), c=data["q"], G=sp.csc_matrix(data["G"]), h_u=data["h"])
    solver.solve()
    return solver.result.x, solver.result.z_u


def kkt(data: dict[str, Any], x: Any, z: Any) -> float:
    """Return the largest of stationarity, violation and complementarity."""
    slack = data["h"] - data["G"] @ x
    parts = (data["P"] @ x + data["q"] + data["G"].T @ z, np.minimum(slack, 0), np.minimum(z, 0), z * slack)
    return float(max(abs(part).max() for part in parts))


def measure(family: str, n: int, repeats: int) -> Row:
    """Measure one program."""
    data = FAMILIES[family](n)
    given = {name: tensor(v) for name, v in data.items()}
    leaves = {name: v.clone().requires_grad_() for name, v in given.items()}
    rng = torch.Generator().manual_seed(0)
    v, dq, dh = (torch.randn(size, generator=rng, dtype=torch.float64) for size in (n, n, len(data["h"])))

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(solve_qp(*leaves.values()).x, list(leaves.values()), v)

    found = solve_qp(*given.values())
    gradients = dict(zip(leaves, forward_backward(), strict=True))  # both before the timing: first calls import
    times = interleaved_medians(
        {"piqp": lambda: solve_piqp(data), "forward": lambda: solve_qp(*given.values()), "both": forward_backward},
        repeats,
    )
    slope = gradients["q"] @ dq + gradients["h"] @ dh
    P, q, G, h = given.values()
    ends = [solve_qp(P, q + t * dq, G, h + t * dh).x @ v for t in (STEP, -STEP)]
    error = float((slope - (ends[0] - ends[1]) / (2 * STEP)).abs() / slope.abs())
    ours = kkt(data, found.x.numpy(), found.z.numpy())
    return Row(
        family,
        n,
        len(data["h"]),
        times["piqp"],
        times["forward"],
        times["both"],
        ours,
        kkt(data, *solve_piqp(data)),
        error,
    )


def run(programs: list[tuple[str, int]], repeats: int, out: Path, log: Callable[[str], object]) -> str:
    """Measure all sizes; write CSV and Markdown, and return the table."""
    torch.set_num_threads(1)
    rows = []
    for family, n in programs:
        rows.append(measure(family, n, repeats))
        log(f"{family}, n = {n}: {rows[-1].forward_backward * 1e3:.0f} ms forward and backward")
    write_csv(out.with_suffix(".csv"), [f.name for f in fields(Row)], [astuple(row) for row in rows])
    header = ["program", "n, m", "PIQP alone [ms]", "ours, forward [ms]", "forward + backward [ms]", "to PIQP alone",
              "KKT", "KKT of PIQP", "gradient error"]  # fmt: skip
    cells = [
        [row.family, f"{row.n}, {row.m}", *(f"{v * 1e3:.0f}" for v in (row.piqp, row.forward, row.forward_backward)),
         f"{row.forward_backward / row.piqp:.2f}", f"{row.kkt:.0e}", f"{row.kkt_piqp:.0e}", f"{row.gradient_error:.0e}"]
        for row in rows
    ]  # fmt: skip
    table = markdown_table(header, cells)
    ratio = statistics.median(row.forward_backward / row.piqp for row in rows)
    how = f"CPU time of one core, medians of {repeats} interleaved rounds; in the middle {ratio:.2f} times PIQP alone."
    text = f"{table}\n\n{how}\n"
    write_bytes(out.with_suffix(".md"), text.encode())
    return text
