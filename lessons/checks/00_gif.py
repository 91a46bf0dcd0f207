"""Check of exercise 00."""

import tempfile
from pathlib import Path

import numpy as np

from tinygif.gif import write_gif

# delays in ms, frames asked for, frames that a player shows
CASES = {
    "equal delays, as many frames": ([100] * 4, 4, [0, 1, 2, 3]),
    "equal delays, half the frames (the whole clip, not its start)": ([100] * 4, 2, [0, 2]),
    "more frames than the file has (each again, no black)": ([100] * 3, 6, [0, 0, 1, 1, 2, 2]),
    "one frame that stays longest": ([50, 50, 850, 50], 8, [0, 2, 2, 2, 2, 2, 2, 2]),
    "a slow start": ([300, 100, 100, 100], 6, [0, 0, 0, 1, 2, 3]),
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.read_evenly`."""
    for name, (delays, frames, expected) in CASES.items():
        clip = np.arange(len(delays), dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.gif"
            write_gif(path, clip, delays=delays)
            got = exercise.read_evenly(path, frames)
        shape = getattr(got, "shape", type(got).__name__)
        wanted = (frames, 3, 1, 3)
        assert shape == wanted, f"{name}: expected shape {wanted}, got {shape}"
        assert got.dtype == np.uint8, f"{name}: expected uint8, got {got.dtype}"
        shown = got[:, 0, 0, 0].tolist()
        assert shown == expected, (f"{name}, delays {delays}: expected frames {expected}, "
                                   f"got {shown}")
