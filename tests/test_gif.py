"""gif.py: every frame and delay survives, the range conversion is exact, broken files stay inside.

Lesson 00.
"""

import inspect
import io
import os
import struct
import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygif import gif
from tinygif.gif import (
    GifError,
    encode_gif,
    enlarge,
    grid,
    read_gif,
    resample,
    strip,
    to_clip,
    to_model,
    write,
    write_gif,
)

DATA = Path(os.environ.get("TINYGIF_TEST_DATA", "../shared/data"))


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


def read_bytes(data, path, **limits):
    path.write_bytes(data)
    return read_gif(path, **limits)


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


@pytest.mark.parametrize("fps", [0, -1, 51, float("nan"), float("inf")])
def test_frame_rates_a_gif_cannot_hold_are_refused(path, fps):
    with pytest.raises(ValueError, match="fps"):
        write_gif(path, ramp(), fps=fps)


@pytest.mark.parametrize("clip", [ramp() / 255, ramp()[0], ramp(c=2), ramp()[:0],
                                  np.zeros((2, 0, 3, 1), np.uint8)])
def test_other_arrays_are_refused(clip):
    with pytest.raises(ValueError, match=r"expected a clip uint8 .*got .*use to_clip"):
        inspect.unwrap(encode_gif)(clip, [100] * len(clip))


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    write_gif(path, ramp())
    before = path.read_bytes()

    def full(_):
        raise OSError("disk full")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
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
        data += b"".join(gif.GifImagePlugin.getdata(image, (left, top)))
    return data + trailer


def test_zero_and_one_hundredth_mean_100_ms(path):
    frames = [(0, 0, [[0, 1], [1, 0]])] * 4
    _, delays = read_bytes(handmade(frames, delays=[0, 1, 2, 7]), path)
    assert delays.tolist() == [100, 100, 20, 70]


def test_partial_and_transparent_frames_are_composited(path):
    frames = [(0, 0, [[1, 1], [1, 1]]), (1, 0, [[2]]), (0, 1, [[0, 2]])]
    clip, _ = read_bytes(handmade(frames, transparent=0), path)
    white, red = [255, 255, 255], [255, 0, 0]
    assert clip[1].tolist() == [[white, red], [white, white]]
    assert clip[2].tolist() == [[white, red], [white, red]]


def test_what_was_never_drawn_shows_the_background(path):
    data = handmade([(0, 0, [[0, 2], [2, 0]])], transparent=0)
    clip, _ = read_bytes(data, path, background=(1, 2, 3))
    assert clip[0].tolist() == [[[1, 2, 3], [255, 0, 0]], [[255, 0, 0], [1, 2, 3]]]


def test_a_later_frame_does_not_enlarge_the_canvas(path):
    clip, _ = read_bytes(handmade([(0, 0, [[1, 1], [1, 1]]), (1, 1, [[2] * 5] * 5)]), path)
    assert clip.shape == (2, 2, 2, 3) and clip[1, 1, 1].tolist() == [255, 0, 0]


RED, WHITE, BLACK, PAPER = [255, 0, 0], [255] * 3, [0] * 3, [1, 2, 3]


@pytest.mark.parametrize(("disposal", "under"), [
    (0, WHITE), (1, WHITE), (2, PAPER), (3, BLACK), (4, BLACK), (5, WHITE)
])  # fmt: skip
def test_frames_are_taken_away_as_their_disposal_says(path, disposal, under):
    """2 leaves nothing, not the colour that the file names as its background; 3 what was before."""
    frames = [(0, 0, [[0, 0], [0, 0]]), (1, 0, [[1]]), (0, 1, [[2]])]
    data = handmade(frames, disposals=[1, disposal, 1])
    clip, _ = read_bytes(data, path, background=tuple(PAPER))
    assert clip[1].tolist() == [[BLACK, WHITE], [BLACK, BLACK]]
    assert clip[2].tolist() == [[BLACK, under], [RED, BLACK]]


def test_what_no_frame_covers_shows_the_background(path):
    clip, _ = read_bytes(handmade([(1, 1, [[2]])]), path, background=tuple(PAPER))
    assert clip[0].tolist() == [[PAPER, PAPER], [PAPER, RED]]


def test_the_canvas_has_room_for_the_first_frame(path):
    clip, _ = read_bytes(handmade([(1, 0, [[2, 2]]), (0, 1, [[1] * 5])]), path)
    assert clip.shape == (2, 2, 3, 3) and clip[1].tolist() == [[WHITE, RED, RED], [WHITE] * 3]


def test_a_file_ends_at_what_is_no_block(path):
    frame = [(0, 0, [[1, 1], [1, 1]])]
    rest = handmade(frame)[25:]
    assert len(read_bytes(handmade(frame, trailer=rest), path)[0]) == 2
    assert len(read_bytes(handmade(frame, trailer=b"?" + rest), path)[0]) == 1


def test_colours_that_no_palette_has_are_black(path):
    data = handmade([(0, 0, [[2, 1], [1, 2]])])
    bare = data[:10] + b"\0" + data[11:13] + data[25:]
    assert (read_bytes(bare, path)[0] == 0).all()


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
        clip, delays = read_bytes(GOOD[:end], path)
    except GifError as error:
        assert "expected a GIF" in str(error)
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
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(GifError, match=r"could not read .* \(broken: at\)"):  # and no address
        read_gif(path)


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
        path.write_bytes(data.tobytes())
        try:
            clip, delays = read_gif(path, max_pixels=2**16, max_frames=8)
        except GifError as error:
            assert str(error).startswith("expected a GIF, could not read")
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
        raise AssertionError("Pillow was asked first")
    assert len(read_bytes(GOOD, path, max_frames=3, max_pixels=48)[0]) == 3
    monkeypatch.setattr(Image, "open", decoded)
    with pytest.raises(GifError, match="accepted are"):
        read_bytes(GOOD, path, **limits)


def test_a_huge_frame_on_a_small_canvas_is_refused(path):
    data = handmade([(0, 0, [[1]])] * 2)
    at = data.rindex(b",")
    data = data[: at + 5] + struct.pack("<HH", 65535, 65535) + data[at + 9 :]
    with pytest.raises(GifError, match="65535x65535"):
        read_bytes(data, path)


def test_another_format_is_named(path):
    with pytest.raises(GifError, match="starts with .*PNG"):
        read_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100), path)


def test_a_missing_file_is_not_a_broken_one(path):
    with pytest.raises(FileNotFoundError):
        read_gif(path.with_name("nowhere.gif"))


@pytest.mark.skipif(not DATA.is_dir(), reason="TINYGIF_TEST_DATA is absent")
def test_odd_files_of_other_projects_read_as_catalogued():
    rows = [line.split("\t") for line in (DATA / "odd_gifs/INDEX.tsv").read_text().split("\n")[1:]]
    for name, _, _, _, pillow, *_ in (row for row in rows if len(row) > 4):
        try:
            verdict = f"ok {len(read_gif(DATA / 'odd_gifs' / name)[0])}"
        except GifError:
            verdict = "error"
        assert verdict == (pillow if pillow.startswith("ok") else "error"), name


# ---- model range -----------------------------------------------------------------------------

def test_all_256_values_survive_the_model_range():
    clip = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model(clip)
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(to_clip(x), clip)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_channels_move_and_leading_axes_stay(lead):
    clip = np.random.default_rng(0).integers(0, 256, (*lead, 4, 5, 6, 3), dtype=np.uint8)
    x = to_model(clip)
    assert x.shape == (*lead, 4, 3, 5, 6)
    np.testing.assert_array_equal(to_clip(x[..., 1:2, :, :]), clip[..., 1:2])
    np.testing.assert_array_equal(to_clip(x), clip)


def test_values_are_clipped_before_the_cast_and_rounded():
    x = np.array([-9, -1.01, 0.9999, 1.01, 9, np.inf], np.float32).reshape(1, 1, 1, -1)
    assert to_clip(x).ravel().tolist() == [0, 0, 255, 255, 255, 255]


def test_what_is_no_clip_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_clip(np.full((1, 1, 1, 1), np.nan, np.float32))
    for clip in (ramp()[0], ramp() / 255):
        with pytest.raises(ValueError, match="expected a clip uint8"):
            inspect.unwrap(to_model)(clip)


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
    clip = np.arange(len(hundredths), dtype=np.uint8).reshape(-1, 1, 1, 1)
    player = np.repeat(np.arange(len(hundredths)), hundredths)
    start = max(0, (10 * len(player) - 10 * span) // 2)
    at = [(start * frames + k * 10 * span) // (10 * frames) % len(player) for k in range(frames)]
    got = resample(clip, 10 * np.array(hundredths), frames, 10 * span)
    assert got.ravel().tolist() == player[at].tolist()


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


def test_grid_refuses_what_does_not_fit():
    for clips, captions in (([], None), ([ramp(), ramp(h=7)], None), ([ramp()], ["a", "b"])):
        with pytest.raises(ValueError, match="expected"):
            grid(clips, captions=captions)


# ---- by extension ----------------------------------------------------------------------------

@pytest.mark.parametrize("c", [1, 3])
def test_write_by_extension(tmp_path, c):
    clip = ramp(c=c)
    write(tmp_path / "a.GIF", clip, 20)
    assert read_gif(tmp_path / "a.GIF")[1].tolist() == [50] * 4
    write(tmp_path / "a.png", clip)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png").reshape(6, 20, c), strip(clip))
    with pytest.raises(ValueError, match=".webp"):
        write(tmp_path / "a.webp", clip)
    assert len(list(tmp_path.iterdir())) == 2


def test_mp4_of_odd_size_reads_back(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    clip = np.broadcast_to(np.uint8([40, 200, 90, 160])[:, None, None, None], (4, 7, 9, 1))
    write(tmp_path / "a.mp4", clip, 10)
    back = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert back.shape == (4, 8, 10, 3)
    assert np.abs(back.mean((1, 2, 3)) - clip.mean((1, 2, 3))).max() < 8


def test_mp4_without_ffmpeg_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install "tinygif\[video\]"'):
        write(tmp_path / "a.mp4", ramp())
