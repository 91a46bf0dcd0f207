"""sheet.py: what is cut out is background, and a sheet gives every frame back. Lesson 14."""

import json

import numpy as np
import pytest
from PIL import Image

from tinygif.errors import TinygifError
from tinygif.gif import encode_gif, write
from tinygif.sheet import cut_out, flood, specks, write_sheet


def ring(frames: int = 4) -> np.ndarray:
    """A red ring that moves on white; the white inside of it is not background."""
    clip = np.full((frames, 16, 16, 3), 255, np.uint8)
    for i, frame in enumerate(clip):
        frame[4:10, i : i + 6] = (200, 0, 0)
        frame[6:8, i + 2 : i + 4] = 255
    return clip


def test_only_what_touches_the_border_is_cut_out():
    clip = ring()
    cut = cut_out(clip)
    assert set(np.unique(cut[..., 3])) == {0, 255}
    for i, frame in enumerate(cut):
        alpha = np.zeros((16, 16), np.uint8)
        alpha[4:10, i : i + 6] = 255
        np.testing.assert_array_equal(frame[..., 3], alpha)
    np.testing.assert_array_equal(cut[..., :3][cut[..., 3] > 0], clip[cut[..., 3] > 0])


def test_a_flood_goes_round_corners_and_not_through_walls():
    mask = np.ones((1, 9, 9), bool)
    mask[0, 2, 2:7] = mask[0, 2:7, 2] = mask[0, 2:7, 6] = False  # a cup, open below
    assert flood(mask)[0, 4, 4]
    mask[0, 6, 2:7] = False
    assert not flood(mask)[0, 4, 4] and flood(mask)[0, 0, 0]
    assert not flood(~np.ones((1, 5, 5), bool)).any()


def test_specks_go_and_what_belongs_to_the_figure_stays():
    clip = ring().repeat(3, 1).repeat(3, 2)
    want = cut_out(clip)[..., 3]
    clip[:, 0, 0], clip[1, 44, 2] = 90, 0  # specks: in a corner, and alone
    clip[2, 11, 5] = clip[2, 10, 4] = (0, 0, 255)  # a tip that touches the ring with a corner
    want[2, 11, 5] = want[2, 10, 4] = 255
    cut = cut_out(clip)
    np.testing.assert_array_equal(cut[..., 3], want)
    two = np.zeros((1, 8, 8), bool)
    two[0, :3, :3] = two[0, 5:, 5:] = True
    assert not specks(two).any() and not specks(np.zeros((1, 4, 4), bool)).any()


@pytest.mark.parametrize("colors", [3, 400])
def test_a_transparent_gif_does_not_smear(tmp_path, colors):
    """Every frame, as a viewer shows it, has its own pixels alone."""
    cut = cut_out(ring())
    if colors > 255:
        noise = np.random.default_rng(0).integers(0, 200, cut.shape[:3] + (3,), dtype=np.uint8)
        cut[..., :3] = np.where(cut[..., 3:] > 0, noise, cut[..., :3])
    write(tmp_path / "x.gif", cut, 8)
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 4
        for i in range(4):
            image.seek(i)
            shown = np.asarray(image.convert("RGBA"))
            np.testing.assert_array_equal(shown[..., 3], cut[i, ..., 3])
            error = np.abs(shown.astype(int) - cut[i])[cut[i, ..., 3] > 0]
            assert error.max() <= (0 if colors < 255 else 60)
    assert encode_gif(ring(), [100] * 4) != encode_gif(cut_out(ring()), [100] * 4)


def test_apng_and_png_keep_what_is_transparent(tmp_path):
    cut = cut_out(ring())
    write(tmp_path / "x.apng", cut, 8)
    with Image.open(tmp_path / "x.apng") as image:
        assert image.n_frames == 4 and image.info["loop"] == 0
        for i in range(4):
            image.seek(i)
            shown = np.asarray(image.convert("RGBA"))
            np.testing.assert_array_equal(shown, cut[i])
    write(tmp_path / "x.png", cut, 8)
    strip = np.asarray(Image.open(tmp_path / "x.png"))
    np.testing.assert_array_equal(strip, np.concatenate(list(cut), axis=1))


def test_a_video_cannot_be_transparent(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(TinygifError, match=r"expected .gif, .apng or .png for transparent"):
        write(tmp_path / "x.mp4", cut_out(ring()), 8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_sheet_gives_every_frame_back(tmp_path, channels):
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 3, 8, 6, channels), dtype=np.uint8)
    clips[..., 3:] = 255
    write_sheet(tmp_path / "x.png", clips, ["an orc", "a hero"], 8)
    whole = json.loads((tmp_path / "x.json").read_text())
    image = np.asarray(Image.open(tmp_path / "x.png"))
    assert whole["meta"]["image"] == "x.png" and image.shape == (16, 18, 4)
    assert whole["meta"]["size"] == {"w": 18, "h": 16}
    assert [tag["name"] for tag in whole["meta"]["frameTags"]] == ["an orc", "a hero"]
    for i, tag in enumerate(whole["meta"]["frameTags"]):
        for k, number in enumerate(range(tag["from"], tag["to"] + 1)):
            entry = whole["frames"][str(number)]
            x, y, w, h = (entry["frame"][key] for key in "xywh")
            found = image[y : y + h, x : x + w, : max(3, channels)]
            np.testing.assert_array_equal(found, np.broadcast_to(clips[i, k], found.shape))
    assert sum(whole["frames"][str(k)]["duration"] for k in range(3)) == 380  # in hundredths


def test_a_sheet_is_a_png(tmp_path):
    with pytest.raises(TinygifError, match="a sheet that ends in .png"):
        write_sheet(tmp_path / "x.gif", ring()[None], ["a"], 8)
