"""Exercise 05: `scale` against `1 + scale`. Check it: python -m lessons.check 05"""

import numpy as np


def film(x: np.ndarray, condition: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Scale and shift every channel of an image x (c, h, w), as the condition (d,) says.

    A linear layer, `weight` (2c, d) and `bias` (2c,), makes 2c numbers of the condition: first a
    scale for each channel, then a shift for each channel. With weight and bias zero, x comes back
    unchanged.

    Hint: of shape (c,), a scale meets the width of x. Two new axes at its end, `scale[:, None,
    None]`, make it meet the channels. And which factor changes nothing? It is not 0.
    """
    raise NotImplementedError("film is yours to write, see the hint in its docstring")
