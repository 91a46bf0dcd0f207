"""Decode clips once, into an array file that training maps into memory. Lesson 14.

A prepared folder holds clips.npy, uint8 (clips, frames, size, size, 3); captions.jsonl with a line
for each clip; and report.json with the settings, and the files that were skipped and why.
"""

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tinygif import gif
from tinygif.clips.links import FOR_NOW
from tinygif.clips.sources import VIDEOS, Item, collect, is_link, play
from tinygif.errors import TinygifError, expect
from tinygif.files import cache_dir, check_room, lock, sha256, whole_file, write_whole

CLIPS, CAPTIONS, REPORT = "clips.npy", "captions.jsonl", "report.json"
WORK = ".tinygif-preparing"  # a folder for parts and a lock, deleted at the end
PART, PART_BYTES = 32, 2**24  # at most, in a part; a call that is continued redoes unfinished parts
MAX_WORKERS = 16
VERSION = 1  # increase it when `read_clip` makes another clip of the same file


@dataclass(frozen=True)
class Settings:
    """The shape of prepared clips, and what of a file they show."""

    size: int = 32
    """Side in pixels."""
    frames: int = 16
    """With 1, pictures (PNG, JPEG) of a folder are clips, too."""
    fps: int | float | None = None
    """Take frames / fps seconds from the middle of a file, and loop shorter ones; by default show
    the whole file."""
    crop: Literal["center", "letterbox"] = "center"
    """Cut to a square, or add white bars."""

    def __post_init__(self):
        fits = type(self.size) is type(self.frames) is int  # in a report they may be anything
        fits = fits and self.size >= 1 and self.frames >= 1
        fits = fits and (self.fps is None or 0 < self.fps <= 50)
        expect(fits, "size and frames of at least 1, 0 < fps <= 50", self)


# ---- one file --------------------------------------------------------------------------------


def read_clip(path: Path, settings: Settings) -> tuple[UInt8[np.ndarray, "f s s 3"], list[int]]:
    """The clip of a file, ready for training, and the delays of the file's own frames in ms.

    The file is played twice: first for its delays, then for the frames that are kept. So a long
    film needs little memory.
    """
    pad = partial(ImageOps.pad, color=gif.WHITE)
    fit = {"center": ImageOps.fit, "letterbox": pad}[settings.crop]
    shape = (settings.size, settings.size)
    span = None if settings.fps is None else round(1000 * settings.frames / settings.fps)
    delays = [delay for _, delay in play(path, wanted=())]
    numbers = gif.shown_frames(delays, settings.frames, span).tolist()
    frames = enumerate(play(path, wanted=set(numbers)))
    shrunk = {
        number: np.asarray(fit(Image.fromarray(frame), shape, Image.Resampling.BICUBIC))
        for number, (frame, _) in frames if frame is not None
    }  # fmt: skip
    return np.stack([shrunk[number] for number in numbers]), delays


def try_clip(item: Item, settings: Settings) -> tuple[np.ndarray | None, dict[str, Any]]:
    """A clip and its row of captions.jsonl; or None, and the file's name and why it is skipped."""
    try:
        if item.path is None:
            raise gif.GifError(item.why)
        clip, delays = read_clip(item.path, settings)
    except Exception as error:  # a decoder may raise anything
        why = str(error) if isinstance(error, gif.GifError) else f"broken: {type(error).__name__}"
        why = "not found" if isinstance(error, FileNotFoundError) else why
        return None, {"name": item.name, "why": why}
    row = {"name": item.name, "captions": list(item.captions), "frames": len(delays),
           "duration": int(sum(delays)), "static": bool((clip == clip[:1]).all())}  # fmt: skip
    return clip, row


# ---- all files -------------------------------------------------------------------------------


def prepare_clips(
    source: Path, out: Path | None = None, settings: Settings = Settings(), *,
    workers: int | None = None, videos: Path | None = None, split: str | None = None,
    limit: int | None = None,
) -> Path:  # fmt: skip
    """Prepare the clips of a source (see `sources.collect`) in a folder, and return the folder.

    By default it is a folder in the cache, named after content and settings. A call continues one
    that was stopped, and returns at once if all is done; of two for the same folder, one waits. The
    result is the same, byte for byte, for any number of `workers`, which are processes. Raises
    TinygifError for a source that cannot be read, and if the folder holds other clips, or files
    that were not written here but have the same names.
    """
    for name, count in (("workers", workers), ("limit", limit)):
        expect(count is None or count >= 1, f"{name} of at least 1", count)
    if out:
        check_own(out)
    items = collect(source, videos, split, limit, stills=settings.frames == 1)
    films = sum(item.path is not None and item.path.suffix.lower() in VIDEOS for item in items)
    if films and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise TinygifError(f"{films} of {len(items)} files are videos, which need imageio-ffmpeg: "
                           'python -m pip install "tinygif[video]"')  # fmt: skip
    key = fingerprint(items, settings)
    out = out or cache_dir() / "clips" / f"{source.resolve().name}-{key[:12]}"
    if not is_prepared(out):
        size = 6 * len(items) * settings.frames * settings.size**2  # RGB, in parts and joined
        check_room(out, size, f"{len(items)} clips")
        with lock(out / WORK / "lock", f"another process prepares {out}; waiting for it"):
            if not is_prepared(out):
                parts = decode(items, settings, out / WORK, key, workers)
                join(parts, out, {"key": key, "settings": asdict(settings)})
    report = read_report(out)
    if report["key"] != key:
        raise TinygifError(f"{out} holds clips of other content or other settings: choose another "
                           "--out, or delete it")  # fmt: skip
    clear(out / WORK)
    late = sum(item.path is not None and report["skips"].get(item.name, "").startswith(FOR_NOW)
               for item in items)  # fmt: skip
    if late:
        print(f"{late} clips have arrived since {out} was prepared, and are not in it: delete it "
              "to prepare all of them")  # fmt: skip
    return out


def check_own(out: Path) -> None:
    """Refuse a folder with somebody else's files under the names that are written here.

    A folder with a report passes here: `read_report` refuses reports that are not ours.
    """
    if not ((out / WORK).is_dir() or is_prepared(out)):  # WORK is there until the report is
        taken = [name for name in (CLIPS, CAPTIONS, REPORT, WORK) if os.path.lexists(out / name)]
        if taken:
            raise TinygifError(
                f"expected --out to be a new folder, or one that was prepared, got {out}, in which "
                f"there is another {', '.join(taken)}: choose another --out"
            )


def clear(work: Path) -> None:
    """Delete the files that were needed to prepare; any others stay."""
    with contextlib.suppress(OSError):  # another process may do the same
        for path in (*work.glob("*.npz"), *work.glob(".*.part"), work / "lock"):
            path.unlink(missing_ok=True)
        work.rmdir()


def fingerprint(items: list[Item], settings: Settings) -> str:
    """A hash of content and settings: if it is the same, so are the prepared clips.

    A link counts by its address, whether or not its file has been downloaded.
    """
    from tqdm import tqdm

    digest = hashlib.sha256(json.dumps([VERSION, asdict(settings)]).encode())
    for item in tqdm(items, "reading", leave=False, delay=1):
        digest.update(json.dumps([item.name, item.captions]).encode())
        if not is_link(item.name):
            with contextlib.suppress(OSError):  # a file that cannot be read will be skipped
                digest.update(sha256(item.path).encode() if item.path else b"missing")
    return digest.hexdigest()


def decode(
    items: list[Item], settings: Settings, work: Path, key: str, workers: int | None
) -> list[Path]:
    """Write the missing parts, in several processes. A part is complete or absent.

    The name of a part holds its number, and a hash of the content that it was made from.
    """
    from tqdm import tqdm

    per_part = max(1, min(PART, PART_BYTES // (3 * settings.frames * settings.size**2)))
    groups = [items[i : i + per_part] for i in range(0, len(items), per_part)]
    files = []
    for number, group in enumerate(groups):
        made_of = json.dumps([key, per_part, [item.path is None for item in group]])
        digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
        files.append(work / f"{number:06d}-{digest}.npz")
    jobs = [job for job in zip(groups, files) if not job[1].exists()]
    is_linux = hasattr(os, "sched_getaffinity")  # there a process may be limited to some cores
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    workers = workers or min(cores, MAX_WORKERS, 1 + len(jobs) // 8)
    done = len(items) - sum(len(group) for group, _ in jobs)
    bar = tqdm(total=len(items), initial=done, desc="preparing", unit="clip")
    run_job = partial(write_part, settings=settings)
    with bar, ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=start_worker
    ) as pool:  # fmt: skip
        try:
            with without_main():
                counts = (pool.map if workers > 1 else map)(run_job, jobs)
            for count in counts:
                bar.update(count)
        except BrokenProcessPool as error:
            raise TinygifError("a worker was killed, perhaps for want of memory: the same command "
                               "continues from here; try fewer --workers") from error  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)
    return files


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Processes started in this block do not import the script that runs: train.py imports JAX."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def start_worker() -> None:
    """Leave Ctrl-C to the parent process, and end when the parent does, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def write_part(job: tuple[list[Item], Path], settings: Settings) -> int:
    """Decode a group of files into one part; returns how many files that were."""
    items, path = job
    clips, rows = zip(*(try_clip(item, settings) for item in items))
    kept = [clip for clip in clips if clip is not None]
    shape = (len(kept), settings.frames, settings.size, settings.size, 3)
    with whole_file(path) as file:
        np.savez(file, clips=np.array(kept, np.uint8).reshape(shape), rows=json.dumps(rows))
    return len(items)


def join(parts: list[Path], out: Path, report: dict[str, Any]) -> None:
    """Write the parts as one array, then the captions, then the report.

    The report comes last, so a folder that has one is complete.
    """

    def load(part: Path, name: str) -> np.ndarray:
        with np.load(part) as arrays:
            return arrays[name]

    rows = [row for part in parts for row in json.loads(str(load(part, "rows")))]
    kept = [row for row in rows if "why" not in row]
    skips = {row["name"]: row["why"] for row in rows if "why" in row}
    reasons = Counter(why.partition(":")[0] for why in skips.values())
    if not kept:
        raise TinygifError(f"none of {len(rows)} clips can be read: {dict(reasons)}; the first: "
                           f"{next(iter(skips.items()))}")  # fmt: skip
    with whole_file(out / CLIPS) as file:  # no memory map: on a full disk it kills the process
        shape = (len(kept), *load(parts[0], "clips").shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(load(part, "clips").data)
    write_whole(out / CAPTIONS, "".join(json.dumps(row) + "\n" for row in kept).encode())
    report |= {"kept": len(kept), "skipped": len(skips), "reasons": dict(reasons.most_common()),
               "skips": skips,
               "sha256": {name: sha256(out / name) for name in (CLIPS, CAPTIONS)}}  # fmt: skip
    write_whole(out / REPORT, json.dumps(report, indent=1).encode())


# ---- what was prepared -----------------------------------------------------------------------


def is_prepared(folder: Path) -> bool:
    """Whether a folder is one that `prepare_clips` finished."""
    return (folder / REPORT).is_file()


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a prepared folder: key, settings, kept, skipped, reasons, skips, sha256."""
    with expect_prepared(folder):
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return {
            "key": report["key"], "settings": asdict(Settings(**report["settings"])),
            "kept": int(report["kept"]), "skipped": int(report["skipped"]),
            "reasons": dict(report["reasons"]), "skips": dict(report["skips"]),
            "sha256": dict(report.get("sha256", {})),  # folders made before have none
        }  # fmt: skip


def check_digest(folder: Path, name: str, report: dict[str, Any]) -> None:
    """Refuse a file of a prepared folder that is not, byte for byte, what was written."""
    if report["sha256"].get(name) not in (None, sha256(folder / name)):
        raise ValueError(f"{name} is damaged: its SHA-256 is not the one in {REPORT}")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """A row for each clip of a prepared folder: name, captions, frames, duration in ms, static."""
    report = read_report(folder)
    with expect_prepared(folder):
        check_digest(folder, CAPTIONS, report)
        lines = (folder / CAPTIONS).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        if len(rows) != report["kept"]:
            raise ValueError(f"{len(rows)} lines of captions for {report['kept']} clips")
        for row in rows:
            check_row(row)
        return rows


def check_row(row: dict[str, Any]) -> None:
    """Refuse a line of captions that was not written here, with any kind of error."""
    texts, counts = [row["name"], *row["captions"]], [row["frames"], row["duration"]]
    fits = isinstance(row["captions"], list) and isinstance(row["static"], bool)
    fits = fits and all(isinstance(text, str) for text in texts) and row["frames"] > 0
    if not fits or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"a line of {CAPTIONS} that was not written here: {str(row)[:80]}")


def map_clips(folder: Path) -> UInt8[np.ndarray, "clips f h w 3"]:
    """The clips of a prepared folder, mapped into memory: only what is used is read."""
    report = read_report(folder)
    size, frames = report["settings"]["size"], report["settings"]["frames"]
    shape = (report["kept"], frames, size, size, 3)
    with expect_prepared(folder):
        check_digest(folder, CLIPS, report)
        clips = np.load(folder / CLIPS, mmap_mode="r")
        if clips.shape != shape or clips.dtype != np.uint8:
            raise ValueError(f"{clips.dtype} {clips.shape} in {CLIPS} instead of uint8 {shape}")
        return clips


@contextlib.contextmanager
def expect_prepared(folder: Path) -> Iterator[None]:
    """Turn any error of reading a missing or damaged file into a TinygifError."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError,
            RecursionError) as error:  # fmt: skip
        raise TinygifError(
            f"expected a folder that `python -m tinygif.clips prepare` made, got {folder}: {error}"
        ) from error
