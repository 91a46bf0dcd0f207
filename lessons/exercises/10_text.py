"""Exercise 10: does a net listen to its captions? Check it: python -m lessons.check 10"""

from collections.abc import Callable

import numpy as np


def cost_of_wrong_words(
    loss: Callable[[np.ndarray, np.ndarray], float], clips: np.ndarray, ids: np.ndarray
) -> float:
    """How many times as much `loss(clips, ids)` is with wrong captions as with the right ones.

    `clips[i]` belongs to the caption `ids[i]`, n whole numbers. Wrong captions are the same ones
    in another order, in which no clip has the words it belongs to. Some captions occur several
    times, but none in more than half of the clips. The clips stay as they are.

    Hint: bring equal captions together by sorting: `np.unique(ids, axis=0, return_inverse=True,
    return_counts=True)` numbers them. If the largest group has m captions, then in sorted order
    the caption m places further on is always another one.
    """
    raise NotImplementedError("cost_of_wrong_words is yours to write, see its docstring")
