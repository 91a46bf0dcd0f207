"""Figures of lesson 00."""

from pathlib import Path

import numpy as np

from tinygif.codec import Pixels
from tinygif.gif import enlarge, grid, strip, write, write_gif


def square(frames: int = 24, size: int = 32) -> np.ndarray:
    """The bouncing square of the lesson, uint8 (frames, size, size, 1)."""
    clip = np.zeros((frames, size, size, 1), np.uint8)
    side = size // 4
    for f, frame in enumerate(clip):
        room = size - side
        top, left = (room - abs(room - f * side // slow % (2 * room)) for slow in (2, 4))
        frame[top : top + side, left : left + side] = 255
    return clip


def draw(folder: Path) -> None:
    """00_square.gif, 00_kept.png, 00_cast.png."""
    clip = square()
    write_gif(folder / "00_square.gif", enlarge(clip, 4), fps=20)

    a, b, nothing = clip[0], clip[6], np.full_like(clip[0], 255)
    rows = [np.stack([a, a, b, b]), np.stack([a, b, nothing, nothing])]
    rows = [strip(np.pad(enlarge(row, 2), [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=160))
            for row in rows]
    captions = ["tinygif: 4 frames of 100 ms", "Pillow: 2 frames of 200 ms"]
    rows[1][:, rows[1].shape[1] // 2 :] = 255
    write(folder / "00_kept.png", grid([row[None] for row in rows], 1, captions, scale=2))

    pixels = Pixels(1)
    bright = 1.02 * np.asarray(pixels.encode(clip[:1]))
    cast = np.round((bright + 1) * 127.5).astype(int).astype(np.uint8)
    cells = [pixels.decode(bright), np.moveaxis(cast, 1, -1)]
    cells = [np.pad(cell, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=160) for cell in cells]
    write(folder / "00_cast.png", grid(cells, 2, ["clip, then cast", "cast, no clip"], scale=4))
