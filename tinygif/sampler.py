"""From noise to a clip: a Python loop over one jitted step, with the solver as a value.

A plain Python loop can show its progress and every step on the way, and XLA on a CPU would run
convolutions inside `lax.scan` many times slower. A solver moves x_t to a smaller t, given the
denoiser's guess of x0. Lesson 12.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from tinygif.diffusion import to_eps
from tinygif.errors import TinygifError
from tinygif.schedule import Schedule

Step = Int[Array, ""]


class Move(NamedTuple):
    """What a solver may use to go from step t to t_next, with t_next < t.

    x_t: the clips at t; x0: the guess made from them. t_before and x0_before: the step before t and
    the guess made there; in the first move t_before is t and x0_before is 0. key: for fresh noise.
    """

    t: Step
    t_next: Step
    x_t: Float[Array, "*x"]
    x0: Float[Array, "*x"]
    t_before: Step
    x0_before: Float[Array, "*x"]
    key: Key[Array, ""]


class DDIM(eqx.Module):
    """DDIM (Song et al. 2021, eq. 12 and 16), for any schedule.

    `eta` is how much fresh noise is added: 0 is the deterministic ODE step (Euler's, on rectified
    flow), 1 is ancestral sampling with the exact posterior q(x_s | x_t, x0), which is DDPM.
    """

    eta: Float[Array, ""] = eqx.field(default=0.0, converter=lambda x: jnp.asarray(x, jnp.float32))

    def __call__(self, schedule: Schedule, move: Move) -> Float[Array, "*x"]:
        t, s = move.t, move.t_next
        alpha_t, sigma_t = schedule.alpha[t], schedule.sigma[t]
        alpha_s, sigma_s = schedule.alpha[s], schedule.sigma[s]
        added = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2  # variance of q(x_t | x_s)
        std = self.eta * sigma_s / sigma_t * jnp.sqrt(jnp.maximum(added, 0))
        eps = to_eps(schedule, move.x0, move.x_t, t)
        fresh = jax.random.normal(move.key, move.x_t.shape, move.x_t.dtype)
        kept = jnp.sqrt(jnp.maximum(sigma_s**2 - std**2, 0))
        return alpha_s * move.x0 + kept * eps + std * fresh


def DDPM() -> DDIM:
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7): DDIM with eta = 1."""
    return DDIM(eta=1.0)


class DPMSolver(eqx.Module):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order by remembering one guess.

    Works in lambda = log(alpha / sigma). The first step has no guess before it, and the last goes
    to lambda = infinity. Both are therefore of first order, where the formula is DDIM's.
    """

    def __call__(self, schedule: Schedule, move: Move) -> Float[Array, "*x"]:
        t, s, lam = move.t, move.t_next, schedule.log_snr / 2
        h, h_before = lam[s] - lam[t], lam[t] - lam[move.t_before]
        second_order = (move.t_before > t) & (s > 0)
        k = jnp.where(second_order, 0.5 * h / jnp.where(second_order, h_before, 1.0), 0.0)
        # where lam[T] is -inf, h_before is inf and k is 0: first order again
        guess = move.x0 + k * (move.x0 - move.x0_before)
        ratio = schedule.sigma[s] / schedule.sigma[t]
        return ratio * move.x_t + (schedule.alpha[s] - ratio * schedule.alpha[t]) * guess


SOLVERS = {"ddim": DDIM, "ddpm": DDPM, "dpmpp": DPMSolver}
SolverName = Literal[tuple(SOLVERS)]


def timesteps(T: int, steps: int) -> np.ndarray:
    """`steps + 1` falling integers from T (pure noise) to 0 (the data), evenly spread."""
    if not 1 <= steps <= T:
        raise TinygifError(f"expected between 1 and T={T} sampling steps, got {steps}")
    return np.round(np.linspace(T, 0, steps + 1)).astype(np.int32)


@eqx.filter_jit
def sample_step(
    denoiser: Callable, schedule: Schedule, solver: Callable, x_t: Float[Array, "*x"],
    x0_before: Float[Array, "*x"], t_before: Step, t: Step, t_next: Step, key: Key[Array, ""],
) -> tuple[Float[Array, "*x"], Float[Array, "*x"]]:  # fmt: skip
    """One step from t to t_next. Returns the clips there and the guess of x0 that led there."""
    x0 = denoiser(x_t, t)
    return solver(schedule, Move(t, t_next, x_t, x0, t_before, x0_before, key)), x0


@eqx.filter_jit
def noise_again(
    schedule: Schedule, x: Float[Array, "*x"], s: Step, t: Step, key: Key[Array, ""]
) -> Float[Array, "*x"]:
    """From step s back to a noisier step t: a sample of q(x_t | x_s)."""
    ratio = schedule.alpha[t] / schedule.alpha[s]
    added = jnp.sqrt(jnp.maximum(schedule.sigma[t] ** 2 - (ratio * schedule.sigma[s]) ** 2, 0))
    return ratio * x + added * jax.random.normal(key, x.shape, x.dtype)


def trajectory(
    denoiser: Callable, schedule: Schedule, noise: Float[Array, "*x"], *, key: Key[Array, ""],
    solver: Callable | None = None, steps: int = 50, resample: int = 1,
) -> Iterator[tuple[Float[Array, "*x"], Float[Array, "*x"]]]:  # fmt: skip
    """Denoise step by step; yield (x_t, guess of x0) after each. The last x_t are the clips.

    `noise` is standard normal and has the shape of the clips; sampling always starts at index T.
    `resample` takes every step but the last so many times, and goes back by fresh noise in between
    (RePaint, Lugmayr et al. 2022, algorithm 1): frames that are put in then have more time to agree
    with the others.
    """
    solver = DDIM() if solver is None else solver
    times = timesteps(schedule.T, steps)
    x, x0, t_before = noise, jnp.zeros_like(noise), times[0]
    for i, (t, t_next) in enumerate(zip(times[:-1], times[1:])):
        for j in range(resample if t_next > 0 else 1):
            step_key = jax.random.fold_in(key, i + j * steps)
            if j:
                x = noise_again(schedule, x, t_next, t, jax.random.fold_in(step_key, 0))
            x, guess = sample_step(denoiser, schedule, solver, x, x0, t_before, t, t_next, step_key)
        x0, t_before = guess, t
        yield x, x0


def sample(
    denoiser: Callable, schedule: Schedule, noise: Float[Array, "*x"], **options
) -> Float[Array, "*x"]:
    """The clips at the end of a `trajectory` with the same options."""
    return deque(trajectory(denoiser, schedule, noise, **options), maxlen=1).pop()[0]
