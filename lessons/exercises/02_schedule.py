"""Exercise 02: a schedule that ends in pure noise. Check it: python -m lessons.check 02"""

import numpy as np


def zero_terminal_snr(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New `(alpha, sigma)` where index T is pure noise and alpha^2 + sigma^2 = 1 everywhere.

    `alpha` has T + 1 values that fall from alpha[0] = 1, the data. Index 0 and index 1 keep their
    values, index T becomes (0, 1), and the values between are shifted and scaled in a line.

    Hint: work on alpha[1:] alone. Subtracting alpha[T] makes the last one 0, but the first one
    too small; a factor brings it back to alpha[1]. Put the 1 of the data in front again.
    """
    raise NotImplementedError("zero_terminal_snr is yours to write, see the hint in its docstring")
