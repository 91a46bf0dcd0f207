"""Check of exercise 09."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.boxes` or `exercise.clip_of`."""
    for shape, k, p in (((4, 1, 8, 8), 2, 4), ((6, 3, 4, 12), 3, 2), ((2, 1, 4, 4), 1, 1)):
        clip = np.arange(np.prod(shape)).reshape(shape)
        case = f"boxes(clip of shape {shape}, k={k}, p={p})"
        f, c, h, w = shape
        rows = np.asarray(exercise.boxes(clip.copy(), k, p))
        wanted = (f // k * (h // p) * (w // p), k * c * p * p)
        assert rows.shape == wanted, f"{case}: expected shape {wanted}, got {rows.shape}"
        first = clip[:k, :, :p, :p]
        assert set(rows[0]) == set(first.ravel()), (
            f"{case}: expected row 0 to hold the pixels of the first box, {first.ravel()[:6]}..., "
            f"got {rows[0][:6]}...: a plain reshape cuts rows of the image, not boxes")
        assert np.array_equal(rows[0], first.ravel()), (
            f"{case}: row 0 has the right pixels in another order: frames first, then channels, "
            "rows, columns")
        if w > p:
            second = clip[:k, :, :p, p : 2 * p].ravel()
            assert np.array_equal(rows[1], second), (
                f"{case}: expected row 1 to be the box to the right of the first, "
                f"{second[:4]}..., got {rows[1][:4]}...")
        last = clip[-k:, :, -p:, -p:].ravel()
        assert np.array_equal(rows[-1], last), (
            f"{case}: expected the last row to be the last box, got {rows[-1][:4]}...")
        back = np.asarray(exercise.clip_of(rows.copy(), shape, k, p))
        assert back.shape == shape and np.array_equal(back, clip), (
            f"clip_of(boxes(clip), {shape}, k={k}, p={p}): expected the clip itself")
