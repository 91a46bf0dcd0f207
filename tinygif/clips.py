"""Your own clips: decoded once into a memory-mapped array, then trained on.

    python -m tinygif.clips prepare FOLDER --out data/NAME --size 32 --frames 16
    python -m tinygif.clips prepare tgif-v1.0.tsv --out data/tgif --limit 5000
    python -m tinygif.clips prepare videodatainfo.json --videos FOLDER --out data/msrvtt --fps 8
    python -m tinygif.clips show data/NAME

`prepare` writes clips.npy, captions.jsonl and report.json (kept, skipped, why). Lesson 14.
"""

import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image, ImageOps

from tinygif import gif
from tinygif.moving_mnist import cache_dir
from tinygif.sources import VIDEOS, WHITE, Item, SourceError, collect, play
from tinygif.text import split

CLIPS, CAPTIONS, REPORT = "clips.npy", "captions.jsonl", "report.json"
PART = 32  # clips that are done and kept together
VERSION = 1  # of what `read_clip` makes of a file


@dataclass(frozen=True)
class Settings:
    """What clips are made into."""

    size: int = 32
    """Side in pixels."""
    frames: int = 16
    fps: int | float | None = None
    """Take frames / fps seconds from the middle, and begin short clips again; else all of it."""
    crop: Literal["center", "letterbox"] = "center"
    """Cut to a square, or add white bars."""

    def __post_init__(self):
        if self.size < 1 or self.frames < 1 or (self.fps is not None and not 0 < self.fps <= 50):
            raise ValueError(f"expected size and frames of at least 1, 0 < fps <= 50, got {self}")


# ---- one file --------------------------------------------------------------------------------


def read_clip(path: Path, settings: Settings) -> tuple[UInt8[np.ndarray, "f s s 3"], list[int]]:
    """A file as it will be trained on, and its delays in ms; frames shrink as they come."""
    pad = partial(ImageOps.pad, color=WHITE)
    fit = {"center": ImageOps.fit, "letterbox": pad}[settings.crop]
    side = (settings.size, settings.size)
    shrink = lambda x: np.asarray(fit(Image.fromarray(x), side, Image.Resampling.BICUBIC))  # noqa: E731
    frames, delays = zip(*((shrink(frame), delay) for frame, delay in play(path)))
    span = None if settings.fps is None else round(1000 * settings.frames / settings.fps)
    return gif.resample(np.stack(frames), delays, settings.frames, span), list(delays)


def try_clip(item: Item, settings: Settings) -> tuple[np.ndarray | None, dict[str, Any]]:
    """A clip and what is to be known of it; or None and why it is skipped."""
    try:
        if item.path is None:
            raise gif.GifError(item.why)
        clip, delays = read_clip(item.path, settings)
    except Exception as error:  # whatever a decoder picks
        why = str(error) if isinstance(error, gif.GifError) else f"broken: {type(error).__name__}"
        why = "not found" if isinstance(error, FileNotFoundError) else why
        return None, {"name": item.name, "why": why}
    row = {"name": item.name, "captions": list(item.captions), "frames": len(delays),
           "duration": int(sum(delays)), "static": bool((clip == clip[:1]).all())}  # fmt: skip
    return clip, row


# ---- all files -------------------------------------------------------------------------------


def prepare(
    source: Path, out: Path | None = None, settings: Settings = Settings(), *,
    workers: int | None = None, videos: Path | None = None, split: str | None = None,
    limit: int | None = None,
) -> Path:  # fmt: skip
    """Make a data set of a source (see `sources.collect`) in a folder, and give the folder.

    By default a folder in the cache, named by content and settings. A stopped call goes on where it
    was; a finished one returns at once. The bytes do not depend on `workers`.
    """
    items = collect(source, videos, split, limit)
    films = sum(item.path is not None and item.path.suffix.lower() in VIDEOS for item in items)
    if films and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise SourceError(f"{films} of {len(items)} files are videos, which need imageio-ffmpeg: "
                          'python -m pip install "tinygif[video]"')  # fmt: skip
    key = fingerprint(items, settings)
    out = out or cache_dir() / "clips" / f"{source.resolve().name}-{key[:12]}"
    if not (out / REPORT).exists():
        make(items, out, out / f"parts-{key}", settings, workers, key)
    elif read_report(out)["key"] != key:
        raise SourceError(f"{out} holds clips of other content or other settings: choose another "
                          "--out, or delete it")  # fmt: skip
    for done in out.glob("parts-*"):
        shutil.rmtree(done)
    return out


def fingerprint(items: list[Item], settings: Settings) -> str:
    """A name for what `prepare` would make: the same content and settings, the same name."""
    from tqdm import tqdm

    digest = hashlib.blake2b(json.dumps([VERSION, asdict(settings)]).encode(), digest_size=16)
    for item in tqdm(items, "reading", leave=False, delay=1):
        digest.update(json.dumps([item.name, item.captions, item.why]).encode())
        with contextlib.suppress(OSError), open(item.path or os.devnull, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def make(
    items: list[Item], out: Path, parts: Path, settings: Settings, workers: int | None, key: str
) -> None:
    """Decode into `parts`, then join these into `out`."""
    try:
        parts.mkdir(parents=True, exist_ok=True)
        check_room(out, len(items), settings)
        decode(items, settings, parts, workers)
        join(parts, out, {"key": key, "settings": asdict(settings)})
    except OSError as error:
        raise SourceError(f"cannot write to {out} ({error.strerror}): free some space or choose "
                          "another --out; what is done is kept") from error  # fmt: skip


def check_room(out: Path, clips: int, settings: Settings) -> None:
    free, need = shutil.disk_usage(out).free, 6 * clips * settings.frames * settings.size**2
    if free < need:
        raise SourceError(
            f"{out} has {free / 1e6:.0f} MB free, {clips} clips need up to {need / 1e6:.0f} MB: "
            "free some space or choose another --out"
        )


def decode(items: list[Item], settings: Settings, parts: Path, workers: int | None) -> None:
    """Write what parts are missing, in several processes; a part is there whole or not at all."""
    from tqdm import tqdm

    groups = [items[i : i + PART] for i in range(0, len(items), PART)]
    files = [parts / f"{number:06d}.npz" for number in range(len(groups))]
    todo = [pair for pair in zip(groups, files) if not pair[1].exists()]
    workers = workers or min(os.cpu_count() or 1, 1 + len(todo) // 8)
    done = sum(map(len, groups)) - sum(len(group) for group, _ in todo)
    bar = tqdm(total=len(items), initial=done, desc="preparing", unit="clip")
    one = partial(write_part, settings=settings)
    with bar, ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=start_worker
    ) as pool:  # fmt: skip
        try:
            for count in (pool.map if workers > 1 else map)(one, todo):
                bar.update(count)
        except BrokenProcessPool as error:
            raise SourceError("a worker was killed, perhaps for want of memory: the same command "
                              "goes on from here; try fewer --workers") from error  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Ctrl-C is the parent's to handle; and where the parent is killed, nobody waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def write_part(job: tuple[list[Item], Path], settings: Settings) -> int:
    """Decode a group of clips into one file; gives how many files were looked at."""
    items, path = job
    clips, rows = zip(*(try_clip(item, settings) for item in items))
    kept = [clip for clip in clips if clip is not None]
    shape = (len(kept), settings.frames, settings.size, settings.size, 3)
    file = io.BytesIO()
    np.savez(file, clips=np.array(kept, np.uint8).reshape(shape), rows=json.dumps(rows))
    gif.write_whole(path, file.getvalue())
    return len(items)


def join(parts: Path, out: Path, report: dict[str, Any]) -> None:
    """The parts as one array, and the report, last of all: a data set with a report is whole."""
    files, whole = sorted(parts.glob("*.npz")), parts / CLIPS
    rows = [row for file in files for row in json.loads(str(np.load(file)["rows"]))]
    kept = [row for row in rows if "why" not in row]
    skips = {row["name"]: row["why"] for row in rows if "why" in row}
    reasons = Counter(why.partition(":")[0] for why in skips.values())
    if not kept:
        raise SourceError(f"none of {len(rows)} clips can be read: {dict(reasons)}; the first: "
                          f"{next(iter(skips.items()))}")  # fmt: skip
    shape = (len(kept), *np.load(files[0])["clips"].shape[1:])
    try:
        with open(whole, "wb") as file:  # not memory-mapped: a full disk is to be an error
            about = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
            for part in files:
                file.write(np.load(part)["clips"].tobytes())
            file.flush()
            os.fsync(file.fileno())
        whole.replace(out / CLIPS)
    finally:
        whole.unlink(missing_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in kept)
    gif.write_whole(out / CAPTIONS, lines.encode())
    report |= {"kept": len(kept), "skipped": len(skips), "reasons": dict(reasons.most_common()),
               "skips": skips}  # fmt: skip
    gif.write_whole(out / REPORT, json.dumps(report, indent=1).encode())


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a prepared folder."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return report | {"settings": asdict(Settings(**report["settings"])), "key": report["key"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"expected a folder that `python -m tinygif.clips prepare` made, got {folder}: {error}"
        ) from error


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """What is known of each clip of a prepared folder."""
    lines = (folder / CAPTIONS).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


# ---- the command -----------------------------------------------------------------------------


def statistics(folder: Path) -> str:
    """A line about a prepared folder."""
    report, rows = read_report(folder), read_rows(folder)
    texts = [split(text) for row in rows for text in row["captions"]]
    middle = lambda values: f"{np.median(values):.0f}" if values else "-"  # noqa: E731
    delays = [row["duration"] / row["frames"] for row in rows]
    return (
        f"{len(rows)} clips, {report['skipped']} skipped {report['reasons']}; of the files, "
        f"in the middle: {middle([row['frames'] for row in rows])} frames of {middle(delays)} ms; "
        f"{len(texts)} captions of {middle(list(map(len, texts)))} words, "
        f"{len(set(itertools.chain(*texts)))} different ones; "
        f"{sum(not row['captions'] for row in rows)} clips without a caption, "
        f"{sum(row['static'] for row in rows)} that do not move"
    )


def show(folder: Path, out: Path, count: int) -> None:
    """A captioned grid GIF of clips from all over a prepared folder."""
    rows, settings = read_rows(folder), read_report(folder)["settings"]
    array = np.load(folder / CLIPS, mmap_mode="r")
    some = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    captions = [next(iter(rows[i]["captions"]), "") for i in some]
    seconds = np.median([row["duration"] for row in rows]) / 1000
    fps = settings["fps"] or float(np.clip(settings["frames"] / seconds, 1, 50))
    picture = gif.grid(array[some], captions=captions, scale=max(1, 96 // array.shape[2]))
    gif.write_gif(out, picture, fps)


@dataclass(frozen=True)
class Prepare:
    """Decode clips once into a folder that train.py --dataset takes."""

    source: tyro.conf.Positional[Path]
    """A folder of clips, TGIF's .tsv, or MSR-VTT's .json."""
    out: Path
    """The folder to make."""
    settings: Settings = Settings()
    workers: int | None = None
    """Processes; by default as many as there are cores."""
    videos: Path | None = None
    """MSR-VTT: the folder of its MP4 files; by default that of the JSON."""
    split: str | None = None
    """MSR-VTT: train, validate or test; TGIF: a file with a link a line."""
    limit: int | None = None
    """At most so many clips, the first ones."""


@dataclass(frozen=True)
class Show:
    """A captioned grid GIF of what will be trained on, and a line of statistics."""

    folder: tyro.conf.Positional[Path]
    """What `prepare` made."""
    out: Path | None = None
    """The GIF; by default named after the folder."""
    count: int = 36
    """Clips to show."""


def main(choice: Prepare | Show) -> None:
    if isinstance(choice, Prepare):
        c = choice
        print(f"{c.source} to {c.out}", flush=True)
        prepare(c.source, c.out, c.settings, workers=c.workers, videos=c.videos, split=c.split,
                limit=c.limit)  # fmt: skip
        print(f"{statistics(c.out)}\nnow:  python train.py --dataset {c.out}")
    else:
        print(statistics(choice.folder))
        out = choice.out or Path(f"{choice.folder.resolve().name}.gif")
        show(choice.folder, out, choice.count)
        print(f"wrote {out}")


if __name__ == "__main__":
    try:
        commands = Annotated[Prepare, tyro.conf.OmitArgPrefixes] | Show
        main(tyro.cli(commands, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (ValueError, OSError, ImportError) as error:
        print(f"clips: {error}", file=sys.stderr)
        sys.exit(2)
