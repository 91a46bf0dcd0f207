"""A learned code: an autoencoder turns every frame into a smaller image, and back. Lesson 16.

Pixels are a poor code of a clip: neighbours repeat each other, and a small error in many of them
looks like a blur. An autoencoder is trained first, then frozen, and diffusion runs in its code
(latent diffusion, Rombach et al. 2022, section 3). Every frame is coded by itself, so that a frame
which is known can be given to the model as a code, too.
"""

from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from tinygif.codec import COMPONENTS, TILE, Palette, Pixels, Tiles
from tinygif.resnet import Conv3x3, Downsample, Upsample

FOLD = 4
"""Side, in pixels, of the square that one place of the code stands for."""
FOLDS = {"pixels": 1, "palette": 1, "tiles": TILE, "autoencoder": FOLD}
"""The codecs that a run can make for itself, and the side of their squares."""
NOISE, EDGE = 0.15, 2.0
"""Deviation of the noise on codes in training (codes have about 0.7), and where they should end."""


@dataclass(frozen=True)
class CodecConfig:
    """What turns clips into the numbers in which the model works."""

    codec: str = "pixels"
    """pixels: none, the model works on pixels. palette: pixels, and clips are decoded into the
    colours of the data set. tiles: the same, on the principal components of 4 x 4 pixels.
    autoencoder: a learned code of frames, which is trained before the model. Or a run or model file
    whose code is used."""
    codec_steps: int = 400
    """Steps that train the autoencoder, at most a fifth of --minutes; 0 if it is trained."""
    codec_width: int = 32
    latent_channels: int = 4
    """Channels of the code. One place of it stands for 4 x 4 pixels of a frame."""

    @property
    def fold(self) -> int:
        """Side, in pixels, of what one place of the code stands for."""
        return FOLDS.get(self.codec, FOLD)

    @property
    def is_trained_first(self) -> bool:
        """Whether a run begins with the training of its autoencoder."""
        return self.codec == "autoencoder" and self.codec_steps > 0

    def build(self, channels: int, *, key: Key[Array, ""]) -> "Pixels | Autoencoder":
        """The codec for clips of 1 or 3 channels.

        An autoencoder has random weights; palette and tiles are to be fitted to the data set.
        """
        if self.codec == "pixels":
            return Pixels(channels)
        if self.codec == "palette":
            return Palette(np.zeros((1, 3), np.uint8))
        if self.codec == "tiles":
            zeros = partial(np.zeros, dtype=np.float32)
            count = 3 * TILE**2
            colors = np.zeros((1, 3), np.uint8)
            return Tiles(colors, zeros(count), zeros((count, COMPONENTS)), zeros(COMPONENTS))
        return Autoencoder(channels, self.latent_channels, self.codec_width, key=key)


class ConvBlock(eqx.Module):
    """A convolution whose output is added to its input: `x + conv(silu(x))`."""

    conv: Conv3x3

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        self.conv = Conv3x3(channels, channels, key=key)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        return x + self.conv(jax.nn.silu(x))


class Autoencoder(eqx.Module):
    """The codec of latents: `encode(clip) -> x0`, `decode(x0) -> clip`, every frame by itself.

    `encode` gives mean 0 and deviation 1 in every channel, once `normalize` has measured both. The
    pixels' own mean is left out of the code. Sampled codes are clipped only far outside.
    """

    encoder: list[eqx.Module]
    decoder: list[eqx.Module]
    data_mean: Float[Array, " c"]
    latent_mean: Float[Array, " z"]
    latent_std: Float[Array, " z"]
    pixels: Pixels
    limit: float = eqx.field(static=True, default=8.0)

    def __init__(self, channels: int, latent_channels: int, width: int, *, key: Key[Array, ""]):
        k = jax.random.split(key, 10)
        self.encoder = [
            Downsample(channels, width, key=k[0]),
            ConvBlock(width, key=k[1]),
            Downsample(width, 2 * width, key=k[2]),
            ConvBlock(2 * width, key=k[3]),
            Conv3x3(2 * width, latent_channels, key=k[4]),
        ]
        self.decoder = [
            Conv3x3(latent_channels, 2 * width, key=k[5]),
            ConvBlock(2 * width, key=k[6]),
            Upsample(2 * width, width, shuffle=True, key=k[7]),
            ConvBlock(width, key=k[8]),
            Upsample(width, channels, shuffle=True, key=k[9]),
        ]
        self.pixels, self.data_mean = Pixels(channels), jnp.zeros(channels)
        self.latent_mean, self.latent_std = jnp.zeros(latent_channels), jnp.ones(latent_channels)

    def shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """The shape (f, z, h / 4, w / 4) of a square clip as the model sees it."""
        return frames, len(self.latent_mean), size // FOLD, size // FOLD

    def encode(self, clip: UInt8[Array | np.ndarray, "f h w c"]) -> Float[Array, "f z h2 w2"]:
        """A clip in 0..255 to its code."""
        mean, std = self.latent_mean[:, None, None], self.latent_std[:, None, None]
        one = lambda x: (self.encode_frame(x) - mean) / std  # noqa: E731
        return jax.vmap(one)(self.pixels.encode(clip))

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f z h2 w2"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """Codes to clips, frame by frame. NaN raises TinygifError."""
        frames = decode_frames(self, jnp.asarray(x0).reshape(-1, *x0.shape[-3:]))
        return self.pixels.decode(np.asarray(frames).reshape(*x0.shape[:-3], *frames.shape[1:]))

    def encode_frame(self, x: Float[Array, "c h w"]) -> Float[Array, "z h2 w2"]:
        """The code of a frame in [-1, 1], as the network gives it: not normalised."""
        x = x - self.data_mean[:, None, None]
        for layer in self.encoder:
            x = layer(x)
        return x

    def decode_frame(self, z: Float[Array, "z h2 w2"]) -> Float[Array, "c h w"]:
        """The inverse of `encode_frame`, nearly."""
        for layer in self.decoder:
            z = layer(z)
        return z + self.data_mean[:, None, None]


@eqx.filter_jit
def decode_frames(codec: Autoencoder, x0: Float[Array, "n z h w"]) -> Float[Array, "n c h2 w2"]:
    """Normalised codes to frames in [-1, 1]."""
    mean, std = codec.latent_mean[:, None, None], codec.latent_std[:, None, None]
    return jax.vmap(lambda z: codec.decode_frame(z * std + mean))(x0)


def reconstruction_loss(
    codec: Autoencoder, clip: UInt8[Array, "f h w c"], key: Key[Array, ""]
) -> Float[Array, ""]:
    """Mean squared error of the frames after coding and decoding, plus a penalty on large codes.

    Noise on the codes makes near codes mean near images: a sampler's small errors then stay small.
    """
    x = codec.pixels.encode(clip)
    z = jax.vmap(codec.encode_frame)(x)
    y = jax.vmap(codec.decode_frame)(z + NOISE * jax.random.normal(key, z.shape))
    outside = jax.nn.relu(jnp.abs(z) - EDGE)
    return jnp.mean((y - x) ** 2) + 0.1 * jnp.mean(outside**2)


def center(codec: Autoencoder, clips: UInt8[np.ndarray, "b f h w c"]) -> Autoencoder:
    """The codec with the mean of these clips' pixels."""
    mean = jnp.mean(codec.pixels.encode(clips), (0, 1, 3, 4))
    return eqx.tree_at(lambda c: c.data_mean, codec, mean)


@eqx.filter_jit
def normalize(codec: Autoencoder, clips: UInt8[Array | np.ndarray, "b f h w c"]) -> Autoencoder:
    """The codec whose codes of these clips have mean 0 and deviation 1 in every channel."""
    z = jax.vmap(jax.vmap(codec.encode_frame))(codec.pixels.encode(clips))
    moments = jnp.mean(z, (0, 1, 3, 4)), jnp.std(z, (0, 1, 3, 4))
    return eqx.tree_at(lambda c: (c.latent_mean, c.latent_std), codec, moments)
