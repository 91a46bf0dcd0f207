"""From noise to a clip: a Python loop over one jitted step, with the solver as a value.

The loop is plain Python because that gives a progress bar and the trajectory for nothing, and
because XLA on a CPU runs convolutions inside `lax.scan` many times slower. A solver moves x_t to
x_s, s < t, given the denoiser's guess of x0. Lesson 12.
"""

from collections import deque
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from tinygif.diffusion import to_eps
from tinygif.schedule import Schedule

Clips = Float[Array, "*x"]
Step = Int[Array, ""]


class DDIM(eqx.Module):
    """DDIM (Song et al. 2021, eq. 12 and 16), for any schedule.

    `eta` is how much fresh noise is added: 0 is the deterministic ODE step (Euler's, on rectified
    flow), 1 is ancestral sampling with the exact posterior q(x_s | x_t, x0), which is DDPM.
    """

    eta: Float[Array, ""] = eqx.field(default=0.0, converter=lambda x: jnp.asarray(x, jnp.float32))

    def __call__(
        self, schedule: Schedule, x_t: Clips, x0: Clips, before: Clips, u: Step, t: Step, s: Step,
        z: Clips,
    ) -> Clips:  # fmt: skip
        alpha_t, sigma_t = schedule.alpha[t], schedule.sigma[t]
        alpha_s, sigma_s = schedule.alpha[s], schedule.sigma[s]
        added = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2  # variance of q(x_t | x_s)
        std = self.eta * sigma_s / sigma_t * jnp.sqrt(jnp.maximum(added, 0))
        eps = to_eps(schedule, x0, x_t, t)
        return alpha_s * x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0)) * eps + std * z


def DDPM() -> DDIM:
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7): DDIM with eta = 1."""
    return DDIM(eta=1.0)


class DPMSolver(eqx.Module):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order by remembering one guess.

    Works in lambda = log(alpha / sigma). The first step has no guess before it and the last goes
    to lambda = infinity: both are first order, where the formula is DDIM's.
    """

    def __call__(
        self, schedule: Schedule, x_t: Clips, x0: Clips, before: Clips, u: Step, t: Step, s: Step,
        z: Clips,
    ) -> Clips:  # fmt: skip
        lam = schedule.log_snr / 2
        h, h_before = lam[s] - lam[t], lam[t] - lam[u]
        second_order = (u > t) & (s > 0)
        k = jnp.where(second_order, 0.5 * h / jnp.where(second_order, h_before, 1.0), 0.0)
        # where lam[T] is -inf, h_before is inf and k is 0: first order again
        guess = x0 + k * (x0 - before)
        ratio = schedule.sigma[s] / schedule.sigma[t]
        return ratio * x_t + (schedule.alpha[s] - ratio * schedule.alpha[t]) * guess


SOLVERS = {"ddim": DDIM, "ddpm": DDPM, "dpmpp": DPMSolver}


def timesteps(T: int, steps: int) -> np.ndarray:
    """`steps + 1` falling integers from T (pure noise) to 0 (the data), evenly spread."""
    if not 1 <= steps <= T:
        raise ValueError(f"expected between 1 and T={T} sampling steps, got {steps}")
    return np.round(np.linspace(T, 0, steps + 1)).astype(np.int32)


@eqx.filter_jit
def step(
    denoiser: Callable, schedule: Schedule, solver: Callable, x_t: Clips, before: Clips,
    u: Step, t: Step, s: Step, key: Key[Array, ""],
) -> tuple[Clips, Clips]:  # fmt: skip
    """One step from t to s; u is the step before t (u = t at the start), `before` its guess.

    Returns x_s and the guess of x0 that led there.
    """
    x0 = denoiser(x_t, t)
    z = jax.random.normal(key, x_t.shape, x_t.dtype)
    return solver(schedule, x_t, x0, before, u, t, s, z), x0


def trajectory(
    denoiser: Callable, schedule: Schedule, noise: Clips, *, key: Key[Array, ""],
    solver: Callable | None = None, steps: int = 50,
) -> Iterator[tuple[Clips, Clips]]:  # fmt: skip
    """Denoise step by step, yielding (x_s, the guess of x0) after each; the last x_s is the clip.

    `noise` has the shape of the clips, standard normal: sampling always starts at index T.
    """
    solver = DDIM() if solver is None else solver
    times = timesteps(schedule.T, steps)
    x, before, u = noise, jnp.zeros_like(noise), times[0]
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x, before = step(denoiser, schedule, solver, x, before, u, t, s, jax.random.fold_in(key, i))
        u = t
        yield x, before


def sample(denoiser: Callable, schedule: Schedule, noise: Clips, **options) -> Clips:
    """The end of `trajectory`, which see."""
    return deque(trajectory(denoiser, schedule, noise, **options), maxlen=1).pop()[0]
