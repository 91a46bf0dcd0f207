"""Figures of lesson 01."""

from pathlib import Path

import numpy as np

from tinygif.codec import Pixels
from tinygif.gif import grid, write, write_gif

BETA, SIZE, FRAMES = 0.01, 32, 16


def square() -> np.ndarray:
    """The moving square of the lesson in the model's range, (f, c, h, w)."""
    clip = np.zeros((FRAMES, SIZE, SIZE, 1), np.uint8)
    side = round(SIZE * 0.5**0.5)
    room = SIZE - side
    for f, frame in enumerate(clip):
        at = abs((f + room) % (2 * room) - room)
        frame[at : at + side, at : at + side] = 255
    return np.asarray(Pixels(1).encode(clip))


def visible(x: np.ndarray) -> np.ndarray:
    """-2 to 2 as 16 shades from black to white: fewer shades make a smaller GIF."""
    return Pixels(1).decode(np.asarray(x) / 2) // 17 * 17


def draw(folder: Path) -> None:
    """01_dissolve.gif, 01_crossfade.png."""
    x0 = square()
    rng = np.random.default_rng(0)
    eps = rng.standard_normal(x0.shape)
    steps = (0, 30, 100, 300, 1000)
    alpha = np.sqrt(1 - BETA) ** np.array(steps)
    noisy = [visible(a * x0 + np.sqrt(1 - a**2) * eps) for a in alpha]
    captions = [f"t = {t}" for t in steps]
    write_gif(folder / "01_dissolve.gif", grid(noisy, 5, captions, scale=3), fps=8)

    shares = (1.0, 0.85, 0.7, 0.5, 0.3, 0.15, 0.0)
    sigmas = {"jump": np.sqrt(1 - np.square(shares)), "fade": 1 - np.array(shares)}
    cells, captions = [], []
    for name in sigmas:
        for a, s in zip(shares, sigmas[name], strict=True):
            x = a * x0 + s * eps
            cells.append(visible(x[:1]))
            captions.append(f"{name}, std {x.std():.2f}")
    write(folder / "01_crossfade.png", grid(cells, len(shares), captions, scale=3))
