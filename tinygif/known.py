"""From pictures to clips: known frames, and clips longer than those that were trained on.

A model draws all frames of a clip at once. If some are known (the first, the last, those of a GIF
that is to go on), they are put in, and the model draws the others so that they agree. Lesson 13.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from tinygif import gif
from tinygif.config import Config, DataConfig
from tinygif.data import Slice, in_channels, read_batch
from tinygif.datasets import open_dataset
from tinygif.errors import TinygifError, check_range, expect
from tinygif.files import cache_dir
from tinygif.moving_mnist import BUNDLED
from tinygif.pipeline import Pipeline
from tinygif.text import KnownFrames

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
SEEN, OTHERS = 1000, 50
"""`familiar` looks for the nearest of the first SEEN frames of the data, and measures the next
OTHERS to know what is usual."""


# ---- reading ---------------------------------------------------------------------------------


def fit(frame: UInt8[np.ndarray, "h w 3"], data: DataConfig) -> UInt8[np.ndarray, "s s c"]:
    """A picture at the size and in the colours of a model's clips.

    It is cut to a square, not stretched. A clip that was enlarged by a whole number comes back
    exactly, because every new pixel is the mean of those that it covers.
    """
    square = (data.size, data.size)
    image = np.asarray(ImageOps.fit(Image.fromarray(frame), square, Image.Resampling.BOX))
    return in_channels(image, data.channels)


def read_frames(path: Path) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[int]]:
    """The frames of a picture or a GIF, on white, and their delays in ms. Raises TinygifError."""
    try:
        gif.check_bytes(path)
        with Image.open(path, formats=FORMATS) as image:
            frames, delays = zip(*gif.play_image(image, 1000, 2**26), strict=True)
    except Exception as error:  # Pillow raises OSError, SyntaxError, EOFError, ValueError, ...
        reason = str(error) if isinstance(error, gif.GifError) else type(error).__name__
        reason = "not found" if isinstance(error, FileNotFoundError) else reason
        raise TinygifError(
            f"expected a picture ({', '.join(FORMATS)}), could not read {path} ({reason})"
        ) from error
    return list(frames), list(delays)


def read_picture(path: Path, data: DataConfig) -> UInt8[np.ndarray, "s s c"]:
    """The (first) frame of a picture, fitted to a model's clips."""
    return fit(read_frames(path)[0][0], data)


def read_clip(
    path: Path, data: DataConfig, fps: int | float
) -> UInt8[np.ndarray, "f s s c"]:
    """The frames that a GIF shows at this many frames per second, fitted to a model's clips."""
    frames, delays = read_frames(path)
    got = f"one frame in {path}: use --first-frame for a picture"
    expect(len(frames) > 1, "a GIF of at least two frames to continue", got)
    count = max(2, round(sum(delays) * fps / 1000))
    middles = (np.arange(count) + 0.5) * sum(delays) / count  # delays are rounded to 10 ms
    numbers = np.searchsorted(np.cumsum(delays), middles, side="right")
    return np.stack([fit(frames[i], data) for i in numbers])


def familiar(picture: UInt8[np.ndarray, "s s c"], config: Config) -> tuple[float, float] | None:
    """How far a picture is from the nearest frame of the training data, and how far is usual.

    In grey levels RMS; the second number is the largest distance of some frames that are not among
    those searched. Digits are the bundled ones. None if the data is not on this machine, or has
    too few clips to tell.
    """
    data = replace(config.data, images=None)
    if data.dataset == "moving_mnist":
        data = replace(data, mnist_dir=BUNDLED, digits_hash=None)
    elif data.dataset == "sprites" and data.sprites_dir is None:  # do not download them for this
        data = replace(data, sprites_dir=str(cache_dir() / "sprites"))
    try:
        dataset = open_dataset(replace(config, data=data))[0]
    except (TinygifError, OSError):
        return None
    count = SEEN + OTHERS if dataset.size is None else min(SEEN + OTHERS, dataset.size)
    if count < 2 * OTHERS:
        return None
    clips, _ = read_batch(dataset, 0, Slice(0, count, 1))
    frames = clips.reshape(count, -1).astype(np.float32)
    seen, others = frames[:-OTHERS], frames[-OTHERS:]

    def nearest(x: np.ndarray) -> float:
        return float(np.sqrt(((seen - x) ** 2).mean(1).min()))

    return nearest(picture.reshape(-1).astype(np.float32)), max(map(nearest, others))


# ---- known frames ----------------------------------------------------------------------------


def know(
    pipeline: Pipeline, clips: UInt8[np.ndarray, "b f h w c"], mask: Bool[np.ndarray, " f"]
) -> KnownFrames:
    """Of each clip the frames where the mask is True, as `Pipeline` takes them."""
    frames = jax.vmap(pipeline.model.codec.encode)(clips)
    return KnownFrames(frames, jax.numpy.broadcast_to(mask, (len(clips), len(mask))))


def place(
    pictures: dict[int, UInt8[np.ndarray, "s s c"]], frames: int, count: int
) -> tuple[UInt8[np.ndarray, "{count} {frames} s s c"], Bool[np.ndarray, " {frames}"]]:
    """`count` copies of a clip that is black but for these pictures, and a mask of where they are.
    """
    clip = np.zeros((frames, *next(iter(pictures.values())).shape), np.uint8)
    mask = np.zeros(frames, bool)
    for number, picture in pictures.items():
        clip[number], mask[number] = picture, True
    return np.repeat(clip[None], count, axis=0), mask


def animate(
    pipeline: Pipeline, prompts: Sequence[str | None], *,
    pictures: dict[int, UInt8[np.ndarray, "s s c"]] | None = None,
    start: UInt8[np.ndarray, "f2 s s c"] | None = None, frames: int | None = None,
    then: Sequence[str] = (), resample: int | None = None, **options: Any,
) -> UInt8[np.ndarray, "b f h w c"]:  # fmt: skip
    """A clip for each prompt, with known frames, or longer than in training.

    pictures: frames by their number, -1 for the last; or `start`: a clip that goes on. frames: the
    length of the clips, by default as in training; of a clip that goes on half as many more.
    then: the prompts of the later windows of a long clip, one after another, the last one again and
    again; by default the same as at first.
    With `loop` a model of clips that do not loop, but trained with known frames, draws half a clip
    more, which leads back to the beginning. `resample` is by default 4 for known frames in a model
    that was not trained with them. Prompts may be None; other options as in `Pipeline.denoising`.
    Raises TinygifError.
    """
    window, pictures = pipeline.config.data.frames, pictures or {}
    expect(start is None or not pictures, "pictures, or a clip to go on from", "both")
    if then:
        pipeline.reader.batch(list(then))  # refuses an unknown word now, not windows later
    check_range("resample", resample, 1)
    if start is not None:
        clips = np.repeat(start[None], len(prompts), axis=0)
        frames = len(start) + window // 2 if frames is None else frames
        return lengthen(pipeline, clips, frames, [prompts, *repeat(then, len(prompts))],
                        resample=resample, **options)  # fmt: skip
    frames = window if frames is None else frames
    is_long, got = frames > window, f"{frames} frames, and this model draws {window} at once"
    expect(not is_long or -1 not in pictures, "a last frame within one clip", got)
    expect(not is_long or not options.get("loop"), "a loop within one clip", got)
    known = None
    if pictures:
        known = know(pipeline, *place(pictures, min(frames, window), len(prompts)))
        resample = default_resample(pipeline) if resample is None else resample
    expect(is_long or not then, "more --frames than one clip, for --then", got)
    first = dict(options, known=known, frames=min(frames, window), resample=resample or 1)
    if options.get("loop") and leads_back(pipeline):
        return close(pipeline, pipeline(prompts, **first | {"loop": False}).array, **options)
    if not is_long:
        return pipeline(prompts, **first).array
    clips = pipeline(prompts, **first | {"loop": False}).array
    later = repeat(then, len(prompts)) or [prompts]
    return lengthen(pipeline, clips, frames, later, resample=resample, **options)


def repeat(prompts: Sequence[str], count: int) -> list[list[str]]:
    """Each prompt for all of `count` clips."""
    return [[prompt] * count for prompt in prompts]


def leads_back(pipeline: Pipeline) -> bool:
    """Whether a loop of this model is a clip and a way back, because its clips do not loop."""
    data = pipeline.config.data
    return pipeline.takes_known and not data.loops and data.frames >= 4


def close(
    pipeline: Pipeline, clips: UInt8[np.ndarray, "b f h w c"], *, seed: int = 0, **options: Any
) -> UInt8[np.ndarray, "b f2 h w c"]:
    """Clips and, after each, half a window of frames that lead from its end back to its beginning.

    A quarter of a window is known on either side: how the clip ends, and how it begins.
    """
    window = pipeline.config.data.frames
    known = max(1, window // 4)
    expect(clips.shape[1] >= known and window > 2 * known, f"clips of {known} frames", clips.shape)
    ends = np.concatenate([clips[:, -known:], clips[:, :known]], axis=1)
    blank = np.zeros((len(clips), window - 2 * known, *clips.shape[2:]), np.uint8)
    start = np.concatenate([ends[:, :known], blank, ends[:, known:]], axis=1)
    at = np.arange(window)
    given = know(pipeline, start, (at < known) | (at >= window - known))
    choices = dict(options, known=given, seed=(seed + 1) % 2**32, loop=False, guidance=1.0)
    new = pipeline([None] * len(clips), **choices).array[:, known:-known]
    return np.concatenate([clips, new], axis=1)


def default_resample(pipeline: Pipeline) -> int:
    """1 for a model that was trained with known frames; else 4, and a remark is printed."""
    if pipeline.takes_known:
        return 1
    print("this model was not trained with known frames (--known-frames, --known-share): they are "
          "put in at every step, and the others follow less well", file=sys.stderr)  # fmt: skip
    return 4


def lengthen(
    pipeline: Pipeline, clips: UInt8[np.ndarray, "b f h w c"], frames: int,
    prompts: Sequence[Sequence[str | None]], *, seed: int = 0, resample: int | None = None,
    **options: Any,
) -> UInt8[np.ndarray, "b {frames} h w c"]:  # fmt: skip
    """Clips that go on until they have this many frames, window by window.

    prompts: for each window the prompts of all clips; after the last one it is used again.
    A window is as long as a clip in training. Its first half is what was drawn last, its second
    half is new, so memory does not grow with the length. Without guidance by default: the frames
    say most of what comes next.
    """
    window, total = pipeline.config.data.frames, clips.shape[1]
    expect(frames > total, f"more frames than the {total} that the clip has", frames)
    resample = default_resample(pipeline) if resample is None else resample
    options["guidance"] = 1.0 if options.get("guidance") is None else options["guidance"]
    parts, last, number = [clips], clips[:, -max(1, window // 2) :], 0
    while total < frames:
        number, shown = number + 1, last.shape[1]
        blank = np.zeros((len(clips), window - shown, *clips.shape[2:]), np.uint8)
        known = know(pipeline, np.concatenate([last, blank], 1), np.arange(window) < shown)
        choices = dict(options, known=known, resample=resample, seed=(seed + number) % 2**32)
        wanted = prompts[min(number, len(prompts)) - 1]
        new = pipeline(wanted, **choices | {"loop": False}).array[:, shown:]
        parts.append(new)
        total += new.shape[1]
        last = np.concatenate([last, new], axis=1)[:, -max(1, window // 2) :]
    return np.concatenate(parts, axis=1)[:, :frames]
