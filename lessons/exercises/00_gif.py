"""Exercise 00: a reader that resamples by time. Check it: python -m lessons.check 00"""

from pathlib import Path

import numpy as np

from tinygif.gif import read_gif


def read_evenly(path: str | Path, frames: int) -> np.ndarray:
    """What a player shows at times 0, 1/frames, 2/frames, ... of a GIF's whole duration.

    `path` is a GIF whose frames last differently long; the result is uint8 (frames, h, w, 3).

    Hint: `np.cumsum(delays)` are the times at which the frames end. The frame on the screen at
    time s is the first one that ends after s; `np.searchsorted(..., side="right")` finds it.
    """
    clip, delays = read_gif(path)
    raise NotImplementedError("read_evenly is yours to write, see the hint in its docstring")
