"""Solution 15: a bias-corrected EMA."""

import numpy as np

Weights = dict[str, np.ndarray]


def update(mean: Weights, weights: Weights, decay: float) -> Weights:
    """The plain rule: decay times the mean, plus 1 - decay times the weights, for every name."""
    return {name: decay * mean[name] + (1 - decay) * weights[name] for name in weights}


def read(mean: Weights, steps: int, decay: float) -> Weights:
    """The mean after so many calls of `update`, at least one, without the bias to zero."""
    return {name: value / (1 - decay**steps) for name, value in mean.items()}
