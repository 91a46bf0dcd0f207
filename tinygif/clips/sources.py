"""Where clips and their captions come from: folders, TGIF's links, MSR-VTT's videos.

`collect` lists the clips of a source, in the same order on every machine; `play` decodes a file.
TGIF: Li et al. 2016, "TGIF: A New Dataset and Benchmark on Animated GIF Description". MSR-VTT: Xu
et al. 2016, "MSR-VTT: A Large Video Description Dataset for Bridging Video and Language".
Lesson 14.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tinygif.clips.links import download_gifs, file_name
from tinygif.errors import TinygifError, expect
from tinygif.files import cache_dir
from tinygif.gif import WHITE, check_bounds, check_bytes, play_gif, play_image

PICTURES, VIDEOS = (".gif", ".webp", ".apng"), (".mp4", ".webm")
STILLS = (".png", ".jpg", ".jpeg")
"""Files that count as clips where a clip is to have one frame."""
TABLES = ("captions.tsv", "captions.csv", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "name")
CAPTION_COLUMNS = ("caption", "captions", "text")
MAX_FRAMES, MAX_PIXELS = 3000, 2**29  # of one file: what can be decoded in seconds

Frames = Iterator[tuple[UInt8[np.ndarray, "h w 3"] | None, int]]
"""The frames of a file, drawn on white, each with its delay in ms; None for one left out."""


class Item(NamedTuple):
    """A clip that is not decoded yet: its name in reports, its file, its captions.

    The name is a link or a path. `path` is None where there is no file, and `why` is the reason.
    """

    name: str
    path: Path | None
    captions: tuple[str, ...]
    why: str = ""


def collect(
    source: Path, videos: Path | None = None, split: str | None = None, limit: int | None = None,
    *, stills: bool = False,
) -> list[Item]:  # fmt: skip
    """The clips of a folder, of a TSV of links (TGIF), or of a JSON with `videos` (MSR-VTT).

    `split` is the name of a part of MSR-VTT; for TGIF it is a file with one link a line. Links are
    downloaded into the cache. Only the first `limit` clips are taken. With `stills`, pictures in a
    folder count, too. Raises TinygifError for a source that cannot be read.
    """
    if source.is_dir():
        return folder_items(source, stills)[:limit]
    is_table = source.is_file() and source.suffix in (".tsv", ".json")
    got = f"{source}" if source.exists() else f"{source}, which is not there"
    expect(is_table, "a folder of clips, TGIF's .tsv or MSR-VTT's .json", got)
    if source.suffix == ".json":
        return msrvtt_items(source, videos or source.parent, split)[:limit]
    return tgif_items(source, cache_dir() / "tgif", split, limit)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TinygifError(f"expected {path} to be a text in UTF-8, got: {error}") from error


def gather(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The captions of each name, in their order, without blank ones and repetitions."""
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        known, text = captions.setdefault(name, []), " ".join(caption.split())
        if text and text not in known:
            known.append(text)
    return captions


# ---- folders ---------------------------------------------------------------------------------


def folder_items(folder: Path, stills: bool = False) -> list[Item]:
    """The clips in a folder and the folders in it, and names in a table that have no file there.

    Only files that were found in the folder are read, whatever a table names.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    here = lambda path: path.relative_to(folder).as_posix()  # noqa: E731
    endings = PICTURES + VIDEOS + (STILLS if stills else ())
    clips = {here(path): path for path in paths if path.suffix.lower() in endings}

    def pairs() -> Iterator[tuple[str, str]]:
        for name, path in clips.items():
            yield name, ""
            if (beside := path.with_suffix(".txt")).is_file():
                yield from ((name, line) for line in read_text(beside).split("\n"))
        for path in paths:
            if path.name in TABLES:
                for name, caption in read_table(path):
                    place = os.path.normpath(Path(here(path.parent)) / name)
                    yield Path(place).as_posix(), caption

    captions = gather(pairs())
    if not captions:
        raise TinygifError(
            f"found no clip in {folder}: expected files ending in {', '.join(endings)}"
        )
    return [
        Item(name, clips.get(name), tuple(captions[name]), "" if name in clips else absent(name))
        for name in sorted(captions)
    ]


def absent(name: str) -> str:
    """Why there is no clip in the folder for a name in a table."""
    path = Path(name)
    if path.is_absolute() or path.parts[:1] == ("..",):
        return "outside of the folder"
    return "not found" if path.suffix.lower() in PICTURES + VIDEOS else "not a clip by its name"


def read_table(path: Path) -> Iterator[tuple[str, str]]:
    """(file, caption) of each line of a table.

    If the first line has column names, captions are taken from the CAPTION_COLUMNS, and other
    columns are ignored. Otherwise everything after the file's name is its caption.
    """
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield from read_json_line(line, f"{path}, line {number}")
        return
    lines = io.StringIO(text, newline="")  # a caption in quotes may have several lines
    tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    try:
        reader = csv.reader(lines, **tabs)
        first = next((row for row in reader if row), [])
        columns = [name.strip().lower() for name in first]
        files = [name for name in FILE_COLUMNS if name in columns]
        if not files or Path(first[0]).suffix.lower() in PICTURES + VIDEOS:
            for name, *cells in (row for row in (first, *reader) if row):
                yield name, ", ".join(cells)  # a caption with commas may lack its quotes
            return
        texts = [name for name in CAPTION_COLUMNS if name in columns]
        for row in csv.DictReader(lines, columns, restval="", **tabs):
            yield row[files[0]], ""
            for name in texts:
                more = row.get(None, []) if name == columns[-1] else []
                yield row[files[0]], ", ".join([row[name], *more])
    except csv.Error as error:
        raise TinygifError(f"expected a table of file and caption in {path}: {error}") from error


def read_json_line(line: str, place: str) -> Iterator[tuple[str, str]]:
    """(file, caption) of a line of JSON, whose `text` is a caption or a list of them."""
    try:
        values = json.loads(line)
        name, text = values["file_name"], values.get("text") or ""
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(value, str) for value in [name, *texts]):
            raise TypeError("not a text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TinygifError(
            f'expected {{"file_name": ..., "text": ...}} in {place}, got {line[:80]!r} ({error!r})'
        ) from error
    yield from ((name, text) for text in [*texts, ""])


# ---- files -----------------------------------------------------------------------------------


def play(path: Path, wanted: Container[int] | None = None) -> Frames:
    """The frames of a file one by one. With `wanted`, only those with these numbers are drawn.

    Raises GifError, with the reason in a few words, for a file that is too large or not a GIF. For
    other broken files the decoders may raise any exception.
    """
    if path.suffix.lower() == ".gif":
        return play_gif(path, MAX_FRAMES, MAX_PIXELS, WHITE, wanted)
    return (play_picture if path.suffix.lower() in PICTURES + STILLS else play_video)(path, wanted)


def play_picture(path: Path, wanted: Container[int] | None) -> Frames:
    """The frames of a WebP or APNG, or a still picture, by Pillow."""
    check_bytes(path)
    with Image.open(path, formats=["WEBP", "PNG", "JPEG"]) as image:
        yield from play_image(image, MAX_FRAMES, MAX_PIXELS, WHITE, wanted)


def play_video(path: Path, wanted: Container[int] | None) -> Frames:
    """The frames of an MP4 or WebM, by ffmpeg."""
    import imageio_ffmpeg

    with contextlib.closing(imageio_ffmpeg.read_frames(str(path))) as frames:
        about = next(frames)
        (width, height), fps = about["size"], about["fps"]
        check_bounds(max(1, round(about["duration"] * fps)), width, height, MAX_FRAMES, MAX_PIXELS)
        for number, raw in enumerate(frames):
            check_bounds(number + 1, width, height, MAX_FRAMES, MAX_PIXELS)
            delay = round((number + 1) * 1000 / fps) - round(number * 1000 / fps)
            frame = np.frombuffer(raw, np.uint8).reshape(height, width, 3)
            yield frame if wanted is None or number in wanted else None, delay


# ---- MSR-VTT ---------------------------------------------------------------------------------


def msrvtt_items(source: Path, folder: Path, split: str | None) -> list[Item]:
    """The videos, or those of a split (train, validate or val, test), each with its sentences."""
    text = read_text(source)
    try:
        values = json.loads(text)
        parts = {str(video["video_id"]): video.get("split") for video in values["videos"]}
        captions = gather((str(s["video_id"]), s["caption"]) for s in values["sentences"])
        names = sorted(parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TinygifError(
            f"expected MSR-VTT's JSON with videos and sentences in {source}, got {error!r}"
        ) from error
    long_name = lambda part: "validate" if part == "val" else part  # noqa: E731
    names = [name for name in names if split is None or long_name(parts[name]) == long_name(split)]
    what = f"a split of {sorted(set(map(str, parts.values())))} in {source}"
    expect(len(names) > 0, what, repr(split))
    clips = {path.stem: path for path in folder.glob("*.mp4") if path.is_file()}
    return [
        Item(name, clips.get(name), tuple(captions.get(name, ())),
             "" if name in clips else absent(f"{name}.mp4"))
        for name in names
    ]  # fmt: skip


# ---- TGIF ------------------------------------------------------------------------------------


def is_link(name: str) -> bool:
    """Whether a clip's name is a link, rather than a path."""
    return name.startswith(("http://", "https://"))


def tgif_items(source: Path, folder: Path, split: str | None, limit: int | None) -> list[Item]:
    """The clips that a TSV links to; those that the folder lacks are downloaded."""
    rows = [line.partition("\t") for line in read_text(source).split("\n") if line.strip()]
    captions = gather((url.strip(), sentence) for url, _, sentence in rows)
    others = [url for url in captions if not is_link(url)]
    fits = len(captions) > 0 and not others
    expect(fits, f"lines of link TAB sentence in {source}", others[:1])
    if split is not None:
        wanted = set(read_text(Path(split)).split())
        captions = {url: texts for url, texts in captions.items() if url in wanted}
    urls = list(captions)[:limit]
    failures = download_gifs(urls, folder)
    return [
        Item(url, None if url in failures else folder / file_name(url), tuple(captions[url]),
             failures.get(url, ""))
        for url in urls
    ]  # fmt: skip
