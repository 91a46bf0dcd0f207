"""Clips in files: GIF, APNG, PNG strip, MP4. Nothing here needs JAX.

A clip is an array `uint8 (f, h, w, c)` and, for a GIF, one delay in milliseconds per frame.
GIF89a specification: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
Lesson 00.

Pillow reads GIFs. Its frames were equal to Chromium's for all 142 animated GIFs of 13 packages for
web pages, for 711 animated emoji, and for 74 of the 82 odd files of test suites that it can read.
In the other 8, pixels that no frame has drawn, or that were cleared, are transparent in a browser
but get a colour of the file's palette from Pillow: too rare to justify a parser of our own. The
tests hold a small file for each difference.
"""

import math
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import GifImagePlugin, Image

from tinygif.errors import TinygifError, expect
from tinygif.files import whole_file, write_whole
from tinygif.labels import draw_labels

MAX_BYTES = 2**26
"""Size up to which a file is read."""
MAX_CANVAS = 2**24
"""Pixels up to which a frame is read."""
RGB = tuple[int, int, int]
WHITE = (255, 255, 255)


class GifError(TinygifError):
    """A file that is not a GIF, is broken, or is larger than the reader was told to accept."""


def encode_gif(clip: UInt8[np.ndarray, "f h w c"], delays: Sequence[int] | np.ndarray) -> bytes:
    """The bytes of a GIF that loops for ever and keeps every frame, even one equal to the last.

    Clips with at most 256 colours, so all gray ones, are stored exactly. Others get one palette for
    the whole clip (median cut, no dithering). A fourth channel below 128 makes a pixel transparent;
    255 colours are left then, and every frame is cleared before the next. `delays` are in ms,
    multiples of 10 from 20 to 655350: a GIF stores hundredths of a second, and players show delays
    of 0 and 10 as 100.
    """
    _check_clip(clip)
    delays = np.asarray(delays)
    valid = (delays % 10 == 0) & (delays >= 20) & (delays <= 655350)
    if delays.shape != clip.shape[:1] or not valid.all():
        raise ValueError(
            f"expected {len(clip)} delays in ms, multiples of 10 from 20 to 655350, "
            f"got {delays.tolist()}: round them to hundredths of a second"
        )
    frames = _palette_images(clip)
    # Pillow's own save merges equal neighbours, so the file is put together from its parts.
    parts, _ = GifImagePlugin.getheader(frames[0], info={"loop": 0})
    clear = {"transparency": 0, "disposal": 2} if clip.shape[-1] == 4 else {}
    for frame, delay in zip(frames, delays, strict=True):
        parts += GifImagePlugin.getdata(frame, (0, 0), duration=int(delay), **clear)
    return b"".join(parts) + b";"


def fps_delays(frames: int, fps: int | float) -> Int[np.ndarray, " {frames}"]:
    """The delays in ms of a GIF at `fps` frames a second; their sum is right to 5 ms.

    A GIF stores hundredths of a second: at 30 fps the delays are 30, 40, 30. Raises TinygifError
    for an fps that a GIF cannot store.
    """
    got = f"{fps}: a frame of a GIF lasts 20 ms to 11 minutes"
    expect(100 / 65535 <= fps <= 50, "0.002 <= fps <= 50", got)
    return 10 * np.diff(np.round(np.arange(frames + 1) * 100 / fps)).astype(int)


def write_gif(
    path: str | Path, clip: UInt8[np.ndarray, "f h w c"], fps: int | float = 10,
    delays: Sequence[int] | np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write a GIF at `fps` frames a second (at most 50), or with one delay in ms per frame."""
    delays = fps_delays(len(clip), fps) if delays is None else delays
    write_whole(Path(path), encode_gif(clip, delays))


def read_gif(path: str | Path) -> tuple[UInt8[np.ndarray, "f h w 3"], Int[np.ndarray, " f"]]:
    """All frames of a GIF as a player shows them on white, and their delays in ms.

    Raises GifError for a file that is broken or too large, OSError for one that is missing.
    """
    try:
        frames, delays = zip(*play_gif(Path(path)), strict=True)
    except GifError as error:
        raise GifError(
            f"expected a GIF, could not read {path} ({error}): convert it again, or leave it out"
        ) from error
    return np.stack(frames), np.array(delays)


def play_gif(
    path: Path, max_frames: int = 1000, max_pixels: int = 2**26, background: RGB = WHITE,
    wanted: Container[int] | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"] | None, int]]:  # fmt: skip
    """The frames of `read_gif` one by one, each with its delay: a few frames are in memory at once.

    `max_pixels` bounds frames * height * width. The bounds are checked before anything is decoded.
    `background` and `wanted` are those of `play_image`. The GifError that it raises says in a few
    words what is wrong with the file.
    """
    check_bytes(path)
    with open(path, "rb") as file:
        if (start := file.read(6)) not in (b"GIF87a", b"GIF89a"):
            raise GifError(f"not a GIF: it starts with {start!r}")
        file.seek(0)
        try:
            yield from play_image(_BoundedGif(file), max_frames, max_pixels, background, wanted)
        except GifError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, EOFError, ValueError, ...
            reason = str(error).partition(" <")[0]  # up to the address of an object
            raise GifError(f"broken: {reason or type(error).__name__}") from error


class _BoundedGif(GifImagePlugin.GifImageFile):
    """Pillow's reader of GIFs, with a bound on the canvas.

    When Pillow seeks to a frame that sticks out of the canvas, it enlarges the canvas and may
    allocate up to 700 MB at once, before `play_image` can look at the new size.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_size" and math.prod(value) > MAX_CANVAS:
            raise GifError("too large: {}x{}, accepted are {} pixels".format(*value, MAX_CANVAS))
        super().__setattr__(name, value)


def play_image(
    image: Image.Image, max_frames: int, max_pixels: int, background: RGB = WHITE,
    wanted: Container[int] | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"] | None, int]]:  # fmt: skip
    """The frames of an image that Pillow has opened, on `background`, each with its delay in ms.

    As in browsers, the canvas is enlarged for the first frame only, later frames are cut off at its
    edges, and delays of 0 and 10 ms become 100. An APNG's default image, for programs that cannot
    play it, is no frame. With `wanted`, only frames of these numbers are drawn, for others comes
    None. Raises GifError if the image exceeds the bounds, and any exception of Pillow if it is
    broken.
    """
    width, height = image.size
    frames, first = getattr(image, "n_frames", 1), int(getattr(image, "default_image", False))
    if first:
        check_bounds(frames, width, height, max_frames, max_pixels)
        image.paste(0, (0, 0, width, height))  # Pillow would draw the first frame over it
    for number in range(first, frames):
        image.seek(number)
        check_bounds(frames, *image.size, max_frames, max_pixels)  # Pillow may enlarge it
        image.load()
        delay = round(image.info.get("duration", 0))
        frame = None
        if wanted is None or number - first in wanted:
            drawn, canvas = image.convert("RGBA"), Image.new("RGB", image.size, background)
            canvas.paste(drawn, mask=drawn)
            frame = np.asarray(canvas)[:height, :width]
        yield frame, delay if delay > 10 else 100


def check_bytes(path: Path) -> None:
    """Raise GifError for a file of more than MAX_BYTES."""
    if path.stat().st_size > MAX_BYTES:
        raise GifError(f"too large: {path.stat().st_size} bytes, accepted are {MAX_BYTES}")


def check_bounds(frames: int, width: int, height: int, max_frames: int, max_pixels: int) -> None:
    """Raise GifError for a clip that would take too much memory, or too long to decode."""
    if frames > max_frames or width * height > min(MAX_CANVAS, max_pixels // frames):
        raise GifError(
            f"too large: {frames} frames of {width}x{height}, accepted are "
            f"{max_frames} frames, {MAX_CANVAS} pixels each, {max_pixels} in all"
        )


def resample(
    clip: UInt8[np.ndarray, "f h w c"], delays: Sequence[int] | np.ndarray, frames: int
) -> UInt8[np.ndarray, "{frames} h w c"]:
    """The frames that a player shows at 0, 1/frames, 2/frames, ... of the clip's duration."""
    if len(delays) != len(clip):
        raise ValueError(
            f"expected a positive delay for each of {len(clip)} frames, got {list(delays)}: pass "
            "both as read_gif gives them"
        )
    return clip[shown_frames(delays, frames)]


def shown_frames(
    delays: Sequence[int] | np.ndarray, frames: int, span: int | None = None
) -> Int[np.ndarray, "{frames}"]:
    """The numbers of the frames that `resample` takes, of a clip with these delays.

    With `span`: of the `span` ms in the middle of the clip, which is repeated if it is shorter.
    """
    ends = np.cumsum(np.asarray(delays, np.int64))
    if frames < 1 or len(ends) == 0 or np.diff(ends, prepend=0).min() < 1:
        raise ValueError(
            f"expected frames >= 1 and a positive delay for each frame, got {frames} and "
            f"{list(delays)}: pass the delays as read_gif gives them"
        )
    span = int(ends[-1]) if span is None else span
    start = max(0, (ends[-1] - span) // 2)
    # Times are multiplied by `frames`, so that they stay integers: rounding would shift frames.
    times = (start * frames + np.arange(frames) * span) % (ends[-1] * frames)
    return np.searchsorted(ends * frames, times, side="right")


def enlarge(clip: UInt8[np.ndarray, "*f h w c"], scale: int) -> UInt8[np.ndarray, "*f h2 w2 c"]:
    """Every pixel becomes scale x scale pixels."""
    return clip.repeat(scale, axis=-3).repeat(scale, axis=-2)


def strip(clip: UInt8[np.ndarray, "f h w c"]) -> UInt8[np.ndarray, "h fw c"]:
    """The frames side by side, time from left to right."""
    return rearrange(clip, "f h w c -> h (f w) c")


def grid(
    clips: Sequence[np.ndarray] | UInt8[np.ndarray, "b f h w c"], columns: int | None = None,
    captions: Sequence[str] | None = None, scale: int = 1,
) -> UInt8[np.ndarray, "f h2 w2 c"]:  # fmt: skip
    """Clips of one shape as one clip: row by row on white, enlarged, each above its caption.

    Captions are broken into lines; a cell is at least as wide as the longest word. Latin, Cyrillic
    and Greek are drawn; in place of a caption in another script stands a sentence that says so.
    """
    shapes = {clip.shape for clip in clips}
    if len(shapes) != 1 or (captions is not None and len(captions) != len(clips)):
        raise ValueError(
            f"expected clips of one shape, and no captions or one for each, got "
            f"{len(clips)} clips {shapes}, captions {captions}: resample or crop them"
        )
    cells = np.stack([enlarge(clip, scale) for clip in clips])
    if captions is not None:
        labels = draw_labels(captions, cells.shape[3])[:, None, :, :, None]
        extra = labels.shape[3] - cells.shape[3]
        pad = [(0, 0), (0, 0), (0, labels.shape[2]), (extra // 2, extra - extra // 2), (0, 0)]
        cells = np.pad(cells, pad, constant_values=255)
        cells[:, :, -labels.shape[2] :] = labels
    columns = columns or math.ceil(math.sqrt(len(cells)))
    pad = [(0, -len(cells) % columns), (0, 0), (0, 4), (0, 4), (0, 0)]
    cells = np.pad(cells, pad, constant_values=255)
    whole = rearrange(cells, "(i j) f h w c -> f (i h) (j w) c", j=columns)
    return np.pad(whole, [(0, 0), (4, 0), (4, 0), (0, 0)], constant_values=255)


def check_output(path: str | Path, fps: int | float, frames: int) -> None:
    """Refuse what `write` could not write; to be called before the clip is made.

    Raises TinygifError for an extension other than .gif, .apng, .png and .mp4, for an fps that such
    a file cannot store, for .mp4 without imageio-ffmpeg, and if the folder does not exist or is a
    file.
    """
    path = Path(path)
    kind = path.suffix.lower()
    got = f"{str(path)!r}: change the extension"
    known = (".gif", ".apng", ".png", ".mp4")
    expect(kind in known, "a path ending in .gif, .apng, .png or .mp4", got)
    if kind in (".gif", ".apng"):
        fps_delays(frames, fps)
    if kind == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise TinygifError(
                'expected imageio-ffmpeg for .mp4, found none: pip install "tinygif[video]"'
            ) from error
        expect(0 < fps < math.inf, "fps > 0", f"{fps}: choose frames a second")
    got = f"{path}: make the folder first, or choose another path"
    expect(path.parent.is_dir() and not path.is_dir(), "a file in a folder that exists", got)


def write(path: str | Path, clip: UInt8[np.ndarray, "f h w c"], fps: int | float = 10) -> None:
    """Write a clip as its extension says: .gif, .apng, .mp4, or .png (the frames side by side).

    A clip of four channels has transparent pixels, which .mp4 cannot have.
    """
    path = Path(path)
    _check_clip(clip)
    check_output(path, fps, len(clip))
    match path.suffix.lower():
        case ".gif":
            write_gif(path, clip, fps)
        case ".png":
            image = strip(clip)
            with whole_file(path) as file:
                Image.fromarray(image[..., 0] if clip.shape[-1] == 1 else image).save(file, "PNG")
        case ".apng":
            first, *others = map(Image.fromarray, clip[..., 0] if clip.shape[-1] == 1 else clip)
            options = dict(save_all=True, append_images=others, loop=0, disposal=1, blend=0)
            with whole_file(path) as file:
                first.save(file, "PNG", duration=fps_delays(len(clip), fps).tolist(), **options)
        case ".mp4":
            expect(clip.shape[-1] != 4, ".gif, .apng or .png for transparent pixels", str(path))
            write_whole(path, _encode_mp4(clip, fps))


def _check_clip(clip: np.ndarray) -> None:
    is_clip = clip.dtype == np.uint8 and clip.ndim == 4 and clip.shape[-1] in (1, 3, 4)
    if not is_clip or 0 in clip.shape:
        raise ValueError(
            f"expected a clip uint8 (f, h, w, 1, 3 or 4), got {clip.dtype} {clip.shape}: "
            "decode the output of a model first"
        )


def distinct(
    clip: UInt8[np.ndarray, "*n 3"],
) -> tuple[UInt8[np.ndarray, "colors 3"], Int[np.ndarray, " m"], Int[np.ndarray, " colors"]]:
    """The colours of a clip in order; of each pixel the number of its colour; how often each comes.
    """
    rgb = clip.reshape(-1, 3).astype(np.uint32)
    packed = rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]  # single numbers are sorted faster
    found, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colors = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    return colors.astype(np.uint8), index, counts


def _palette_images(clip: np.ndarray) -> list[Image.Image]:
    """The frames as images that share one palette; its first colour is the transparent one."""
    hidden = clip[..., 3] < 128 if clip.shape[-1] == 4 else None
    room = 256 if hidden is None else 255
    clip = clip if hidden is None else clip[..., :3]
    colours, index, _ = distinct(np.broadcast_to(clip, (*clip.shape[:3], 3)))
    if len(colours) <= room:
        palette = colours.tobytes()
    else:  # all frames as one tall image, hence one palette
        tall = Image.fromarray(rearrange(clip, "f h w c -> (f h) w c")).quantize(room)
        index, palette = np.asarray(tall), bytes(tall.getpalette())
    if hidden is not None:
        index = np.where(hidden.reshape(index.shape), 0, index + 1)
        palette = bytes(3) + palette
    frames = [Image.fromarray(frame) for frame in index.astype(np.uint8).reshape(clip.shape[:3])]
    for frame in frames:
        frame.putpalette(palette)
    return frames


def _encode_mp4(clip: np.ndarray, fps: int | float) -> bytes:
    import imageio.v3 as iio

    h, w = clip.shape[1:3]
    # H.264 stores colours at half the size: no player opens a video with an odd side.
    clip = np.pad(clip, [(0, 0), (0, h % 2), (0, w % 2), (0, 0)], mode="edge")
    rgb = np.broadcast_to(clip, (*clip.shape[:3], 3))
    return iio.imwrite(
        "<bytes>", rgb, extension=".mp4", plugin="FFMPEG", fps=fps, macro_block_size=1
    )
