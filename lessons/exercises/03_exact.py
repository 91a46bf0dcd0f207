"""Exercise 03: a stable softmax. Check it: python -m lessons.check 03"""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logits), divided by its sum over the last axis; the shape of `logits` stays.

    Logits may be as large as 1e5, or as small as -1e5, and may be -inf (probability 0) as long as
    one in every row is finite. No warning, no NaN.

    Hint: adding the same number to all logits of a row changes nothing, as exp(a + b) is
    exp(a) * exp(b) and the factor cancels. Which number makes the largest exponential exactly 1?
    """
    raise NotImplementedError("softmax is yours to write, see the hint in its docstring")
