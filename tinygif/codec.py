"""Clips as a model sees them: the codec `Pixels`; `Palette`, `Tiles` for pixel art. Lesson 00."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, UInt8

from tinygif.errors import TinygifError
from tinygif.gif import distinct


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


COLORS = 1024
"""The largest number of colours in a palette."""
CLIP_COLORS = 32
"""The largest number of colours in a clip that `Palette` decodes."""
NEAR = 16
"""Two colours of such a clip differ by more than this, in at least one channel."""


class Palette(Pixels):
    """The codec of pixel art: decoding gives every pixel a colour of the data set's palette.

    A model's small errors are rounded away, so that areas are flat and edges are hard. Of the
    colours in a clip only the 32 commonest are kept, and of two near ones the commoner.
    """

    colors: UInt8[Array, "n 3"]

    def __init__(self, colors: UInt8[np.ndarray, "m 3"]):
        """m: at most 1024; the last colour is repeated up to that number."""
        self.channels = 3
        self.colors = jnp.asarray(np.pad(colors, ((0, COLORS - len(colors)), (0, 0)), "edge"))

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f c h w"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """Values to colours of the palette. NaN raises TinygifError."""
        clips, colors = super().decode(x0), np.unique(self.colors, axis=0)
        one = lambda clip: keep_commonest(nearest_color(clip, colors), CLIP_COLORS)  # noqa: E731
        return np.stack([one(clip) for clip in clips.reshape(-1, *clips.shape[-4:])]).reshape(
            clips.shape
        )


TILE, COMPONENTS = 4, 28
"""Side of a tile in pixels, and how many of its 48 numbers' principal components are kept."""


class Tiles(Palette):
    """The codec of pixel art whose code is one of tiles: squares of 4 x 4 pixels.

    Pixels repeat each other: one brightness for a whole tile makes up most of their variance, and
    most of a loss. So a tile is told as coordinates along its principal components (Pearson 1901),
    the 28 along which tiles differ most, each divided by its deviation to the power of 3/4. What is
    rare and small, such as the colour of a hand, then counts.
    """

    mean: Float[Array, " 48"]
    basis: Float[Array, "48 28"]
    scale: Float[Array, " 28"]
    limit: ClassVar[float] = 8.0

    def __init__(
        self, colors: UInt8[np.ndarray, "m 3"], mean: Float[np.ndarray, " 48"],
        basis: Float[np.ndarray, "48 28"], scale: Float[np.ndarray, " 28"],
    ):  # fmt: skip
        super().__init__(colors)
        self.mean, self.basis, self.scale = map(jnp.asarray, (mean, basis, scale))

    def shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """The shape (f, c, h, w) of the code of a square clip."""
        return frames, COMPONENTS, size // TILE, size // TILE

    def encode(self, clip: UInt8[Array | np.ndarray, "*b f h w c"]) -> Float[Array, "*b f d y x"]:
        """Clips in 0..255 to the scaled coordinates of their tiles."""
        to_code = lambda tile: (tile - self.mean) @ self.basis / self.scale  # noqa: E731
        code = jnp.vectorize(to_code, signature="(d)->(c)")(cut_tiles(super().encode(clip)))
        return jnp.moveaxis(code, -1, -3)

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f d y x"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """Coordinates to colours of the palette. NaN raises TinygifError."""
        code = np.moveaxis(np.asarray(x0, np.float32), -3, -1) * np.asarray(self.scale)
        tiles = code @ np.asarray(self.basis).T + np.asarray(self.mean)
        form = "... f y x (c p q) -> ... f c (y p) (x q)"
        return super().decode(rearrange(tiles, form, p=TILE, q=TILE))


def cut_tiles(
    x: Float[Array | np.ndarray, "*b f c h w"],
) -> Float[Array | np.ndarray, "*b f y x d"]:
    """The numbers of each tile as the last axis."""
    return rearrange(x, "... f c (y p) (x q) -> ... f y x (c p q)", p=TILE, q=TILE)


def fit_tiles(clips: UInt8[np.ndarray, "b f h w 3"]) -> Tiles:
    """The palette and the principal components of the tiles of these clips."""
    colors = find_palette(clips)
    tiles = cut_tiles(np.asarray(Pixels(3).encode(clips))).reshape(-1, 3 * TILE**2)
    mean = tiles.mean(0)
    variance, basis = np.linalg.eigh(np.cov((tiles - mean).T))  # in rising order
    deviation = np.sqrt(np.maximum(variance[: -COMPONENTS - 1 : -1], 1e-6))
    basis = basis[:, : -COMPONENTS - 1 : -1].astype(np.float32)
    return Tiles(colors, mean, basis, deviation.astype(np.float32) ** 0.75)


def nearest_color(
    clip: UInt8[np.ndarray, "f h w 3"], colors: UInt8[np.ndarray, "n 3"]
) -> UInt8[np.ndarray, "f h w 3"]:
    """The clip with each pixel in the nearest of these colours."""
    x, y = clip.reshape(-1, 3).astype(np.float32), colors.astype(np.float32)
    return colors[nearest(x, y)].reshape(clip.shape)


def nearest(
    x: Float[np.ndarray, "m d"], centers: Float[np.ndarray, "n d"]
) -> Int[np.ndarray, " m"]:
    """For each of x the number of the nearest center."""
    return ((centers**2).sum(1) - 2 * x @ centers.T).argmin(1)


def keep_commonest(clip: UInt8[np.ndarray, "f h w 3"], most: int) -> UInt8[np.ndarray, "f h w 3"]:
    """The clip in its `most` commonest colours that are not NEAR a commoner one.

    All other pixels get the nearest of these.
    """
    colors, _, counts = distinct(clip)
    kept: list[np.ndarray] = []
    for color in colors[np.argsort(-counts, kind="stable")].astype(int):
        if len(kept) < most and all(np.abs(color - other).max() > NEAR for other in kept):
            kept.append(color)
    return nearest_color(clip, np.array(kept, np.uint8))


def find_palette(clips: UInt8[np.ndarray, "b f h w 3"]) -> UInt8[np.ndarray, "n 3"]:
    """Every colour of these clips. Raises TinygifError if they have too many."""
    colors, _, _ = distinct(clips)
    if len(colors) > COLORS:
        raise TinygifError(
            f"expected clips in at most {COLORS} colours for a palette, got {len(colors)} "
            "colours: use --codec pixels"
        )
    return colors


FITTED = {"palette": lambda clips: Palette(find_palette(clips)), "tiles": fit_tiles}
"""The codecs that are fitted to some clips of the data set."""
