"""What the learned codecs share: every frame by itself, codes of deviation 1. Lesson 16.

A frame that is known can therefore be given to the model as a code, too. The codes of a folder are
computed, and clips are decoded, some frames at a time, so that long clips do not fill the memory.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from tinygif.codec import Pixels

CHUNK = 16
"""Frames that are coded or decoded at a time."""


class FrameCodec(eqx.Module):
    """A codec of latents: `encode(clip) -> x0`, `decode(x0) -> clip`, every frame by itself.

    A subclass says how one frame is coded, `encode_frame` and `decode_frame`. `encode` gives mean 0
    and deviation 1 in every channel, once `normalize` has measured both. Sampled codes are clipped
    only far outside.
    """

    pixels: eqx.AbstractVar[Pixels]
    latent_mean: eqx.AbstractVar[Float[Array, " z"]]
    latent_std: eqx.AbstractVar[Float[Array, " z"]]
    fold: eqx.AbstractClassVar[int]
    limit: ClassVar[float] = 8.0

    @abc.abstractmethod
    def encode_frame(self, x: Float[Array, "c h w"]) -> Float[Array, "z h2 w2"]:
        """The code of a frame in [-1, 1], as the network gives it: not normalised."""

    @abc.abstractmethod
    def decode_frame(self, z: Float[Array, "z h2 w2"]) -> Float[Array, "c h w"]:
        """The inverse of `encode_frame`, nearly."""

    def to_code(self, x: Float[Array, "c h w"]) -> Float[Array, "z h2 w2"]:
        """The normalised code of a frame in [-1, 1]."""
        mean, std = self.latent_mean[:, None, None], self.latent_std[:, None, None]
        return (self.encode_frame(x) - mean) / std

    def to_frame(self, x0: Float[Array, "z h2 w2"]) -> Float[Array, "c h w"]:
        """The frame of a normalised code."""
        mean, std = self.latent_mean[:, None, None], self.latent_std[:, None, None]
        return self.decode_frame(x0 * std + mean)

    def shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """The shape (f, z, h / fold, w / fold) of a square clip as the model sees it."""
        return frames, len(self.latent_mean), size // self.fold, size // self.fold

    def encode(self, clip: UInt8[Array | np.ndarray, "f h w c"]) -> Float[Array, "f z h2 w2"]:
        """A clip in 0..255 to its code."""
        return jax.vmap(self.to_code)(self.pixels.encode(clip))

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f z h2 w2"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """Codes to clips, some frames at a time. NaN raises TinygifError."""
        codes = np.asarray(x0, np.float32).reshape(-1, *x0.shape[-3:])
        clips = in_chunks(lambda z: self.pixels.decode(np.asarray(decode_frames(self, z))), codes)
        return clips.reshape(*x0.shape[:-3], *clips.shape[1:])


def in_chunks(
    run: Callable[[np.ndarray], Array | np.ndarray], frames: Shaped[np.ndarray, "n *x"]
) -> Shaped[np.ndarray, "n *y"]:
    """`run(frames)`, computed CHUNK frames at a time; the last ones are filled up."""
    if len(frames) <= CHUNK:
        return np.asarray(run(frames))
    full = np.concatenate([frames, frames[-1:].repeat(-len(frames) % CHUNK, axis=0)])
    chunks = [np.asarray(run(full[i : i + CHUNK])) for i in range(0, len(full), CHUNK)]
    return np.concatenate(chunks)[: len(frames)]


@eqx.filter_jit
def encode_frames(codec: FrameCodec, frames: UInt8[Array, "n h w c"]) -> Float[Array, "n z h2 w2"]:
    """Frames in 0..255 to codes, as the network gives them."""
    return jax.vmap(codec.encode_frame)(codec.pixels.encode(frames))


@eqx.filter_jit
def decode_frames(codec: FrameCodec, x0: Float[Array, "n z h w"]) -> Float[Array, "n c h2 w2"]:
    """Normalised codes to frames in [-1, 1]."""
    return jax.vmap(codec.to_frame)(x0)


def normalize(codec: FrameCodec, clips: UInt8[np.ndarray, "b f h w c"]) -> FrameCodec:
    """The codec whose codes of these clips have mean 0 and deviation 1 in every channel."""
    z = in_chunks(partial(encode_frames, codec), clips.reshape(-1, *clips.shape[2:]))
    moments = jnp.asarray(z.mean((0, 2, 3))), jnp.asarray(z.std((0, 2, 3)))
    return eqx.tree_at(lambda c: (c.latent_mean, c.latent_std), codec, moments)
