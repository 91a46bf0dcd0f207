"""palette.py: few colours that do not flicker, and large pixels. Lesson 19."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygif import gif
from tinygif.errors import TinygifError
from tinygif.gif import distinct
from tinygif.palette import (
    PALETTES,
    find_colors,
    from_oklab,
    pixel_art,
    pixelate,
    read_palette,
    repaint,
    to_oklab,
)

seeds = st.integers(0, 2**31)


def clip(seed=0, shape=(3, 8, 8), channels=3, colors=256):
    """Random pixels; of a few colours, if asked for."""
    rng = np.random.default_rng(seed)
    paint = rng.integers(0, 256, (colors, channels), np.uint8)
    return paint[rng.integers(0, colors, shape)]


# ---- colours ---------------------------------------------------------------------------------


def test_every_colour_survives_oklab():
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    np.testing.assert_array_equal(from_oklab(to_oklab(colors)), colors)


def test_oklab_of_known_colours():
    """From Ottosson's article: white, red, green and blue, to three places."""
    colors = np.array([[255] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    wanted = [[1, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312]]
    np.testing.assert_allclose(to_oklab(colors), wanted, atol=1e-3)


@given(seeds, st.integers(2, 20))
def test_few_colours_are_found_as_they_are(seed, count):
    x = clip(seed, colors=count)
    assert set(map(tuple, find_colors(x, count))) == set(map(tuple, x.reshape(-1, 3)))


@given(seeds, st.integers(2, 20))
def test_no_more_colours_are_found_than_asked_for(seed, count):
    assert 1 <= len(find_colors(clip(seed), count)) <= count


def test_clusters_stand_in_their_middle():
    """Two gray clusters of three levels each: both means are found, in whole numbers."""
    x = np.repeat(np.uint8([[10, 11, 12], [200, 201, 202]])[..., None], 3, axis=-1)
    assert sorted(find_colors(x, 2)[:, 0]) == [11, 201]


def test_a_small_area_of_another_colour_is_not_forgotten():
    x = clip(0, (4, 40, 40)) // 16  # almost black, in many shades
    x[:, 3, 3] = (255, 0, 0)
    found = find_colors(x, 4).astype(int)
    assert np.abs(found - [255, 0, 0]).max(axis=1).min() < 3


# ---- clips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("name", [*PALETTES, "7"])
def test_a_clip_holds_only_its_palette_also_after_the_file(tmp_path, name, dither):
    x, palette = clip(1, (2, 3, 10, 9)), read_palette(name)
    art = pixel_art(x, palette, dither=dither)
    allowed = set(map(tuple, find_colors(x, 7) if name == "7" else palette))
    gif.write_gif(tmp_path / "x.gif", gif.enlarge(art[0], 3))
    back, _ = gif.read_gif(tmp_path / "x.gif")
    np.testing.assert_array_equal(back[:, ::3, ::3], art[0])
    assert set(map(tuple, art.reshape(-1, 3))) <= allowed


@given(seeds)
def test_each_pixel_has_the_nearest_colour(seed):
    x, colors = clip(seed), clip(seed + 1, (6,), colors=6)
    apart = ((to_oklab(x)[..., None, :] - to_oklab(colors)) ** 2).sum(-1)
    taken = ((to_oklab(x) - to_oklab(repaint(x, colors))) ** 2).sum(-1)
    np.testing.assert_allclose(taken, apart.min(-1), atol=1e-12)


@given(seeds, st.booleans())
def test_what_is_in_the_palette_stays(seed, dither):
    """Dithering moves a pixel by less than half a step from one lightness to the next."""
    colors = from_oklab(np.linspace(0, 1, 4)[:, None] * [1, 0, 0])
    x = colors[np.random.default_rng(seed).integers(0, 4, (2, 8, 8))]
    np.testing.assert_array_equal(repaint(x, colors, dither=dither), x)


@pytest.mark.parametrize("dither", [False, True])
def test_equal_pixels_do_not_flicker(dither):
    x = np.broadcast_to(clip(3, (8, 8)), (5, 8, 8, 3))
    art = repaint(x, read_palette("pico8"), dither=dither)
    assert (art == art[0]).all()


def test_a_dithered_gray_has_its_own_lightness_on_average():
    lab = np.zeros((16, 16, 3))
    for wanted in (0.25, 0.5, 0.75):
        lab[..., 0] = wanted
        art = repaint(from_oklab(lab)[None], read_palette("1bit"), dither=True)
        assert abs((art[..., 0] == 255).mean() - wanted) < 0.04
        assert repaint(from_oklab(lab)[None], read_palette("1bit")).std() == 0


@given(seeds, st.integers(1, 4))
def test_an_enlarged_clip_is_pixelated_back(seed, scale):
    for channels in (1, 3):
        x = clip(seed, channels=channels)
        np.testing.assert_array_equal(pixelate(gif.enlarge(x, scale), 8), x)


def test_gray_clips_take_colours():
    art = pixel_art(clip(0, (2, 3, 8, 8), channels=1), read_palette("gameboy"), side=4)
    assert art.shape == (2, 3, 4, 4, 3) and len(distinct(art)[0]) > 1


def test_all_clips_of_a_call_share_a_palette():
    assert len(distinct(pixel_art(clip(0, (6, 3, 8, 8)), 5))[0]) <= 5


# ---- palettes --------------------------------------------------------------------------------


def test_the_famous_palettes_are_complete():
    sizes = {"pico8": 16, "sweetie16": 16, "gameboy": 4, "cga": 16, "1bit": 2}
    assert {name: len(distinct(read_palette(name))[0]) for name in PALETTES} == sizes


def test_palettes_come_from_files(tmp_path):
    wanted = np.array([[255, 0, 77], [0, 0, 0], [41, 173, 255]], np.uint8)
    (tmp_path / "x.hex").write_text("FF004D\n#000000\n\n29adff\n")
    (tmp_path / "x.gpl").write_text(
        "GIMP Palette\nName: x\n#\n255   0  77\tred\n  0   0   0\tblack\n 41 173 255\n"
    )
    Image.fromarray(np.stack([wanted[:2], wanted[1:]])).save(tmp_path / "x.png")
    gif.write_gif(tmp_path / "x.gif", wanted[:, None, None])  # a frame for each
    for ending in ("hex", "gpl", "png", "gif"):
        found = read_palette(str(tmp_path / f"x.{ending}"))
        assert sorted(map(tuple, found)) == sorted(map(tuple, wanted))


@pytest.mark.parametrize("name, content, says", [
    ("nintendo", None, "a number of colours, pico8"), ("0", None, "2 to 256"),
    ("257", None, "2 to 256"), ("-3", None, "2 to 256"), ("x.hex", "ff00", "such as ff004d"),
    ("x.hex", "", "1 to 256 colours"), ("x.hex", "nonsense", "such as ff004d"),
    ("x.gpl", "1 2", "three numbers"), ("x.gpl", "1 2 300", "three numbers"),
    ("x.gpl", "no numbers", "1 to 256 lines"), ("x.png", "no picture", "could not read"),
    ("x.hex", b"\xff\xfe", "could not read"),
])  # fmt: skip
def test_what_is_no_palette_is_refused(tmp_path, monkeypatch, name, content, says):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TinygifError, match=says):
        read_palette(name)


def test_a_photo_has_too_many_colours_for_a_palette(tmp_path):
    Image.fromarray(clip(0, (40, 40), colors=600)).save(tmp_path / "x.png")
    with pytest.raises(TinygifError, match="at most 256 colours"):
        read_palette(str(tmp_path / "x.png"))


def test_pixels_cannot_be_smaller_than_they_are():
    with pytest.raises(TinygifError, match="pixelate from 1 to 8"):
        pixelate(clip(), 9)
