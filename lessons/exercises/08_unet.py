"""Exercise 08: add a level. Check it: python -m lessons.check 08"""

from collections.abc import Callable

import numpy as np

Layer = Callable[[np.ndarray], np.ndarray]


def unet(
    x: np.ndarray, levels: int, block: Layer, middle: Layer, halve: Layer, double: Layer
) -> np.ndarray:
    """A U-Net of so many levels on an image x (h, w), with one block a level each way.

    Way down: on each level a block, whose answer is also kept as the skip; then halve, but not
    after the last level. Then `middle`. Way up, from the smallest level to the largest: add the
    level's skip, a block, then double, but not after the largest.

    Hint: with one level it is block(middle(skip) + skip), where skip = block(x). With more, put
    a whole smaller U-Net in the place of `middle`: a function may call itself.
    """
    raise NotImplementedError("unet is yours to write, see the hint in its docstring")
