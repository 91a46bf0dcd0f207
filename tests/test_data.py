"""data.py: the stream of examples is a function of a seed and a position, batches are slices of it.

A thread that fetches ahead changes nothing. Lesson 14.
"""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.data import Dataset, Slice, index_at, prefetch, read_batch, slice_at

sizes, seeds = st.integers(1, 50), st.integers(0, 2**32 - 1)
mixes = st.fixed_dictionaries({
    "batch_size": st.integers(1, 20), "frames": st.integers(1, 16),
    "short_frames": st.none() | st.integers(1, 16), "short_share": st.floats(0, 1),
}).filter(lambda mix: (mix["short_frames"] or 0) <= mix["frames"])  # fmt: skip


class Numbers:
    """Clips whose only pixel tells their number; the caption also tells the epoch."""

    words = ["clip"]

    def __init__(self, size: int | None):
        self.size = size

    def __getitem__(self, index: int):
        return self.example(index, 1)

    def example(self, index: int, frames: int):
        epoch, i = divmod(index, self.size) if self.size else (0, index)
        return np.full((frames, 1, 1, 1), i % 256, np.uint8), f"clip {i} of epoch {epoch}"


def test_a_data_set_is_what_has_these_names():
    assert isinstance(Numbers(3), Dataset) and not isinstance([], Dataset)


# ---- the stream ------------------------------------------------------------------------------


@given(sizes, seeds, st.integers(0, 5))
def test_every_clip_comes_once_an_epoch(size, seed, epoch):
    stream = [index_at(size, seed, epoch * size + i) for i in range(size)]
    assert sorted(stream) == list(range(epoch * size, (epoch + 1) * size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(index_at(40, seed, epoch * 40 + i) % 40 for i in range(40))
        for seed in range(3) for epoch in range(3)
    }  # fmt: skip
    assert len(orders) == 9 and tuple(range(40)) not in orders


@given(seeds, seeds, st.integers(0, 2**40 - 1), st.integers(0, 2**40 - 1))
def test_no_two_seeds_share_a_clip_of_an_endless_data_set(seed, other, position, place):
    same = (seed, position) == (other, place)
    assert (index_at(None, seed, position) == index_at(None, other, place)) == same


def test_two_seeds_give_different_batches():
    """Of an endless data set: its seed was ignored once."""
    batches = [read_batch(Numbers(None), seed, Slice(3, 4, 1))[1] for seed in (0, 1)]
    assert not set(batches[0]) & set(batches[1])


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="the data set is empty: expected at least one clip"):
        read_batch(Numbers(0), 0, Slice(0, 1, 1))


# ---- batches ---------------------------------------------------------------------------------


@given(mixes, st.integers(0, 10_000))
def test_a_step_goes_on_where_the_step_before_ended(mix, step):
    """No gap and no overlap, for any mix of short and long steps."""
    here, following = slice_at(step, **mix), slice_at(step + 1, **mix)
    assert following.start == here.start + here.size
    assert slice_at(0, **mix).start == 0


@given(mixes, sizes, seeds)
def test_every_clip_once_an_epoch_for_any_mix(mix, size, seed):
    """However long the clips: after n examples each was seen n // size times, or once more."""
    seen, examples = Counter(), 0
    for step in range(12):
        where = slice_at(step, **mix)
        positions = range(where.start, where.start + where.size)
        indices = [index_at(size, seed, position) for position in positions]
        seen.update(index % size for index in indices)
        examples += where.size
        counts = [seen[i] for i in range(size)]
        assert sum(counts) == examples
        assert {count - examples // size for count in counts} <= {0, 1}


@given(mixes, st.integers(1, 400))
def test_the_share_of_short_steps_is_kept_and_costs_no_more(mix, steps):
    """A short step has as many more clips as they are shorter: never more frames in all."""
    batch_size, frames, short = mix["batch_size"], mix["frames"], mix["short_frames"]
    slices = [slice_at(step, **mix) for step in range(steps)]
    long = (batch_size, frames)
    wanted = {long} if short is None else {long, (batch_size * (frames // short), short)}
    assert {(where.size, where.frames) for where in slices} <= wanted
    assert all(where.size * where.frames <= batch_size * frames for where in slices)
    if short is not None and short < frames:
        count = sum(where.frames == short for where in slices)
        assert abs(count - steps * mix["short_share"]) < 1


def test_short_and_long_steps_take_turns():
    frames = [slice_at(step, 16, 16, 4, 0.5).frames for step in range(6)]
    assert frames == [16, 4, 16, 4, 16, 4]
    assert [slice_at(step, 16, 16, 4, 0.5) for step in (1, 2)] == [(16, 64, 4), (80, 16, 16)]


@given(sizes, seeds, mixes)
def test_batches_are_the_stream_cut_in_pieces(size, seed, mix):
    """Also across the end of an epoch: no clip is skipped, none is shown twice."""
    slices = [slice_at(step, **mix) for step in range(4)]
    stream = [index_at(size, seed, i) for i in range(slices[-1].start + slices[-1].size)]
    batches = [read_batch(Numbers(size), seed, where) for where in slices]
    shown = [int(clip[0, 0, 0, 0]) for clips, _ in batches for clip in clips]
    assert shown == [i % size for i in stream]
    captions = [f"clip {i % size} of epoch {k // size}" for k, i in enumerate(stream)]
    assert [caption for _, texts in batches for caption in texts] == captions
    for (clips, _), where in zip(batches, slices, strict=True):
        assert clips.shape == (where.size, where.frames, 1, 1, 1) and clips.dtype == np.uint8


@given(seeds, st.integers(0, 20))
def test_a_resumed_run_sees_the_same_batches(seed, start):
    data, mix, steps = Numbers(13), (4, 2, 1, 0.5), range(start, start + 5)
    batches = [read_batch(data, seed, slice_at(step, *mix)) for step in range(start + 5)][start:]
    for _ in range(2):  # a batch is pure: asking again, in any order, gives the same
        for step, (clips, captions) in reversed(list(zip(steps, batches, strict=True))):
            clips_again, captions_again = read_batch(data, seed, slice_at(step, *mix))
            np.testing.assert_array_equal(clips_again, clips)
            assert captions_again == captions


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
    steps = iter(range(start, start + count))
    expected = [step**2 for step in range(start, start + count)]
    assert list(prefetch(lambda step: step**2, steps, ahead)) == expected


def test_prefetch_keeps_the_order_when_steps_take_their_time(no_thread_left):
    slow = lambda step: time.sleep(0.02 * (step % 3)) or step  # noqa: E731
    assert list(prefetch(slow, iter(range(9)))) == list(range(9))


def test_prefetch_raises_the_error_of_its_thread_in_its_place(no_thread_left):
    def make(step):
        if step == 3:
            raise KeyError("clip 3 is broken")
        return step

    got = []
    with pytest.raises(KeyError, match="clip 3 is broken"):
        for item in prefetch(make, iter(range(9))):
            got.append(item)
    assert got == [0, 1, 2]


def test_prefetch_works_ahead_but_not_without_bounds(no_thread_left):
    made = []
    stream = prefetch(lambda step: made.append(step) or step, iter(range(100)), ahead=2)
    assert not made and next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]  # one taken, two waiting, one in hand
    stream.close()


def test_prefetch_stops_its_thread_when_nobody_reads_on(no_thread_left):
    threads = threading.active_count()
    for _ in prefetch(lambda step: step, iter(range(10**9))):
        assert threading.active_count() > threads
        break
