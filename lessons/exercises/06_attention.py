"""Exercise 06: a causal mask. Check it: python -m lessons.check 06"""

import numpy as np


def causal_bias(n: int) -> np.ndarray:
    """The bias (n, n) that, added to the scores, hides the future.

    Row i is the token that looks, column j the one that is looked at. Token i may look at itself
    and at the tokens before it; the weight of all others must become exactly 0, and no weight NaN.

    Hint: exp of what is 0? The softmax of lesson 03 has to survive it, so a very negative number
    is as good as minus infinity. `np.arange(n)`, once as a column and once as a row, tells for
    every pair which of the two comes later.
    """
    raise NotImplementedError("causal_bias is yours to write, see the hint in its docstring")
