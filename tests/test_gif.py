"""gif.py: every frame and delay survives, no file does harm. Lesson 00."""

import inspect
import io
import os
import struct
import sys

import hypothesis.extra.numpy as hnp
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import GifImagePlugin, Image

from tinygif.errors import TinygifError
from tinygif.gif import (
    MAX_CANVAS,
    GifError,
    check_output,
    encode_gif,
    enlarge,
    fps_delays,
    grid,
    play_gif,
    read_gif,
    resample,
    shown_frames,
    strip,
    write,
    write_gif,
)
from tinygif.labels import NOT_DRAWN, draw_labels


@st.composite
def clips_and_delays(draw):
    """At most 256 pixels, hence exact; frames repeat often; delays are whole hundredths."""
    h, w, c = draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.sampled_from([1, 3]))
    frames = draw(hnp.arrays(np.uint8, (2, h, w, c)))
    order = draw(st.lists(st.integers(0, 1), min_size=1, max_size=8))
    hundredths = draw(st.lists(st.integers(2, 65535), min_size=len(order), max_size=len(order)))
    return frames[order], 10 * np.array(hundredths)


def ramp(f=4, h=6, w=5, c=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (f, h, w, c), dtype=np.uint8)


def read_bytes(data, path, **options):
    """The frames and delays of a GIF with these bytes."""
    path.write_bytes(data)
    frames, delays = zip(*play_gif(path, **options), strict=True)
    return np.stack(frames), np.array(delays)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("gif") / "clip.gif"


# ---- files -----------------------------------------------------------------------------------


@given(clips_and_delays())
def test_every_frame_and_delay_survives(path, case):
    clip, delays = case
    write_gif(path, clip, delays=delays)
    back, times = read_gif(path)
    np.testing.assert_array_equal(back, np.broadcast_to(clip, back.shape))
    np.testing.assert_array_equal(times, delays)


@given(clips_and_delays())
def test_another_reader_sees_the_same_frames(path, case):
    clip, delays = case
    write_gif(path, clip, delays=delays)
    back = iio.imread(path, index=None, extension=".gif", mode="RGB")
    np.testing.assert_array_equal(back, np.broadcast_to(clip, back.shape))


@pytest.mark.parametrize("distinct", [1, 12])
def test_sixteen_frames_with_duplicates_stay_sixteen(path, distinct):
    clip = ramp(distinct)[np.arange(16) % distinct if distinct == 1 else np.arange(16) * 3 // 4]
    pil = io.BytesIO()
    first, *rest = [Image.fromarray(frame[..., 0]) for frame in clip]
    first.save(pil, "GIF", save_all=True, append_images=rest, duration=100)
    with Image.open(pil) as image:
        assert getattr(image, "n_frames", 1) == distinct  # the trap this writer avoids
    write_gif(path, clip)
    assert len(read_gif(path)[0]) == 16


@pytest.mark.parametrize("colours", [1, 2, 3, 255, 256])
def test_up_to_256_colours_are_exact(path, colours):
    rng = np.random.default_rng(colours)
    palette = np.unique(rng.integers(0, 2**24, 1000))[:colours]
    rgb = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], 1).astype(np.uint8)
    index = rng.permutation(np.arange(512) % colours)
    clip = rgb[index].reshape(2, 16, 16, 3)
    write_gif(path, clip)
    np.testing.assert_array_equal(read_gif(path)[0], clip)


def test_more_colours_share_one_palette(path):
    clip = ramp(6, 16, 16, 3)
    clip[:, :4, :4] = ramp(1, 4, 4, 3, seed=1)  # a still corner must not flicker
    write_gif(path, clip)
    back, _ = read_gif(path)
    assert len(np.unique(back.reshape(-1, 3), axis=0)) <= 256
    np.testing.assert_array_equal(back[:, :4, :4], np.broadcast_to(back[:1, :4, :4], (6, 4, 4, 3)))
    assert np.abs(back.astype(int) - clip).mean() < 20


def test_257_colours_lose_almost_nothing(path):
    shades = np.append(np.arange(256).repeat(3), [254, 255, 255]).astype(np.uint8)
    clip = shades.reshape(1, 257, 1, 3)
    write_gif(path, clip)
    assert np.abs(read_gif(path)[0].astype(int) - clip).max() <= 2


def test_smooth_colours_are_close_and_undithered(path):
    y, x = np.mgrid[:32, :32].astype(np.uint8) * 8
    clip = np.stack([x, y, 0 * x + 90], -1)[None].repeat(2, 0)
    clip[:, 8:24, 8:24] = 77  # dithering would put other colours into a flat area
    write_gif(path, clip)
    back = read_gif(path)[0].astype(int)
    assert np.abs(back - clip).mean() < 6
    assert len(np.unique(back[:, 8:24, 8:24].reshape(-1, 3), axis=0)) == 1


def test_loops_for_ever(path):
    write_gif(path, ramp())
    with Image.open(path) as image:
        assert image.info["loop"] == 0


@given(fps=st.floats(0.5, 50), f=st.integers(1, 40))
def test_frames_a_second_give_the_right_duration(path, fps, f):
    write_gif(path, np.zeros((f, 1, 1, 1), np.uint8), fps=fps)
    _, delays = read_gif(path)
    assert abs(delays.sum() - 1000 * f / fps) <= 5 + 1e-6
    assert delays.min() >= 20 and np.ptp(delays) <= 10


@pytest.mark.parametrize("delays", [[0] * 4, [10] * 4, [25] * 4, [100] * 3, [655360] * 4])
def test_delays_a_gif_cannot_hold_are_refused(delays):
    with pytest.raises(ValueError, match="multiples of 10"):
        encode_gif(ramp(), delays)


@pytest.mark.parametrize("fps", [0, -1, 51, 0.0015, float("nan"), float("inf")])
def test_frame_rates_a_gif_cannot_hold_are_refused(path, fps):
    with pytest.raises(TinygifError, match="fps <= 50"):
        write_gif(path, ramp(), fps=fps)


def test_the_slowest_and_the_fastest_rate_can_be_stored(path):
    for fps, delay in ((100 / 65535, 655350), (50, 20)):
        assert fps_delays(3, fps).tolist() == [delay] * 3
        write_gif(path, ramp(3), fps=fps)


@pytest.mark.parametrize(
    "clip", [ramp() / 255, ramp()[0], ramp(c=2), ramp()[:0], np.zeros((2, 0, 3, 1), np.uint8)]
)
def test_other_arrays_are_refused(clip):
    with pytest.raises(ValueError, match=r"expected a clip uint8 .*got .*decode the output"):
        inspect.unwrap(encode_gif)(clip, [100] * len(clip))


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    write_gif(path, ramp())
    before = path.read_bytes()

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TinygifError, match="disk full"):
        write_gif(path, ramp(seed=1))
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


# ---- reading what others wrote ---------------------------------------------------------------


def handmade(frames, canvas=(2, 2), delays=None, transparent=None, trailer=b";", disposals=None):
    """A GIF of (left, top, image) frames, palette 0 black, 1 white, 2 red."""
    palette = bytes([0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0])
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x81, 0, 0) + palette
    for number, (left, top, image) in enumerate(frames):
        delay = 10 if delays is None else delays[number]
        flag = (0 if transparent is None else 1) | (disposals[number] << 2 if disposals else 0)
        data += b"!\xf9\x04" + struct.pack("<BHB", flag, delay, transparent or 0) + b"\0"
        image = Image.fromarray(np.array(image, np.uint8))
        image.putpalette(palette)
        data += b"".join(GifImagePlugin.getdata(image, (left, top)))
    return data + trailer


def test_zero_and_one_hundredth_mean_100_ms(path):
    frames = [(0, 0, [[0, 1], [1, 0]])] * 4
    _, delays = read_bytes(handmade(frames, delays=[0, 1, 2, 7]), path)
    assert delays.tolist() == [100, 100, 20, 70]


RED, WHITE, BLACK, PAPER = [255, 0, 0], [255] * 3, [0] * 3, [1, 2, 3]  # paper: the background
COLOURS = {"b": BLACK, "w": WHITE, "r": RED, ".": PAPER}
FULL, HOLES, SPOT, CORNER = [[1, 1], [1, 1]], [[1, 1], [1, 0]], [[2]], [[1]]
WIDE, LARGE = [[2, 2, 2]], [[2] * 5] * 5

# What Chromium shows: the frames in words (rows of pixels), by what is in the file.
BROWSER = {
    "frames smaller than the canvas, drawn over each other": (
        dict(frames=[(0, 0, FULL), (1, 0, SPOT), (0, 1, SPOT)]),
        ["ww ww", "wr ww", "wr rw"],
    ),
    "a transparent colour lets what was there before show through": (
        dict(frames=[(0, 0, FULL), (0, 0, [[2, 0], [0, 2]])], transparent=0),
        ["ww ww", "rw wr"],
    ),
    "a transparent colour on the first frame shows the background": (
        dict(frames=[(0, 0, HOLES), (0, 0, SPOT)], transparent=0),
        ["ww w.", "rw w."],
    ),
    "the first frame is smaller than the canvas": (
        dict(frames=[(1, 1, SPOT), (0, 0, SPOT)], transparent=0),
        [".. .r", "r. .r"],
    ),
    "disposal 2 clears the place of a frame": (
        dict(frames=[(0, 0, FULL), (1, 0, SPOT), (0, 1, SPOT)], transparent=0, disposals=[1, 2, 1]),
        ["ww ww", "wr ww", "w. rw"],
    ),
    "disposal 2 clears the whole canvas": (
        dict(frames=[(0, 0, HOLES), (1, 1, SPOT)], transparent=0, disposals=[2, 2]),
        ["ww w.", ".. .r"],
    ),
    "disposal 3 brings back what was there before": (
        dict(frames=[(0, 0, FULL), (1, 0, SPOT), (0, 1, SPOT)], disposals=[1, 3, 1]),
        ["ww ww", "wr ww", "ww rw"],
    ),
    "a later frame sticks out of the canvas and is cut off": (
        dict(frames=[(0, 0, FULL), (1, 1, LARGE), (0, 0, SPOT)]),
        ["ww ww", "ww wr", "rw wr"],
    ),
    "the canvas is enlarged for the first frame": (
        dict(frames=[(0, 0, WIDE), (0, 1, [[1] * 5])], transparent=0),
        ["rrr ...", "rrr www"],
    ),
}
# What Pillow shows otherwise. When it no longer does, the test fails: say so in gif.py.
OTHERWISE = {
    "the first frame is smaller than the canvas and opaque": (
        dict(frames=[(1, 1, SPOT), (0, 0, SPOT)]),
        [".. .r", "r. .r"],
    ),
    "disposal 2 on an opaque picture": (
        dict(frames=[(0, 0, FULL), (1, 0, SPOT), (0, 1, SPOT)], disposals=[1, 2, 1]),
        ["ww ww", "wr ww", "w. rw"],
    ),
    "disposal 0 after disposal 2": (
        dict(
            frames=[(0, 0, FULL), (0, 0, SPOT), (1, 1, SPOT), (1, 0, CORNER)],
            transparent=0, disposals=[1, 2, 0, 0],
        ),
        ["ww ww", "rw ww", ".w wr", ".w wr"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*BROWSER, *(pytest.param(n, marks=pytest.mark.xfail(strict=True)) for n in OTHERWISE)]
)
def test_reads_what_a_browser_shows(path, name):
    parts, rows = (BROWSER | OTHERWISE)[name]
    clip, _ = read_bytes(handmade(**parts), path, background=tuple(PAPER))
    expected = [[[COLOURS[pixel] for pixel in row] for row in frame.split()] for frame in rows]
    assert clip.tolist() == expected


def test_frames_with_palettes_of_their_own(path):
    clip = ramp(5, 8, 8, 3)
    clip[:, 0, 0] = 0x2C  # a palette entry that looks like the start of a frame
    first, *rest = [Image.fromarray(frame) for frame in clip]
    first.save(path, "GIF", save_all=True, append_images=rest)
    np.testing.assert_array_equal(read_gif(path)[0], clip)


@pytest.mark.parametrize("trailer", [b"", b";" + b"," * 40])
def test_a_missing_trailer_and_junk_after_it_are_forgiven(path, trailer):
    clip, _ = read_bytes(handmade([(0, 0, [[1, 1], [1, 1]])] * 3, trailer=trailer), path)
    assert len(clip) == 3


# ---- broken files ----------------------------------------------------------------------------

GOOD = encode_gif(ramp(3, 4, 4), [50, 60, 70])


@given(st.integers(0, len(GOOD) - 2))
def test_cut_anywhere_it_reads_whole_frames_or_says_so(path, end):
    try:
        path.write_bytes(GOOD[:end])
        clip, delays = read_gif(path)
    except GifError as error:
        assert str(error).startswith("expected a GIF, could not read")
    else:
        np.testing.assert_array_equal(clip[..., :1], ramp(3, 4, 4)[: len(clip)])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_raise_nothing_else(path, changes):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        clip, delays = read_bytes(bytes(data), path, max_pixels=2**20)
    except GifError:
        return
    assert clip.dtype == np.uint8 and len(clip) == len(delays) and delays.min() >= 20


BOMB = Image.DecompressionBombError


@pytest.mark.parametrize("error", [SyntaxError, EOFError, MemoryError, BOMB])
def test_whatever_pillow_raises_becomes_a_reason(path, monkeypatch, error):
    def fail(*_, **__):
        raise error("at <_io.BytesIO object at 0x7f>")

    path.write_bytes(GOOD)
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(GifError, match=r"could not read .* \(broken: at\)"):  # and no address
        read_gif(path)


@pytest.mark.slow
def test_three_thousand_damaged_files_raise_nothing_else(path):
    """Cuts and flipped bits, of several files; what is decoded stays within the bounds."""
    frames = [(0, 0, [[1, 1], [1, 1]]), (1, 0, [[2]]), (0, 1, [[0, 2]]), (1, 1, [[1]])]
    colours, *rest = [Image.fromarray(frame) for frame in ramp(4, 9, 7, 3)]
    saved = io.BytesIO()
    colours.save(saved, "GIF", save_all=True, append_images=rest, disposal=3)
    files = [GOOD, handmade(frames, transparent=0, disposals=[1, 2, 3, 0]), saved.getvalue()]
    rng, kept = np.random.default_rng(0), 0
    for _ in range(3000):
        data = np.frombuffer(files[rng.integers(3)], np.uint8).copy()
        data = data[: rng.integers(6, len(data)) if rng.random() < 0.3 else None]
        for _ in range(rng.integers(0, 4)):
            at = 6 + int((len(data) - 6) * rng.random() ** 2)  # headers more often than pixels
            data[at % len(data)] ^= 1 << rng.integers(8)
        try:
            clip, delays = read_bytes(data.tobytes(), path, max_pixels=2**16, max_frames=8)
        except GifError:
            pass
        else:
            assert clip.size <= 3 * 2**16 and len(clip) == len(delays) <= 8
            kept += 1
    assert 500 < kept < 2500  # some are still whole, some are not


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(path, data):
    for start in (b"", b"GIF89a", GOOD[:13]):
        with pytest.raises(GifError):
            read_bytes(start + data.replace(b",", b""), path)


@pytest.mark.parametrize("limits", [{"max_frames": 2}, {"max_pixels": 47}])
def test_bounds_hold_before_anything_is_decoded(path, monkeypatch, limits):
    def decoded(*_, **__):
        raise AssertionError("Pillow decoded first")

    assert len(read_bytes(GOOD, path, max_frames=3, max_pixels=48)[0]) == 3
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "load", decoded)
    with pytest.raises(GifError, match="accepted are"):
        read_bytes(GOOD, path, **limits)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("disposal", [0, 2, 3])
def test_a_huge_frame_on_a_small_canvas_takes_no_memory(path, monkeypatch, number, disposal):
    """Pillow would enlarge the canvas; 13000 x 13000 is within what it accepts itself."""
    data = handmade([(0, 0, [[1]])] * 2, disposals=[disposal] * 2)
    at = [data.index(b","), data.rindex(b",")][number]
    data = data[: at + 5] + struct.pack("<HH", 13000, 13000) + data[at + 9 :]
    sizes = []

    def watched(allocate):
        return lambda mode, size, *rest: sizes.append(size) or allocate(mode, size, *rest)

    monkeypatch.setattr(Image.core, "fill", watched(Image.core.fill))
    monkeypatch.setattr(Image.core, "new", watched(Image.core.new))
    with pytest.raises(GifError, match="too large: 13000x13000"):
        read_bytes(data, path, max_pixels=2**40)
    assert all(width * height <= MAX_CANVAS for width, height in sizes)


def test_a_frame_enlarges_the_canvas_within_the_bounds(path):
    data = handmade([(0, 0, FULL), (0, 0, LARGE)])
    assert read_bytes(data, path, max_pixels=50)[0].shape == (2, 2, 2, 3)
    with pytest.raises(GifError, match="2 frames of 5x5"):
        read_bytes(data, path, max_pixels=49)


def test_playing_keeps_a_few_frames_in_memory(path):
    """The first frame comes before the last one is decoded, which fails here."""
    path.write_bytes(GOOD[:-4])
    frames = play_gif(path)
    assert (next(frames)[0][..., 0] == ramp(3, 4, 4)[0, ..., 0]).all()
    with pytest.raises(GifError, match="broken"):
        list(frames)


def test_only_wanted_frames_are_drawn(path):
    path.write_bytes(GOOD)
    numbers, drawn = {0, 2}, list(play_gif(path, wanted={0, 2}))
    assert [delay for _, delay in drawn] == [50, 60, 70]
    for number, (frame, _) in enumerate(drawn):
        assert (frame is None) == (number not in numbers)
        assert frame is None or (frame[..., 0] == ramp(3, 4, 4)[number, ..., 0]).all()
    path.write_bytes(GOOD[:-4])  # whether it is whole does not depend on what is wanted
    with pytest.raises(GifError, match="broken"):
        list(play_gif(path, wanted=()))


def test_another_format_is_named(path):
    with pytest.raises(GifError, match="starts with .*PNG"):
        read_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100), path)


def test_a_missing_file_is_not_a_broken_one(path):
    with pytest.raises(FileNotFoundError):
        read_gif(path.with_name("nowhere.gif"))


def test_odd_files_of_other_projects_read_as_catalogued(real_data):
    folder = real_data / "odd_gifs"
    rows = [line.split("\t") for line in (folder / "INDEX.tsv").read_text().split("\n")[1:]]
    for name, _, _, _, pillow, *_ in (row for row in rows if len(row) > 4):
        try:
            verdict = f"ok {len(read_gif(folder / name)[0])}"
        except GifError:
            verdict = "error"
        assert verdict == (pillow if pillow.startswith("ok") else "error"), name


# ---- time, size, layout ----------------------------------------------------------------------


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(1, 20))
def test_resample_shows_what_a_player_shows(hundredths, frames):
    clip = np.arange(len(hundredths), dtype=np.uint8).reshape(-1, 1, 1, 1)
    player = np.repeat(np.arange(len(hundredths)), hundredths)  # one entry a hundredth
    expected = [player[k * len(player) // frames] for k in range(frames)]
    got = resample(clip, 10 * np.array(hundredths), frames)
    assert got.ravel().tolist() == expected


def test_resample_goes_by_time_not_by_index():
    clip = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    assert resample(clip, [30, 30, 30, 310], 4).ravel().tolist() == [0, 3, 3, 3]
    np.testing.assert_array_equal(resample(clip, [70] * 4, 4), clip)
    for delays, frames in (([70] * 3, 4), ([70] * 4, 0), ([70, 0, 70, 70], 2)):
        with pytest.raises(ValueError, match="positive delay"):
            resample(clip, delays, frames)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 99))
def test_a_span_lies_in_the_middle_and_goes_round(hundredths, frames, span):
    player = np.repeat(np.arange(len(hundredths)), hundredths)
    start = max(0, (10 * len(player) - 10 * span) // 2)
    at = [(start * frames + k * 10 * span) // (10 * frames) % len(player) for k in range(frames)]
    got = shown_frames(10 * np.array(hundredths), frames, 10 * span)
    assert got.tolist() == player[at].tolist()


def test_enlarge_and_strip_place_pixels():
    clip = ramp(3, 2, 4, 3)
    large = enlarge(clip, 3)
    assert large.shape == (3, 6, 12, 3)
    np.testing.assert_array_equal(large[:, 1::3, 2::3], clip)
    np.testing.assert_array_equal(strip(clip)[:, 4:8], clip[1])


@pytest.mark.parametrize("c", [1, 3])
def test_grid_keeps_every_pixel_and_pads_with_white(c):
    clips = np.stack([ramp(2, 5, 6, c, seed) for seed in range(3)])
    whole = grid(clips, columns=2, scale=2)
    assert whole.shape == (2, 4 + 2 * 14, 4 + 2 * 16, c)
    for clip, (top, left) in zip(clips, [(4, 4), (4, 20), (18, 4)]):
        np.testing.assert_array_equal(whole[:, top : top + 10, left : left + 12], enlarge(clip, 2))
    assert (whole[:, 18:, 20:] == 255).all()


def test_captions_are_whole_and_cost_no_gray_levels():
    clips = np.full((2, 2, 8, 8, 1), 128, np.uint8)
    whole = grid(clips, columns=2, captions=["3 moving counterclockwise", ""])
    assert set(np.unique(whole)) == {0, 128, 255}
    ink = np.argwhere(whole[0, ..., 0] == 0)
    half = 4 + (whole.shape[2] - 4) // 2 - 4
    assert ink.min() > 4 and ink[:, 1].max() < half - 1 and ink[:, 0].max() < whole.shape[1] - 2
    np.testing.assert_array_equal(whole[0], whole[1])
    blank = grid(clips, columns=2, captions=["", ""])
    assert set(np.unique(blank)) == {128, 255} and (blank == 128).sum() == clips.size


def label(caption, *others):
    """What a grid draws below the first clip."""
    clips = np.full((1 + len(others), 1, 96, 96, 1), 128, np.uint8)
    return grid(clips, captions=[caption, *others], columns=1)[0, 100:113, :, 0]


@pytest.mark.parametrize("text", [
    "\u043a\u043e\u0448\u043a\u0430", "\u03b3\u03ac\u03c4\u03b1", "caf\xe9", "\u0142\xf3d\u017a",
])  # fmt: skip
def test_cyrillic_greek_and_accents_are_drawn(text):
    """Each letter by itself: a font that lacks them draws one box for all."""
    letters = [label(letter).tobytes() for letter in dict.fromkeys(text)]
    assert len(set(letters)) == len(letters)
    assert label("\uffff\u0b95").tobytes() not in letters


@pytest.mark.parametrize("text", ["\u732b", "a \ud55c cat", "\u05d0", "\u0639", "\u0b95"])
def test_a_script_that_cannot_be_drawn_is_a_sentence(text):
    np.testing.assert_array_equal(label(text, "caf\xe9"), label(NOT_DRAWN, "caf\xe9"))


def test_ascii_looks_the_same_whatever_is_installed(monkeypatch):
    """And so do pictures that were drawn before there was a second font."""
    before = label("a cat moving left!")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    np.testing.assert_array_equal(label("a cat moving left!"), before)


def test_grid_refuses_what_does_not_fit():
    for clips, captions in (([], None), ([ramp(), ramp(h=7)], None), ([ramp()], ["a", "b"])):
        with pytest.raises(ValueError, match="expected"):
            grid(clips, captions=captions)


# ---- by extension --------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_write_by_extension(tmp_path, c):
    clip = ramp(c=c)
    write(tmp_path / "a.GIF", clip, 20)
    assert read_gif(tmp_path / "a.GIF")[1].tolist() == [50] * 4
    write(tmp_path / "a.png", clip)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png").reshape(6, 20, c), strip(clip))
    assert len(list(tmp_path.iterdir())) == 2


def test_mp4_of_odd_size_reads_back(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    clip = np.broadcast_to(np.uint8([40, 200, 90, 160])[:, None, None, None], (4, 7, 9, 1))
    write(tmp_path / "a.mp4", clip, 10)
    back = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert back.shape == (4, 8, 10, 3)
    assert np.abs(back.mean((1, 2, 3)) - clip.mean((1, 2, 3))).max() < 8


@pytest.mark.parametrize(
    ("name", "fps", "reason"),
    [
        ("a.webm", 10, r"ending in .gif, .apng, .png or .mp4, got .*a.webm"),
        ("a", 10, "ending in .gif"),
        ("a.gif", 60, "fps <= 50"),
        ("a.mp4", 10, r'pip install "tinygif\[video\]"'),
        ("no/such/folder/a.gif", 10, "make the folder first"),
        ("file/a.gif", 10, "make the folder first"),
        ("folder.gif", 10, "expected a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_beforehand(
    tmp_path, monkeypatch, name, fps, reason
):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.gif").mkdir()
    for refuse in (check_output, lambda path, fps, _: write(path, ramp(), fps)):
        with pytest.raises(TinygifError, match=reason):
            refuse(tmp_path / name, fps, 4)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.gif"]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_video_needs_a_speed(tmp_path, monkeypatch, fps):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", object())
    check_output(tmp_path / "a.mp4", 60, 4)
    with pytest.raises(TinygifError, match="fps > 0"):
        check_output(tmp_path / "a.mp4", fps, 4)


def test_an_output_that_can_be_written_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a.gif", tmp_path / "b.PNG"):
        check_output(path, 10, 4)
        write(path, ramp())
        check_output(path, 10, 4)  # again: it would be replaced


def test_the_picture_of_a_caption_is_bounded():
    assert draw_labels(["a" * 10**5, "a " * 10**5], 96).nbytes < 10**7
