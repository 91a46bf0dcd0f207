"""Solution 14: a folder of your own."""

from pathlib import Path

import numpy as np

from tinygif.gif import read_gif, resample


class Folder:
    """The GIFs of a folder as a data set that `tinygif.data.read_batch` takes."""

    def __init__(self, folder: Path, frames: int):
        self.paths, self.frames = sorted(folder.glob("*.gif")), frames
        self.lines = [path.with_suffix(".txt").read_text().splitlines() for path in self.paths]
        self.size = len(self.paths)
        texts = " ".join(text for lines in self.lines for text in lines)
        self.words = sorted(set(texts.split()))

    def example(self, index: int, frames: int) -> tuple[np.ndarray, str]:
        epoch, i = divmod(index, self.size)
        lines = self.lines[i]
        return resample(*read_gif(self.paths[i]), frames), lines[epoch % len(lines)]

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        return self.example(index, self.frames)
