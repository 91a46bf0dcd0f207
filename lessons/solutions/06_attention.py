"""Solution 06: a causal mask."""

import numpy as np


def causal_bias(n: int) -> np.ndarray:
    """The bias (n, n) that, added to the scores, hides the future."""
    position = np.arange(n)
    return np.where(position[None, :] > position[:, None], -1e30, 0.0)
