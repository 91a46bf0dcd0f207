"""Noise schedules: how much of the clip is left, and how much noise there is, at every step.

A schedule is data: two arrays `alpha` and `sigma` with T + 1 entries, index 0 the clip (1, 0) and
index T the noise: `x_t = alpha[t] * x0 + sigma[t] * eps`. Everything else follows from the two.
A schedule is not part of the model, so nothing in it is trained. Lesson 02.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tinygif.errors import TinygifError


class Schedule(eqx.Module):
    """The two curves of a noise schedule.

    `flow` tells which curve (alpha, sigma) runs along: the circle alpha^2 + sigma^2 = 1 (variance
    preserving, False) or the line alpha + sigma = 1 (rectified flow, True).
    """

    alpha: Float[Array, " steps"]
    sigma: Float[Array, " steps"]
    flow: bool = eqx.field(static=True, default=False)

    @property
    def T(self) -> int:
        """The number of diffusion steps; `alpha` and `sigma` have one entry more."""
        return self.alpha.shape[0] - 1

    @property
    def snr(self) -> Float[Array, " steps"]:
        """Signal-to-noise ratio (alpha / sigma)^2: infinite at index 0, falling to the noise."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Float[Array, " steps"]:
        """log((alpha / sigma)^2); +inf at the data, -inf where no signal is left."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))


def _from_alpha_bar(alpha_bar: np.ndarray) -> Schedule:
    alpha_bar = np.concatenate([[1.0], alpha_bar])
    return Schedule(
        jnp.asarray(np.sqrt(alpha_bar), jnp.float32),
        jnp.asarray(np.sqrt(1 - alpha_bar), jnp.float32),
    )


def _check(T: int) -> None:
    if T < 2:
        raise TinygifError(f"a schedule needs T >= 2 diffusion steps, got T={T}; 1000 is usual")


def linear(T: int = 1000) -> Schedule:
    """Betas that rise in a line, scaled so that every T ends where T = 1000 does.

    DDPM (Ho et al. 2020, section 4): 1e-4 to 0.02 at T = 1000. With these same two ends and
    T = 300, sqrt(alpha_bar) = 0.22 of the clip would be left at step T, which is then not noise.
    Hence the factor 1000 / T.
    """
    _check(T)
    beta = np.linspace(1e-4, 0.02, T) * 1000 / T
    return _from_alpha_bar(np.cumprod(1 - np.minimum(beta, 0.999)))


def scaled_linear(T: int = 1000) -> Schedule:
    """Betas from 0.00085 to 0.012, whose square roots lie on a line (Rombach et al. 2022)."""
    _check(T)
    beta = np.linspace(0.00085**0.5, 0.012**0.5, T) ** 2 * 1000 / T
    return _from_alpha_bar(np.cumprod(1 - np.minimum(beta, 0.999)))


def cosine(T: int = 1000, s: float = 0.008) -> Schedule:
    """alpha_bar falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17), betas below 0.999."""
    _check(T)
    f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    return _from_alpha_bar(np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999)))


def rectified(T: int = 1000) -> Schedule:
    """The straight line from clip to noise: rectified flow (Liu et al. 2022, eq. 1)."""
    _check(T)
    sigma = np.linspace(0, 1, T + 1)
    return Schedule(
        jnp.asarray(1 - sigma, jnp.float32), jnp.asarray(sigma, jnp.float32), flow=True
    )


SCHEDULES = {
    "linear": linear,
    "cosine": cosine,
    "scaled_linear": scaled_linear,
    "rectified": rectified,
}
ScheduleName = Literal[tuple(SCHEDULES)]


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and scale alpha so that index T is pure noise (Lin et al. 2023, algorithm 1).

    Index 0, the data, keeps (1, 0). A schedule that already ends in noise comes back unchanged.
    """
    if schedule.flow:
        return schedule
    alpha = np.asarray(schedule.alpha, np.float64)
    first, last = alpha[1], alpha[-1]
    alpha = np.append(alpha[:1], (alpha[1:] - last) * first / (first - last))
    return _from_alpha_bar(alpha[1:] ** 2)


def shift(schedule: Schedule, factor: float) -> Schedule:
    """Multiply sigma / alpha by `factor` everywhere: log-SNR moves by -2 log(factor).

    Noise that hides a small clip leaves a redundant one (large, or slow) legible. What such a clip
    shows is therefore decided at higher noise levels, and a factor above 1 spends more steps there
    (simple diffusion, Hoogeboom et al. 2023, "Adjusting noise schedules"; Esser et al. 2024,
    section 5.3.2).
    """
    if not factor > 0:
        raise TinygifError(f"the shift must be a positive factor, got {factor}; 1 changes nothing")
    alpha = np.asarray(schedule.alpha, np.float64)
    sigma = np.asarray(schedule.sigma, np.float64) * factor
    norm = alpha + sigma if schedule.flow else np.hypot(alpha, sigma)
    return Schedule(
        jnp.asarray(alpha / norm, jnp.float32),
        jnp.asarray(sigma / norm, jnp.float32),
        schedule.flow,
    )
