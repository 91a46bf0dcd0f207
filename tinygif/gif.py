"""Clips in and out of files: GIF, PNG strip, MP4; and the way into the model's range and back.

A clip is an array `uint8 (f, h, w, c)` and, for a GIF, one delay in milliseconds per frame.
GIF89a specification: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
Lesson 00.
"""

import io
import itertools
import math
import struct
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, UInt8
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from tinygif.errors import TinygifError
from tinygif.files import write_whole

MAX_BYTES, MAX_CANVAS = 2**26, 2**24  # of a file that is read as a GIF, and pixels of a frame


class GifError(TinygifError):
    """A file that is not a GIF, is broken, or is larger than the reader was told to accept."""


class Pixels(eqx.Module):
    """The codec of pixels: clips in 0..255 become numbers in [-1, 1], channels first, and back.

    A codec is what `encode` and `decode` make of a clip, the `shape` of the result, and its
    `limit`: the sampler keeps guesses of x0 in [-limit, limit].
    """

    channels: int = eqx.field(static=True)
    limit: ClassVar[float] = 1.0

    def shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """The shape (f, c, h, w) of a square clip as the model sees it."""
        return frames, self.channels, size, size

    def encode(
        self, clip: UInt8[Array | np.ndarray, "*b f h w c"]
    ) -> Float[Array, "*b f c h w"]:
        """Clips in 0..255 to float32 in [-1, 1], channels first."""
        if clip.dtype != np.uint8 or clip.ndim < 4 or clip.shape[-1] != self.channels:
            raise ValueError(
                f"expected a clip uint8 (..., f, h, w, {self.channels}), got {clip.dtype} "
                f"{clip.shape}: pass clips as read_gif and the data sets give them"
            )
        x0 = jnp.asarray(clip).astype(jnp.float32) / 127.5 - 1
        return rearrange(x0, "... f h w c -> ... f c h w")

    def decode(
        self, x0: Float[Array | np.ndarray, "*b f c h w"]
    ) -> UInt8[np.ndarray, "*b f h w c"]:
        """The clips of `encode`'s numbers; values outside [-1, 1] become black or white.

        Raises TinygifError for NaN: training or guidance has diverged.
        """
        x0 = np.asarray(x0, np.float32)
        if np.isnan(x0).any():
            raise TinygifError("expected numbers around [-1, 1], got NaN: "
                               "lower the learning rate or the guidance, or use float32")
        # Clip before the cast: in uint8, 256 would wrap to 0 and turn white pixels black.
        clip = np.round((np.clip(x0, -1, 1) + 1) * 127.5).astype(np.uint8)
        return rearrange(clip, "... f c h w -> ... f h w c")


def encode_gif(clip: UInt8[np.ndarray, "f h w c"], delays: Sequence[int] | np.ndarray) -> bytes:
    """The bytes of a GIF that loops for ever and keeps every frame, also equal neighbours.

    Clips of at most 256 colours, and so all gray ones, are stored exactly; others get one
    palette for the whole clip (median cut, no dithering). `delays` are milliseconds per frame,
    multiples of 10 from 20 to 655350: a GIF stores hundredths and players replace 0 and 10.
    """
    _check_clip(clip)
    delays = np.asarray(delays)
    if delays.shape != clip.shape[:1] or ((delays % 10 != 0) | (delays < 20)).any() \
            or (delays > 655350).any():
        raise ValueError(f"expected {len(clip)} delays in ms, multiples of 10 from 20 to 655350, "
                         f"got {delays.tolist()}: round them to hundredths of a second")
    frames = _indexed(clip)
    # PIL's own save merges equal neighbours, so the file is put together from its parts.
    parts, _ = GifImagePlugin.getheader(frames[0], info={"loop": 0})
    for frame, delay in zip(frames, delays, strict=True):
        parts += GifImagePlugin.getdata(frame, (0, 0), duration=int(delay))
    return b"".join(parts) + b";"


def fps_delays(frames: int, fps: int | float) -> Int[np.ndarray, " {frames}"]:
    """Delays in ms that a GIF holds; at 30 a second 30, 40, 30: the total is right to 5 ms."""
    if not 0 < fps <= 50:
        raise TinygifError(f"expected 0 < fps <= 50, got {fps}: a GIF frame lasts 20 ms or more")
    return 10 * np.diff(np.round(np.arange(frames + 1) * 100 / fps)).astype(int)


def write_gif(path: str | Path, clip: UInt8[np.ndarray, "f h w c"], fps: int | float = 10,
              delays: Sequence[int] | np.ndarray | None = None) -> None:
    """Write a GIF at `fps` frames a second (at most 50), or with one delay in ms per frame."""
    delays = fps_delays(len(clip), fps) if delays is None else delays
    write_whole(Path(path), encode_gif(clip, delays))


def read_gif(path: str | Path, max_pixels: int = 2**26, max_frames: int = 1000,
             background: tuple[int, int, int] = (255, 255, 255),
             ) -> tuple[UInt8[np.ndarray, "f h w 3"], Int[np.ndarray, " f"]]:
    """All frames of a GIF as a browser shows them, and their delays in ms.

    `max_pixels` bounds frames * height * width, before anything is decoded. Raises GifError for a
    broken or too large file; a missing file stays an OSError.
    """
    try:
        frames, delays = zip(*play_gif(Path(path), max_frames, max_pixels, background), strict=True)
    except GifError as error:
        raise GifError(f"expected a GIF, could not read {path} ({error}): "
                       "convert it again, or leave it out") from error
    return np.stack(frames), np.array(delays)


def play_gif(path: Path, max_frames: int = 1000, max_pixels: int = 2**26,
             background: tuple[int, int, int] = (255, 255, 255),
             ) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], int]]:
    """The frames of `read_gif` one by one, each with its delay: no more than two are in memory.

    Frames are drawn over each other by their disposal (GIF89a, section 23), what is transparent
    shows `background`. As in browsers, delays of 0 and 10 ms become 100, what sticks out of the
    canvas is cut off (but the canvas has room for the first frame), and a file ends at the first
    byte that begins no block. A GifError says in a few words what is wrong.
    """
    check_bytes(path)
    data = path.read_bytes()
    if data[:4] != b"GIF8":
        raise GifError(f"not a GIF: it starts with {data[:6]!r}")
    try:
        yield from _play(*_scan(data), max_frames, max_pixels, background)
    except GifError:
        raise
    except (IndexError, struct.error) as error:
        raise GifError("broken: it ends within a block") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, EOFError, ValueError, ...
        words = str(error).partition(" <")[0]  # up to the address of an object
        raise GifError(f"broken: {words or type(error).__name__}") from error


def check_bytes(path: Path) -> None:
    """Refuse a file that would take too much memory."""
    if path.stat().st_size > MAX_BYTES:
        raise GifError(f"too large: {path.stat().st_size} bytes, accepted are {MAX_BYTES}")


def played(delay: int) -> int:
    """How long browsers show a frame whose file says `delay` ms."""
    return delay if delay > 10 else 100


def check_bounds(frames: int, width: int, height: int, max_frames: int, max_pixels: int) -> None:
    """Refuse what would take too long to decode, or too much memory."""
    if frames < 1:
        raise GifError("no frames")
    if frames > max_frames or width * height > min(MAX_CANVAS, max_pixels // frames):
        raise GifError(f"too large: {frames} frames of {width}x{height}, accepted are "
                       f"{max_frames} frames, {MAX_CANVAS} pixels each, {max_pixels} in all")


def resample(clip: UInt8[np.ndarray, "f h w c"], delays: Sequence[int] | np.ndarray,
             frames: int, span: int | None = None) -> UInt8[np.ndarray, "{frames} h w c"]:
    """What a player shows at times 0, 1/frames, 2/frames, ... of the clip's duration.

    Or of the `span` ms in the middle of it; a clip shorter than that begins again.
    """
    ends = np.cumsum(np.asarray(delays, np.int64))
    if frames < 1 or len(ends) != len(clip) or len(clip) == 0 or np.diff(ends, prepend=0).min() < 1:
        raise ValueError(f"expected frames >= 1 and a positive delay for each of {len(clip)} "
                         f"frames, got {frames} and {list(delays)}: pass both as read_gif gives")
    span = int(ends[-1]) if span is None else span
    start = max(0, (ends[-1] - span) // 2)
    # Both sides times `frames`: integers, so a frame starts exactly where the last one ends.
    times = (start * frames + np.arange(frames) * span) % (ends[-1] * frames)
    return clip[np.searchsorted(ends * frames, times, side="right")]


def enlarge(clip: UInt8[np.ndarray, "*f h w c"], scale: int) -> UInt8[np.ndarray, "*f h2 w2 c"]:
    """Every pixel becomes scale x scale pixels."""
    return clip.repeat(scale, axis=-3).repeat(scale, axis=-2)


def strip(clip: UInt8[np.ndarray, "f h w c"]) -> UInt8[np.ndarray, "h fw c"]:
    """The frames side by side, time from left to right."""
    return rearrange(clip, "f h w c -> h (f w) c")


def grid(clips: Sequence[np.ndarray] | UInt8[np.ndarray, "b f h w c"], columns: int | None = None,
         captions: Sequence[str] | None = None, scale: int = 1) -> UInt8[np.ndarray, "f h2 w2 c"]:
    """Clips of one shape in one clip on white, row by row, each above its caption.

    Clips are enlarged first. Captions wrap; a cell is at least as wide as its longest word.
    """
    shapes = {clip.shape for clip in clips}
    if len(shapes) != 1 or (captions is not None and len(captions) != len(clips)):
        raise ValueError(f"expected clips of one shape, and no captions or one for each, got "
                         f"{len(clips)} clips {shapes}, captions {captions}: resample or crop them")
    cells = np.stack([enlarge(clip, scale) for clip in clips])
    if captions is not None:
        labels = _labels(captions, cells.shape[3])[:, None, :, :, None]
        extra = labels.shape[3] - cells.shape[3]
        pad = [(0, 0), (0, 0), (0, labels.shape[2]), (extra // 2, extra - extra // 2), (0, 0)]
        cells = np.pad(cells, pad, constant_values=255)
        cells[:, :, -labels.shape[2] :] = labels
    columns = columns or math.ceil(math.sqrt(len(cells)))
    cells = np.pad(cells, [(0, -len(cells) % columns), (0, 0), (0, 4), (0, 4), (0, 0)],
                   constant_values=255)
    whole = rearrange(cells, "(i j) f h w c -> f (i h) (j w) c", j=columns)
    return np.pad(whole, [(0, 0), (4, 0), (4, 0), (0, 0)], constant_values=255)


def check_output(path: str | Path, fps: int | float, frames: int) -> None:
    """Refuse what `write` would refuse, before anything is sampled. Makes no folder.

    Raises TinygifError for an extension other than .gif, .png and .mp4, for an fps that the file
    cannot hold, without imageio-ffmpeg for .mp4, and where the folder is missing or is a file.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".gif":
            fps_delays(frames, fps)
        case ".mp4":
            try:
                import imageio_ffmpeg  # noqa: F401
            except ImportError as error:
                raise TinygifError('expected imageio-ffmpeg for .mp4, found none: '
                                   'pip install "tinygif[video]"') from error
            if not 0 < fps < math.inf:
                raise TinygifError(f"expected fps > 0, got {fps}: choose frames a second")
        case ".png":
            pass  # a picture has no speed
        case other:
            raise TinygifError(f"expected a path ending in .gif, .png or .mp4, got {other!r} in "
                               f"{path}: change the extension")
    if not path.parent.is_dir() or path.is_dir():
        raise TinygifError(f"expected a file in a folder that exists, got {path}: make the folder "
                           "first, or choose another path")


def write(path: str | Path, clip: UInt8[np.ndarray, "f h w c"], fps: int | float = 10) -> None:
    """Write a clip as its extension says: .gif, .mp4, or .png (the frames side by side)."""
    path = Path(path)
    _check_clip(clip)
    check_output(path, fps, len(clip))
    match path.suffix.lower():
        case ".gif":
            write_gif(path, clip, fps)
        case ".png":
            file = io.BytesIO()
            image = strip(clip)
            Image.fromarray(image[..., 0] if clip.shape[-1] == 1 else image).save(file, "PNG")
            write_whole(path, file.getvalue())
        case ".mp4":
            write_whole(path, _encode_mp4(clip, fps))


def _check_clip(clip: np.ndarray) -> None:
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] not in (1, 3) or 0 in clip.shape \
            or max(clip.shape[1:3]) > 65535:
        raise ValueError(f"expected a clip uint8 (f, h, w, 1 or 3), got {clip.dtype} {clip.shape}: "
                         "decode the output of a model first")


def _indexed(clip: np.ndarray) -> list[Image.Image]:
    """The frames as palette images that share one palette."""
    rgb = np.broadcast_to(clip, (*clip.shape[:3], 3)).astype(np.uint32)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
        palette = palette.astype(np.uint8).tobytes()
    else:  # all frames as one tall image, hence one palette
        tall = Image.fromarray(rearrange(clip, "f h w c -> (f h) w c")).quantize(256)
        index, palette = np.asarray(tall), bytes(tall.getpalette())
    frames = [Image.fromarray(frame) for frame in index.astype(np.uint8).reshape(packed.shape)]
    for frame in frames:
        frame.putpalette(palette)
    return frames


class _Frame(NamedTuple):
    """An image of a GIF as the file has it, and the control block before it."""

    box: tuple[int, int, int, int]  # left, top, width, height
    interlaced: int
    palette: np.ndarray
    codes: bytes
    disposal: int
    delay: int
    transparent: int | None


def _scan(data: bytes) -> tuple[tuple[int, int], Iterator[_Frame]]:
    """The canvas and the frames, from the block structure alone: nothing is decoded."""
    def table(at: int, flags: int) -> tuple[bytes, int]:
        size = 3 << (flags & 7) + 1 if flags & 128 else 0
        return data[at : at + size], at + size

    def end(at: int) -> int:
        while data[at]:
            at += data[at] + 1
        return at + 1

    def frames(at: int) -> Iterator[_Frame]:
        control = 0, 0, None
        while at < len(data) and data[at] in b"!,":
            if data[at] == 0x2C:
                *box, flags = struct.unpack_from("<4HB", data, at + 1)
                colours, at = table(at + 10, flags)
                # Players draw colours that the palette lacks in black.
                palette = np.frombuffer((colours or shared).ljust(768, b"\0"), np.uint8)
                start, at = at, end(at + 1)
                yield _Frame(tuple(box), flags & 64, palette.reshape(256, 3), data[start:at],
                             *control)
                control = 0, 0, None
            else:
                if data[at + 1 : at + 3] == b"\xf9\x04":
                    flags, delay, colour = struct.unpack_from("<BHB", data, at + 3)
                    control = flags >> 2 & 7, 10 * delay, colour if flags & 1 else None
                at = end(at + 2)

    width, height, flags = struct.unpack_from("<HHB", data, 6)
    shared, first = table(13, flags)
    return (width, height), frames(first)


def _play(canvas: tuple[int, int], frames: Iterator[_Frame], max_frames: int, max_pixels: int,
          background: tuple[int, int, int]) -> Iterator[tuple[np.ndarray, int]]:
    """Bounds first, then frame by frame. May raise anything."""
    some = list(itertools.islice(frames, max_frames + 1))
    corners = np.array([canvas] + [np.add(frame.box[:2], frame.box[2:]) for frame in some])
    width, height = corners.max(0).tolist()
    check_bounds(len(some), width, height, max_frames, max_pixels)
    width, height = corners[:2].max(0)
    screen = np.full((height, width, 3), background, np.uint8)
    for frame in some:
        left, top, w, h = frame.box
        before = screen.copy() if frame.disposal in (3, 4) else screen
        window = screen[top : top + h, left : left + w]
        index = _decode(frame)[: window.shape[0], : window.shape[1]]
        shown = index != (-1 if frame.transparent is None else frame.transparent)
        window[shown] = frame.palette[index[shown]]
        yield screen.copy(), played(frame.delay)
        if frame.disposal == 2:
            window[:] = background  # not the file's background colour: no browser shows it
        screen = before


def _decode(frame: _Frame) -> np.ndarray:
    """Palette indices (h, w): Pillow reads them from a GIF of this frame alone, with no palette."""
    size = frame.box[2:]
    file = b"GIF89a" + struct.pack("<HH3x", *size)
    file += b"," + struct.pack("<4xHHB", *size, frame.interlaced) + frame.codes + b";"
    with Image.open(io.BytesIO(file), formats=["GIF"]) as image:
        return np.asarray(image).astype(np.int16)


def _labels(captions: Sequence[str], width: int) -> np.ndarray:
    """Black text on white (b, height, width or more); no gray edges: they cost palette entries."""
    font = ImageFont.load_default(11)
    texts = [[line.replace(" ", "  ") for line in textwrap.wrap(
        caption, max(1, width // 5), break_long_words=False)] or [""] for caption in captions]
    width = max([width, *(math.ceil(font.getlength(t, "1")) + 2 for text in texts for t in text)])
    images = [Image.new("L", (width, 13 * max(map(len, texts)) + 2), 255) for _ in texts]
    for image, text in zip(images, texts, strict=True):
        draw = ImageDraw.Draw(image)
        draw.fontmode = "1"
        draw.multiline_text((width // 2, 0), "\n".join(text), 0, font, "ma", 2, "center")
    return np.stack([np.asarray(image) for image in images])


def _encode_mp4(clip: np.ndarray, fps: int | float) -> bytes:
    import imageio.v3 as iio

    h, w = clip.shape[1:3]
    # H.264 stores colour at half size: an odd side makes a file that no player opens.
    clip = np.pad(clip, [(0, 0), (0, h % 2), (0, w % 2), (0, 0)], mode="edge")
    return iio.imwrite("<bytes>", np.broadcast_to(clip, (*clip.shape[:3], 3)), extension=".mp4",
                       plugin="FFMPEG", fps=fps, macro_block_size=1)
