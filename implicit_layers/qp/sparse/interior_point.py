"""Mehrotra's predictor-corrector for one sparse program: the iteration of `qp.interior_point`, on an LDL' factor.

Each step solves the Newton system of the perturbed optimality conditions without condensing it,

    [P + rho I   R'          ] [dx  ]   [-(Px + q + R'lam)  ]
    [R           -(c + delta)] [dlam] = [-(Rx + s - d) + t  ],   c = s / lam (0 on equality rows),

with both proximal terms centred at the iterate. They slow down what is not determined otherwise: multipliers that
must grow large move by the violation over delta. So they are as small as the factor bears, which each step measures.

References: Mehrotra (1992); Schwan et al. (2023), PIQP, for the proximal terms; Gertz and Wright (2003), OOQP, for a
start far inside; Altman and Gondzio (1999).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..certificates import SUSPECT
from ..interior_point import APART
from .linear_system import LEFT_OUT, QuasiDefinite, refine
from .program import Mask, SparseProgram, Vector, largest

PRODUCT = (1e-22, 1e-16, 1e-12)  # of rho and delta: least, first and most
RHO = (1e-11, 1e-6)  # least and most
BEARABLE = 1e-6  # relative residual of a step that is taken
ENOUGH = 1e-8  # relative residual of a step that refinement would not better for us
REFINEMENTS = 3
SHARE = 0.99  # of the way to the boundary
START = 10.0  # least multiplier at the start, to the cost: those that must grow large take many steps
TINY = float(np.finfo(float).tiny)


class Iterate(NamedTuple):
    """One point of the path; `balance` is the ratio of delta's effect on the last step to that of rho."""

    x: Vector
    s: Vector
    lam: Vector
    balance: float


class Newton:
    """Steps of programs with the same matrices, the pattern of which never changes: its order is found once.

    Args:
        P: `(n, n)` csc, symmetric, scaled.
        R: `(rows, n)` csr, scaled, of the rows that are present.
        equality: `(rows,)`, which of them are equalities.
    """

    def __init__(self, P: Any, R: Any, equality: Mask) -> None:
        self.P, self.R, self.inequality = P, R, ~equality
        self.count = max(int(self.inequality.sum()), 1)
        self.system = QuasiDefinite(P, R)
        self.product = PRODUCT[1]

    def start(self, q: Vector, d: Vector) -> Iterate:
        """Mehrotra's start: one least-squares solve with unit weights, then shifted far into the positive orthant."""
        n, inequality = len(q), self.inequality
        self.product = PRODUCT[1]
        found = any(self.system.factor(rho, np.ones_like(d)) for rho in (RHO[1], 1.0))
        u = self.system.solve(np.concatenate([-q, d])) if found else np.concatenate([np.zeros(n), -d])
        x, violation = u[:n], u[n:]
        s, z = (v + max(-1.5 * v[inequality].min(initial=np.inf), 0) for v in (-violation, violation))
        product = float(s[inequality] @ z[inequality])
        s, z = (
            np.maximum(v + 0.5 * product / max(float(w[inequality].sum()), TINY), least)
            for v, w, least in ((s, z, 1.0), (z, s, START * max(largest(q), 1.0)))
        )
        return Iterate(x, np.where(inequality, s, 0.0), np.where(inequality, z, violation), 1.0)

    def step(self, point: Iterate, dual: Vector, primal: Vector) -> Iterate:
        """Return the next point for the residuals `Px + q + R'lam` and `Rx + s - d`."""
        while True:
            rho = float(np.clip(np.sqrt(self.product * point.balance), *RHO))
            following, error = self._step(point, dual, primal, rho, self.product / rho)
            if error <= BEARABLE:
                self.product = max(self.product / 10, PRODUCT[0])
                return following
            if not self.product < PRODUCT[2]:
                return following
            self.product *= 100

    def separated(self, point: Iterate) -> bool:
        """Return whether every row is clearly active or clearly not."""
        smaller, larger = np.minimum(point.s, point.lam), np.maximum(point.s, point.lam)
        return bool((smaller <= APART * larger)[self.inequality].all())

    def certificate(self, point: Iterate, last: Iterate, program: SparseProgram) -> Vector | None:
        """Return a proof that no point is feasible, if the last step of lam or lam itself hides one."""
        for lam in (point.lam - last.lam, point.lam):
            lam = np.where(self.inequality, np.maximum(lam, 0), lam)
            value, left = float(program.d @ lam), largest(program.transposed @ lam)
            if value < 0 and left <= SUSPECT * -value:
                lam = self._project(lam / largest(lam))
                return lam if program.farkas(lam) else None
        return None

    def _project(self, lam: Vector) -> Vector:
        """Return multipliers near lam with `R'lam = 0` and the same signs, as `qp.certificates` does."""
        weight = np.where(self.inequality, lam, 1.0) * 1e14
        with np.errstate(divide="ignore"):
            if not self.system.factor(1.0, np.minimum(1 / weight, LEFT_OUT)):
                return lam
        n, Rt = self.P.shape[0], self.R.T
        for _ in range(2):
            lam = lam - self.system.solve(np.concatenate([Rt @ lam, np.zeros_like(lam)]))[n:]
        return np.where(self.inequality, np.maximum(lam, 0), lam)

    def _step(self, point: Iterate, dual: Vector, primal: Vector, rho: float, delta: float) -> tuple[Iterate, float]:
        """Return the next point (NaN without a factor), and the relative residual of the system it comes from."""
        x, s, lam, _ = point
        n, inequality, errors = len(x), self.inequality, [0.0]
        lam_safe = np.where(inequality, lam, 1.0)
        c = s / lam_safe
        if not self.system.factor(rho, c + delta):
            return Iterate(x * np.nan, s, lam, 1.0), np.inf

        def direction(t: Vector) -> tuple[Vector, Vector, Vector]:
            r = np.concatenate([-dual, t - primal])
            size = largest(r)
            u, error = refine(self.system.solve, self.system.times, r, np.zeros_like(r), 1 + REFINEMENTS, ENOUGH * size)
            errors.append(error / size if size else 0.0)
            dx, dlam = u[:n], u[n:]
            return dx, np.where(inequality, -t - c * dlam, 0.0), dlam

        def to_boundary(v: Vector, dv: Vector, longest: float = 1.0) -> float:
            falling = inequality & (dv < 0)
            return min(longest, float((v[falling] / -dv[falling]).min(initial=longest)))

        mu = float(s @ (lam * inequality)) / self.count
        _, ds, dlam = direction(s)
        ahead = (s + to_boundary(s, ds) * ds) * (lam + to_boundary(lam, dlam) * dlam)
        sigma = min(float(ahead[inequality].sum()) / self.count / max(mu, TINY), 1.0) ** 3
        dx, ds, dlam = direction(np.where(inequality, s + (ds * dlam - sigma * mu) / lam_safe, 0.0))
        along, across = (min(SHARE * to_boundary(v, dv, 1 / SHARE), 1.0) for v, dv in ((s, ds), (lam, dlam)))
        balance = _speed(lam, dlam) / _speed(x, dx)
        return Iterate(x + along * dx, s + along * ds, lam + across * dlam, balance), max(errors)


def _speed(v: Vector, dv: Vector) -> float:
    return largest(dv) + 1e-6 * (1 + largest(v))
