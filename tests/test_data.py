"""data.py: a batch is a function of the step, and a thread that fetches ahead changes nothing.

Lesson 14.
"""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.data import batch, index_at, prefetch

sizes, seeds = st.integers(1, 50), st.integers(0, 2**31)


class Numbers:
    """Clips whose only pixel tells their number; the caption also tells the epoch."""

    words = ["clip"]

    def __init__(self, size: int | None):
        self.size = size

    def __getitem__(self, index: int):
        epoch, i = divmod(index, self.size) if self.size else (0, index)
        return np.full((1, 1, 1, 1), i % 256, np.uint8), f"clip {i} of epoch {epoch}"


@given(sizes, seeds, st.integers(0, 5))
def test_every_clip_comes_once_an_epoch(size, seed, epoch):
    stream = [index_at(size, seed, epoch * size + i) for i in range(size)]
    assert sorted(stream) == list(range(epoch * size, (epoch + 1) * size))


@given(sizes, seeds, st.integers(1, 7))
def test_batches_are_the_stream_cut_in_pieces(size, seed, batch_size):
    """Also across the end of an epoch: no clip is skipped, none is shown twice."""
    stream = [index_at(size, seed, i) for i in range(4 * batch_size)]
    cut = [batch(Numbers(size), seed, step, batch_size) for step in range(4)]
    assert [int(i) for clips, _ in cut for i in clips.ravel()] == [i % size for i in stream]
    texts = [f"clip {i % size} of epoch {k // size}" for k, i in enumerate(stream)]
    assert [text for _, some in cut for text in some] == texts
    assert cut[0][0].shape == (batch_size, 1, 1, 1, 1) and cut[0][0].dtype == np.uint8


@given(seeds, st.integers(0, 20))
def test_a_resumed_run_sees_the_same_batches(seed, start):
    data, steps = Numbers(13), range(start, start + 5)
    whole = [batch(data, seed, step, 4) for step in range(start + 5)][start:]
    for _ in range(2):  # a batch is pure: asking again, in any order, gives the same
        for step, (clips, texts) in reversed(list(zip(steps, whole, strict=True))):
            again, captions = batch(data, seed, step, 4)
            np.testing.assert_array_equal(again, clips)
            assert captions == texts


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(index_at(40, seed, epoch * 40 + i) % 40 for i in range(40))
        for seed in range(3) for epoch in range(3)
    }  # fmt: skip
    assert len(orders) == 9 and tuple(range(40)) not in orders


def test_an_endless_data_set_is_read_by_position():
    assert [index_at(None, 7, i) for i in (0, 5, 10**9)] == [0, 5, 10**9]
    assert batch(Numbers(None), 7, 3, 2)[1] == ["clip 6 of epoch 0", "clip 7 of epoch 0"]


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="the data set is empty: expected at least one clip"):
        batch(Numbers(0), 0, 0, 1)


# ---- prefetch --------------------------------------------------------------------------------

@pytest.fixture
def no_thread_left():
    """Fails if a thread outlives the test by more than 5 seconds."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 4))
def test_prefetch_keeps_the_order(start, count, ahead):
    steps = range(start, start + count)
    assert list(prefetch(lambda step: step**2, steps, ahead)) == [s**2 for s in steps]


def test_prefetch_keeps_the_order_when_steps_take_their_time(no_thread_left):
    slow = lambda step: time.sleep(0.02 * (step % 3)) or step  # noqa: E731
    assert list(prefetch(slow, range(9))) == list(range(9))


def test_prefetch_raises_the_error_of_its_thread_in_its_place(no_thread_left):
    def make(step):
        if step == 3:
            raise KeyError("clip 3 is broken")
        return step

    got = []
    with pytest.raises(KeyError, match="clip 3 is broken"):
        for item in prefetch(make, range(9)):
            got.append(item)
    assert got == [0, 1, 2]


def test_prefetch_works_ahead_but_not_without_bounds(no_thread_left):
    made = []
    stream = prefetch(lambda step: made.append(step) or step, range(100), ahead=2)
    assert not made and next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]  # one taken, two waiting, one in hand
    stream.close()


def test_prefetch_stops_its_thread_when_nobody_reads_on(no_thread_left):
    threads = threading.active_count()
    for _ in prefetch(lambda step: step, range(10**9)):
        assert threading.active_count() > threads
        break
