"""Solution 01: noise a batch in one jump."""

import numpy as np


def q_sample(
    alpha: np.ndarray, sigma: np.ndarray, x0: np.ndarray, t: np.ndarray, eps: np.ndarray
) -> np.ndarray:
    """Clip i of the batch, noised to its own step t[i]."""
    alpha_t = alpha[t].reshape(-1, 1, 1, 1, 1)
    sigma_t = sigma[t].reshape(-1, 1, 1, 1, 1)
    return alpha_t * x0 + sigma_t * eps
