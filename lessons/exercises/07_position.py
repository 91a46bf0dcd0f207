"""Exercise 07: bias buckets. Check it: python -m lessons.check 07"""

import numpy as np


def buckets_of(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket, from 0 to buckets - 1, of each distance (whole numbers of any sign).

    Half of the buckets are for distances up to 0, the other half for those above 0: the same
    within their half, and `buckets // 2` more. Of each half, the first half are exact: sizes
    0, 1, 2, ... have a bucket each. The others grow by a constant factor and reach up to
    `max_distance`; the last bucket also holds all that is farther.

    Hint: with e exact buckets, the size s is log(s / e) / log(max_distance / e) of the way from
    the first log bucket to the end. Round down, and mind log(0): numpy computes both sides of
    np.where, so give it a size of at least e.
    """
    raise NotImplementedError("buckets_of is yours to write, see the hint in its docstring")
