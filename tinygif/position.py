"""Where a token stands: rotary embedding, and T5's relative position bias.

Attention itself does not see order. Both ways used here tell it the distance m - n of two tokens,
never their absolute position. Rotary embedding turns queries and keys by an angle that grows with
their position (RoFormer, Su et al. 2021, eq. 34). The bias adds a learned number for each distance
to the scores (T5, Raffel et al. 2020, section 2.1). Lesson 07.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key


def rotary(
    x: Float[Array, "n heads d"], base: float = 10000.0, *, circle: bool = False
) -> Float[Array, "n heads d"]:
    """Turn each pair of features of token n by the angle n * base^(-2i/d).

    circle: n tokens make whole turns, so the last is as near to the first as to the one before it.
    """
    n, _, d = x.shape
    if d % 2:
        raise ValueError(f"rotary turns pairs of features: expected an even head width, got {d}")
    frequency = base ** (-np.arange(0, d, 2) / d)  # by NumPy: constants of the compiled program
    if circle:
        frequency = np.round(frequency * n / (2 * np.pi)) * 2 * np.pi / n
    angle = np.arange(n)[:, None, None] * frequency[None, None, :]
    cos, sin = jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def place_waves(h: int, w: int, octaves: int) -> Float[np.ndarray, "c {h} {w}"]:
    """Sines and cosines of row and column, of 1/2, 1, 2, ... periods per image: 4 * octaves images.

    They tell a network where on the image a pixel is.
    """
    periods = 2.0 ** np.arange(-1, octaves - 1)
    waves = []
    for place in np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij"):
        angle = 2 * np.pi * periods[:, None, None] * place
        waves += [np.sin(angle), np.cos(angle)]
    return np.concatenate(waves).astype(np.float32)


def add_waves(x: Float[Array, "f c h w"], octaves: int) -> Float[Array, "f c2 h w"]:
    """Every image with its `place_waves` as more channels; unchanged for 0 octaves."""
    if not octaves:
        return x
    waves = jnp.asarray(place_waves(*x.shape[2:], octaves), x.dtype)
    return jax.vmap(lambda image: jnp.concatenate([image, waves]))(x)


def bucket(distance: Int[Array, "*n"], buckets: int, max_distance: int) -> Int[Array, "*n"]:
    """T5's bidirectional buckets: half for each sign; near distances exact, far ones in log steps.

    Distances of `max_distance` and beyond share the last bucket of their half.
    """
    half = buckets // 2
    exact = half // 2
    size = jnp.abs(distance)
    log = jnp.log(jnp.maximum(size, 1) / exact) / math.log(max_distance / exact)
    far = exact + jnp.floor(log * (half - exact)).astype(size.dtype)
    index = jnp.where(size < exact, size, jnp.minimum(far, half - 1))
    return index + jnp.where(distance > 0, half, 0)


class RelativePositionBias(eqx.Module):
    """A learned number for each head and bucket of distances, to be added to attention scores."""

    table: Float[Array, "buckets heads"]
    max_distance: int = eqx.field(static=True)

    def __init__(
        self, heads: int, *, buckets: int = 32, max_distance: int = 64, key: Key[Array, ""]
    ):
        if buckets % 4 or max_distance <= buckets // 4:
            raise ValueError(
                f"expected a multiple of 4 buckets and max_distance above a quarter of them, got "
                f"{buckets} and {max_distance}"
            )
        self.table = 0.02 * jax.random.normal(key, (buckets, heads))
        self.max_distance = max_distance

    def __call__(self, n: int, *, circle: bool = False) -> Float[Array, "heads n n"]:
        """The bias of each of n queries (rows) towards each of n keys (columns).

        circle: the distance is that of the shorter way round.
        """
        position = jnp.arange(n)
        distance = position[None, :] - position[:, None]
        if circle:
            distance = (distance + n // 2) % n - n // 2
        return jnp.moveaxis(self.table[bucket(distance, len(self.table), self.max_distance)], -1, 0)
