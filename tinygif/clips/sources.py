"""Where clips and their captions come from: folders, TGIF's links, MSR-VTT's videos.

`collect` lists the clips of a source, in the same order on every machine; `play` decodes a file.
TGIF: Li et al. 2016, "TGIF: A New Dataset and Benchmark on Animated GIF Description". MSR-VTT: Xu
et al. 2016, "MSR-VTT: A Large Video Description Dataset for Bridging Video and Language".
Lesson 14.
"""

import contextlib
import csv
import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tinygif.errors import TinygifError
from tinygif.files import cache_dir, fetch, write_whole
from tinygif.gif import MAX_BYTES, WHITE, check_bounds, check_bytes, play_gif, play_image

PICTURES, VIDEOS = (".gif", ".webp", ".apng"), (".mp4", ".webm")
TABLES = ("captions.tsv", "captions.csv", "metadata.jsonl")
HEADERS = ("file", "file_name", "filename", "name", "path")
MAX_FRAMES, MAX_PIXELS = 3000, 2**29  # that are decoded of one file: seconds of work
TRIES, TIMEOUT, LONGEST = 3, 10.0, 60.0  # attempts; seconds without a byte; seconds in all
RATE, THREADS = 8.0, 8  # requests begun in a second; requests at once
MAX_SILENT = 50  # links without an answer, one after another, before the network is blamed
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class Item(NamedTuple):
    """A clip that is not decoded yet: its name in reports, its file, its captions.

    `path` is None where a download gave no file, and `why` is the reason.
    """

    name: str
    path: Path | None
    captions: tuple[str, ...]
    why: str = ""


def collect(
    source: Path, videos: Path | None = None, split: str | None = None, limit: int | None = None
) -> list[Item]:
    """The clips of a folder, of a TSV of links (TGIF), or of a JSON with `videos` (MSR-VTT).

    `split` is the name of a part of MSR-VTT; for TGIF it is a file with one link a line. Links are
    downloaded into the cache. Only the first `limit` clips are taken. Raises TinygifError for a
    source that cannot be read.
    """
    if source.is_dir():
        return folder_items(source)[:limit]
    if not source.is_file() or source.suffix not in (".tsv", ".json"):
        raise TinygifError(
            f"expected a folder of clips, TGIF's .tsv or MSR-VTT's .json, got {source}"
            + ("" if source.exists() else ", which is not there")
        )
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


def folder_items(folder: Path) -> list[Item]:
    """The clips below a folder, and those that a table names although they are not there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    here = lambda path: path.relative_to(folder).as_posix()  # noqa: E731
    clips = {here(path): path for path in paths if path.suffix.lower() in PICTURES + VIDEOS}

    def pairs() -> Iterator[tuple[str, str]]:
        for name, path in clips.items():
            yield name, ""
            if (beside := path.with_suffix(".txt")).is_file():
                yield from ((name, line) for line in read_text(beside).split("\n"))
        for path in paths:
            if path.name in TABLES:
                for name, caption in read_table(path):
                    yield (Path(here(path.parent)) / name).as_posix(), caption

    captions = gather(pairs())
    if not captions:
        raise TinygifError(
            f"found no clip in {folder}: expected files ending in {', '.join(PICTURES + VIDEOS)}"
        )
    return [Item(name, folder / name, tuple(captions[name])) for name in sorted(captions)]


def read_table(path: Path) -> Iterator[tuple[str, str]]:
    """(file, caption) of each line of a table; a first line with column names is skipped."""
    lines = read_text(path).split("\n")
    if path.suffix == ".jsonl":
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield from read_json_line(line, f"{path}, line {number}")
        return
    tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    try:
        rows = [row for row in csv.reader(lines, **tabs) if row]
    except csv.Error as error:
        raise TinygifError(f"expected a table of file and caption in {path}: {error}") from error
    for name, *cells in rows[1:] if rows and rows[0][0].lower() in HEADERS else rows:
        yield name, ", ".join(cells)  # a caption with commas may lack its quotes


def read_json_line(line: str, place: str) -> Iterator[tuple[str, str]]:
    """(file, caption) of a line of JSON, whose `text` is a caption or a list of them."""
    try:
        values = json.loads(line)
        name, text = values["file_name"], values.get("text") or ""
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(value, str) for value in [name, *texts]):
            raise TypeError("not a text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TinygifError(
            f'expected {{"file_name": ..., "text": ...}} in {place}, got {line[:80]!r} ({error!r})'
        ) from error
    yield from ((name, text) for text in [*texts, ""])


# ---- files -----------------------------------------------------------------------------------


def play(path: Path) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], int]]:
    """The frames of a file one by one, drawn on white, each with its delay in ms.

    Raises GifError, with the reason in a few words, for a file that is too large or not a GIF. For
    other broken files the decoders may raise any exception.
    """
    if path.suffix.lower() == ".gif":
        return play_gif(path, MAX_FRAMES, MAX_PIXELS, WHITE)
    return play_picture(path) if path.suffix.lower() in PICTURES else play_video(path)


def play_picture(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The frames of a WebP or APNG, by Pillow."""
    check_bytes(path)
    with Image.open(path, formats=["WEBP", "PNG"]) as image:
        yield from play_image(image, MAX_FRAMES, MAX_PIXELS, WHITE)


def play_video(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The frames of an MP4 or WebM, by ffmpeg."""
    import imageio_ffmpeg

    with contextlib.closing(imageio_ffmpeg.read_frames(str(path))) as frames:
        about = next(frames)
        (width, height), fps = about["size"], about["fps"]
        check_bounds(max(1, round(about["duration"] * fps)), width, height, MAX_FRAMES, MAX_PIXELS)
        for number, raw in enumerate(frames):
            check_bounds(number + 1, width, height, MAX_FRAMES, MAX_PIXELS)
            delay = round((number + 1) * 1000 / fps) - round(number * 1000 / fps)
            yield np.frombuffer(raw, np.uint8).reshape(height, width, 3), delay


# ---- MSR-VTT ---------------------------------------------------------------------------------


def msrvtt_items(source: Path, folder: Path, split: str | None) -> list[Item]:
    """The videos, or those of a part (train, validate or val, test), each with its sentences."""
    text = read_text(source)
    try:
        values = json.loads(text)
        parts = {video["video_id"]: video.get("split") for video in values["videos"]}
        captions = gather((s["video_id"], s["caption"]) for s in values["sentences"])
        names = sorted(parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TinygifError(
            f"expected MSR-VTT's JSON with videos and sentences in {source}, got {error!r}"
        ) from error
    spelt = lambda part: "validate" if part == "val" else part  # noqa: E731
    names = [name for name in names if split is None or spelt(parts[name]) == spelt(split)]
    if not names:
        raise TinygifError(f"expected a split of {sorted(set(map(str, parts.values())))} in "
                          f"{source}, got {split!r}")  # fmt: skip
    return [Item(name, folder / f"{name}.mp4", tuple(captions.get(name, ()))) for name in names]


# ---- TGIF ------------------------------------------------------------------------------------


def tgif_items(source: Path, folder: Path, split: str | None, limit: int | None) -> list[Item]:
    """The clips of the links; those that the folder lacks are downloaded."""
    rows = [line.partition("\t") for line in read_text(source).split("\n") if line.strip()]
    captions = gather((url.strip(), sentence) for url, _, sentence in rows)
    if not captions or not all(url.startswith(("http://", "https://")) for url in captions):
        strange = [url for url in captions if not url.startswith("http")]
        raise TinygifError(f"expected lines of link TAB sentence in {source}, got {strange[:1]}")
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


def file_name(url: str) -> str:
    """The name that the GIF of a link has in the cache."""
    return hashlib.blake2b(url.encode(), digest_size=12).hexdigest() + ".gif"


def download_gifs(urls: list[str], folder: Path) -> dict[str, str]:
    """Download the GIFs that the folder lacks; returns the links that gave none, each with why.

    `manifest.jsonl` keeps the links that are dead for good. So a call that was stopped goes on
    where it was, and another call asks again only for what failed for the moment: a time-out, a
    busy server. Raises TinygifError if there seems to be no network.
    """
    from tqdm import tqdm

    manifest = folder / "manifest.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.touch()
    except OSError as error:
        raise TinygifError(f"cannot write to the cache ({error}): set TINYGIF_CACHE to a folder "
                           "that can be written to") from error  # fmt: skip
    dead = read_manifest(manifest)
    failures = {url: dead[url] for url in urls if url in dead}
    missing = [url for url in urls if url not in dead and not (folder / file_name(url)).exists()]

    def download_gif(url: str) -> tuple[str, str, bool]:
        data, why, final = fetch_gif(url)
        if data:
            write_whole(folder / file_name(url), data)
        return url, why, final

    pool, silent = ThreadPoolExecutor(THREADS), 0
    try:
        with open(manifest, "a") as file:
            results = pool.map(download_gif, missing)
            for url, why, final in tqdm(
                results, "downloading", len(missing), disable=not missing
            ):  # fmt: skip
                if why:
                    failures[url] = why
                if final:
                    print("\n" + json.dumps({"url": url, "why": why}), file=file, flush=True)
                silent = silent + 1 if why and not final else 0
                if silent == MAX_SILENT:
                    raise TinygifError(f"{silent} links one after another gave nothing, the last: "
                                       f"{why}. Is there a network? The same command goes on from "
                                       "here.")  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def read_manifest(path: Path) -> dict[str, str]:
    """Dead links and why; a line that was cut short when a process was killed is passed over."""
    lines = [line for line in path.read_text().split("\n") if line[:1] + line[-1:] == "{}"]
    return {row["url"]: row["why"] for row in map(json.loads, lines)}


def fetch_gif(url: str) -> tuple[bytes | None, str, bool]:
    """The bytes of a GIF; or None, why there is none, and whether that is final."""
    why = ""
    for attempt in range(TRIES):
        time.sleep(TIMEOUT / 4 * attempt)
        wait_for_turn()
        try:
            data = fetch(url, most=MAX_BYTES, timeout=TIMEOUT, longest=LONGEST)
        except HTTPError as error:
            why = f"dead link: {error.code}"
            if error.code not in TEMPORARY:
                return None, why, True
        except OSError as error:
            why = f"no answer: {getattr(error, 'reason', error)}"
        else:
            if len(data) > MAX_BYTES:
                return None, f"too large: more than {MAX_BYTES} bytes", True
            if data.startswith(b"GIF8"):
                return data, "", False
            return None, "dead link: what came is no GIF", True
    return None, why, False


TURN = threading.Lock()


def wait_for_turn() -> None:
    """Return at most `RATE` times a second, whichever thread calls: servers are not flooded."""
    with TURN:
        time.sleep(1 / RATE)
