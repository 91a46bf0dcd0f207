"""A learned code: an autoencoder turns every frame into a smaller image, and back. Lesson 16.

Pixels are a poor code of a clip: neighbours repeat each other, and a small error in many of them
looks like a blur. An autoencoder is trained first, then frozen, and diffusion runs in its code
(latent diffusion, Rombach et al. 2022, section 3).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from tinygif.codec import COMPONENTS, TILE, Palette, Pixels, Tiles
from tinygif.latents import FrameCodec
from tinygif.resnet import Conv3x3, Downsample, Upsample
from tinygif.taesd import TAESD

FOLDS = {"pixels": 1, "palette": 1, "tiles": TILE, "autoencoder": 4, "taesd": TAESD.fold}
"""The codecs, and the side in pixels of the square that one place of a code stands for."""
NOISE, EDGE = 0.15, 2.0
"""Deviation of the noise on codes in training (codes have about 0.7), and where they should end."""


@dataclass(frozen=True)
class CodecConfig:
    """What turns clips into the numbers in which the model works."""

    codec: str = "pixels"
    """pixels: none, the model works on pixels. palette: pixels, and clips are decoded into the
    colours of the data set. tiles: the same, on the principal components of 4 x 4 pixels.
    autoencoder: a learned code of frames, which is trained before the model. taesd: the Tiny
    AutoEncoder of Stable Diffusion, from the hub, for large clips. Or a run or model file whose
    code is used, or a folder or file with the weights of a TAESD."""
    codec_steps: int = 400
    """Steps that train the autoencoder, at most a fifth of --minutes; 0 if it is trained."""
    codec_width: int = 32
    latent_channels: int = 4
    """Channels of the autoencoder's code. One place of it stands for 4 x 4 pixels of a frame."""

    @property
    def fold(self) -> int:
        """Side, in pixels, of what one place of the code stands for."""
        return FOLDS.get(self.codec, FOLDS["autoencoder"])

    @property
    def is_trained_first(self) -> bool:
        """Whether a run begins with the training of its autoencoder."""
        return self.codec == "autoencoder" and self.codec_steps > 0

    def build(self, channels: int, *, key: Key[Array, ""]) -> Pixels | FrameCodec:
        """The codec for clips of 1 or 3 channels.

        A learned one has random weights; palette and tiles are to be fitted to the data set.
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
        if self.codec == "taesd":
            return TAESD(channels, key=key)
        return Autoencoder(channels, self.latent_channels, self.codec_width, key=key)


class ConvBlock(eqx.Module):
    """A convolution whose output is added to its input: `x + conv(silu(x))`."""

    conv: Conv3x3

    def __init__(self, channels: int, *, key: Key[Array, ""]):
        self.conv = Conv3x3(channels, channels, key=key)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        return x + self.conv(jax.nn.silu(x))


class Autoencoder(FrameCodec):
    """The codec that a run trains for itself. The pixels' own mean is left out of the code."""

    encoder: list[eqx.Module]
    decoder: list[eqx.Module]
    data_mean: Float[Array, " c"]
    latent_mean: Float[Array, " z"]
    latent_std: Float[Array, " z"]
    pixels: Pixels
    fold: ClassVar[int] = 4

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

    def encode_frame(self, x: Float[Array, "c h w"]) -> Float[Array, "z h2 w2"]:
        x = x - self.data_mean[:, None, None]
        for layer in self.encoder:
            x = layer(x)
        return x

    def decode_frame(self, z: Float[Array, "z h2 w2"]) -> Float[Array, "c h w"]:
        for layer in self.decoder:
            z = layer(z)
        return z + self.data_mean[:, None, None]


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
