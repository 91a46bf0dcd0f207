"""Exercise 01: noise a batch in one jump. Check it: python -m lessons.check 01"""

import numpy as np


def q_sample(
    alpha: np.ndarray, sigma: np.ndarray, x0: np.ndarray, t: np.ndarray, eps: np.ndarray
) -> np.ndarray:
    """Clip i of the batch, noised to its own step t[i].

    `alpha` and `sigma` have shape (T + 1,), `x0` and `eps` (b, f, c, h, w), `t` holds b integers
    from 0 to T; the result has the shape of x0.

    Hint: `alpha[t]` has shape (b,). numpy aligns shapes from the right, so it would meet the
    width of x0; give it four more axes of length 1: `.reshape(-1, 1, 1, 1, 1)`.
    """
    raise NotImplementedError("q_sample is yours to write, see the hint in its docstring")
