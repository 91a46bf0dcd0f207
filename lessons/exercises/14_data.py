"""Exercise 14: a folder of your own. Check it: python -m lessons.check 14"""

from pathlib import Path

import numpy as np

from tinygif.gif import read_gif, resample


class Folder:
    """The GIFs of a folder as a data set that `tinygif.data.read_batch` takes.

    x.gif has its captions in x.txt, one in each line. Clips are in the order of their names.
    `size` is their number, `words` all words of all captions, sorted, each once (words are
    separated by spaces).

    `folder.example(index, frames)` gives a clip, uint8 (frames, h, w, 3), resampled by time, and a
    caption; `folder[index]` gives the same, with as many frames as `Folder` was made with.
    Index i of 0, ..., size - 1 is clip i in epoch 0, with the first line of its captions; i + size
    is the same clip in epoch 1, with the second line, and so on; after the last line comes the
    first again. What it gives depends on its arguments alone.

    Hint: `epoch, i = divmod(index, self.size)`, and `%` chooses among the lines. `Path.glob` comes
    in any order: sort. `read_gif(path)` gives what `resample(clip, delays, frames)` takes.
    """

    def __init__(self, folder: Path, frames: int):
        raise NotImplementedError("Folder is yours to write, see its docstring")

    def example(self, index: int, frames: int) -> tuple[np.ndarray, str]:
        return resample(*read_gif(...), frames), ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        return self.example(index, ...)
