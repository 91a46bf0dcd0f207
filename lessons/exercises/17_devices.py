"""Exercise 17: remove a retrace. Check it: python -m lessons.check 17"""

from collections.abc import Callable, Sequence

import jax
import numpy as np


def run(
    update: Callable, weights: jax.Array, grads: Sequence[np.ndarray], rates: Sequence[float]
) -> jax.Array:
    """The weights after `weights = update(weights, grad, rate)` for each gradient and rate.

    `update` is compiled, and traced once only. This is right, but traces it for every new rate:

        step = eqx.filter_jit(update)
        for grad, rate in zip(grads, rates):
            weights = step(weights, grad, rate)
        return weights

    Hint: a Python number is built into the program, an array is not. And an array of whole numbers
    is of another type than one of floats: rates may be 1 as well as 0.5.
    """
    raise NotImplementedError("run is yours to write, see the hint in its docstring")
