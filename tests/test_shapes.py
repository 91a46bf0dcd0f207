"""shapes.py: every word of a caption is true of the pixels. Lesson 14."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygif.config import PRESETS, DataConfig
from tinygif.data import COLORS, Dataset
from tinygif.errors import TinygifError
from tinygif.metrics.shape_reader import moments, read_shapes, separate_colors
from tinygif.shapes import CORNERS, MOTIONS, WORDS, Plan, Shapes, draw_plan, draw_shape
from tinygif.text import Tokenizer, split

CONFIG = DataConfig(dataset="shapes", channels=3)
DATA, TEST = Shapes(CONFIG), Shapes(CONFIG, held_out=True)
indices = st.integers(0, 10**9)


def said(caption: str) -> Plan:
    """What a caption says."""
    _, color, shape, *motion, _, _, background, last = caption.split()
    name = next(name for name, phrases in MOTIONS.items() if " ".join(motion) in phrases)
    assert caption.startswith("a ") and f" on a {background} background" in caption and last
    return Plan(shape, color, background, name)


def cover(clip):
    return separate_colors(clip)[2]


@settings(max_examples=200)
@given(indices)
def test_every_word_is_true_of_the_pixels(index):
    clip, caption = DATA[index]
    assert clip.shape == (16, 32, 32, 3) and clip.dtype == np.uint8
    assert read_shapes(clip) == said(caption)
    assert set(caption.split()) <= set(WORDS)


def test_captions_are_all_that_a_clip_can_have():
    every = set(DATA.captions)
    assert len(every) == len(DATA.captions) and {DATA[i][1] for i in range(300)} <= every


@pytest.mark.parametrize("size", [24, 64])
def test_also_at_other_sizes(size):
    data = Shapes(replace(CONFIG, size=size))
    wrong = [i for i in range(30) if read_shapes(data[i][0]) != said(data[i][1])]
    assert wrong == []


@given(indices)
def test_there_are_two_colours_and_mixes_of_them_where_an_edge_is(index):
    clip, caption = DATA[index]
    plan, share = said(caption), cover(clip)
    ink, paper = (np.array(COLORS[name]) for name in (plan.color, plan.background))
    mixed = paper + share[..., None] * (ink - paper)
    assert np.abs(clip - mixed).max() <= 1
    exact = [(clip == colour).all(-1).any((1, 2)) for colour in (ink, paper)]
    assert exact[1].all() and exact[0].mean() > 0.5  # a star that has shrunk is all edge
    edge = ((share > 0.02) & (share < 0.98)).sum((1, 2))
    assert edge.max() > 4


@given(indices)
def test_the_shape_stays_whole_within_the_clip(index):
    clip, caption = DATA[index]
    plan = said(caption)
    area, centre, _ = moments(cover(clip))
    if plan.motion not in ("grow", "spin"):
        assert np.ptp(area) < 0.15 * area.max()  # what leaves the clip would be missing
    steps = np.linalg.norm(np.diff(centre[[*range(16), 0]], axis=0), axis=1)
    assert steps.max() < 8 and steps[-1] < 8  # from the last frame to the first as well


@given(indices, st.sampled_from(list(CORNERS)))
def test_what_bounces_comes_to_all_four_walls(index, shape):
    rng = np.random.default_rng(index)
    clip = draw_shape(Plan(shape, "red", "white", "bounce"), rng, 64, 32)
    seen = np.argwhere(cover(clip) > 0.3)[:, 1:]
    assert seen.min() <= 1 and (seen.max(0) >= 30).all()
    turns = (np.diff(np.sign(np.diff(moments(cover(clip))[1], axis=0)), axis=0) != 0).sum(0)
    assert turns.min() >= 1 and turns.max() >= 3


def test_all_there_is_comes_but_no_circle_spins():
    plans = [draw_plan(np.random.default_rng(i)) for i in range(4000)]
    pairs = Counter((plan.shape, plan.motion) for plan in plans)
    assert len(pairs) == 4 * 6 - 1 and ("circle", "spin") not in pairs
    colors = Counter((plan.color, plan.background) for plan in plans)
    assert len(colors) == 7 * 6 and all(a != b for a, b in colors)
    assert min(pairs.values()) > 100 and min(colors.values()) > 50


def test_the_index_decides():
    again = Shapes(CONFIG)
    for i in (0, 7, 10**9):
        np.testing.assert_array_equal(DATA[i][0], again[i][0])
        assert DATA[i][1] == again[i][1]
    assert len({DATA[i][1] for i in range(30)}) > 25


@given(indices, st.integers(1, 16))
def test_an_example_is_a_piece_of_the_clip(index, frames):
    clip, caption = DATA[index]
    piece, same = DATA.example(index, frames)
    assert same == caption and len(piece) == frames
    starts = range(17 - frames)
    assert any(np.array_equal(piece, clip[start : start + frames]) for start in starts)


def test_pieces_start_anywhere():
    """Not always with the first frame; the last one comes up, too."""
    starts = Counter()
    for index in range(40):
        clip, piece = DATA[index][0], DATA.example(index, 13)[0]
        starts.update(i for i in range(4) if np.array_equal(piece, clip[i : i + 13]))
    assert set(starts) == {0, 1, 2, 3} and max(starts.values()) < 20


def test_clips_of_the_test_set_are_others():
    assert isinstance(DATA, Dataset) and isinstance(TEST, Dataset)
    trained, unseen = ({data[i][0].tobytes() for i in range(60)} for data in (DATA, TEST))
    assert len(trained) == len(unseen) == 60 and not trained & unseen
    assert sum(DATA[i][1] == TEST[i][1] for i in range(60)) < 10
    for i in range(10):
        clip, caption = TEST[i]
        assert read_shapes(clip) == said(caption)


def test_captions_can_be_read_by_every_preset():
    longest = min(config.text.max_tokens for config in PRESETS.values())
    tokenizer = Tokenizer(WORDS, longest)
    for text in [*Shapes.prompts, *(DATA[i][1] for i in range(200))]:
        tokenizer.encode(text)
    assert {said(text).motion for text in Shapes.prompts} == set(MOTIONS)
    assert {word for text in Shapes.prompts for word in split(text)} >= {*CORNERS, *COLORS}


@pytest.mark.parametrize("wrong", [{"channels": 1}, {"size": 8}])
def test_what_would_make_captions_untrue_is_refused(wrong):
    with pytest.raises(TinygifError, match="expected 3 channels, for the colours, and a size of"):
        Shapes(replace(CONFIG, **wrong))
