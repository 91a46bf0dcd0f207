"""Check of exercise 07."""

import warnings

import numpy as np

# buckets, max_distance: the largest size in each bucket of a half but the last; by hand
LAST = {
    (8, 16): [0, 1, 5],  # exact 0 and 1, then 2 to 5, then the rest: edges at 2 * 8^(k/2)
    (16, 64): [0, 1, 2, 3, 7, 15, 31],  # edges at 4 * 16^(k/4): 8, 16, 32
    (32, 128): [0, 1, 2, 3, 4, 5, 6, 7, 11, 15, 22, 31, 45, 63, 90],  # T5's: 8 * 16^(k/8)
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.buckets_of`."""
    for (buckets, far), last in LAST.items():
        # where the edge is a whole number, rounding may put it on either side
        sizes = np.setdiff1d(np.arange(3 * far), [8, 16, 32, 64] if buckets > 8 else [])
        sizes = np.union1d(sizes, np.arange(buckets // 4))
        half = np.searchsorted(last, sizes)
        for sign, expected in ((-1, half), (1, half + buckets // 2 * (sizes > 0))):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = np.asarray(exercise.buckets_of(sign * sizes, buckets, far))
            side = "past" if sign < 0 else "future"
            case = f"{buckets} buckets up to {far}, {side}"
            assert got.shape == sizes.shape, (
                f"{case}: expected shape {sizes.shape}, got {got.shape}")
            wrong = np.flatnonzero(got != expected)
            assert wrong.size == 0, (
                f"{case}: expected distance {sign * sizes[wrong[0]]} in bucket "
                f"{expected[wrong[0]]}, got {got[wrong[0]]}")
