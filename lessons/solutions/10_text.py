"""Solution 10: does a net listen to its captions?"""

from collections.abc import Callable

import numpy as np


def cost_of_wrong_words(
    loss: Callable[[np.ndarray, np.ndarray], float], clips: np.ndarray, ids: np.ndarray
) -> float:
    """How many times as much `loss(clips, ids)` is with wrong captions as with the right ones."""
    _, group, counts = np.unique(ids, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group)
    wrong = np.empty_like(ids)
    wrong[order] = ids[np.roll(order, counts.max())]
    return loss(clips, wrong) / loss(clips, ids)
