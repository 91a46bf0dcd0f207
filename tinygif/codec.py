"""Clips as a model sees them: the codec `Pixels`. Lesson 00."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from tinygif.errors import TinygifError


class Pixels(eqx.Module):
    """The codec of pixels: clips in 0..255 become numbers in [-1, 1], channels first, and back.

    A codec turns clips into the model's x0 (`encode`) and back (`decode`). It knows the `shape` of
    x0 and its `limit`: the sampler keeps guesses of x0 in [-limit, limit].
    """

    channels: int = eqx.field(static=True)
    limit: ClassVar[float] = 1.0

    def shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """The shape (f, c, h, w) of a square clip as the model sees it."""
        return frames, self.channels, size, size

    def encode(self, clip: UInt8[Array | np.ndarray, "*b f h w c"]) -> Float[Array, "*b f c h w"]:
        """Clips in 0..255 to float32 in [-1, 1], channels first."""
        if clip.dtype != np.uint8 or clip.ndim < 4 or clip.shape[-1] != self.channels:
            raise ValueError(
                f"expected a clip uint8 (..., f, h, w, {self.channels}), got {clip.dtype} "
                f"{clip.shape}: pass clips as read_gif and the data sets give them"
            )
        x0 = jnp.asarray(clip).astype(jnp.float32) / 127.5 - 1
        return rearrange(x0, "... f h w c -> ... f c h w")

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f c h w"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """The inverse of `encode`. Values outside [-1, 1] are clipped; NaN raises TinygifError."""
        x0 = np.asarray(x0, np.float32)
        if np.isnan(x0).any():
            raise TinygifError(
                "expected numbers around [-1, 1], got NaN: "
                "lower the learning rate or the guidance, or use float32"
            )
        # Clip before the cast: in uint8, 256 would wrap to 0 and turn white pixels black.
        clip = np.round((np.clip(x0, -1, 1) + 1) * 127.5).astype(np.uint8)
        return rearrange(clip, "... f c h w -> ... f h w c")
