"""Denoisers, and functions from denoiser to denoiser: guidance, thresholds, known frames.

A denoiser maps noisy clips and a step to a guess of the clips, `(x_t (b f c h w), t) -> x0`.
`Denoiser` makes one of a model, a schedule and a condition; the others wrap a denoiser. They are
modules, not closures, so that one compiled step serves every prompt and guidance scale. Lesson 11.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tinygif.diffusion import Prediction, check_prediction, to_x0
from tinygif.schedule import Schedule
from tinygif.text import Condition, KnownFrames

Step = Int[Array, ""] | int
GUIDANCE_HELP = "0 ignores the prompt, 1 follows it, above 1 exaggerates it."


class Denoiser(eqx.Module):
    """A model with its schedule and a batch of conditions, one for each clip."""

    model: eqx.Module
    schedule: Schedule
    condition: Condition
    predict: Prediction = eqx.field(static=True)

    def __check_init__(self):
        if not isinstance(self.schedule.alpha, jax.core.Tracer):
            check_prediction(self.schedule, self.predict)

    def __call__(self, x_t: Float[Array, "b *x"], t: Step) -> Float[Array, "b *x"]:
        level = jnp.asarray(t, jnp.float32) / self.schedule.T
        prediction = jax.vmap(self.model, in_axes=(0, None, 0))(x_t, level, self.condition)
        return to_x0(self.schedule, prediction, x_t, t, self.predict)


class Guided(eqx.Module):
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): from one prompt towards another.

    `away + scale (to - away)`: scale 0 is `away` alone, 1 is `to` alone, above 1 extrapolates.
    The model is called once, on both prompts as one batch of twice the size. The formula may be
    used on x0 as well as on eps or v, because its weights sum to one.
    """

    both: Denoiser
    scale: Float[Array, ""]

    def __call__(self, x_t: Float[Array, "b *x"], t: Step) -> Float[Array, "b *x"]:
        away, to = jnp.split(self.both(jnp.concatenate([x_t, x_t]), t), 2)
        return away + self.scale * (to - away)


def guide(denoiser: Denoiser, away: Condition, scale: float) -> Guided:
    """Guide a denoiser away from `away`: the null prompt, or a negative one, for each example.

    Known frames are the same in both.
    """
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), away, denoiser.condition)
    both = Denoiser(denoiser.model, denoiser.schedule, both, denoiser.predict)
    return Guided(both, jnp.asarray(scale, jnp.float32))


class Pinned(eqx.Module):
    """Known frames are what they are, whatever the denoiser guesses (replacement; Song et al. 2021,
    appendix I.2).

    A solver makes x_t of the guess, so in x_t, too, these frames are the known ones with the noise
    of step t (at a temperature below 1 with less). A model that is not trained with known frames
    sees them only there.
    """

    denoiser: Callable
    known: KnownFrames

    def __call__(self, x_t: Float[Array, "b *x"], t: Step) -> Float[Array, "b *x"]:
        mask = self.known.mask.reshape(*self.known.mask.shape, *(1,) * (x_t.ndim - 2))
        return jnp.where(mask, self.known.frames, self.denoiser(x_t, t))


class Rolled(eqx.Module):
    """Clips that loop have no first frame: at each step the denoiser sees them from another one.

    The frames are rolled by an offset that grows from 0 to nearly all of the clip while t falls, so
    no frame stays at the seam (Mobius, Bi et al. 2025).
    """

    denoiser: Callable
    T: int = eqx.field(static=True)

    def __call__(self, x_t: Float[Array, "b f *x"], t: Step) -> Float[Array, "b f *x"]:
        offset = (self.T - jnp.asarray(t)) * x_t.shape[1] // self.T
        return jnp.roll(self.denoiser(jnp.roll(x_t, offset, axis=1), t), -offset, axis=1)


class Thresholded(eqx.Module):
    """Keep guesses in the codec's range, [-limit, limit]; for pixels, [-1, 1].

    Without a `percentile`, values are clipped to the range. With a `percentile` p in (0, 1) the
    threshold is dynamic (Imagen, Saharia et al. 2022, section 2.3): s is the p-quantile of |x0| in
    each clip, but at least `limit`; values are clipped to [-s, s], then scaled to the range.
    """

    denoiser: Callable
    limit: float = eqx.field(static=True)
    percentile: Float[Array, ""] | None = None

    def __call__(self, x_t: Float[Array, "b *x"], t: Step) -> Float[Array, "b *x"]:
        x0 = self.denoiser(x_t, t)
        if self.percentile is None:
            return jnp.clip(x0, -self.limit, self.limit)
        size = jnp.abs(x0).reshape(len(x0), -1)
        s = jnp.maximum(jnp.quantile(size, self.percentile, axis=1), self.limit)
        s = s.reshape(-1, *(1,) * (x0.ndim - 1))
        return jnp.clip(x0, -s, s) * (self.limit / s)
