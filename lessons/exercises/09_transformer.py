"""Exercise 09: cut and put together. Check it: python -m lessons.check 09"""

import numpy as np


def boxes(clip: np.ndarray, k: int, p: int) -> np.ndarray:
    """A clip (f, c, h, w) as rows, one for each box of k frames of p x p pixels.

    Boxes come frame group by frame group, then row by row, then column by column. In a row stand
    first all frames, then channels, rows and columns of the box: k * c * p * p numbers.

    Hint: reshape to (f/k, k, c, h/p, p, w/p, p). Which of these seven axes tell the box, and which
    the place within it? Bring the first kind to the front with np.transpose.
    """
    raise NotImplementedError("boxes is yours to write, see the hint in its docstring")


def clip_of(rows: np.ndarray, shape: tuple[int, int, int, int], k: int, p: int) -> np.ndarray:
    """The inverse of `boxes`; shape is that of the clip, (f, c, h, w)."""
    raise NotImplementedError("clip_of is yours to write: undo the steps of boxes, last one first")
