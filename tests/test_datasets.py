"""datasets.py: which data set a config names, and what of captions is trained on. Lesson 14."""

import shutil
from collections import Counter
from dataclasses import replace

import nearest_clip
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG

from tinygif import datasets
from tinygif.clips import Settings, prepare
from tinygif.config import Config, DataConfig
from tinygif.data import Dataset, batch
from tinygif.datasets import Clips, defaults, mirrored, open_dataset
from tinygif.gif import write_gif
from tinygif.moving_mnist import MovingMNIST
from tinygif.shapes import Shapes
from tinygif.sources import SourceError
from tinygif.text import PromptError, Tokenizer

TEXTS = {
    "a": ["A cat moving left", "the cat, jumps", "Left!"],
    "b": ["a dog moving right"],
    "c": ["a dog and a cat moving", "zebra"],
}
DATA = DataConfig(dataset="x", size=8, frames=4, channels=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three clips whose frames differ in every column and in time."""
    folder = tmp_path_factory.mktemp("source") / "pets"
    folder.mkdir()
    for i, (name, texts) in enumerate(TEXTS.items()):
        clip = np.zeros((4, 8, 8, 3), np.uint8)
        clip[..., 0] += np.arange(8, dtype=np.uint8) * 30
        clip[..., 1] += np.arange(4, dtype=np.uint8)[:, None, None] * 60
        clip[..., 2] = 80 * i
        write_gif(folder / f"{name}.gif", clip)
        (folder / f"{name}.txt").write_text("\n".join(texts))
    return folder


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("made") / "pets", Settings(8, 4), workers=1)


@pytest.fixture(scope="module")
def pets(folder):
    return Clips(folder, DATA, 16)


def config(name, **changes) -> Config:
    return replace(CONFIG, data=replace(DATA, dataset=str(name), **changes))


# ---- captions --------------------------------------------------------------------------------


def test_words_seen_twice_are_kept_and_the_others_told(pets):
    assert isinstance(pets, Dataset) and pets.size == 3
    assert pets.words == ["a", "cat", "dog", "left", "moving"]
    for part in ("3 clips of", "5 words", "5 words seen once are dropped (and, jumps, right, the"):
        assert part in pets.about
    assert "cut" not in pets.about and "without" not in pets.about
    tokenizer = Tokenizer(pets.words, 16)
    for index in range(30):
        tokenizer.encode(pets[index][1])


def test_a_caption_of_no_known_word_is_the_null_prompt(pets):
    assert {pets[2 + 3 * epoch][1] for epoch in range(2)} == {"a dog a cat moving", None}


def test_a_tower_gets_captions_as_they_are(pets):
    raw = Clips(pets.folder, pets.config, None)
    assert raw.texts == [row["captions"] for row in raw.rows] and raw.dropped == []
    assert set(raw.captions) == {text for row in raw.rows for text in row["captions"]}
    assert raw[0][1] in raw.texts[0] and set(raw.prompts) <= set(raw.captions)


def test_long_captions_are_cut_and_counted(folder):
    short = Clips(folder, DATA, 3)
    assert short.cut == 2 and "2 captions are cut" in short.about
    assert {short[3 * epoch][1] for epoch in range(3)} == {"a cat moving", "cat", "left"}


@given(st.integers(0, 2), st.integers(0, 30))
def test_every_caption_has_its_turn_before_one_comes_again(pets, clip, round):
    n = len(pets.texts[clip])
    epochs = range(n * round, n * round + n)
    seen = [pets[clip + pets.size * epoch][1] for epoch in epochs]
    assert Counter(seen) == Counter(pets.texts[clip])


def test_the_caption_depends_on_the_epoch_and_nothing_else(folder, pets):
    again = Clips(folder, DATA, 16)
    for step in (40, 3, 17):
        left, right = batch(pets, 0, step, 2), batch(again, 0, step, 2)
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1] == right[1]
    orders = {tuple(pets[3 * (3 * round + k)][1] for k in range(3)) for round in range(12)}
    assert len(orders) > 2  # not the same turns every time


def test_prompts_to_show_are_whole_captions(pets, folder):
    assert pets.prompts == ("a cat moving left",)
    tokenizer = Tokenizer(pets.words, 3)
    for prompt in Clips(folder, DATA, 3).prompts:
        tokenizer.encode(prompt)


def test_unknown_words_are_answered_with_near_ones_of_the_folder(pets):
    with pytest.raises(PromptError, match="know the word 'cats'; near it: cat"):
        Tokenizer(pets.words, 8).encode("cats")


# ---- pixels ----------------------------------------------------------------------------------


def test_clips_are_those_of_the_file_in_colour_or_gray(folder, pets):
    array = np.load(folder / "clips.npy")
    for i in range(3):
        np.testing.assert_array_equal(pets[i][0], array[i])
        np.testing.assert_array_equal(pets[i + 30][0], array[i])
    gray = Clips(folder, replace(DATA, channels=1), 16)[1][0]
    assert gray.shape == (4, 8, 8, 1) and gray.dtype == np.uint8
    wanted = array[1].astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(gray[..., 0] - wanted).max() <= 0.51


@given(st.integers(0, 50), st.integers(1, 4))
def test_short_clips_are_pieces(pets, index, frames):
    piece, caption = pets.with_frames(frames)[index]
    clip, same = pets[index]
    starts = [i for i in range(5 - frames) if np.array_equal(piece, clip[i : i + frames])]
    assert len(piece) == frames and len(starts) == 1 and caption == same and pets.frames == 4


def test_whole_clips_are_flipped_and_left_becomes_right(folder, pets):
    flipping, turned = Clips(folder, replace(DATA, flip=True), 16), 0
    for index in range(60):
        (clip, caption), (plain, text) = flipping[index], pets[index]
        text = flipping.texts[index % 3][pets.texts[index % 3].index(text)]  # with "right"
        if np.array_equal(clip, plain):
            assert caption == text
        else:
            np.testing.assert_array_equal(clip, plain[:, :, ::-1])
            assert caption == mirrored(text)
            turned += 1
    assert 18 < turned < 42
    assert set(flipping.words) == {*pets.words, "right"}


@given(st.lists(st.sampled_from(["left", "right", "a", "leftwards"]), min_size=1).map(" ".join))
def test_mirroring_twice_changes_nothing(text):
    assert mirrored(mirrored(text)) == text and mirrored(None) is None
    assert mirrored("left a right") == "right a left"
    assert mirrored("Left, upright") == "right, upright"


# ---- without captions ------------------------------------------------------------------------


def test_clips_without_captions_stop_or_train_without_words(source, tmp_path):
    few = shutil.copytree(source, tmp_path / "few")
    (few / "b.txt").unlink()
    with pytest.raises(SourceError, match=r"1 of 3 clips have no caption \(b.gif\).*unconditional"):
        open_dataset(config(few))
    dataset, _ = open_dataset(config(few, unconditional=True))
    assert dataset.words == [] and dataset[0][1] is None and "no captions" in dataset.about
    tokenizer = Tokenizer(dataset.words, 4)
    assert [tokenizer.encode(text).tolist() for text in dataset.prompts] == [[1, 0, 0, 0]] * 8
    with pytest.raises(PromptError, match="was trained without captions: leave 'a cat' out"):
        tokenizer.encode("a cat")


# ---- by name ---------------------------------------------------------------------------------


def test_drawn_data_sets_go_by_their_names():
    digits, now = open_dataset(CONFIG)
    assert isinstance(digits, MovingMNIST) and now.data.mnist_dir == "bundled"
    assert digits.about == "1437 digits of bundled"
    shapes, now = open_dataset(config("shapes", size=16))
    assert isinstance(shapes, Shapes) and now == config("shapes", size=16)
    for name in ("moving_mnist", "shapes"):
        with pytest.raises(ValueError, match="expected a folder of clips for --flip"):
            open_dataset(config(name, flip=True))


def test_a_folder_is_prepared_once_and_the_config_names_what_was_made(source, monkeypatch):
    dataset, now = open_dataset(config(source))
    assert dataset.size == 3 and now.data.dataset == str(dataset.folder.resolve())
    monkeypatch.setattr(datasets, "prepare", None)
    again, same = open_dataset(now)
    assert same == now and again.words == dataset.words


def test_defaults_are_those_of_what_was_prepared(source, folder, tmp_path):
    assert defaults("moving_mnist") == DataConfig()
    assert defaults("shapes") == DataConfig(dataset="shapes", channels=3)
    assert defaults(str(source)) == DataConfig(dataset=str(source), channels=3)
    assert defaults(str(folder)) == replace(DATA, dataset=str(folder))
    fast = prepare(source, tmp_path / "fast", Settings(8, 2, fps=4), workers=1)
    assert (defaults(str(fast)).fps, defaults(str(fast)).frames) == (4, 2)


def test_another_shape_than_prepared_is_refused(folder):
    for wrong in ({"size": 16}, {"frames": 2}):
        with pytest.raises(SourceError, match=r"\(8, 4\), asked for are .*prepare it again"):
            open_dataset(config(folder, **wrong))


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("")
    for name, says in (("mnist", "not there"), (tmp_path / "a.tsv", "which is a file")):
        with pytest.raises(SourceError, match=f"expected moving_mnist, shapes, a folder.*{says}"):
            open_dataset(config(name))


# ---- learned by heart? -----------------------------------------------------------------------


def test_the_nearest_clip_tells_copies_from_new_ones():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    new = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    copied = nearest_clip.report(clips ^ 1, np.arange(6), clips)
    assert copied["generated to nearest training clip, median"] == pytest.approx(1, abs=0.05)
    assert copied["copies, %"] == copied["nearest is the one asked for, %"] == 100
    assert nearest_clip.report(clips, np.roll(np.arange(6), 1), clips)["copies, %"] == 100
    fresh = nearest_clip.report(new, np.arange(6), clips)
    assert fresh["copies, %"] == 0
    far = fresh["training clip to its nearest other one, median"]
    assert far == pytest.approx(np.sqrt((256**2 - 1) / 6), rel=0.2)
