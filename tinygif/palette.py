"""Pixel art of any clip: few colours, chosen or found, and large pixels. Lesson 19.

Colours are compared in OKLab (Ottosson 2020), where equal distances look about equally different.
All frames share one palette, so that nothing flickers.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from tinygif.codec import nearest
from tinygif.errors import TinygifError, check_range, expect
from tinygif.gif import distinct
from tinygif.known import read_frames

PALETTES = {
    "pico8": "000000 1d2b53 7e2553 008751 ab5236 5f574f c2c3c7 fff1e8 "
             "ff004d ffa300 ffec27 00e436 29adff 83769c ff77a8 ffccaa",
    "sweetie16": "1a1c2c 5d275d b13e53 ef7d57 ffcd75 a7f070 38b764 257179 "
                 "29366f 3b5dc9 41a6f6 73eff7 f4f4f4 94b0c2 566c86 333c57",
    "gameboy": "0f380f 306230 8bac0f 9bbc0f",
    "cga": "000000 0000aa 00aa00 00aaaa aa0000 aa00aa aa5500 aaaaaa "
           "555555 5555ff 55ff55 55ffff ff5555 ff55ff ffff55 ffffff",
    "1bit": "000000 ffffff",
}  # fmt: skip
"""Famous palettes: of the PICO-8 console, GrafxKid's Sweetie 16, the first Game Boy, IBM's CGA."""
MOST = 256
"""The colours that a GIF can hold."""
TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                   [0.2119034982, 0.6806995451, 0.1073969566],
                   [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                   [1.9779984951, -2.4285922050, 0.4505937099],
                   [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
"""The order in which the pixels of a 4 x 4 square become bright (Bayer 1973)."""

Colors = UInt8[np.ndarray, "n 3"]


def to_oklab(rgb: UInt8[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """sRGB in 0..255 to lightness in [0, 1] and two axes of colour: green-red, blue-yellow."""
    x = rgb / 255
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return np.cbrt(light @ TO_LMS.T) @ TO_LAB.T


def from_oklab(lab: Float[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 3"]:
    """The inverse of `to_oklab`. Colours that a screen cannot show are clipped."""
    light = (lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_LMS).T
    light = np.clip(light, 0, 1)
    x = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * x).astype(np.uint8)


def find_colors(clips: UInt8[np.ndarray, "*b 3"], count: int) -> Colors:
    """The `count` colours that stand best for all pixels of some clips: k-means in OKLab.

    It begins with the commonest colour, and then takes again and again the one that is worst
    represented so far, so it needs no random numbers. If there are no more than `count` colours,
    they come back unchanged.
    """
    colors, _, weights = distinct(clips)
    if len(colors) <= count:
        return colors
    x = to_oklab(colors)
    centers = x[[weights.argmax()]]
    distance = ((x - centers[0]) ** 2).sum(1)
    while len(centers) < count:
        worst = (weights**0.5 * distance).argmax()  # a root, or large areas would take all colours
        centers = np.concatenate([centers, x[[worst]]])
        distance = np.minimum(distance, ((x - x[worst]) ** 2).sum(1))
    for _ in range(10):
        owner = nearest(x, centers)
        total = np.bincount(owner, weights, count)
        sums = np.stack([np.bincount(owner, weights * axis, count) for axis in x.T], axis=1)
        centers = np.where(total[:, None] > 0, sums / np.maximum(total, 1)[:, None], centers)
    return np.unique(from_oklab(centers), axis=0)


def repaint(
    clips: UInt8[np.ndarray, "*b h w c"], colors: Colors, *, dither: bool = False
) -> UInt8[np.ndarray, "*b h w 3"]:
    """The clips in these colours alone, each pixel in the nearest.

    dither: between two colours, mix their pixels in a pattern that stands still in all frames.
    """
    rgb = np.broadcast_to(clips, (*clips.shape[:-1], 3))
    centers = to_oklab(colors)
    kinds, place, _ = distinct(rgb)
    place, x = place.reshape(rgb.shape[:-1]), to_oklab(kinds)
    if not dither:
        return colors[nearest(x, centers)][place]
    step = np.ptp(centers[:, 0]) / max(1, len(colors) - 1)  # from one lightness to the next
    out = np.empty_like(rgb)
    for (row, column), rank in np.ndenumerate(BAYER):
        lighter = x + np.array([step * ((rank + 0.5) / 16 - 0.5), 0, 0])
        here = (..., slice(row, None, 4), slice(column, None, 4))
        out[(*here, slice(None))] = colors[nearest(lighter, centers)][place[here]]
    return out


def pixel_art(
    clips: UInt8[np.ndarray, "*b h w c"], palette: Colors | int | None = None, *,
    side: int | None = None, dither: bool = False,
) -> UInt8[np.ndarray, "*b h2 w2 c2"]:  # fmt: skip
    """The clips with larger pixels (`side` of them) and in few colours, one palette for all clips.

    palette: the colours, or how many to find.
    """
    clips = clips if side is None else pixelate(clips, side)
    if palette is None:
        return clips
    clips = np.broadcast_to(clips, (*clips.shape[:-1], 3))
    colors = find_colors(clips, palette) if isinstance(palette, int) else palette
    return repaint(clips, colors, dither=dither)


def pixelate(clips: UInt8[np.ndarray, "*b h w c"], side: int) -> UInt8[np.ndarray, "*b s s c"]:
    """The clips at `side` x `side` pixels, each the mean of those that it covers.

    Raises TinygifError if the clips have fewer pixels than that.
    """
    h, w, c = clips.shape[-3:]
    check_range("pixelate", side, 1, min(h, w))
    images = clips.reshape(-1, h, w, c)
    resize = lambda image: np.asarray(  # noqa: E731
        Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    )
    small = [resize(image[..., 0] if c == 1 else image) for image in images]
    return np.stack(small).reshape(*clips.shape[:-3], side, side, c)


def read_palette(name: str) -> Colors | int:
    """A palette by its name, a number of colours to find, or the colours of a file.

    Files: .hex (a colour a line, as `ff004d`), .gpl (GIMP), or a picture or GIF with at most 256
    colours. Raises TinygifError.
    """
    if name in PALETTES:
        return parse_hex(PALETTES[name].split(), name)
    if name.removeprefix("-").isdecimal():
        expect(2 <= int(name) <= MOST, f"2 to {MOST} colours", name)
        return int(name)
    path = Path(name)
    what = f"a number of colours, {', '.join(PALETTES)}, or a file (.hex, .gpl, .gif, .png)"
    expect(path.is_file(), f"{what} for --palette", repr(name))
    if path.suffix.lower() not in (".hex", ".gpl"):
        return picture_colors(path)
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TinygifError(f"expected a palette, could not read {path} ({error})") from error
    if path.suffix.lower() == ".hex":
        return parse_hex([line.strip() for line in lines if line.strip()], name)
    rows = [line.split()[:3] for line in lines if line.strip()[:1].isdigit()]
    right = all(len(row) == 3 and all(v.isdecimal() and int(v) < 256 for v in row) for row in rows)
    expect(right and 1 <= len(rows) <= MOST, f"1 to {MOST} lines of three numbers in {name}", rows)
    return np.array(rows).astype(np.uint8)


def parse_hex(words: list[str], source: str) -> Colors:
    """Colours such as ff004d or #ff004d. Raises TinygifError."""
    try:
        rows = [list(bytes.fromhex(word.removeprefix("#"))) for word in words]
    except ValueError:
        rows = []
    right = 1 <= len(rows) <= MOST and all(len(row) == 3 for row in rows)
    expect(right, f"1 to {MOST} colours such as ff004d in {source}", words)
    return np.array(rows, np.uint8)


def picture_colors(path: Path) -> Colors:
    """Every colour of a picture or GIF with at most 256."""
    frames, _ = read_frames(path)
    colors, _, _ = distinct(np.concatenate([frame.reshape(-1, 3) for frame in frames]))
    expect(len(colors) <= MOST, f"a picture of at most {MOST} colours", f"{len(colors)} in {path}")
    return colors
