"""The small run and the small folders on which `faults.py` works, and how a case ends."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
LONGEST = 300.0
"""Seconds after which a command counts as hanging."""
FULL = {
    "killed runs": 100, "killed prepare": 30, "at once": 18, "full disk": 12, "read-only": 4,
    "vanished": 12, "damaged run": 1200, "damaged set": 800, "damaged, resumed": 20,
    "hostile": 500,
}  # fmt: skip
"""The cases of each kind at a share of 1."""
MOST_MEMORY, MOST_CPU = 3 * 2**30, 20.0
"""Bytes of address space of a process that reads damaged or hostile files, and the seconds of CPU
that one of them may take. A hang is something else: a file that waits takes no CPU."""

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


class Lost(BaseException):
    """What a case shows to be wrong. Code that catches every `Exception` does not catch it."""


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
        import towers

        make_gifs(self.source)
        for kind, config in towers.CONFIGS.items():
            towers.write(self.folder / kind, config)
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


def judge(case: Callable[[], None]) -> tuple[str, str]:
    """How a case in this process ends: right, refused with a sentence, or lost; and why it is."""
    from tinygif.errors import TinygifError

    end, began = "right", time.process_time()
    try:
        with alarm(60):
            case()
    except TinygifError:
        end = "refused"
    except Lost as error:
        return "lost", str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a command would end with its traceback
        return "lost", f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - began
    return (end, "") if seconds < MOST_CPU else ("lost", f"it took {seconds:.0f} s of CPU")


@lru_cache
def undamaged(whole: Path, name: str, read: Callable) -> object:
    """What the whole folder gives; read from a copy, because opening a log writes it."""
    with tempfile.TemporaryDirectory() as folder:
        whole_copy = Path(folder) / "copy"
        shutil.copytree(whole, whole_copy, ignore=shutil.ignore_patterns("samples", "*.png"))
        return read(whole_copy, name)
