"""What a data set is, and a batch as a pure function of the step.

A data set has `dataset[i] -> (clip uint8 (f, h, w, c), caption)`, a list `words` of all that
captions may say, and a `size`: the number of clips, or None when it is endless. An index beyond
the size is a clip again, in a later epoch: it may have another caption then. A batch stores
nothing, so a resumed run sees what an uninterrupted one would, and hosts agree without talking.
Lesson 14.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@runtime_checkable
class Dataset(Protocol):
    """Captioned clips by index; `size` is their number in an epoch, None when they never repeat.

    A clip without words has None for its caption: the null prompt.
    """

    size: int | None
    words: list[str]

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str | None]: ...


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(size)


def index_at(size: int | None, seed: int, position: int) -> int:
    """The index at a position of the endless stream: every clip once an epoch, in a new order."""
    if size is None:
        return position
    if size == 0:
        raise ValueError("the data set is empty: expected at least one clip")
    epoch = position // size
    return epoch * size + int(permutation(size, seed, epoch)[position % size])


def batch(
    dataset: Dataset, seed: int, step: int, batch_size: int
) -> tuple[UInt8[np.ndarray, "b f h w c"], list[str | None]]:
    """The clips and captions of a step."""
    start = step * batch_size
    items = [dataset[index_at(dataset.size, seed, start + i)] for i in range(batch_size)]
    return np.stack([clip for clip, _ in items]), [caption for _, caption in items]


def prefetch(make: Callable[[int], object], steps: range, ahead: int = 2) -> Iterator[object]:
    """`make(step)` for every step, made up to `ahead` steps early in a thread.

    An error in the thread is raised here, in its place.
    """
    results: queue.Queue = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return results.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for step in steps:
            if stop.is_set():
                return
            try:
                put((make(step), None))
            except BaseException as error:
                return put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        for _ in steps:
            item, error = results.get()
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
