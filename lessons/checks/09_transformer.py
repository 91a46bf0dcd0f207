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
        cut = np.array_equal(rows, clip.reshape(wanted))
        whole = wanted[0] == 1 or wanted[1] == 1  # then a plain reshape may be right
        assert whole or not cut, f"{case}: a plain reshape cuts rows of the image, not boxes"
        places = [(i, y, x) for i in range(0, f, k) for y in range(0, h, p) for x in range(0, w, p)]
        for number, (row, (i, y, x)) in enumerate(zip(rows, places)):
            box = clip[i : i + k, :, y : y + p, x : x + p].ravel()
            assert set(row) == set(box), (
                f"{case}: expected row {number} to be the box of frame {i}, row {y}, column {x}, "
                f"{box[:4]}..., got {row[:4]}...")
            assert np.array_equal(row, box), (
                f"{case}: row {number} has the right pixels in another order: frames first, then "
                "channels, rows, columns")
        back = np.asarray(exercise.clip_of(rows.copy(), shape, k, p))
        assert back.shape == shape and np.array_equal(back, clip), (
            f"clip_of(boxes(clip), {shape}, k={k}, p={p}): expected the clip itself")
