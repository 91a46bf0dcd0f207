"""Exercise 15: a bias-corrected EMA. Check it: python -m lessons.check 15"""

import numpy as np

Weights = dict[str, np.ndarray]


def update(mean: Weights, weights: Weights, decay: float) -> Weights:
    """The plain rule: decay times the mean, plus 1 - decay times the weights, for every name.

    The mean before the first step is all zeros. Nothing is changed in place.
    """
    raise NotImplementedError("update is yours to write, see its docstring")


def read(mean: Weights, steps: int, decay: float) -> Weights:
    """The mean after so many calls of `update`, at least one, without the bias to zero.

    Hint: feed it weights that are always 1. After k steps the plain rule gives
    (1 - decay) * (1 + decay + ... + decay**(k - 1)), a geometric sum, where it should give 1.
    """
    raise NotImplementedError("read is yours to write, see the hint in its docstring")
