"""Exercise 18: find memorised clips. Check it: python -m lessons.check 18"""

import numpy as np


def memorised(generated: np.ndarray, training: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """For each generated clip, is it nearer to training than any unseen real clip is?

    All three are float arrays, one row per clip: (n, d), (m, d), (k, d); the result is n booleans.
    The gap of a clip is its Euclidean distance to the nearest training clip. A generated clip is
    memorised if its gap is smaller than the smallest gap of the unseen clips; equal is not smaller.

    Hint: write a function `gap(rows)` for the distance to the nearest training clip, and use it
    twice. `rows[:, None] - training[None]` holds all differences.
    """
    raise NotImplementedError("memorised is yours to write, see the hint in its docstring")
