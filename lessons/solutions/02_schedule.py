"""Solution 02: a schedule that ends in pure noise."""

import numpy as np


def zero_terminal_snr(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New `(alpha, sigma)` where index T is pure noise and alpha^2 + sigma^2 = 1 everywhere."""
    first, last = alpha[1], alpha[-1]
    noisy = (alpha[1:] - last) * first / (first - last)
    alpha = np.concatenate([[1.0], noisy])
    return alpha, np.sqrt(1 - alpha**2)
