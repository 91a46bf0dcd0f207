"""Solution 12: second order by remembering one guess."""

from collections.abc import Callable, Sequence

import numpy as np


def sample_2m(
    denoiser: Callable, alpha: np.ndarray, sigma: np.ndarray, x: np.ndarray, times: Sequence[int]
) -> np.ndarray:
    """From noise x at times[0] to the clip at times[-1] = 0, with DPM-Solver++(2M)."""
    before = u = None
    lam = lambda i: np.log(alpha[i] / sigma[i])  # noqa: E731
    for t, s in zip(times[:-1], times[1:], strict=True):
        guess = x0 = denoiser(x, t)
        if before is not None and s > 0:
            k = 0.5 * (lam(s) - lam(t)) / (lam(t) - lam(u))
            guess = x0 + k * (x0 - before)
        eps = (x - alpha[t] * guess) / sigma[t]
        x = alpha[s] * guess + sigma[s] * eps
        before, u = x0, t
    return x
