"""A linear model with Gaussian noise whose covariances, and entries of whose dynamics, can be learned."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn


@final
class LinearGaussianModel(nn.Module):
    """How a state of size d moves from tick to tick, and what is measured of it, m numbers a tick.

        x_0 ~ N(mean, P0),   x_{t+1} = F x_t + B v_t,  v_t ~ N(0, Q),   y_t = H x_t + e_t,  e_t ~ N(0, R)

    Parameters are the Cholesky factors of Q and R, as the logarithm of their diagonals and their rows over these, so
    that every value is a covariance, whatever the units; and the entries of F that `learned` marks. The rest stands
    still.

    Args:
        F: dynamics, `(d, d)`.
        H: what is measured, `(m, d)`.
        Q: covariance of the process noise, `(c, c)`.
        R: covariance of the measurement noise, `(m, m)`.
        mean: of the first state, `(d,)`.
        P0: covariance of the first state, `(d, d)`.
        B: how process noise enters, `(d, c)`; the identity if not given.
        learned: which entries of F are parameters, bool `(d, d)`; none if not given.
        position: the plane's coordinates in a state, `(2, d)`; needed where circles are kept out of.

    Raises:
        ValueError: a shape does not fit, a number is not finite, or a covariance is not positive definite.
    """

    dynamics: Tensor
    measured: Tensor
    noise_input: Tensor
    mean: Tensor
    initial_factor: Tensor
    learned: Tensor
    position: Tensor | None

    def __init__(
        self,
        F: Tensor,
        H: Tensor,
        Q: Tensor,
        R: Tensor,
        mean: Tensor,
        P0: Tensor,
        *,
        B: Tensor | None = None,
        learned: Tensor | None = None,
        position: Tensor | None = None,
    ) -> None:
        super().__init__()
        d, m, c = (v.shape[0] if v.ndim else 0 for v in (F, H, Q))
        B = torch.eye(d, dtype=F.dtype, device=F.device) if B is None else B
        learned = torch.zeros(d, d, dtype=torch.bool, device=F.device) if learned is None else learned
        _check("F", F, (d, d))
        _check("H", H, (m, d))
        _check("mean", mean, (d,))
        _check("B", B, (d, c))
        if learned.shape != (d, d) or learned.dtype != torch.bool:
            raise ValueError(f"learned: expected booleans of shape {(d, d)}, found {_described(learned)}")
        if position is not None:
            _check("position", position, (2, d))
        for name, value in (
            ("dynamics", F),
            ("measured", H),
            ("noise_input", B),
            ("mean", mean),
            ("initial_factor", _cholesky("P0", P0, d)),
            ("learned", learned),
            ("position", position),
        ):
            self.register_buffer(name, None if value is None else value.detach().clone())
        self.entries = nn.Parameter(F.detach()[learned].clone())
        self.process = nn.Parameter(_logarithmic(_cholesky("Q", Q, c)))
        self.measurement = nn.Parameter(_logarithmic(_cholesky("R", R, m)))

    @classmethod
    def constant_velocity(
        cls, tick: float, acceleration: float, noise: float, start: Tensor, spread: float = 1.0
    ) -> LinearGaussianModel:
        """Return the usual model of a point in the plane: its velocity is changed by random accelerations.

        States are (x, y, vx, vy) [m, m, m/s, m/s]; x and y are measured.

        Args:
            tick: time between two measurements [s].
            acceleration: standard deviation of each coordinate's acceleration [m/s²].
            noise: standard deviation of each coordinate's measurement [m].
            start: mean of the first position, `(2,)` [m]; the mean velocity is zero.
            spread: standard deviation of the first position [m] and velocity [m/s].
        """
        for name, value in (("tick", tick), ("acceleration", acceleration), ("noise", noise), ("spread", spread)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number > 0, found {value}")
        _check("start", start, (2,))
        two, zero = torch.eye(2, dtype=start.dtype), torch.zeros(2, 2, dtype=start.dtype)
        return cls(
            F=torch.cat((torch.cat((two, tick * two), 1), torch.cat((zero, two), 1))),
            H=torch.cat((two, zero), 1),
            Q=acceleration**2 * two,
            R=noise**2 * two,
            mean=torch.cat((start, zero[0])),
            P0=spread**2 * torch.eye(4, dtype=start.dtype),
            B=torch.cat((0.5 * tick**2 * two, tick * two)),
            position=torch.cat((two, zero), 1),
        )

    @property
    def F(self) -> Tensor:  # noqa: N802 - the field's name
        """Dynamics `(d, d)`, the learned entries in their places."""
        return self.dynamics.masked_scatter(self.learned, self.entries)

    @property
    def process_factor(self) -> Tensor:
        """Cholesky factor of Q, `(c, c)`."""
        return _factor(self.process)

    @property
    def measurement_factor(self) -> Tensor:
        """Cholesky factor of R, `(m, m)`."""
        return _factor(self.measurement)

    @property
    def Q(self) -> Tensor:  # noqa: N802
        """Covariance of the process noise, `(c, c)`."""
        return self.process_factor @ self.process_factor.mT

    @property
    def R(self) -> Tensor:  # noqa: N802
        """Covariance of the measurement noise, `(m, m)`."""
        return self.measurement_factor @ self.measurement_factor.mT

    @torch.no_grad()
    def sample(self, num: int, ticks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `num` runs: states `(num, ticks, d)` and measurements `(num, ticks, m)`."""

        def noise(factor: Tensor) -> Tensor:
            white = torch.randn(num, factor.shape[-1], generator=generator, dtype=factor.dtype)
            return white @ factor.mT

        states = [self.mean + noise(self.initial_factor)]
        for _ in range(ticks - 1):
            states.append(states[-1] @ self.F.mT + noise(self.noise_input @ self.process_factor))
        seen = [state @ self.measured.mT + noise(self.measurement_factor) for state in states]
        return torch.stack(states, 1), torch.stack(seen, 1)


def _described(value: Tensor) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}"


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or not value.is_floating_point() or not all(shape):
        raise ValueError(f"{name}: expected floating-point numbers of shape {shape}, found {_described(value)}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name}: expected finite numbers, found {int((~value.isfinite()).sum())} that are not")


def _cholesky(name: str, covariance: Tensor, size: int) -> Tensor:
    _check(name, covariance, (size, size))
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) or not torch.allclose(covariance, covariance.mT):
        raise ValueError(f"{name}: expected a symmetric positive definite matrix, found one that is not")
    return torch.as_tensor(factor)


def _logarithmic(factor: Tensor) -> Tensor:
    """Return the logarithm of the diagonal, and below it each row over its diagonal: parameters without unit."""
    diagonal = factor.diagonal()
    return (factor / diagonal[:, None]).tril(-1) + torch.diag(diagonal.log())


def _factor(parameter: Tensor) -> Tensor:
    unit = parameter.tril(-1) + torch.eye(len(parameter), dtype=parameter.dtype, device=parameter.device)
    return parameter.diagonal().exp()[:, None] * unit
