"""Solution 20: put the parts together."""

import numpy as np


def compose(guesses: np.ndarray, logits: np.ndarray, given: np.ndarray) -> np.ndarray:
    """One clip of the guesses of k parts, by the softmax of their logits."""
    logits = np.where(given.reshape(-1, 1, 1, 1, 1), logits, -1e30)
    wants = np.exp(logits - logits.max(axis=0))
    return (guesses * wants / wants.sum(axis=0)).sum(axis=0)
