"""Solution 18: find memorised clips."""

import numpy as np


def memorised(generated: np.ndarray, training: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """For each generated clip, is it nearer to training than any unseen real clip is?"""

    def gap(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows[:, None] - training[None], axis=-1).min(1)

    return gap(generated) < gap(unseen).min()
