"""datasets.py and clips/dataset.py: the data set that a config names, its clips and captions.

Lesson 14.
"""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tiny import CONFIG

from tinygif import datasets
from tinygif.clips import ClipFolder, Settings, prepare_clips
from tinygif.clips.dataset import is_held_out, mirrored
from tinygif.config import PRESETS, Config, DataConfig
from tinygif.data import Dataset, index_at
from tinygif.datasets import DATASETS, check_fields, defaults, open_dataset, preset_for
from tinygif.errors import TinygifError
from tinygif.gif import write_gif
from tinygif.metrics.nearest_clip import compare_clips
from tinygif.moving_mnist import MovingMNIST
from tinygif.shapes import Shapes
from tinygif.text import Tokenizer

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
    return prepare_clips(
        source, tmp_path_factory.mktemp("made") / "pets", Settings(8, 4), workers=1
    )


@pytest.fixture(scope="module")
def pets(folder):
    return ClipFolder(folder, DATA, 16)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """45 clips, each of a gray level of its own that rises in time, with two captions."""
    source = tmp_path_factory.mktemp("source") / "large"
    source.mkdir()
    for i in range(45):
        levels = 4 * i + np.arange(4, dtype=np.uint8)
        write_gif(source / f"{i:02d}.gif", np.tile(levels[:, None, None, None], (1, 2, 2, 1)))
        (source / f"{i:02d}.txt").write_text(f"clip {i:02d} here\nthere is clip {i:02d}")
    return prepare_clips(
        source, tmp_path_factory.mktemp("made") / "large", Settings(2, 4), workers=1
    )


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
    raw = ClipFolder(pets.folder, pets.config, None)
    assert raw.texts == [row["captions"] for row in raw.rows] and raw.dropped_words == []
    assert set(raw.captions) == {text for row in raw.rows for text in row["captions"]}
    assert raw[0][1] in raw.texts[0] and set(raw.prompts) <= set(raw.captions)


def test_long_captions_are_cut_and_counted(folder):
    short = ClipFolder(folder, DATA, 3)
    assert short.cut_captions == 2 and "2 captions are cut" in short.about
    assert {short[3 * epoch][1] for epoch in range(3)} == {"a cat moving", "cat", "left"}


@given(st.integers(0, 2), st.integers(0, 30))
def test_every_caption_has_its_turn_before_one_comes_again(pets, clip, round):
    n = len(pets.texts[clip])
    epochs = range(n * round, n * round + n)
    seen = [pets[clip + pets.size * epoch][1] for epoch in epochs]
    assert Counter(seen) == Counter(pets.texts[clip])


def test_the_caption_depends_on_the_epoch_and_nothing_else(folder, pets):
    again = ClipFolder(folder, DATA, 16)
    for index in (80, 7, 34, 81, 6, 35):
        (clip, caption), (same_clip, same_caption) = pets[index], again[index]
        np.testing.assert_array_equal(clip, same_clip)
        assert caption == same_caption
    orders = {tuple(pets[3 * (3 * round + k)][1] for k in range(3)) for round in range(12)}
    assert len(orders) > 2  # not the same turns every time


def test_prompts_to_show_are_whole_captions(pets, folder):
    assert pets.prompts == ("a cat moving left",)
    tokenizer = Tokenizer(pets.words, 3)
    for prompt in ClipFolder(folder, DATA, 3).prompts:
        tokenizer.encode(prompt)


def test_unknown_words_are_answered_with_near_ones_of_the_folder(pets):
    with pytest.raises(TinygifError, match="know the word 'cats'; near it: cat"):
        Tokenizer(pets.words, 8).encode("cats")


# ---- pixels ----------------------------------------------------------------------------------


def test_clips_are_those_of_the_file_in_colour_or_gray(folder, pets):
    array = np.load(folder / "clips.npy")
    for i in range(3):
        np.testing.assert_array_equal(pets[i][0], array[i])
        np.testing.assert_array_equal(pets[i + 30][0], array[i])
    gray = ClipFolder(folder, replace(DATA, channels=1), 16)[1][0]
    assert gray.shape == (4, 8, 8, 1) and gray.dtype == np.uint8
    wanted = array[1].astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(gray[..., 0] - wanted).max() <= 0.51


@given(st.integers(0, 50), st.integers(1, 4))
def test_an_example_is_a_piece_of_the_clip(pets, index, frames):
    piece, caption = pets.example(index, frames)
    clip, same = pets[index]
    starts = [i for i in range(5 - frames) if np.array_equal(piece, clip[i : i + frames])]
    assert len(piece) == frames and len(starts) == 1 and caption == same


def test_pieces_start_anywhere(pets):
    """Not always with the first frame; the last one comes up, too. Green tells the frame."""
    firsts = Counter(int(pets.example(index, 2)[0][0, 0, 0, 1]) for index in range(60))
    assert set(firsts) == {0, 60, 120} and max(firsts.values()) < 35


def test_whole_clips_are_flipped_and_left_becomes_right(folder, pets):
    flipping, turned = ClipFolder(folder, replace(DATA, flip=True), 16), 0
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
    assert mirrored("left on right") == "right on left"
    assert mirrored("Left, upright") == "right, upright"


@pytest.mark.parametrize("text", [
    "he left the room", "A man left his hat", "she has left", "they  left", "who left it there",
    "a child is left alone", "she was left behind", "it left a mark", "the cat left them behind",
])  # fmt: skip
def test_the_verb_left_is_no_side(text):
    assert mirrored(text) == text


@pytest.mark.parametrize("text", [
    "moving left", "it moves left a little", "to the left a dog", "turning left the wheel spins",
    "left, the dog", "on her left a man", "the left hand", "up left the stairs", "go left the end",
    "from left to the end", "is left of a tree", "to his left their car",
])  # fmt: skip
def test_sides_are_mirrored_wherever_they_stand(text):
    """But for one after an unknown word, before an article: there the verb is more frequent."""
    assert mirrored(text) == (text if text.startswith("go") else text.replace("left", "right"))


def test_mirroring_a_long_caption_takes_no_time():
    """Not the square of its length: this would be minutes."""
    assert mirrored("left and " * 50_000) == "right and " * 50_000


def test_a_tower_reads_mirrored_captions_too(folder, pets):
    flipping = ClipFolder(folder, replace(DATA, flip=True), None)
    assert "A cat moving right" in flipping.captions and "A cat moving left" in flipping.captions
    assert set(flipping.captions) >= {flipping[i][1] for i in range(90)}
    assert "A cat moving right" in {flipping[i][1] for i in range(90)}
    assert sorted(flipping.captions) == sorted(set(flipping.captions))
    assert "A cat moving right" not in ClipFolder(folder, DATA, None).captions


# ---- held out --------------------------------------------------------------------------------


@given(st.integers(0, 300))
@example(39)
@example(40)
def test_every_20th_clip_of_at_least_40_is_held_out(count):
    chosen = np.flatnonzero(is_held_out(count)).tolist()
    assert chosen == (list(range(19, count, 20)) if count >= 40 else [])


def test_held_out_clips_are_never_trained_on(large):
    dataset, held_out, _ = open_dataset(config(large, size=2))
    assert (dataset.size, held_out.size) == (43, 2) and isinstance(held_out, Dataset)
    number = lambda data, index: int(data.example(index, 1)[0][0, 0, 0, 0]) // 4  # noqa: E731
    trained = [number(dataset, index_at(dataset.size, 0, i)) for i in range(2 * 43)]
    unseen = {number(held_out, i) for i in range(8)}
    assert unseen == {19, 39} and Counter(trained) == dict.fromkeys(set(range(45)) - unseen, 2)
    for data in (dataset, held_out):
        for index in range(3 * data.size):
            assert f"{number(data, index):02d}" in data[index][1].split()


def test_words_are_those_of_all_clips_and_so_are_captions(large):
    """A held-out caption can be read, and a tower reads it once with the others."""
    dataset, held_out, _ = open_dataset(config(large, size=2))
    assert dataset.words == held_out.words and {"19", "39"} < set(dataset.words)
    assert {held_out[i][1] for i in range(4)} < set(dataset.captions) == set(held_out.captions)
    assert len(dataset.captions) == 90
    assert not {"clip 19 here", "clip 39 here"} & set(dataset.prompts) and len(dataset.prompts) == 8
    assert held_out.prompts == ("clip 19 here", "clip 39 here")
    assert "43 clips of" in dataset.about and "2 more clips are held out" in dataset.about


def test_a_small_folder_holds_nothing_out(folder):
    dataset, held_out, _ = open_dataset(config(folder))
    assert dataset.size == 3 and held_out is None and "held out" not in dataset.about


def test_held_out_digits_and_shapes_are_others():
    digits, unseen_digits, _ = open_dataset(CONFIG)
    trained, unseen = ({x.tobytes() for x in d.images} for d in (digits, unseen_digits))
    assert isinstance(unseen_digits, MovingMNIST) and unseen and not trained & unseen
    shapes, unseen_shapes, _ = open_dataset(config("shapes", size=16))
    clips = [{data[i][0].tobytes() for i in range(30)} for data in (shapes, unseen_shapes)]
    assert isinstance(unseen_shapes, Shapes) and not clips[0] & clips[1]


# ---- without captions ------------------------------------------------------------------------


def test_clips_without_captions_stop_or_train_without_words(source, tmp_path):
    few = shutil.copytree(source, tmp_path / "few")
    (few / "b.txt").unlink()
    with pytest.raises(
        TinygifError, match=r"1 of 3 clips have no caption \(b.gif\).*unconditional"
    ):
        open_dataset(config(few))
    dataset, _, _ = open_dataset(config(few, unconditional=True))
    assert dataset.words == [] and dataset[0][1] is None and "no captions" in dataset.about
    tokenizer = Tokenizer(dataset.words, 4)
    assert [tokenizer.encode(text).tolist() for text in dataset.prompts] == [[1, 0, 0, 0]] * 8
    with pytest.raises(TinygifError, match="was trained without captions: leave 'a cat' out"):
        tokenizer.encode("a cat")


# ---- by name ---------------------------------------------------------------------------------


def test_drawn_data_sets_go_by_their_names():
    digits, _, again = open_dataset(CONFIG)
    assert isinstance(digits, MovingMNIST) and again == CONFIG
    assert digits.about == "1437 digits of bundled"
    shapes, _, again = open_dataset(config("shapes", size=16))
    assert isinstance(shapes, Shapes) and again == config("shapes", size=16)


def test_the_config_says_where_digits_were_found():
    """Else a resumed run might find others."""
    _, held_out, again = open_dataset(replace(CONFIG, data=replace(CONFIG.data, mnist_dir=None)))
    assert again == CONFIG and held_out.source == "bundled"  # no test has a network


REFUSED = [
    ("shapes", "digits", 2, "moving_mnist"), ("shapes", "digit_size", 8, "moving_mnist"),
    ("shapes", "hold_out", False, "moving_mnist"), ("folder", "digits", 2, "moving_mnist"),
    ("folder", "mnist_dir", "bundled", "moving_mnist"),
    ("moving_mnist", "flip", True, "a folder of clips"),
    ("moving_mnist", "unconditional", True, "a folder of clips"),
    ("shapes", "flip", True, "a folder of clips"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "owner"), REFUSED)
def test_fields_that_would_do_nothing_are_refused(folder, name, field, value, owner):
    """Before any work: digits are not even looked for."""
    name = str(folder) if name == "folder" else name
    data = replace(defaults(name), **{field: value})
    says = f"expected {field} only for {owner}, got {value} for {name}.*leave it out"
    with pytest.raises(TinygifError, match=says):
        check_fields(data)
    with pytest.raises(TinygifError, match=says):
        open_dataset(replace(CONFIG, data=data))


def test_defaults_and_own_fields_are_not_refused(folder):
    for name in (*DATASETS, str(folder)):
        check_fields(defaults(name))
    check_fields(replace(DATA, dataset=str(folder), flip=True, unconditional=True))
    check_fields(replace(defaults("moving_mnist"), digits=2, digit_size=9, hold_out=False,
                         mnist_dir="bundled"))  # fmt: skip


def test_a_folder_is_prepared_once_and_the_config_names_what_was_made(source, monkeypatch):
    dataset, _, prepared = open_dataset(config(source))
    assert dataset.size == 3 and prepared.data.dataset == str(dataset.folder.resolve())
    monkeypatch.setattr(datasets, "prepare_clips", None)
    again, _, same = open_dataset(prepared)
    assert same == prepared and again.words == dataset.words


def test_defaults_are_those_of_what_was_prepared(source, folder, tmp_path):
    assert defaults("moving_mnist") == DataConfig()
    assert defaults("shapes") == DataConfig(dataset="shapes", channels=3)
    assert defaults("sprites") == DataConfig(dataset="sprites", channels=3, size=64, frames=8)
    assert defaults(str(source)) == DataConfig(dataset=str(source), channels=3)
    assert defaults(str(folder)) == replace(DATA, dataset=str(folder))
    fast = prepare_clips(source, tmp_path / "fast", Settings(8, 2, fps=4), workers=1)
    assert (defaults(str(fast)).fps, defaults(str(fast)).frames) == (4, 2)


@pytest.mark.parametrize("preset", [*PRESETS])
@pytest.mark.parametrize("name", [*DATASETS, "a folder"])
def test_every_preset_works_for_every_data_set(name, preset):
    found = preset_for(name, preset)
    found.check()
    assert found.preset == preset and found.data == defaults(name)
    if name == "sprites":
        assert found.codec.codec == "tiles" and found.text.max_tokens == 40
    else:
        assert found == replace(PRESETS[preset], data=defaults(name))


def test_another_shape_than_prepared_is_refused(folder):
    for wrong in ({"size": 16}, {"frames": 2}):
        with pytest.raises(TinygifError, match=r"\(8, 4\), asked for are .*prepare it again"):
            open_dataset(config(folder, **wrong))


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("")
    for name, says in (("mnist", "not there"), (tmp_path / "a.tsv", "which is a file")):
        with pytest.raises(TinygifError, match=f"expected moving_mnist, shapes, sprites.*{says}"):
            open_dataset(config(name))


# ---- learned by heart? -----------------------------------------------------------------------


def test_the_nearest_clip_tells_copies_from_new_ones():
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    new = rng.integers(0, 256, (6, 2, 4, 4, 3), np.uint8)
    copied = compare_clips(clips ^ 1, clips, np.arange(6))
    assert copied["generated to nearest training clip, median"] == pytest.approx(1, abs=0.05)
    assert copied["copies, %"] == copied["nearest is the one with the same caption, %"] == 100
    assert compare_clips(clips, clips, np.roll(np.arange(6), 1))["copies, %"] == 100
    fresh = compare_clips(new, clips, np.arange(6))
    assert fresh["copies, %"] == 0
    far = fresh["training clip to its nearest other one, median"]
    assert far == pytest.approx(np.sqrt((256**2 - 1) / 6), rel=0.2)


def test_two_digits_have_more_room_and_are_read_in_parts():
    one, two = (preset_for("moving_mnist", "tiny", digits) for digits in (1, 2))
    assert (one.data.size, one.data.digits, one.text.parts) == (32, 1, 1)
    assert (two.data.size, two.data.digit_size, two.text.parts) == (48, 16, 2)
    two.check()
    assert two.model == one.model and preset_for("shapes", "tiny", 2).text.parts == 1


# ---- pictures among clips --------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three pictures in plain colours, with captions."""
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, level in (("a.png", 40), ("b.jpg", 120), ("c.png", 200)):
        Image.new("RGB", (20, 20), (level, level, level)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a plain zebra {name[0]}\nplain gray")
    return folder


def with_pictures(pictures, **data):
    return replace(CONFIG, data=replace(CONFIG.data, images=str(pictures), **data))


def test_some_short_clips_are_pictures(pictures):
    data, held_out, config = open_dataset(with_pictures(pictures, image_share=0.4))
    config.check()
    digits = open_dataset(CONFIG)[0]
    plain, texts = 0, set()
    for index in range(200):
        clip, caption = data.example(index, 2)
        again = data.example(index, 2)
        np.testing.assert_array_equal(clip, again[0])
        assert caption == again[1] and clip.shape == (2, 16, 16, 1)
        if "plain" in caption:
            plain += 1
            texts.add(caption)
            assert np.ptp(clip.astype(int)) <= 4 and clip.mean().round() in range(38, 203)
        else:
            np.testing.assert_array_equal(clip, digits.example(index, 2)[0])
    assert 55 < plain < 105 and "plain gray" in texts and len(texts) > 2
    for index in range(20):
        np.testing.assert_array_equal(data[index][0], digits[index][0])
    assert {"plain", "zebra", "moving"} <= set(data.words) and held_out.words == digits.words
    assert "3 pictures" in data.about and "group of 2 frames" in data.about
    assert "plain gray" in data.captions and isinstance(data, Dataset)


def test_pictures_are_found_again_when_a_run_goes_on(pictures):
    first, _, config = open_dataset(with_pictures(pictures))
    again, _, same = open_dataset(config)
    assert same == config and config.data.images != str(pictures)
    for index in range(20):
        np.testing.assert_array_equal(first.example(index, 2)[0], again.example(index, 2)[0])


@pytest.mark.parametrize("short", [None, 4])
def test_a_picture_stands_alone_in_its_group(pictures, short):
    config = with_pictures(pictures)
    config = replace(config, train=replace(config.train, short_frames=short))
    with pytest.raises(TinygifError, match="as many as the model folds into one"):
        config.check()


def test_a_folder_without_pictures_is_told(pictures, tmp_path):
    with pytest.raises(TinygifError, match="a folder of pictures for --images"):
        open_dataset(with_pictures(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TinygifError, match=r"found no clip in .*\.png, \.jpg"):
        open_dataset(with_pictures(tmp_path / "empty"))


def test_pictures_are_no_clips_where_clips_have_more_frames(pictures):
    with pytest.raises(TinygifError, match="found no clip"):
        prepare_clips(pictures, settings=Settings(8, 4))
