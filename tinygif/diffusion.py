"""The forward process, the three things a network can predict, and the loss.

`x_t = alpha x0 + sigma eps` (DDPM, Ho et al. 2020, eq. 4). A network sees x_t and predicts the
noise `eps`, the clip `x0`, or the velocity `v` (Salimans and Ho 2022, section 4; for rectified flow
v = eps - x0). Each is `a x0 + b eps` for two numbers a and b. Together with x_t that is a pair of
linear equations, which can be solved for x0 or for eps. Lessons 01 and 04.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tinygif.errors import TinygifError
from tinygif.schedule import Schedule

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["uniform", "min_snr", "capped"]
Step = Int[Array, ""] | int


def q_sample(
    schedule: Schedule, x0: Float[Array, "*x"], t: Step, eps: Float[Array, "*x"]
) -> Float[Array, "*x"]:
    """Noise a clip to step t in one jump: `alpha[t] x0 + sigma[t] eps`."""
    return schedule.alpha[t] * x0 + schedule.sigma[t] * eps


def pick_step(
    u: Float[Array, ""], T: int, logit_normal: tuple[float, float] | None = None
) -> Int[Array, ""]:
    """The step t in 1, ..., T to train at, for a u drawn uniformly from [0, 1).

    All steps are equally likely, and t never falls as u rises. With `logit_normal`, a mean and a
    standard deviation, logit(t / T) is normal instead (Esser et al. 2024, section 3.1): training
    then spends most steps around the mean, on the noise levels where there is most to learn.
    """
    if logit_normal is not None:
        mean, deviation = logit_normal
        u = jax.nn.sigmoid(mean + deviation * jax.scipy.stats.norm.ppf(u))
    return 1 + jnp.floor(u * T).astype(jnp.int32).clip(0, T - 1)


def coefficients(schedule: Schedule, t: Step, kind: Prediction) -> tuple[Array, Array]:
    """The numbers (a, b) with which a prediction of this kind is `a x0 + b eps`."""
    zero, one = jnp.zeros_like(schedule.alpha[t]), jnp.ones_like(schedule.alpha[t])
    if kind == "eps":
        return zero, one
    if kind == "x0":
        return one, zero
    if kind == "v":
        return (-one, one) if schedule.flow else (-schedule.sigma[t], schedule.alpha[t])
    raise ValueError(f"expected a prediction of 'eps', 'x0' or 'v', got {kind!r}")


def target(
    schedule: Schedule, x0: Float[Array, "*x"], t: Step, eps: Float[Array, "*x"], kind: Prediction
) -> Float[Array, "*x"]:
    """What a perfect network would predict."""
    a, b = coefficients(schedule, t, kind)
    return a * x0 + b * eps


def to_x0(
    schedule: Schedule,
    prediction: Float[Array, "*x"],
    x_t: Float[Array, "*x"],
    t: Step,
    kind: Prediction,
) -> Float[Array, "*x"]:
    """The clip x0 that follows from a prediction, at t >= 1.

    Solves `x_t = alpha x0 + sigma eps` and `prediction = a x0 + b eps` for x0.
    """
    if kind == "x0":
        return prediction
    a, b = coefficients(schedule, t, kind)
    alpha, sigma = schedule.alpha[t], schedule.sigma[t]
    return (b * x_t - sigma * prediction) / (b * alpha - a * sigma)


def to_eps(
    schedule: Schedule, x0: Float[Array, "*x"], x_t: Float[Array, "*x"], t: Step
) -> Float[Array, "*x"]:
    """The noise that must have been added to x0 to give x_t, at t >= 1."""
    return (x_t - schedule.alpha[t] * x0) / schedule.sigma[t]


def check_prediction(schedule: Schedule, kind: Prediction) -> None:
    """Refuse eps-prediction where alpha[T] is 0: there eps says nothing about x0."""
    if kind == "eps" and float(schedule.alpha[-1]) == 0.0:
        raise TinygifError(
            "eps-prediction cannot start from pure noise: this schedule ends with alpha[T] = 0, "
            "where eps says nothing about x0. Predict 'v' or 'x0', or use a schedule without "
            "zero terminal SNR."
        )


def distance(error: Float[Array, "*x"], kind: Literal["l1", "l2", "huber"]) -> Float[Array, ""]:
    """Mean of |e|, of e^2, or of Huber's mix: e^2 where |e| < 1, else 2 |e| - 1."""
    if kind == "l2":
        return jnp.mean(error**2)
    if kind == "l1":
        return jnp.mean(jnp.abs(error))
    size = jnp.abs(error)
    return jnp.mean(jnp.where(size < 1, error**2, 2 * size - 1))


def weight(
    schedule: Schedule, t: Step, kind: Prediction, name: Weighting, gamma: float
) -> Float[Array, ""]:
    """The weight of step t in a loss that is measured on `kind`.

    An error e in x0 is an error (a - b alpha / sigma) e in the prediction `a x0 + b eps`. So a
    uniform loss on `kind` weighs the squared error of x0 by (a - b alpha / sigma)^2. `capped` does
    the same, but with gamma at most; min-SNR weighs by min(SNR, gamma) (Hang et al. 2023, eq. 9).
    """
    if name == "uniform":
        return jnp.ones(())
    a, b = coefficients(schedule, t, kind)
    ratio = schedule.alpha[t] / schedule.sigma[t]
    share = jnp.maximum((a - b * ratio) ** 2, 1e-12)
    if name == "min_snr" and kind == "eps":  # SNR over SNR: no 0 / 0 where alpha is 0
        return jnp.minimum(1.0, gamma / share)
    return jnp.minimum(ratio**2 if name == "min_snr" else share, gamma) / share


def loss(
    schedule: Schedule,
    prediction: Float[Array, "*x"],
    x0: Float[Array, "*x"],
    t: Step,
    eps: Float[Array, "*x"],
    *,
    predict: Prediction,
    measure: Prediction | None = None,
    kind: Literal["l1", "l2", "huber"] = "l2",
    weighting: Weighting = "uniform",
    gamma: float = 5.0,
) -> Float[Array, ""]:
    """The loss of one prediction, converted to `measure` first; None compares it as it is."""
    measure = measure or predict
    if measure != predict:
        x_t = q_sample(schedule, x0, t, eps)
        guess = to_x0(schedule, prediction, x_t, t, predict)
        prediction = target(schedule, guess, t, to_eps(schedule, guess, x_t, t), measure)
    error = prediction - target(schedule, x0, t, eps, measure)
    return weight(schedule, t, measure, weighting, gamma) * distance(error, kind)
