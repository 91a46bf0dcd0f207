"""sprites.py and its oracle: captions are true, pixels are never mixed, no full action is missing.

On small sheets of the test's own, where each part is a rectangle in a colour of its own. Lesson 14.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import load_script

from tinygif import checkpoint, files, sprites
from tinygif.codec import FITTED, Tiles
from tinygif.config import DataConfig
from tinygif.data import COLORS
from tinygif.datasets import preset_for
from tinygif.errors import TinygifError
from tinygif.metrics.sprite_reader import (
    COLUMNS,
    compare,
    evaluate_sprites,
    foot_drift,
    full_caption,
    read_sprite,
)
from tinygif.sprites import (
    ACTIONS,
    EYES,
    HAIR,
    ORC,
    PHRASES,
    SHEETS,
    SIDES,
    SKINS,
    WORDS,
    Plan,
    Sprites,
    caption,
    download_sheets,
    draw_plan,
    load_sheets,
)

# part -> (left, top, width, height) in a cell
BOXES = {
    "body": (24, 16, 16, 46), "eyes": (28, 24, 8, 2), "bottomwear": (24, 46, 16, 10),
    "topwear": (22, 32, 20, 14), "hair": (22, 12, 20, 10), "shoes": (24, 58, 16, 4),
}  # fmt: skip
FRAMES = {0: 7, 4: 8, 8: 9, 12: 6, 16: 13}  # first row of an action -> its cells
indices = st.integers(0, 2**40)


def sheet(part: str, number: int) -> Image.Image:
    """A part that moves a little from cell to cell, and differently in each row."""
    k = list(SHEETS).index(part)
    color = 40 + 20 * number, 30 + 40 * k, (90 * k + 50 * number) % 256, 255
    x = np.zeros((21 * 64, 13 * 64, 4), np.uint8)
    left, top, width, height = BOXES[part]
    for row in range(20):
        first = row - row % 4
        if part == "bottomwear" and number == 5 and first in (4, 16):
            continue  # as in the real sheets: no such trousers in these actions
        if part == "eyes" and row % 4 == 0:
            continue  # seen from behind
        for column in range(FRAMES[first]):
            y = 64 * row + top - (column * (row + 1)) % 7
            a = 64 * column + left + 3 * (row % 4) - 5 + first // 2
            x[max(y, 64 * row) : y + height, a : a + width] = color
            if part == "body":  # feet stay
                x[64 * row + 60 : 64 * row + 62, a : a + width] = color
    return Image.fromarray(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    for part, digests in SHEETS.items():
        (folder / part).mkdir()
        for number in range(len(digests)):
            sheet(part, number).save(folder / part / f"{number}.png", compress_level=1)
    return folder


def config(folder: Path, **fields) -> DataConfig:
    shape = dict(dataset="sprites", channels=3, size=64, frames=8, sprites_dir=str(folder))
    return DataConfig(**shape | fields)


@pytest.fixture(scope="module")
def data(folder: Path) -> Iterator[Sprites]:
    yield Sprites(config(folder))
    load_sheets.cache_clear()


def plan_of(data: Sprites, index: int) -> Plan:
    rng = np.random.default_rng([int(data.held_out), index])
    return draw_plan(rng, data.sheets, held_out=data.held_out)


def known_colors(data: Sprites) -> set[tuple[int, int, int]]:
    """Those of the sheets, and of the backgrounds."""
    return {tuple(c) for c in data.sheets.colors[1:].tolist()} | {*COLORS.values()}


# ---- clips and captions ----------------------------------------------------------------------


@given(indices)
def test_an_index_is_a_clip_in_the_sheets_own_colours(data, index):
    clip, text = data[index]
    again, same = data[index]
    assert clip.shape == (8, 64, 64, 3) and clip.dtype == np.uint8 and text == same
    np.testing.assert_array_equal(clip, again)
    assert {tuple(c) for c in np.unique(clip.reshape(-1, 3), axis=0).tolist()} <= known_colors(data)


@given(indices)
def test_captions_are_true_of_their_plans(data, index):
    text, plan = data[index][1], plan_of(data, index)
    assert set(text.split()) <= set(WORDS) and len(text.split()) <= 40
    said = [part for part, phrases in PHRASES.items()
            for phrase in phrases[getattr(plan, part)] if phrase in text]  # fmt: skip
    for part, phrases in PHRASES.items():
        for number, texts in enumerate(phrases):
            if number != getattr(plan, part) and part not in said:
                assert not any(f" {phrase} " in f" {text} " for phrase in texts), (part, text)
    assert ("orc" in text) <= (plan.body == ORC)
    assert any(phrase in text for phrase in ACTIONS[plan.action].phrases)
    assert any(text.find(f" {way}") > 0 for way in SIDES[plan.side])
    assert plan.background == "white" or f"on a {plan.background} background" in text
    for number, color in enumerate(EYES):
        assert f"{color} eyes" not in text or number == plan.eyes
    for number, skin in enumerate(SKINS[:ORC]):
        assert f"{skin} skin" not in text or number == plan.body


def test_every_part_is_sometimes_said_and_sometimes_not(data):
    texts = [data[i][1] for i in range(300)]
    for words in ("hair", "skin", "eyes", "shoes", "in a", "wearing", "someone", "an orc"):
        assert 0 < sum(words in text for text in texts) < 300, words


@given(indices, st.booleans())
def test_held_out_pairs_are_never_trained_on(data, index, held_out):
    plan = draw_plan(np.random.default_rng(index), data.sheets, held_out=held_out)
    assert plan.is_held_out == held_out
    action = list(ACTIONS).index(plan.action)
    pairs = (plan.hair - plan.body) % 10 == 3, (plan.topwear - action) % 7 == 2
    assert any(pairs) == held_out


@given(indices)
def test_what_has_no_full_action_is_left_out(data, index):
    plan = plan_of(data, index)
    assert not (plan.bottomwear == 5 and plan.action in ("thrust", "shoot"))
    layers = data.sheets.layers(plan, 8)
    assert (layers[0] > 0).any((1, 2)).all() and (layers[2] > 0).any((1, 2)).all()


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_walking_closes_its_loop(data, frames):
    """Eight frames of a sheet, without the one that stands, each as long as any other."""
    plan = Plan(0, 0, 0, 0, 0, 0, "walk", "left", "white")
    clip = data.sheets.draw(plan, frames, 64)
    eight = data.sheets.draw(plan, 8, 64)
    np.testing.assert_array_equal(clip, np.repeat(eight, frames // 8, axis=0))
    assert len({frame.tobytes() for frame in eight}) == 7  # the test's sheets repeat after seven


def test_a_short_clip_is_a_part_of_the_long_one(data):
    for index in range(20):
        clip, text = data[index]
        short, same = data.example(index, 4)
        starts = [i for i in range(8) if (clip[(i + np.arange(4)) % 8] == short).all()]
        assert starts and text == same


@pytest.mark.parametrize("size", [48, 80])
def test_other_sizes_cut_or_add_a_margin_and_keep_the_feet(folder, data, size):
    clip, small = data[5][0], Sprites(config(folder, size=size))[5][0]
    assert small.shape == (8, size, size, 3)
    if size < 64:
        np.testing.assert_array_equal(small, clip[:, 16:, 8:56])
    else:
        np.testing.assert_array_equal(small[:, 16:, 8:72], clip)
        assert (small[:, :16] == small[0, 0, 0]).all()


def test_layers_lie_on_each_other_in_order(data):
    plan = Plan(0, 0, 1, 2, 3, 1, "slash", "front", "blue")
    layers, clip = data.sheets.layers(plan, 8), data.sheets.draw(plan, 8, 64)
    top = [layer for layer in layers[::-1]]
    expected = np.zeros((8, 64, 64), int)
    for layer in top:
        expected = np.where(expected == 0, layer, expected)
    colors = data.sheets.colors.copy()
    colors[0] = COLORS["blue"]
    np.testing.assert_array_equal(clip, colors[expected])


# ---- sheets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "text", "cut", "small"])
def test_a_damaged_sheet_is_named(folder, tmp_path, damage):
    for part in SHEETS:
        (tmp_path / part).symlink_to(folder / part)
    (tmp_path / "hair").unlink()
    (tmp_path / "hair").mkdir()
    whole = (folder / "hair" / "0.png").read_bytes()
    content = {"text": b"hello", "cut": whole[: len(whole) // 2]}
    file = tmp_path / "hair" / "0.png"
    if damage == "small":
        Image.new("RGBA", (64, 64)).save(file)
    elif damage != "gone":
        file.write_bytes(content[damage])
    with pytest.raises(TinygifError, match=r"expected (the sheet )?.*hair/0.png"):
        load_sheets(tmp_path)


def test_without_a_network_it_says_where_the_sheets_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path))
    monkeypatch.setattr(sprites, "LINK", "http://127.0.0.1:9/")
    with pytest.raises(TinygifError, match="no download.*YingzhenLi/Sprites.*--sprites-dir"):
        download_sheets()
    assert not any((tmp_path / "sprites").glob("*"))


def test_sheets_are_downloaded_once(folder, tmp_path, monkeypatch):
    """From a server that stands in for the repository; one damaged sheet is refused."""
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path))
    monkeypatch.setattr(sprites, "LINK", "")
    monkeypatch.setattr(sprites, "SHEETS", {"hair": (files.sha256(folder / "hair/0.png"),)})
    asked = []

    def fetch(link, **_):
        asked.append(link)
        return (folder / link).read_bytes() + b"x" * (len(asked) == 1)

    monkeypatch.setattr(files, "fetch", fetch)
    with pytest.raises(TinygifError, match="arrived damaged"):
        download_sheets()
    assert download_sheets() == download_sheets() == tmp_path / "sprites"
    assert asked == ["hair/0.png"] * 2


def test_what_is_in_the_cache_is_not_downloaded_again(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path))
    monkeypatch.setattr(sprites, "LINK", "http://127.0.0.1:9/")
    (tmp_path / "sprites").symlink_to(folder)
    assert download_sheets() == tmp_path / "sprites"


@pytest.mark.parametrize(("field", "value"), [("channels", 1), ("size", 40)])
def test_clips_that_cannot_show_a_sprite_are_refused(folder, field, value):
    with pytest.raises(TinygifError, match="3 channels and a size of at least 48"):
        Sprites(config(folder, **{field: value}))


# ---- the oracle ------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0, 25])
def test_the_oracle_reads_what_was_drawn(data, noise):
    rng = np.random.default_rng(1)
    for _ in range(8):
        plan = draw_plan(rng, data.sheets)
        clip = data.sheets.draw(plan, 8, 64) + noise * rng.standard_normal((8, 64, 64, 3))
        found = read_sprite(clip.clip(0, 255).astype(np.uint8), data.sheets)
        assert all(compare(plan, found.plan)), (plan, found)
        assert found.rms <= noise


@pytest.mark.slow
def test_an_evaluation_tells_right_from_wrong(folder, data):
    """By a parrot that draws every character with the first hair, and shoes that jump."""
    by_text = {}
    rng = np.random.default_rng([3, 6])
    for i in range(20):
        plan = draw_plan(rng, data.sheets, held_out=i % 4 == 3)._replace(background="white")
        by_text[full_caption(plan)] = plan._replace(hair=0)

    def parrot(prompts):
        return np.stack([data.sheets.draw(by_text[text], 8, 64) for text in prompts])

    whole = replace(preset_for("sprites", "tiny"), data=config(folder))
    result = evaluate_sprites(parrot, whole, 20, seed=3).result
    rows = result["table"]
    assert [*rows] == ["sprites, seen", "sprites, held-out", "sprites, all"]
    assert rows["sprites, held-out"]["generated"]["n"] == 5
    ours, theirs = rows["sprites, all"]["generated"], rows["sprites, all"]["real"]
    assert all(theirs[column]["percent"] == 100 for column in COLUMNS)
    hairs = 100 * np.mean([text.count(HAIR[0][0]) for text in by_text])
    assert ours["hair"]["percent"] == ours["all right"]["percent"] == hairs < 50
    others = set(COLUMNS) - {"hair", "all right"}
    assert all(ours[name]["percent"] == 100 for name in others)
    art = result["generated art"]
    assert art["RMS to its 32 commonest colours"] == 0 and art["RMS to what was read"] == 0
    assert len(result["clips"]) == 20 and "hair" in result["clips"][0]["expected"]


def test_drifting_feet_are_seen(data):
    plan = Plan(0, 0, 0, 0, 0, 0, "slash", "left", "white")
    clip = data.sheets.draw(plan, 8, 64)
    assert foot_drift(clip) == 0
    jumping = np.stack([np.roll(frame, -3 * (i % 2), 0) for i, frame in enumerate(clip)])
    assert foot_drift(jumping) == 3


# ---- on the real art -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def art(real_data: Path) -> Iterator[Sprites]:
    load_sheets.cache_clear()
    yield Sprites(config(real_data / "sprites"))
    load_sheets.cache_clear()


def test_the_real_sheets_are_those_that_would_be_downloaded(real_data):
    import hashlib

    for part, digests in SHEETS.items():
        for number, digest in enumerate(digests):
            content = (real_data / "sprites" / part / f"{number}.png").read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest


def test_the_oracle_reads_the_real_art(art):
    rng = np.random.default_rng(0)
    for _ in range(10):
        plan = draw_plan(rng, art.sheets)
        assert all(compare(plan, read_sprite(art.sheets.draw(plan, 8, 64), art.sheets).plan))


@pytest.mark.parametrize(("codec", "mean", "most"), [("palette", 2, 6), ("tiles", 6, 10)])
def test_real_art_survives_the_codec(art, codec, mean, most):
    """Its colours are at most 1,024, and 32 of a clip are nearly all that it has."""
    clips = np.stack([art[i][0] for i in range(40)])
    frames = np.concatenate([art.example(i, 1)[0] for i in range(300)])
    codec = FITTED[codec](frames[:, None])
    decoded = codec.decode(codec.encode(clips))
    rms = np.sqrt(((clips.astype(float) - decoded) ** 2).mean((1, 2, 3, 4)))
    assert rms.mean() < mean and rms.max() < most


def test_eyes_and_captions_of_the_real_art_agree(art):
    text = caption(np.random.default_rng(0), plan_of(art, 0))
    assert set(text.split()) <= set(WORDS)


# ---- runs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_fits_its_code_and_another_takes_it_over(folder, tmp_path, monkeypatch):
    """Only the colours are those of the data."""
    train = load_script(monkeypatch)
    train.FITTED_CLIPS = 50
    words = ["--dataset", "sprites", "--sprites-dir", str(folder), "--size", "48", "--frames", "2",
             "--width", "8", "--multipliers", "1", "--levels", "text", "--middle", "",
             "--time-patch", "2", "--text-width", "8", "--steps", "1"]  # fmt: skip
    first, about, dataset, _ = train.new_run(train.parse(words))
    codec = first.model.codec
    assert about.config.codec.codec == "tiles" and isinstance(codec, Tiles)
    colors = {tuple(c) for c in np.asarray(codec.colors).tolist()}
    assert len(colors) > 10 and colors <= known_colors(dataset)

    other = eqx.tree_at(lambda m: m.codec.scale, first.model, 2 * codec.scale)
    checkpoint.write(tmp_path / "other.safetensors", other, about)
    words += ["--init", str(tmp_path / "other.safetensors")]
    second = train.new_run(train.parse(words))[0].model.codec
    for name in ("mean", "basis", "scale", "colors"):
        np.testing.assert_array_equal(getattr(second, name), getattr(other.codec, name))
