"""Figures of lesson 06."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinygif.attention import Attention, over_space, over_time
from tinygif.codec import Pixels
from tinygif.gif import grid, write, write_gif


def creature_film() -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """The clip of the lesson, (f, h, w), the same under noise, and where the creature is."""
    rng = np.random.default_rng(0)
    rng.choice([-1, 1], (20, 64)), rng.standard_normal((3, 64))  # drawn by the lesson before
    half = rng.choice([-1.0, 1.0], (12, 6))
    creature = np.append(half, half[:, ::-1], axis=1)
    clip, at = np.zeros((8, 32, 32)), []
    for f, frame in enumerate(clip):
        at.append((abs((3 * f + 4) % 40 - 20), abs((5 * f + 9) % 40 - 20)))
        frame[at[f][0] :, at[f][1] :][:12, :12] = creature
    return clip, clip + rng.standard_normal(clip.shape), at


def found(path: Path) -> None:
    """The noisy clip, the map of frame 0's creature, and the mean answer where the map is."""
    _, noisy, at = creature_film()
    windows = sliding_window_view(noisy, (12, 12), axis=(1, 2)).reshape(8, 441, 144)
    q = windows[0, 21 * at[0][0] + at[0][1]]
    weights = np.asarray(jax.nn.softmax(jnp.asarray(windows @ q / 12), axis=1))
    answer = np.mean([p @ window for p, window in zip(weights, windows, strict=True)], axis=0)
    light, drawn = -np.ones_like(noisy), np.zeros_like(noisy)
    for f, p in enumerate(weights):
        # a window's light is drawn at its middle, as a square of 4 x 4 that can be seen
        spots = p.reshape(21, 21) / p.max()
        for i, j in np.ndindex(4, 4):
            light[f, 4 + i : 25 + i, 4 + j : 25 + j] = np.maximum(
                light[f, 4 + i : 25 + i, 4 + j : 25 + j], 2 * spots - 1)  # fmt: skip
        row, column = divmod(int(p.argmax()), 21)
        drawn[f, row : row + 12, column : column + 12] = answer.reshape(12, 12)
    cells = [Pixels(1).decode(x[:, None]) // 17 * 17 for x in (noisy / 2, light, drawn)]
    write_gif(path, grid(cells, 3, ["noisy clip", "attention map", "mean answer"], 6), fps=3)


def hears(path: Path) -> None:
    """Who hears the first pixel: a row for each layer, a column for each frame."""
    new = Attention(4, 1, 4, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 8, 8)), jnp.float32)
    space = lambda x: over_space(new, x)  # noqa: E731
    time = lambda x: over_time(new, x, jnp.zeros((1, 8, 8)))  # noqa: E731
    looks = {"space": space, "time": time, "both": lambda x: time(space(x))}
    cells, captions = [], []
    for name, look in looks.items():
        became_nan = np.isnan(jax.jit(look)(x.at[0, :, 0, 0].set(jnp.nan))).any(axis=1)
        cells += [Pixels(1).decode(np.where(frame, -0.9, 0.7)[None, None]) for frame in became_nan]
        captions += [f"{name}, frame {f}" for f in range(8)]
    write(path, grid(cells, 8, captions, scale=9))


def reshaped(path: Path) -> None:
    """The creature, and what `reshape` makes of it."""
    clip, _, _ = creature_film()
    broken = clip.transpose(1, 2, 0).reshape(clip.shape)
    cells = [Pixels(1).decode(x[:, None]) for x in (clip, broken)]
    write_gif(path, grid(cells, 2, ["rearrange", "reshape"], 6), fps=3)


def draw(folder: Path) -> None:
    """06_found.gif, 06_hears.png, 06_reshape.gif."""
    found(folder / "06_found.gif")
    hears(folder / "06_hears.png")
    reshaped(folder / "06_reshape.gif")
