"""Solution 04: add v."""

import numpy as np


def v_target(alpha: float, sigma: float, x0: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """What a perfect network answers."""
    return alpha * eps - sigma * x0


def from_v(
    alpha: float, sigma: float, v: np.ndarray, x_t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`(x0, eps)` out of the answer v and x_t: turn both back by the angle of (alpha, sigma)."""
    return alpha * x_t - sigma * v, sigma * x_t + alpha * v
