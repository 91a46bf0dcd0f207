"""Where clips and their captions come from: folders, TGIF's links, MSR-VTT's videos.

`collect` lists what a source has, in one order on every machine; `play` decodes a file. TGIF: Li et
al. 2016, "TGIF: A New Dataset and Benchmark on Animated GIF Description". MSR-VTT: Xu et al. 2016,
"MSR-VTT: A Large Video Description Dataset for Bridging Video and Language". Lesson 14.
"""

import contextlib
import csv
import hashlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tinygif.gif import MAX_BYTES, check_bounds, check_bytes, play_gif, played, write_whole
from tinygif.moving_mnist import cache_dir

PICTURES, VIDEOS = (".gif", ".webp", ".apng"), (".mp4", ".webm")
TABLES = ("captions.tsv", "captions.csv", "metadata.jsonl")
HEADERS = ("file", "file_name", "filename", "name", "path")
MOST = 3000, 2**29  # frames and pixels that are decoded of one file: seconds of work
WHITE = (255, 255, 255)
TRIES, TIMEOUT, LONGEST = 3, 10.0, 60.0  # attempts; seconds without a byte; seconds in all
RATE, THREADS = 8.0, 8  # requests begun in a second; requests at once
SILENT = 50  # links one after another that do not answer, until the network is blamed
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class SourceError(ValueError):
    """A source that cannot be read; the message says what to change."""


class Item(NamedTuple):
    """A clip that is not yet read: its name in reports, its file, its captions.

    `path` is None where a download gave no file; `why` says why.
    """

    name: str
    path: Path | None
    captions: tuple[str, ...]
    why: str = ""


def collect(
    source: Path, videos: Path | None = None, split: str | None = None, limit: int | None = None
) -> list[Item]:
    """All clips of a folder, of a TSV of links (TGIF), or of a JSON with `videos` (MSR-VTT).

    `split` is a part of MSR-VTT, or for links a file with one of them a line. Links are downloaded
    into the cache. At most `limit` clips.
    """
    if source.is_dir():
        return folder_items(source)[:limit]
    if not source.is_file() or source.suffix not in (".tsv", ".json"):
        raise SourceError(
            f"expected a folder of clips, TGIF's .tsv or MSR-VTT's .json, got {source}"
            + ("" if source.exists() else ", which is not there")
        )
    if source.suffix == ".json":
        return msrvtt_items(source, videos or source.parent, split)[:limit]
    return tgif_items(source, cache_dir() / "tgif", split, limit)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a mark at its start."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"expected {path} in UTF-8, got other bytes: {error}") from error


def gather(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Captions by name, in the order they came; blank ones and repetitions are left out."""
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        known, text = captions.setdefault(name, []), " ".join(caption.split())
        if text and text not in known:
            known.append(text)
    return captions


# ---- folders ---------------------------------------------------------------------------------


def folder_items(folder: Path) -> list[Item]:
    """The clips below a folder, and what its tables name but it does not hold."""
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
        raise SourceError(
            f"found no clip in {folder}: expected files ending in {', '.join(PICTURES + VIDEOS)}"
        )
    return [Item(name, folder / name, tuple(captions[name])) for name in sorted(captions)]


def read_table(path: Path) -> Iterator[tuple[str, str]]:
    """(file, caption) of each line of a table; a first line with names of columns is skipped."""
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
        raise SourceError(f"expected a table of file and caption in {path}: {error}") from error
    for name, *cells in rows[1:] if rows and rows[0][0].lower() in HEADERS else rows:
        yield name, ", ".join(cells)  # commas that should have been quoted


def read_json_line(line: str, place: str) -> Iterator[tuple[str, str]]:
    """(file, caption) for the text of a line, or for each of its texts."""
    try:
        values = json.loads(line)
        name, text = values["file_name"], values.get("text") or ""
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(value, str) for value in [name, *texts]):
            raise TypeError("not a text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f'expected {{"file_name": ..., "text": ...}} in {place}, got {line[:80]!r} ({error!r})'
        ) from error
    yield from ((name, text) for text in [*texts, ""])


# ---- files -----------------------------------------------------------------------------------


def play(path: Path) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], int]]:
    """Every frame of a file on white, with its delay in ms. Raises GifError, or what it likes."""
    if path.suffix.lower() == ".gif":
        return play_gif(path, *MOST, WHITE)
    return play_picture(path) if path.suffix.lower() in PICTURES else play_video(path)


def play_picture(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """WebP and APNG, by Pillow."""
    check_bytes(path)
    with Image.open(path, formats=["WEBP", "PNG"]) as image:
        count = getattr(image, "n_frames", 1)
        check_bounds(count, *image.size, *MOST)
        under = Image.new("RGBA", image.size, (*WHITE, 255))
        for number in range(count):
            image.seek(number)
            shown = Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")
            yield np.asarray(shown), played(round(image.info.get("duration", 0)))


def play_video(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """MP4 and WebM, by ffmpeg."""
    import imageio_ffmpeg

    with contextlib.closing(imageio_ffmpeg.read_frames(str(path))) as frames:
        about = next(frames)
        (width, height), fps = about["size"], about["fps"]
        check_bounds(max(1, round(about["duration"] * fps)), width, height, *MOST)
        for number, raw in enumerate(frames):
            check_bounds(number + 1, width, height, *MOST)
            delay = round((number + 1) * 1000 / fps) - round(number * 1000 / fps)
            yield np.frombuffer(raw, np.uint8).reshape(height, width, 3), delay


# ---- MSR-VTT ---------------------------------------------------------------------------------


def msrvtt_items(source: Path, folder: Path, split: str | None) -> list[Item]:
    """The videos of a part (train, validate or val, test) or of all, each with its sentences."""
    try:
        values = json.loads(read_text(source))
        parts = {video["video_id"]: video.get("split") for video in values["videos"]}
        captions = gather((s["video_id"], s["caption"]) for s in values["sentences"])
        names = sorted(parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"expected MSR-VTT's JSON with videos and sentences in {source}, got {error!r}"
        ) from error
    spelt = lambda part: "validate" if part == "val" else part  # noqa: E731
    names = [name for name in names if split is None or spelt(parts[name]) == spelt(split)]
    if not names:
        raise SourceError(f"expected a split of {sorted(set(map(str, parts.values())))} in "
                          f"{source}, got {split!r}")  # fmt: skip
    return [Item(name, folder / f"{name}.mp4", tuple(captions.get(name, ()))) for name in names]


# ---- TGIF ------------------------------------------------------------------------------------


def tgif_items(source: Path, folder: Path, split: str | None, limit: int | None) -> list[Item]:
    """The clips of the links, downloaded into `folder` where they are not yet there."""
    rows = [line.partition("\t") for line in read_text(source).split("\n") if line.strip()]
    captions = gather((url.strip(), sentence) for url, _, sentence in rows)
    if not captions or not all(url.startswith(("http://", "https://")) for url in captions):
        strange = [url for url in captions if not url.startswith("http")]
        raise SourceError(f"expected lines of link TAB sentence in {source}, got {strange[:1]}")
    if split is not None:
        wanted = set(read_text(Path(split)).split())
        captions = {url: texts for url, texts in captions.items() if url in wanted}
    urls = list(captions)[:limit]
    failures = download(urls, folder)
    return [
        Item(url, None if url in failures else folder / file_name(url), tuple(captions[url]),
             failures.get(url, ""))
        for url in urls
    ]  # fmt: skip


def file_name(url: str) -> str:
    return hashlib.blake2b(url.encode(), digest_size=12).hexdigest() + ".gif"


def download(urls: list[str], folder: Path) -> dict[str, str]:
    """Fetch what `folder` does not hold; gives what each link that led to no GIF died of.

    `manifest.jsonl` keeps dead links, so that another call asks only for what may yet come: a
    stopped call goes on, and what failed in passing (a time-out, a busy server) is tried again.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    dead = read_manifest(folder / "manifest.jsonl")
    todo = [url for url in urls if url not in dead and not (folder / file_name(url)).exists()]
    wait, failures = paced(RATE), {url: dead[url] for url in urls if url in dead}

    def one(url: str) -> tuple[str, str, bool]:
        data, why, final = fetch(url, wait)
        if data:
            write_whole(folder / file_name(url), data)
        return url, why, final

    pool, silent = ThreadPoolExecutor(THREADS), 0
    try:
        with open(folder / "manifest.jsonl", "a") as manifest:
            done = pool.map(one, todo)
            for url, why, final in tqdm(done, "downloading", len(todo), disable=not todo):
                if why:
                    failures[url] = why
                if final:
                    print("\n" + json.dumps({"url": url, "why": why}), file=manifest, flush=True)
                silent = silent + 1 if why and not final else 0
                if silent == SILENT:
                    raise SourceError(f"{SILENT} links one after another gave nothing, the last: "
                                      f"{why}. Is there a network? The same command goes on from "
                                      "here.")  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def read_manifest(path: Path) -> dict[str, str]:
    """Dead links and why; a line that a kill cut short counts for nothing."""
    lines = path.read_text().split("\n") if path.exists() else []
    rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return {row["url"]: row["why"] for row in rows}


def paced(rate: float) -> Callable[[], None]:
    """A function that returns at most `rate` times a second, whichever thread calls it."""
    lock, state = threading.Lock(), [0.0]

    def wait() -> None:
        with lock:
            state[0] = max(time.monotonic(), state[0] + 1 / rate)
            pause = state[0] - time.monotonic()
        time.sleep(max(0.0, pause))

    return wait


def fetch(url: str, wait: Callable[[], None]) -> tuple[bytes | None, str, bool]:
    """A GIF's bytes; or why there is none, and whether asking again is in vain."""
    why = ""
    for attempt in range(TRIES):
        time.sleep(TIMEOUT / 4 * attempt)
        wait()
        try:
            data = receive(url)
        except HTTPError as error:
            why = f"dead link: {error.code}"
            if error.code not in TEMPORARY:
                return None, why, True
        except (OSError, HTTPException, ValueError) as error:
            why = f"no answer: {type(getattr(error, 'reason', error)).__name__}"
        else:
            if len(data) > MAX_BYTES:
                return None, f"too large: more than {MAX_BYTES} bytes", True
            if data.startswith(b"GIF8"):
                return data, "", False
            return None, "dead link: what came is no GIF", True
    return None, why, False


def receive(url: str) -> bytes:
    """All bytes of an answer, or one more than MAX_BYTES; raises OSError if it is cut or slow."""
    request = urllib.request.Request(url, headers={"User-Agent": "tinygif (data set download)"})
    began, parts, size = time.monotonic(), [], 0
    with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
        while size <= MAX_BYTES and (part := reply.read1(1 << 16)):
            parts.append(part)
            size += len(part)
            if time.monotonic() - began > LONGEST:
                raise TimeoutError
        told = reply.headers.get("Content-Length")
    if size <= MAX_BYTES and told is not None and int(told) != size:
        raise ConnectionError
    return b"".join(parts)
