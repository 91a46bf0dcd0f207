"""The convolutional blocks, each on one image, and how the noise level and the prompt reach them.

`jax.vmap` over frames applies a block to a clip. That is a 2-D convolution with frames folded into
the batch, many times faster on a CPU than a 3-D one. The noise level is embedded in sinusoids
(Vaswani et al. 2017, section 3.5) and enters by FiLM (Perez et al. 2018, eq. 1 and 2). Lesson 05.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from tinygif.attention import zeroed

Image = Float[Array, "c h w"]


def time_embedding(t: Float[Array, ""], dim: int) -> Float[Array, " dim"]:
    """Sines and cosines of the noise level t in [0, 1], at frequencies from 1000 down to 0.1.

    The squared norm is dim / 2 for every t.
    """
    if dim % 2:
        raise ValueError(f"expected an even width for sines and cosines, got {dim}")
    frequency = 1000.0 * 10000.0 ** -jnp.linspace(0, 1, dim // 2)
    return jnp.concatenate([jnp.sin(t * frequency), jnp.cos(t * frequency)])


class Conv1x1(eqx.Module):
    """A 1x1 convolution: the same matrix at every pixel.

    Written as a matrix product, whose gradient XLA's CPU backend computes several times faster.
    """

    linear: eqx.nn.Linear

    def __init__(self, c_in: int, c_out: int, *, key: Key[Array, ""]):
        self.linear = eqx.nn.Linear(c_in, c_out, key=key)

    def __call__(self, x: Image) -> Float[Array, "c_out h w"]:
        y = jnp.einsum("oc,chw->ohw", self.linear.weight, x)
        return y + self.linear.bias[:, None, None]


class FiLM(eqx.Module):
    """Scales and shifts each channel, as computed from a condition: `x (1 + scale) + shift`."""

    linear: eqx.nn.Linear

    def __init__(self, condition: int, channels: int, *, key: Key[Array, ""]):
        self.linear = zeroed(eqx.nn.Linear(condition, 2 * channels, key=key))

    def __call__(self, x: Image, condition: Float[Array, " d"]) -> Image:
        scale, shift = jnp.split(self.linear(condition)[:, None, None], 2)
        return x * (1 + scale) + shift


class ConditionMLP(eqx.Module):
    """Turns the noise level in [0, 1] and the pooled prompt into one vector, the FiLM condition."""

    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    from_text: eqx.nn.Linear

    def __init__(self, width: int, dim: int, text_width: int, *, key: Key[Array, ""]):
        key1, key2, text_key = jax.random.split(key, 3)
        self.fc1 = eqx.nn.Linear(width, dim, key=key1)
        self.fc2 = eqx.nn.Linear(dim, dim, key=key2)
        self.from_text = eqx.nn.Linear(text_width, dim, key=text_key)

    def __call__(self, t: Float[Array, ""], pooled: Float[Array, " d2"]) -> Float[Array, " d"]:
        level = time_embedding(t, self.fc1.in_features).astype(pooled.dtype)
        return jax.nn.silu(self.fc2(jax.nn.silu(self.fc1(level))) + self.from_text(pooled))


class Conv3x3(eqx.Module):
    """A 3x3 convolution that keeps the image's size.

    Two details are for XLA on a CPU. The optimizer and the average of weights are fast only if the
    last axis of an array is long, so weights have shape (outputs, 3, 3, inputs). Convolution is 20
    times slower on images smaller than the kernel, so these get a margin, which is cut off again.
    """

    weight: Float[Array, "c_out 3 3 c_in"]
    bias: Float[Array, " c_out"]

    def __init__(self, c_in: int, c_out: int, *, key: Key[Array, ""]):
        start = eqx.nn.Conv2d(c_in, c_out, 3, key=key)
        self.weight, self.bias = start.weight.transpose(0, 2, 3, 1), start.bias[:, 0, 0]

    def __call__(self, x: Image) -> Float[Array, "c_out h w"]:
        _, h, w = x.shape
        x = jnp.pad(x, ((0, 0), (0, max(0, 3 - h)), (0, max(0, 3 - w))))
        axes = ("NCHW", "OHWI", "NCHW")
        y = jax.lax.conv_general_dilated(
            x[None], self.weight, (1, 1), "SAME", dimension_numbers=axes
        )
        return y[0, :, :h, :w] + self.bias[:, None, None]


def group_norm(channels: int) -> eqx.nn.GroupNorm:
    """GroupNorm (Wu and He 2018) with groups of at least 8 channels, at most 8 groups."""
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return eqx.nn.GroupNorm(groups, channels)


class ResnetBlock(eqx.Module):
    """norm, silu, conv; norm, FiLM, silu, conv from zero; plus the input (He et al. 2016)."""

    norm1: eqx.nn.GroupNorm
    conv1: Conv3x3
    norm2: eqx.nn.GroupNorm
    film: FiLM
    conv2: Conv3x3

    def __init__(self, channels: int, condition: int, *, key: Key[Array, ""]):
        key1, key2, film_key = jax.random.split(key, 3)
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = Conv3x3(channels, channels, key=key1)
        self.film = FiLM(condition, channels, key=film_key)
        self.conv2 = zeroed(Conv3x3(channels, channels, key=key2))

    def __call__(self, x: Image, condition: Float[Array, " d"]) -> Image:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.film(self.norm2(y), condition)))


class TemporalConv(eqx.Module):
    """A convolution along time at every pixel, the "+1" in (2+1)-D (Tran et al. 2018).

    Each frame and its two neighbours are stacked as channels and mixed by a matrix, which starts at
    zero.
    """

    norm: eqx.nn.GroupNorm
    conv: Conv1x1

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        self.norm = group_norm(channels)
        self.conv = zeroed(Conv1x1(3 * channels, channels, key=key))

    def __call__(
        self, x: Float[Array, "f c h w"], *, circle: bool = False
    ) -> Float[Array, "f c h w"]:
        """circle: the first frame comes after the last; else zeros stand beyond both ends."""
        y = jax.nn.silu(jax.vmap(self.norm)(x))
        start, end = (y[-1:], y[:1]) if circle else (jnp.zeros_like(y[:1]),) * 2
        before, after = jnp.concatenate([start, y[:-1]]), jnp.concatenate([y[1:], end])
        return x + jax.vmap(self.conv)(jnp.concatenate([before, y, after], axis=1))


class Downsample(eqx.Module):
    """Halve the side: fold 2x2 pixels into channels (pixel unshuffle), then mix the channels."""

    conv: Conv1x1

    def __init__(self, c_in: int, c_out: int, *, key: Key[Array, ""]):
        self.conv = Conv1x1(4 * c_in, c_out, key=key)

    def __call__(self, x: Image) -> Float[Array, "c_out h//2 w//2"]:
        return self.conv(rearrange(x, "c (h p) (w q) -> (c p q) h w", p=2, q=2))


class Upsample(eqx.Module):
    """Double the side: repeat pixels and convolve, or unfold channels into 2x2 pixels (shuffle)."""

    conv: Conv3x3 | Conv1x1
    shuffle: bool = eqx.field(static=True)

    def __init__(self, c_in: int, c_out: int, *, shuffle: bool, key: Key[Array, ""]):
        self.conv = Conv1x1(c_in, 4 * c_out, key=key) if shuffle else Conv3x3(c_in, c_out, key=key)
        self.shuffle = shuffle

    def __call__(self, x: Image) -> Float[Array, "c_out 2*h 2*w"]:
        if self.shuffle:
            return rearrange(self.conv(x), "(c p q) h w -> c (h p) (w q)", p=2, q=2)
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
