"""Solution 13: from one noise to another along an arc."""

import numpy as np


def arc(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The noise at `share` of the way from a (0) to b (1), with the same angle for each step."""
    cosine = np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - share) * a + share * b
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
