"""Solution 09: cut and put together."""

import numpy as np


def boxes(clip: np.ndarray, k: int, p: int) -> np.ndarray:
    """A clip (f, c, h, w) as rows, one for each box of k frames of p x p pixels."""
    f, c, h, w = clip.shape
    x = clip.reshape(f // k, k, c, h // p, p, w // p, p).transpose(0, 3, 5, 1, 2, 4, 6)
    return x.reshape(-1, k * c * p * p)


def clip_of(rows: np.ndarray, shape: tuple[int, int, int, int], k: int, p: int) -> np.ndarray:
    """The inverse of `boxes`."""
    f, c, h, w = shape
    x = rows.reshape(f // k, h // p, w // p, k, c, p, p)
    return x.transpose(0, 3, 4, 1, 5, 2, 6).reshape(shape)
