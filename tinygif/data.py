"""What a data set is, and a batch as a pure function of the step.

A data set is a function of an index; the stream of examples is a function of a seed and a position;
a batch is a slice of the stream. No position is stored: a resumed run computes the same batches as
an uninterrupted one, and several hosts do so without communication. Lesson 14.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, UInt8

COLORS = {
    "white": (255, 255, 255),
    "red": (230, 50, 50),
    "green": (50, 190, 80),
    "blue": (60, 100, 245),
    "yellow": (250, 225, 50),
    "purple": (180, 70, 230),
    "black": (0, 0, 0),
}
"""The colours that captions name, shared by all data sets that are drawn."""
GRAY = (0.299, 0.587, 0.114)
"""How bright red, green and blue are: ITU-R BT.601."""


def in_channels(
    frames: UInt8[np.ndarray, "*f h w 3"], channels: int
) -> UInt8[np.ndarray, "*f h w c"]:
    """Frames in colour, with 3 channels, or in gray with 1."""
    return frames if channels == 3 else np.round(frames @ GRAY)[..., None].astype(np.uint8)


@runtime_checkable
class Dataset(Protocol):
    """Captioned clips by index: `dataset[i]`, or `dataset.example(i, frames)` for a shorter clip.

    `size` is the number of clips, or None when they never repeat. Indices from `size` on are the
    same clips in a later epoch, perhaps with another of their captions. `words` are all the words
    that captions use. The caption of a clip without one is None.
    """

    size: int | None
    words: list[str]

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str | None]: ...

    def example(
        self, index: int, frames: int
    ) -> tuple[UInt8[np.ndarray, "{frames} h w c"], str | None]: ...


# ---- the stream of examples ------------------------------------------------------------------


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)


def index_at(size: int | None, seed: int, position: int) -> int:
    """The index at a position of the endless stream of a seed.

    A data set of `size` clips shows each of them once an epoch, in a new order. In an endless one
    (None) no two seeds share an index, up to 2^40 positions.
    """
    if size is None:
        return (seed << 40) + position
    if size == 0:
        raise ValueError("the data set is empty: expected at least one clip")
    epoch = position // size
    return epoch * size + int(permutation(size, seed, epoch)[position % size])


class Slice(NamedTuple):
    """A batch's part of the stream: positions `start` to `start + size`, as clips of `frames`."""

    start: int
    size: int
    frames: int


def slice_at(
    step: int, batch_size: int, frames: int, short_frames: int | None = None,
    short_share: float = 0.5,
) -> Slice:  # fmt: skip
    """The part of the stream that a step trains on; the next step continues where it ends.

    A share of the steps trains on many short clips instead of a few long ones, at the same cost:
    appearance needs many different examples; motion can be learned from few (compare the joint
    training on images and clips of Video Diffusion Models, Ho et al. 2022).
    """
    if short_frames is None:
        return Slice(step * batch_size, batch_size, frames)
    short_size = batch_size * (frames // short_frames)
    short_before, short_after = int(step * short_share), int((step + 1) * short_share)
    start = (step - short_before) * batch_size + short_before * short_size
    is_short = short_after > short_before
    return Slice(start, short_size, short_frames) if is_short else Slice(start, batch_size, frames)


def read_batch(
    dataset: Dataset, seed: int, where: Slice
) -> tuple[UInt8[np.ndarray, "b f h w c"] | Float16[np.ndarray, "b f z y x"], list[str | None]]:
    """The clips, or their codes, and the captions of a part of the stream."""
    positions = range(where.start, where.start + where.size)
    indices = [index_at(dataset.size, seed, position) for position in positions]
    clips, captions = zip(*(dataset.example(index, where.frames) for index in indices))
    return np.stack(clips), list(captions)


# ---- reading ahead ---------------------------------------------------------------------------


def prefetch(make: Callable[[Any], object], items: Iterator, ahead: int = 2) -> Iterator:
    """`make(item)` for every item, computed in a thread that is at most `ahead` items ahead.

    An error in the thread is raised here, where the result would have been.
    """
    results: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(result: object) -> bool:
        while not stop.is_set():
            try:
                results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((make(item), None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            result, error = results.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield result
    finally:
        stop.set()
