"""Faults of all kinds against small runs and small prepared folders; the last lines are a table.

    python tests/faults.py                # every case
    python tests/faults.py --share 0.1    # a tenth of them

A case is lost where a file that was good is gone or wrong, where a damaged one is taken for good,
where a command ends with a traceback instead of a sentence and exit code 2, or where it hangs. What
damages samples and loss.png is no case: nothing reads them again. Numbers in log.jsonl have no
checksum: a damaged log is a sentence, or is gone on with.

Where a tmpfs can be mounted (root on Linux), the disk that is full and the folder that is read-only
are real; elsewhere writes fail by themselves, or the case is left out and counted.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
LONGEST = 300.0
"""Seconds after which a command counts as hanging."""
FULL = {
    "killed runs": 100, "killed prepare": 30, "at once": 18, "full disk": 12, "read-only": 4,
    "vanished": 12, "damaged run": 1200, "damaged set": 800, "damaged, resumed": 20,
}  # fmt: skip
"""The cases of each kind at a share of 1."""

CHILD = """
import errno, io, os, runpy, sys, time
from tinygif import files, moving_mnist

pause, left = float(os.environ.get("PAUSE", 0)), int(os.environ.get("WRITES_LEFT", 10**9))

class Slow(io.BufferedWriter):
    def write(self, data):
        global left
        if len(data) < 256:
            return super().write(data)
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = -(-len(data) // 4)
        for start in range(0, len(data), part):
            super().write(memoryview(data).cast("B")[start : start + part])
            self.flush()
            time.sleep(pause / 4)
        return len(data)

files.open = lambda path, mode: Slow(io.FileIO(path, "w")) if mode == "wb" else open(path, mode)
moving_mnist.MovingMNIST.prompts = ("a 7 moving left",)
if sys.argv.pop(1) == "prepare":
    from tinygif.clips import prepare
    prepare.PART, read = 4, prepare.read_clip
    prepare.read_clip = lambda *args: time.sleep(pause / 8) or read(*args)
    runpy.run_module("tinygif.clips", run_name="__main__", alter_sys=True)
else:
    sys.argv[0] = os.path.join(ROOT, "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A command, whose writes take `PAUSE` seconds each; after some of them the disk is full."""


class Lost(Exception):
    """What a case shows to be wrong."""


class Skipped(Exception):
    """A case that cannot be made on this machine."""


def check(good: object, what: str) -> None:
    if not good:
        raise Lost(what)


# ---- commands --------------------------------------------------------------------------------


class Place:
    """A folder for all cases, with an uninterrupted run and a whole prepared folder to compare."""

    def __init__(self, folder: Path):
        self.folder, self.run, self.set = folder, folder / "whole-run", folder / "whole-set"
        self.source = folder / "gifs"
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "TINYGIF_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "OPENBLAS_NUM_THREADS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }  # fmt: skip

    def make(self) -> None:
        make_gifs(self.source)
        finish(self.train(self.run))
        finish(self.prepare(self.set))
        began = time.monotonic()
        finish(self.train(self.folder / "slow-run", PAUSE="0.4"))
        self.seconds = time.monotonic() - began

    def start(
        self, *words: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen:
        """A command in a process of its own, in the environment of all cases and this one's."""
        code = CHILD.replace("ROOT", repr(str(ROOT)))
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)], cwd=cwd or self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment | environment,
        )  # fmt: skip

    def train(self, out: Path | None, **options) -> subprocess.Popen:
        return self.start("train", *run_flags(), *(["--out", out] if out else []), **options)

    def resume(self, out: Path, **options) -> subprocess.Popen:
        """Go on; a run that was killed before its first checkpoint is begun again."""
        if (out / "state.safetensors").exists():
            return self.start("train", "--resume", "--out", out, **options)
        return self.train(out, **options)

    def prepare(self, out: Path, workers: int = 1, **options) -> subprocess.Popen:
        words = ("--out", out, "--size", 8, "--frames", 4, "--workers", workers)
        return self.start("prepare", "prepare", self.source, *words, **options)

    def same_run(self, folder: Path) -> None:
        """The model to the byte, the arrays of the state but for its seconds, the log's steps."""
        check(not list(folder.rglob("*.part")), "a .part is left")
        for name in ("model.safetensors", "state.safetensors"):
            check((folder / name).is_file(), f"no {name}")
        model = "model.safetensors"
        check((folder / model).read_bytes() == (self.run / model).read_bytes(), "another model")
        check(same_arrays(arrays(folder), arrays(self.run)), "another state")
        steps = [json.loads(line)["step"] for line in open(folder / "log.jsonl")]
        check(steps == [10, 20], f"the log has steps {steps}")
        odd = (file_names(folder) ^ file_names(self.run)) - {".lock"}
        check(not odd, f"other files: {sorted(odd)}")

    def same_set(self, folder: Path) -> None:
        odd = file_names(folder) ^ file_names(self.set)
        check(not odd, f"other files: {sorted(odd)}")
        for name in file_names(folder):
            check((folder / name).read_bytes() == (self.set / name).read_bytes(), f"another {name}")


def file_names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@lru_cache
def run_flags() -> tuple[str, ...]:
    from dataclasses import replace

    import tiny

    config = replace(tiny.CONFIG, train=replace(tiny.CONFIG.train, save_every=5))
    words, flags = iter(tiny.flags(config)), []
    for word in words:  # what train.py fills in
        if word == "--digits-hash":
            next(words)
        else:
            flags.append(word)
    return tuple(flags)


def finish(child: subprocess.Popen, codes: tuple[int, ...] = (0,)) -> str:
    """Wait for a command, which must end with one of the codes; gives what it printed."""
    try:
        out, errors = child.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise Lost("it hangs") from None
    check("Traceback" not in errors or child.returncode == 0, f"a traceback: {errors[-600:]}")
    check(child.returncode in codes, f"exit code {child.returncode}: {errors[-600:]}")
    if child.returncode == 2:
        check(errors.strip(), "no sentence")
    return out + errors


def kill_later(child: subprocess.Popen, out: Path, rng: random.Random, longest: float) -> Counter:
    """Kill a command at a random moment; every second time when it next writes into `out`."""
    time.sleep(rng.uniform(0, longest))
    if rng.random() < 0.5:
        while child.poll() is None and not list(out.rglob("*.part")):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
    child.send_signal(signal.SIGKILL)
    child.communicate()  # also waits for processes that the command has started
    is_hit = child.returncode == -signal.SIGKILL
    return Counter({"killed": is_hit, "inside a write": is_hit and bool(list(out.rglob("*.part")))})


def wait_for(path: Path, child: subprocess.Popen) -> None:
    """Until a file is there, or the command has ended."""
    end = time.monotonic() + LONGEST
    while not path.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def make_gifs(folder: Path) -> None:
    """Twelve GIFs with captions, three of which are broken."""
    from tinygif.gif import write_gif

    folder.mkdir()
    rng, words = np.random.default_rng(0), ("a cat jumps", "a dog jumps", "the cat sleeps")
    for i in range(12):
        clip = rng.integers(0, 256, (6, 12, 12, 3), np.uint8)
        write_gif(folder / f"{i:02d}.gif", clip, 10)
        (folder / f"{i:02d}.txt").write_text(words[i % 3])
        if i % 5 == 4:
            (folder / f"{i:02d}.gif").write_bytes(b"GIF89a")


def arrays(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    state = load_file(folder / "state.safetensors")
    return {name: array for name, array in state.items() if name != "seconds"}


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    as_bytes = lambda x: (str(x.dtype), x.shape, x.tobytes())  # noqa: E731
    return a.keys() == b.keys() and all(as_bytes(a[name]) == as_bytes(b[name]) for name in a)


# ---- kills -----------------------------------------------------------------------------------


def killed_run(place: Place, rng: random.Random, out: Path) -> Counter:
    """Killed up to three times: mostly while it trains and writes, sometimes while it starts."""
    hits = Counter()
    for _ in range(rng.choice((1, 1, 2, 3))):
        child = place.resume(out, PAUSE="0.4")
        if rng.random() < 0.8:
            wait_for(out / ".lock", child)
        hits += kill_later(child, out, rng, 0.5 * place.seconds)
    finish(place.resume(out))
    place.same_run(out)
    return hits


def killed_prepare(place: Place, rng: random.Random, out: Path) -> Counter:
    hits = Counter()
    for _ in range(rng.choice((1, 1, 2))):
        child = place.prepare(out, workers=rng.choice((1, 1, 2)), PAUSE="0.4")
        wait_for(out, child)
        hits += kill_later(child, out, rng, 2)
    finish(place.prepare(out))
    place.same_set(out)
    return hits


# ---- several at once -------------------------------------------------------------------------


def at_once(place: Place, rng: random.Random, out: Path, case: int) -> None:
    """Two or four processes with one prepared folder, one run folder, or one fresh cache."""
    count, kind = (2, 4)[case % 2], case // 2 % 3
    out.mkdir()
    if kind == 0:
        children = [place.prepare(out / "set", PAUSE="0.2") for _ in range(count)]
        for child in children:
            finish(child)
        place.same_set(out / "set")
    elif kind == 1:
        children = [place.train(out / "run") for _ in range(count)]
        for child in children:
            finish(child, (0, 2))
        check(any(child.returncode == 0 for child in children), "none of them trained")
        place.same_run(out / "run")
    else:
        cache = {"TINYGIF_CACHE": str(out / "cache")}
        children = [place.train(None, cwd=out, **cache) for _ in range(count)]
        for child in children:
            finish(child)
        runs = list((out / "runs").iterdir())
        check(len(runs) == count, f"{len(runs)} folders for {count} runs")
        for run in runs:
            place.same_run(run)


# ---- disks that are full, folders that are read-only or gone ---------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs. Raises Skipped where none may be mounted."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        raise Skipped("no tmpfs may be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return folder / "filler"


def full_disk(place: Place, rng: random.Random, out: Path, case: int) -> None:
    """Full from the start or while it works, and with room again the same command goes on."""
    is_run, kind = case % 2 == 0, case // 2 % 3
    go, same = (place.resume, place.same_run) if is_run else (place.prepare, place.same_set)
    if kind == 0:  # writes that fail by themselves, from some write on
        finish(go(out, WRITES_LEFT=str(rng.randrange(0, 6 if is_run else 2))), (0, 2))
        finish(go(out))
        return same(out)
    with small_disk(out, "32m") as disk:
        folder = disk / "out"
        if kind == 1:
            filler = fill(disk)
            finish(go(folder), (2,))
        else:
            child = go(folder, PAUSE="0.4")
            wait_for(folder / ".lock" if is_run else folder, child)
            time.sleep(rng.uniform(0, 0.5 * place.seconds if is_run else 3))
            filler = fill(disk)
            finish(child, (0, 2))
        filler.unlink()
        finish(go(folder))
        same(folder)


def read_only(place: Place, rng: random.Random, out: Path, case: int) -> None:
    """A disk that may not be written: a sentence, and what is on it stays as it is."""
    with small_disk(out, "32m") as disk:
        if case % 2 == 0:
            shutil.copytree(place.run, disk / "run")
            if case % 4 == 0:
                (disk / "run" / "model.safetensors").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        if case % 2 == 0:
            finish(place.resume(disk / "run"), (2,))
            check(same_arrays(arrays(disk / "run"), arrays(place.run)), "another state")
        else:
            finish(place.prepare(disk / "set"), (2,))
            check(not list(disk.iterdir()), "something was written")


def vanished(place: Place, rng: random.Random, out: Path, case: int) -> None:
    """The folder is deleted while a command works in it, and the same command begins anew."""
    is_run = case % 2 == 0
    go, same = (place.train, place.same_run) if is_run else (place.prepare, place.same_set)
    child = go(out, PAUSE="0.4")
    wait_for(out / ".lock" if is_run else out, child)
    time.sleep(rng.uniform(0, 0.5 * place.seconds if is_run else 3))
    os.rename(out, f"{out}-gone")  # at once, while deleting takes time
    shutil.rmtree(f"{out}-gone")
    finish(child, (0, 2))
    shutil.rmtree(out, ignore_errors=True)
    finish(go(out))
    same(out)


# ---- damaged files ---------------------------------------------------------------------------


def damage(path: Path, rng: random.Random) -> str:
    """Truncate a file, or change one byte of it; half of the places are in its first 4 kB."""
    data = path.read_bytes()
    place = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 4096))
    if rng.random() < 0.25:
        path.write_bytes(data[:place])
        return f"{path.name} cut to {place} bytes"
    value = data[place] ^ (1 << rng.randrange(8)) if rng.random() < 0.5 else rng.randrange(256)
    path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
    return f"{path.name}: byte {place} from {data[place]} to {value}"


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_) -> None:
        raise Lost("it hangs")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def read_run(folder: Path, name: str) -> object:
    """What is in one file of a run, by the functions that train.py and sample.py read it with."""
    from tinygif import checkpoint
    from tinygif.log import Log

    if name == "log.jsonl":
        log = Log(folder, 20, 0.0, 0.0)
        log.draw()
        return None  # its numbers have no checksum
    about = checkpoint.read_about(folder / name)
    tree = checkpoint.read(folder / name, template(name, about.to_json("")))
    return about, {n: (str(a.dtype), a.shape, np.asarray(a).tobytes())
                   for n, a in checkpoint.named(tree).items()}  # fmt: skip


@lru_cache
def template(name: str, text: str) -> object:
    """The shapes of a model or a state, kept because most cases have the same."""
    import equinox as eqx
    import jax

    from tinygif import checkpoint, training
    from tinygif.config import Config, from_dict

    values = json.loads(text)
    config = from_dict(Config, values["config"])
    about = checkpoint.About(config, values["words"], values["step"])
    if name == "model.safetensors":
        return checkpoint.model_template(about)
    words, key = len(about.words) + 2, jax.random.key(0)
    init = lambda: training.init_state(config, config.init(words, key=key))  # noqa: E731
    return eqx.filter_eval_shape(init)


def read_set(folder: Path, name: str) -> object:
    """What a prepared folder gives to a run."""
    from tinygif.clips import ClipFolder
    from tinygif.config import DataConfig
    from tinygif.datasets import defaults

    data = defaults(str(folder))
    clips = ClipFolder(folder, DataConfig(dataset=str(folder), size=8, frames=4, channels=3), 16)
    examples = [clips.example(i, 4) for i in range(2 * clips.size)]
    return data.fps, data.size, data.frames, clips.words, [
        (clip.shape, clip.tobytes(), caption) for clip, caption in examples
    ]


def damaged(whole: Path, seed: int, names: tuple[str, ...], read: Callable) -> str | None:
    """One case: None if the damage is told, or is none; else what is wrong."""
    from tinygif.errors import TinygifError

    rng, name = random.Random(seed), names[seed % len(names)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("samples", "*.png"))
        what = damage(copy / name, rng)
        try:
            with alarm(60):
                result = read(copy, name)
                wrong = result != undamaged(whole, name, read)
        except TinygifError:
            return None
        except Lost as error:
            return f"{what}: {error}"
        except Exception as error:  # a command would end with its traceback
            return f"{what}: {type(error).__name__}: {str(error)[:300]}"
    return f"{what}: it gave other values" if wrong else None


@lru_cache
def undamaged(whole: Path, name: str, read: Callable) -> object:
    """What the whole folder gives; read from a copy, because opening a log writes it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("samples", "*.png"))
        return read(copy, name)


def damaged_and_resumed(place: Place, rng: random.Random, out: Path) -> None:
    """A damaged run is told with a sentence, or goes on to the right end."""
    shutil.copytree(place.run, out)
    name = rng.choice(("state.safetensors", "model.safetensors", "log.jsonl"))
    damage(out / name, rng)
    child = place.resume(out)
    finish(child, (0, 2))
    if child.returncode == 0:
        check(same_arrays(arrays(out), arrays(place.run)), f"another state, with {name} damaged")


# ---- all of them -----------------------------------------------------------------------------

COMMANDS = {
    "killed runs": killed_run, "killed prepare": killed_prepare, "at once": at_once,
    "full disk": full_disk, "read-only": read_only, "vanished": vanished,
    "damaged, resumed": damaged_and_resumed,
}  # fmt: skip
FILES = {
    "damaged run": ("run", ("state.safetensors", "model.safetensors", "log.jsonl"), read_run),
    "damaged set": ("set", ("clips.npy", "captions.jsonl", "report.json"), read_set),
}
NUMBERED = (at_once, full_disk, read_only, vanished)
"""Cases of several kinds, which take turns."""


def run_cases(share: float, seed: int, jobs: int, kinds: list[str]) -> Counter:
    """The cases of some kinds, counted by (kind, outcome). Prints why a case is lost."""
    counts, lock = Counter(), threading.Lock()

    def count(kind: str, number: int, outcome: str, why: str, began: float) -> None:
        with lock:
            counts[kind, outcome] += 1
            counts[kind, "seconds"] += time.monotonic() - began
            if outcome == "lost":
                tqdm.write(f"lost: {kind} {number} (--seed {seed}): {why}")

    with tempfile.TemporaryDirectory(prefix="tinygif-faults-") as folder:
        place = Place(Path(folder).resolve())
        place.make()
        print(f"a run takes {place.seconds:.0f} s with slow writes", flush=True)

        def command(kind: str, number: int) -> None:
            began, out = time.monotonic(), place.folder / f"{kind.split()[0]}-{kind[-3:]}-{number}"
            rng = random.Random(f"{seed} {kind} {number}")
            case = partial(COMMANDS[kind], place, rng, out)
            try:
                hits = case(number) if COMMANDS[kind] in NUMBERED else case()
            except Skipped as error:
                return count(kind, number, "left out", str(error), began)
            except Lost as error:
                return count(kind, number, "lost", str(error), began)
            with lock:
                counts.update({("hits", name): n for name, n in (hits or {}).items()})
            count(kind, number, "survived", "", began)
            shutil.rmtree(out, ignore_errors=True)

        work = {kind: min(FULL[kind], max(2, round(share * FULL[kind]))) for kind in kinds}

        def choose(kind: str) -> list[int]:
            return random.Random(f"{seed} {kind}").sample(range(FULL[kind]), work[kind])

        cases = [(kind, n) for kind in kinds if kind in COMMANDS for n in sorted(choose(kind))]
        with ThreadPoolExecutor(jobs) as pool:
            list(tqdm(pool.map(lambda case: command(*case), cases), "cases", len(cases)))
        os.environ.update(place.environment)  # for the processes that read damaged files
        for kind in (kind for kind in kinds if kind in FILES):
            whole, names, read = FILES[kind]
            case = partial(damaged, getattr(place, whole), names=names, read=read)
            context, numbers = multiprocessing.get_context("spawn"), range(work[kind])
            began = time.monotonic()
            with ProcessPoolExecutor(jobs, context) as pool:
                seeds = [seed * 10**6 + n for n in numbers]
                try:
                    for n, why in enumerate(pool.map(case, seeds, chunksize=8)):
                        count(kind, n, "lost" if why else "survived", why or "", time.monotonic())
                except BrokenProcessPool:
                    left = work[kind] - sum(counts[kind, o] for o in ("lost", "survived"))
                    counts[kind, "lost"] += left
                    print(f"lost: {kind}: a process died; {left} cases are not known", flush=True)
            counts[kind, "seconds"] = time.monotonic() - began
    return counts


def format_table(counts: Counter, kinds: list[str]) -> str:
    """Cases, survived, lost, of every kind and in all; the kills that hit; what was left out."""
    row = "{:<18}{:>8}{:>10}{:>6}{:>10}".format
    lines, total = [row("", "cases", "survived", "lost", "left out")], Counter()
    for kind in kinds:
        numbers = {outcome: counts[kind, outcome] for outcome in ("survived", "lost", "left out")}
        total.update(numbers)
        lines.append(row(kind, sum(numbers.values()), *numbers.values()))
    numbers = [total[outcome] for outcome in ("survived", "lost", "left out")]
    lines.append(row("all", sum(numbers), *numbers))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of every kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at the same time")
    parser.add_argument("--kinds", nargs="+", choices=list(FULL), default=list(FULL))
    options = parser.parse_args()
    if not 0 < options.share <= 1:
        parser.error(f"expected a share above 0, up to 1, got {options.share}")
    began = time.monotonic()
    counts = run_cases(options.share, options.seed, options.jobs, options.kinds)
    for kind in options.kinds:
        cases = sum(counts[kind, outcome] for outcome in ("survived", "lost", "left out"))
        print(f"{kind}: {counts[kind, 'seconds'] / max(1, cases):.1f} s a case")
    kills, inside = (counts["hits", name] for name in ("killed", "inside a write"))
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills hit, {inside} of them inside a write; {minutes:.1f} minutes\n")
    print(format_table(counts, options.kinds))
    return 1 if any(counts[kind, "lost"] for kind in options.kinds) else 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
