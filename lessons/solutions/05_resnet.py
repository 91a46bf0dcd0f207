"""Solution 05: `scale` against `1 + scale`."""

import numpy as np


def film(x: np.ndarray, condition: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Scale and shift every channel of an image x (c, h, w), as the condition (d,) says."""
    scale, shift = np.split(weight @ condition + bias, 2)
    return x * (1 + scale[:, None, None]) + shift[:, None, None]
