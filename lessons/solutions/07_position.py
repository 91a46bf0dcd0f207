"""Solution 07: bias buckets."""

import numpy as np


def buckets_of(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket, from 0 to buckets - 1, of each distance."""
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    way = np.log(np.maximum(size, exact) / exact) / np.log(max_distance / exact)
    far = np.minimum(exact + np.floor(way * (half - exact)).astype(int), half - 1)
    return np.where(size < exact, size, far) + np.where(distance > 0, half, 0)
