"""The machine's floating-point peak, measured, and the work of our solver, counted by a model."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

KERNEL = r"""
#include <immintrin.h>
/* 12 independent chains of fused multiply-adds, 4 doubles each: enough to hide the latency of two units. */
double chains(long steps) {
    __m256d a[12], x = _mm256_set1_pd(0.999999999), y = _mm256_set1_pd(1e-9);
    for (int i = 0; i < 12; ++i) a[i] = _mm256_set1_pd(1.0 + i);
    for (long k = 0; k < steps; ++k)
        for (int i = 0; i < 12; ++i) a[i] = _mm256_fmadd_pd(a[i], x, y);
    double out[4], sum = 0;
    for (int i = 0; i < 12; ++i) { _mm256_storeu_pd(out, a[i]); sum += out[0] + out[3]; }
    return sum;
}
"""
FLOPS_PER_STEP = 12 * 4 * 2


class Peak(NamedTuple):
    """Operations per second of one core, and how they were measured."""

    flops: float
    method: str


def measure_peak() -> Peak:
    """Return the best rate of several tries: the peak is what the machine can do, not what it did meanwhile."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is not None and os.uname().machine == "x86_64":
        try:
            return Peak(_kernel_rate(compiler), "AVX2 fused multiply-adds in registers")
        except (OSError, subprocess.CalledProcessError):
            pass
    return Peak(_product_rate(), "product of two 1000 x 1000 matrices by numpy")


def _kernel_rate(compiler: str) -> float:
    with TemporaryDirectory() as folder:
        source, library = Path(folder) / "chains.c", Path(folder) / "chains.so"
        source.write_text(KERNEL)
        options = ["-O3", "-mavx2", "-mfma", "-funroll-loops", "-shared", "-fPIC"]
        command: list[str | Path] = [compiler, *options, source, "-o", library]
        subprocess.run(command, check=True, capture_output=True)
        chains = ctypes.CDLL(str(library)).chains
        chains.argtypes, chains.restype = [ctypes.c_long], ctypes.c_double
        steps = 2_000_000
        return max(steps * FLOPS_PER_STEP / _seconds(lambda: chains(steps)) for _ in range(8))


def _product_rate() -> float:
    a = np.random.default_rng(0).standard_normal((1000, 1000))
    return max(2e9 / _seconds(lambda: a @ a) for _ in range(8))


def _seconds(call: object) -> float:
    start = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - start


def solve_flops(n: int, rows: int, bounded: bool, factorisations: Sequence[int]) -> float:
    """Return the floating-point operations of solving a batch: additions and multiplications, by this model.

    Each factorisation that `QPSolution.iterations` reports stands for

        C'WC + P          rows * n * (n + 1)     lower triangle, plus rows * n to scale by W
        Cholesky          n^3 / 3 + n^2 / 2
        two solves        4 n^2                  predictor and corrector, forward and back substitution each
        products with C   8 rows * n             the residuals C x and C'lam, C dx of both solves
        products with P   2 n^2                  the residual

    with C = [G; A]. Vector operations, divisions, scaling, polish checks and step lengths are left out, so the share
    of the peak is a lower bound. Bounds add to the diagonal alone.
    """
    factor = rows * n * (n + 1) + rows * n + n**3 / 3 + n**2 / 2 + (2 * n if bounded else 0)
    return sum(factorisations) * (factor + 4 * n**2 + 8 * rows * n + 2 * n**2)
