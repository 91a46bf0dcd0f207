"""The ideal denoiser of a finite data set, in closed form: GIFs by diffusion with no network.

Let the data be N clips, all equally likely. Given x_t, clip i has the probability
softmax_i(-|x_t - alpha x_i|^2 / 2 sigma^2), and the best guess of x0 is the mean under these
probabilities (Bayes; Karras et al. 2022, appendix B.3). This denoiser can only repeat its data. We
test samplers with it, since its answers are exact. Lesson 03.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tinygif.schedule import Schedule


class ExactDenoiser(eqx.Module):
    """A denoiser `(x_t, t) -> x0` that knows its whole data set."""

    schedule: Schedule
    data: Float[Array, "n *x"]

    def __call__(self, x_t: Float[Array, "b *x"], t: Int[Array, ""] | int) -> Float[Array, "b *x"]:
        """The mean of the data given x_t, for every example of a batch, at t >= 1."""
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        data = self.data.reshape(len(self.data), -1)
        x = x_t.reshape(len(x_t), -1)
        # |x - alpha d|^2 without |x|^2, which is the same for every d and cancels in the softmax
        logits = (alpha * x @ data.T - alpha**2 * jnp.sum(data**2, axis=1)[None] / 2) / sigma**2
        return (jax.nn.softmax(logits, axis=1) @ data).reshape(x_t.shape)
