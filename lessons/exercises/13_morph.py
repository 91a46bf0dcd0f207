"""Exercise 13: from one noise to another along an arc. Check it: python -m lessons.check 13"""

import numpy as np


def arc(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The noise at `share` of the way from a (0) to b (1), with the same angle for each step.

    a and b have the same shape, any, and about the same length, but may also be equal.

    Hint: the angle between them is arccos(a . b / (|a| |b|)). The weights of a and b are
    sin((1 - share) angle) / sin(angle) and sin(share angle) / sin(angle). Where the angle is 0,
    these are 0 / 0: there the straight line will do.
    """
    raise NotImplementedError("arc is yours to write, see the hint in its docstring")
