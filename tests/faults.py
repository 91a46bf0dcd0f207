"""Faults of all kinds against small runs and small prepared folders; the last lines are a table.

    python tests/faults.py                # every case
    python tests/faults.py --share 0.1    # a tenth of them

A case is lost where a file that was good is gone or wrong, where a damaged one is taken for good,
where a command ends with a traceback instead of a sentence and exit code 2, or where it hangs. What
damages samples and loss.png is no case: nothing reads them again. Numbers in log.jsonl have no
checksum: a damaged log is a sentence, or is gone on with. Hostile files are made up by hypothesis;
the same --seed makes up the same ones.

Where a tmpfs can be mounted (root on Linux), the disk that is full and the folder that is read-only
are real; elsewhere writes fail by themselves, or the case is left out and counted.
"""

import argparse
import contextlib
import copy
import csv
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import posixpath
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


def damaged(whole: Path, seed: int, names: tuple[str, ...], read: Callable) -> tuple[str, str]:
    """A file of a run or a prepared folder is damaged: that is told, or it reads as before."""
    rng, name = random.Random(seed), names[seed % len(names)]
    with tempfile.TemporaryDirectory() as folder:
        damaged_copy = Path(folder) / "copy"
        shutil.copytree(whole, damaged_copy, ignore=shutil.ignore_patterns("samples", "*.png"))
        what = damage(damaged_copy / name, rng)
        wanted = undamaged(whole, name, read)
        end, why = judge(lambda: check(read(damaged_copy, name) == wanted, "it gave other values"))
    return end, f"{what}: {why}"


@lru_cache
def undamaged(whole: Path, name: str, read: Callable) -> object:
    """What the whole folder gives; read from a copy, because opening a log writes it."""
    with tempfile.TemporaryDirectory() as folder:
        whole_copy = Path(folder) / "copy"
        shutil.copytree(whole, whole_copy, ignore=shutil.ignore_patterns("samples", "*.png"))
        return read(whole_copy, name)


def damaged_and_resumed(place: Place, rng: random.Random, out: Path) -> None:
    """A damaged run is told with a sentence, or goes on to the right end."""
    shutil.copytree(place.run, out)
    name = rng.choice(("state.safetensors", "model.safetensors", "log.jsonl"))
    damage(out / name, rng)
    child = place.resume(out)
    finish(child, (0, 2))
    if child.returncode == 0:
        check(same_arrays(arrays(out), arrays(place.run)), f"another state, with {name} damaged")


# ---- hostile files: what is in them ----------------------------------------------------------

Hostile = tuple[str, dict]
"""One case: which of the READERS reads it, and what its files hold."""
STRIDE = 4  # hypothesis likes to repeat itself: of its examples every fourth is taken
COMMIT = "0123456789abcdef" * 2 + "01234567"
PROMPTS = ("a 7 moving left", None)
CLIPS = ("a.gif", "b.gif", "dir/c d.gif",
         os.fsdecode(b"\xff.gif") if sys.platform == "linux" else "\xff.gif")  # fmt: skip
"""Clips in a folder with a hostile table of captions. Where a name may be any bytes, the last one
is no text in UTF-8."""
STRINGS = (
    "", " ", "\0", ".", "..", "../..", "/", "~", "~nobody/x", "/dev/zero", "a" * 5000, "\ud800",
    "http://127.0.0.1/", "none/such", "some/one", "words", "clip", "bert", "unet", "shapes",
    "moving_mnist", "ddim", "ddpm", "cosine", "linear", "eps", "x0", "v", "l1", "muon", "adamw",
    "time", "conv+text", "time+time", "space+", "relu", "gelu", "F32", "F64", "U8",
)
NUMBERS = (
    0, -1, 1, 2, 3, 4, 7, 16, 3000, 2**31, 2**63, 10**12, 10**30, 0.5, 1e-300, 1e308,
    float("inf"), float("nan"),
)  # fmt: skip
"""Values that take the place of others in a file."""
SPARE_KEYS = ("x", "text_config_dict", "is_decoder", "position_embedding_type", "captions", "model")
BROKEN_JSON = ("", "{", "null", "[" * 10**5, '{"a":' * 10**5, "9" * 5000, "\ufeff{}", "{}", "[[]]")


def hostile_cases(place: Place, seed: int) -> list[Hostile]:
    """All of them, made up by hypothesis. The same seed gives the same ones.

    In turn: a checkpoint with other metadata or another header; a pretrained model with another
    config.json; a table of captions or a prepared folder; a model as the hub gives it, with pieces
    that are missing, damaged, of another model, or no files at all.
    """
    import hypothesis
    from hypothesis import strategies as st

    def draw_cases(strategy: st.SearchStrategy) -> list[Hostile]:
        drawn = []

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=STRIDE * FULL["hostile"] // 4, database=None, deadline=None,
            phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(strategy)
        def keep(case: Hostile) -> None:
            drawn.append(case)

        keep()
        return drawn[::STRIDE]

    drawn = map(draw_cases, hostile_strategies(place))
    return [case for turn in zip(*drawn, strict=True) for case in turn]


def hostile_strategies(place: Place) -> tuple:
    """What the cases are drawn from: checkpoints, towers, captions, models from the hub."""
    import towers
    from hypothesis import strategies as st

    from tinygif.hub import MODEL_FILES, find_model

    scalars = st.one_of(
        st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(STRINGS),
        st.integers(), st.floats(), st.text(max_size=20),
    )  # fmt: skip
    values = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
        max_leaves=6,
    )

    @st.composite
    def edited(draw: Callable, original: dict | list) -> str:
        """The same values as JSON, with one to three entries changed, left out or added."""
        result = copy.deepcopy(original)
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
            spots = list(entries(result))
            if not spots:
                break
            holder, key = spots[draw(st.integers(0, len(spots) - 1))]
            match draw(st.sampled_from(("set", "set", "set", "drop", "add"))):
                case "drop":
                    del holder[key]
                case "add" if isinstance(holder, dict):
                    holder[draw(st.sampled_from(SPARE_KEYS))] = draw(values)
                case "add":
                    holder.append(draw(values))
                case _:
                    likely = st.sampled_from(close_to(holder[key]))
                    holder[key] = draw(likely if draw(st.integers(0, 5)) else values)
        return json.dumps(result)

    def json_texts(original: dict | list) -> st.SearchStrategy:
        broken = st.sampled_from(BROKEN_JSON) | values.map(json.dumps) | st.text(max_size=50)
        return st.integers(0, 9).flatmap(lambda n: edited(original) if n else broken)

    def checkpoint(name: str) -> st.SearchStrategy:
        header, _ = split_checkpoint(place.run / name)
        about = json.loads(header["__metadata__"]["tinygif"])
        del about["json"]  # its checksum, which older versions did not write

        def with_about(text: str) -> str:
            return json.dumps(header | {"__metadata__": {"tinygif": text}})

        lengths = st.sampled_from((None, None, None, 0, 1, 2**20, 2**63, 2**64 - 1))
        texts = st.tuples(json_texts(about).map(with_about), st.none())
        headers = st.tuples(json_texts(header), lengths)
        return st.integers(0, 3).flatmap(lambda n: texts if n else headers).map(
            lambda pair: ("checkpoint", {"name": name, "header": pair[0], "length": pair[1]})
        )  # fmt: skip

    def tower(kind: str) -> st.SearchStrategy:
        return st.fixed_dictionaries({
            "kind": st.just(kind), "config": json_texts(towers.CONFIGS[kind]),
            "with_weights": st.booleans(),
            "pool": st.sampled_from((None, None, None, None, "last", "first", "mean")),
            "max_tokens": st.sampled_from((16,) * 9 + (8, 4, 3, 2, 1, 0, -1, 77, 2**16, 2**63)),
        }).map(lambda files: ("tower", files))  # fmt: skip

    def hub(kind: str) -> st.SearchStrategy:
        whole = place.folder / kind
        header, _ = split_checkpoint(whole / "model.safetensors")
        tokenizer = json.loads((whole / "tokenizer.json").read_text())
        texts = {
            "config.json": json_texts(towers.CONFIGS[kind]),
            "tokenizer.json": json_texts(tokenizer), "model.safetensors": json_texts(header),
        }  # fmt: skip
        share = st.floats(0, 1, exclude_max=True)

        def piece(file: str) -> st.SearchStrategy:
            ways = st.sampled_from(("missing", "folder", "endless", "pipe", "large", "other"))
            damages = st.one_of(
                ways.map(lambda way: (way,)), st.tuples(st.just("text"), texts[file]),
                st.tuples(st.just("cut"), share), st.tuples(st.just("byte"), share),
            )  # fmt: skip
            return st.sampled_from(("bad", "whole", "whole")).flatmap(
                lambda way: damages if way == "bad" else st.just(("whole",))
            )

        revisions = (None, None, None, find_model(str(whole)).digest, COMMIT, "main", *STRINGS[:12])
        return st.fixed_dictionaries({
            "kind": st.just(kind), "is_cached": st.booleans(),
            "pieces": st.fixed_dictionaries({file: piece(file) for file in MODEL_FILES}),
            "name": st.sampled_from(("some/one",) * 9 + STRINGS[1:12]),
            "revision": st.sampled_from(revisions),
            "ref": st.sampled_from((COMMIT,) * 9 + (f"{COMMIT}\n", "", "\0", "..", "../..")),
        }).map(lambda files: ("hub", files))  # fmt: skip

    return (
        checkpoint("model.safetensors") | checkpoint("state.safetensors"),
        tower("bert") | tower("clip"),
        st.one_of(
            tables(place), other_captions(values), videos(json_texts), prepared(place, json_texts)
        ),
        hub("bert") | hub("clip"),
    )


def tables(place: Place):
    """Captions in a table or in a file beside each clip, and the (name, caption) that they say."""
    from hypothesis import strategies as st

    plain = st.characters(exclude_categories=("Cs",), exclude_characters="\ufeff")
    words = st.sampled_from((
        "a cat jumps", "a dog jumps", "", " ", "a cat,\nwith\ta hat", 'a "cat" jumps',
        "$x_$ \\frac", "<null>", "he left, 2 < 3", "кот прыгает", "猫が跳ぶ", "\u202egif",
        "cat " * 50000, "a" * 100000,
    ))  # fmt: skip
    captions = words | st.text(plain, max_size=30)
    names = st.sampled_from((
        *CLIPS[:3], *CLIPS[:3], "./a.gif", "dir/../b.gif", "A.GIF", "none.gif", "../private/x.gif",
        str(place.source / "00.gif"), "/dev/zero", "", ".", "..", "http://127.0.0.1/x.gif",
        "a.gif\0", "a" * 300 + ".gif",
    )) | st.text(plain, max_size=10)  # fmt: skip

    def make(
        pairs: list[tuple[str, str]], file: str, columns: tuple[str, ...], mark: str
    ) -> Hostile:
        if file == "txt":
            lines = [(name, " ".join(text.splitlines())) for name, text in pairs if name in CLIPS]
            files = {f"{Path(name).with_suffix('.txt')}": "" for name, _ in lines}
            for name, text in lines:
                files[f"{Path(name).with_suffix('.txt')}"] += f"{text}\n"
            files = {name: encode(mark + text) for name, text in files.items()}
            return "captions", {"files": files, "pairs": lines}
        if file.endswith(".jsonl"):
            rows = [json.dumps({"file_name": name, "text": text}) for name, text in pairs]
            files = {file: encode(mark + "\n".join(rows))}
            return "captions", {"files": files, "pairs": pairs}
        if file.endswith(".tsv"):
            pairs = [tuple(" ".join(cell.split()) for cell in pair) for pair in pairs]
        out, cells = io.StringIO(newline=""), {"licence": "CC-BY 4.0, free", "width": "480"}
        as_tsv = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        writer = csv.writer(out, **as_tsv if file.endswith(".tsv") else {"quoting": csv.QUOTE_ALL})
        if columns:
            writer.writerow(columns)
        for name, text in pairs:
            row = cells | {"file_name": name, "text": text}
            writer.writerow([row[column] for column in columns or ("file_name", "text")])
        return "captions", {"files": {file: encode(mark + out.getvalue())}, "pairs": pairs}

    columns = st.permutations(("file_name", "text", "licence", "width")).map(tuple)
    return st.builds(
        make, st.lists(st.tuples(names, captions), max_size=8),
        st.sampled_from(("captions.tsv", "captions.csv", "metadata.csv", "metadata.jsonl", "txt")),
        st.just(()) | columns, st.sampled_from(("", "\ufeff")),
    )  # fmt: skip


def other_captions(values):
    """Files that are no tables, and rows of other types. What captions they give is not known."""
    from hypothesis import strategies as st

    names = st.sampled_from(
        ("captions.tsv", "captions.csv", "metadata.csv", "metadata.jsonl", "a.txt", "dir/c d.txt")
    )
    keys = st.sampled_from(("file_name", "text", "caption", "x"))
    rows = st.lists(st.dictionaries(keys, values | st.sampled_from(CLIPS[:3])) | values, max_size=4)
    csv_texts = st.sampled_from((
        "file_name\n", "file_name,text\na.gif", "text\na cat",
        "file_name,file_name,text\na.gif,b.gif", "a.gif,\0\r\rb.gif", '"a.gif,a cat', "\n\n\n",
        "a.gif," + "x" * 140000, ",,,\n,,,",
    ))  # fmt: skip
    contents = st.one_of(
        st.binary(max_size=60), st.text(max_size=60).map(encode), csv_texts.map(encode),
        rows.map(lambda rows: encode("\n".join(map(json.dumps, rows)))),
        st.sampled_from(BROKEN_JSON).map(encode),
    )  # fmt: skip
    files = st.dictionaries(names, contents, min_size=1, max_size=3)
    return files.map(lambda files: ("captions", {"files": files, "pairs": None}))


def videos(json_texts: Callable):
    """MSR-VTT's JSON with other values."""
    return json_texts({
        "videos": [{"video_id": "a", "split": "train"}, {"video_id": "../private/x"},
                   {"video_id": 7}],
        "sentences": [{"video_id": "a", "caption": "a cat"}, {"video_id": "b", "caption": "a dog"}],
    }).map(lambda text: ("videos", {"text": text}))  # fmt: skip


def prepared(place: Place, json_texts: Callable):
    """The report or the captions of a prepared folder with other values, and right checksums."""
    report = json.loads((place.set / "report.json").read_text())
    lines = (place.set / "captions.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))

    def with_rows(text: str) -> dict:
        try:
            text = "".join(json.dumps(row) + "\n" for row in json.loads(text))
        except (ValueError, TypeError, RecursionError):
            pass  # it is no list, and is written as it is
        digest = hashlib.sha256(encode(text)).hexdigest()
        sums = report["sha256"] | {"captions.jsonl": digest}
        return {"report.json": json.dumps(report | {"sha256": sums}), "captions.jsonl": text}

    reports = json_texts(report).map(lambda text: {"report.json": text})
    files = reports | json_texts(rows).map(with_rows)
    return files.map(
        lambda files: ("prepared", {"files": {n: encode(text) for n, text in files.items()}})
    )


def entries(values: object) -> Iterator[tuple[dict | list, object]]:
    """(dictionary or list, key) of every entry of a JSON value, but of lists only the first 3."""
    keys = list(values) if isinstance(values, dict) else range(min(len(values), 3))
    for key in keys:
        yield values, key
        if isinstance(values[key], dict | list):
            yield from entries(values[key])


def close_to(value: object) -> list:
    """Other values of the type of a JSON value, most of them odd; and a few of another type."""
    if isinstance(value, bool):
        return [not value, not value, None, str(value), int(value)]
    if isinstance(value, int | float):
        near = [value + 1, value - 1, 2 * value, value // 2, -value, 1000 * value]
        return [*near, *near, *NUMBERS, float(value), str(value), None]
    if isinstance(value, str):
        return [f"{value} ", value.upper(), value[1:], [value], *STRINGS]
    if isinstance(value, list):
        return [value[1:], value[::-1], 2 * value, [value], 500 * value, None]
    return [*NUMBERS, *STRINGS] if value is None else [{}, [value], list(value)]


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def split_checkpoint(path: Path) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes of its arrays."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def write_checkpoint(path: Path, whole: Path, header: str, length: int | None = None) -> None:
    """Another header before the arrays of `whole`; `length` is what the file says of its length."""
    _, arrays = split_checkpoint(whole)
    data = encode(header)
    length = len(data) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + data + arrays)


# ---- hostile files: what is read -------------------------------------------------------------


def hostile(place: Path, case: Hostile) -> tuple[str, str]:
    """One case, in a folder of its own. It may print only what a terminal can show."""
    reader, files = case
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ["TINYGIF_CACHE"] = f"{folder}/cache"
        out = stack.enter_context(io.TextIOWrapper(io.BytesIO(), "utf-8"))
        errors = stack.enter_context(io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(errors))
        end, why = judge(lambda: READERS[reader](place, Path(folder), **files))
    return end, f"{reader}, {str(files)[:600]}: {why}"


def read_checkpoint(place: Place, folder: Path, name: str, header: str, length: int | None) -> None:
    """It is refused, or gives the config that stands in it, and the arrays of the whole file."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import tinygif
    from tinygif import checkpoint, training

    whole = place.run / name
    write_checkpoint(folder / name, whole, header, length)
    if name == "model.safetensors":
        pipeline = tinygif.load(folder / name)
        tree, config = pipeline.model, pipeline.config
        shape = tree.codec.shape(config.data.frames, config.data.size)
        prompt = jax.tree.map(lambda x: jnp.asarray(x[0]), pipeline.reader.batch([None]))
        x, t = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct((), "float32")
        eqx.filter_eval_shape(tree, x, t, prompt)  # the layers fit; nothing is computed
    else:
        tree, about = training.load_state(folder)
        config = about.config
    values = json.loads(json.loads(header)["__metadata__"]["tinygif"])["config"]
    check(is_part(values, json.loads(json.dumps(dataclasses.asdict(config)))), "another config")
    found = {name: np.asarray(array) for name, array in checkpoint.named(tree).items()}
    check(same_arrays(found, load_arrays(whole)), "other arrays")


def is_part(part: object, whole: object) -> bool:
    """Whether `whole` has all that is in `part`, two JSON values: the same numbers and types."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and is_part(part[name], whole[name]) for name in part)
    return json.dumps(part) == json.dumps(whole)


@lru_cache
def load_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def read_tower(
    place: Place, folder: Path, kind: str, config: str, with_weights: bool, pool: str | None,
    max_tokens: int,
) -> None:  # fmt: skip
    """It is refused or gives vectors, which are the right ones if the sizes are.

    With `with_weights` the weights fit the config, where it is one that weights can be made for.
    """
    import towers

    from tinygif.metrics.clip_score import ClipScore
    from tinygif.towers.pretrained import read_config, text_sizes

    model, whole = folder / kind, place.folder / kind
    shutil.copytree(whole, model)
    if with_weights:
        with contextlib.suppress(Exception):
            values = json.loads(config)
            sizes = [holder[key] for holder, key in entries(values)]
            if all(size < 400 for size in sizes if isinstance(size, int)):
                towers.write(model, values)
    (model / "config.json").write_bytes(encode(config))
    states, pooled = encode_prompts(model, pool, max_tokens)
    check(np.isfinite(states).all() and np.isfinite(pooled).all(), "vectors that are not finite")
    if text_sizes(read_config(model), model) == text_sizes(read_config(whole), whole):
        wanted = encode_prompts(whole, pool, max_tokens)
        check(np.allclose(states, wanted[0], atol=1e-5), "other states")
        check(np.allclose(pooled, wanted[1], atol=1e-5), "another pooled vector")
    if kind == "clip":
        score = ClipScore(str(model))(np.zeros((1, 2, 24, 24, 3), np.uint8), PROMPTS[:1])
        check(score.shape == (1, 2) and (abs(score) <= 1.001).all(), f"scores of {score}")


def encode_prompts(
    name: str | Path, pool: str | None, max_tokens: int, revision: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The states and the pooled vectors of two prompts, the second of which is the null prompt."""
    from tinygif.config import TextConfig
    from tinygif.towers.embeddings import Embeddings, resolve_tower

    options = TextConfig(
        text=str(name), text_pool=pool, max_tokens=max_tokens, text_revision=revision
    )
    config = resolve_tower(options)
    text = Embeddings(config).batch(PROMPTS)
    check(text.states.shape == (2, max_tokens, config.text_dims[0]), "states of another shape")
    check(text.mask[0].any() and not text.mask[1].any(), "another mask")
    return text.states, text.pooled


def read_hub(
    place: Place, folder: Path, kind: str, is_cached: bool, pieces: dict[str, tuple], name: str,
    revision: str | None, ref: str,
) -> None:  # fmt: skip
    """A folder, or a model in the hub's cache, is refused or read.

    Where a hash says what the files must be, they are refused if one has changed.
    """
    import huggingface_hub.constants

    whole, home = place.folder / kind, folder / "hub" / "models--some--one"
    huggingface_hub.constants.HF_HUB_CACHE = str(folder / "hub")
    model = home / "snapshots" / COMMIT if is_cached else folder / "model"
    for path in (model, home / "blobs", home / "refs"):
        path.mkdir(parents=True)
    (home / "refs" / "main").write_bytes(encode(ref))
    for file, piece in pieces.items():
        path = model / file
        if is_cached and piece[0] in ("whole", "text", "cut", "byte", "other"):
            data = (whole / file).read_bytes()
            digest = (hashlib.sha256(data) if file == "model.safetensors" else
                      hashlib.sha1(b"blob %d\0" % len(data) + data))  # fmt: skip
            blob = home / "blobs" / digest.hexdigest()
            path.symlink_to(blob)
            path = blob
        make_piece(path, whole / file, *piece)
    found = encode_prompts(name if is_cached else model, None, 8, revision)
    changed = [file for file in pieces
               if (model / file).read_bytes() != (whole / file).read_bytes()]  # fmt: skip
    is_named = is_cached or revision is not None
    check(not (changed and is_named), f"{', '.join(changed)} changed, and passed for the hash")
    if not changed:
        wanted = encode_prompts(whole, None, 8)
        check(all(map(np.array_equal, found, wanted)), "other vectors")


def make_piece(path: Path, whole: Path, way: str, value: float | str | None = None) -> None:
    """One file of a model, or what takes its place; `whole` is the file as it should be."""
    data = whole.read_bytes()
    match way:
        case "whole":
            path.write_bytes(data)
        case "missing":
            pass
        case "folder":
            path.mkdir()
        case "endless":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "large":
            with open(path, "wb") as file:
                file.truncate(2**36)
        case "other":  # the same file of the other kind of model
            other = {"bert": "clip", "clip": "bert"}[whole.parent.name]
            path.write_bytes((whole.parents[1] / other / whole.name).read_bytes())
        case "cut":
            path.write_bytes(data[: int(value * len(data))])
        case "byte":
            place = int(value * len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        case "text" if whole.suffix == ".json":
            path.write_bytes(encode(value))
        case "text":
            write_checkpoint(path, whole, value)


def read_captions(
    place: Place, folder: Path, files: dict[str, bytes], pairs: list[tuple[str, str]] | None
) -> None:
    """Clips with such files beside them are prepared, and each has its own captions."""
    from tinygif.clips import ClipFolder, Settings, prepare_clips
    from tinygif.clips.dataset import show_clips, statistics
    from tinygif.clips.prepare import map_clips, read_clip, read_rows
    from tinygif.config import DataConfig

    source, out, settings = folder / "gifs", folder / "set", Settings(8, 4)
    (source / "dir").mkdir(parents=True)
    (folder / "private").mkdir()
    shutil.copy(place.source / "05.gif", folder / "private" / "x.gif")
    originals = {name: place.source / f"{i:02d}.gif" for i, name in enumerate(CLIPS)}
    for name, original in originals.items():
        shutil.copy(original, source / name)
    for name, data in files.items():
        (source / name).write_bytes(data)
    prepare_clips(source, out, settings, workers=1)
    rows, array = read_rows(out), map_clips(out)
    check([row["name"] for row in rows] == sorted(CLIPS), "other clips")
    for row, clip in zip(rows, array):
        wanted, _ = read_clip(originals[row["name"]], settings)
        check(np.array_equal(clip, wanted), f"another clip for {row['name']!r}")
        if pairs is not None:
            captions = captions_of(row["name"], pairs)
            got = row["captions"]
            check(got == captions, f"captions {got} of {row['name']!r} instead of {captions}")
    print(statistics(out))
    show_clips(out, folder / "shown.gif", len(rows))
    is_silent = not all(row["captions"] for row in rows)  # clips without captions are refused
    data = DataConfig(str(out), 8, 4, channels=3, flip=True, unconditional=is_silent)
    clips = ClipFolder(out, data, 16)
    print(clips.about, clips.words, clips.captions, clips.prompts)
    for i in range(4 * clips.size):
        clips.example(i, 2)


def captions_of(clip: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The captions of a clip in a table, in their order, each once and with single spaces."""
    texts = (" ".join(text.split()) for name, text in pairs if posixpath.normpath(name) == clip)
    return [text for text in dict.fromkeys(texts) if text]


def read_videos(place: Place, folder: Path, text: str) -> None:
    """Of MSR-VTT's videos only files in their folder are found, each by its own name."""
    from tinygif.clips.sources import collect

    for name in ("videos/a.mp4", "videos/7.mp4", "private/x.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    source = folder / "videos" / "videodatainfo.json"
    source.write_bytes(encode(text))
    for item in collect(source):
        known = item.path is None or item.path.name in ("a.mp4", "7.mp4")
        inside = item.path is None or item.path == source.parent / f"{item.name}.mp4"
        check(known and inside, f"{item.name!r} is {item.path}")
        check(all(isinstance(caption, str) for caption in item.captions), "captions that are none")


def read_prepared(place: Place, folder: Path, files: dict[str, bytes]) -> None:
    """A prepared folder is refused, or has its own clips, and captions that are texts."""
    from tinygif.clips.dataset import show_clips, statistics
    from tinygif.clips.prepare import read_rows

    out = folder / "set"
    shutil.copytree(place.set, out)
    for name, data in files.items():
        (out / name).write_bytes(data)
    fps, *shape, _, examples = read_set(out, "")
    _, *wanted_shape, _, wanted = undamaged(place.set, "", read_set)
    check(0 < fps <= 50 and is_part(shape, wanted_shape), f"another shape: {shape}, {fps} fps")
    check([clip for *clip, _ in examples] == [clip for *clip, _ in wanted], "other clips")
    for row in read_rows(out):
        texts = [row["name"], *row["captions"]] if isinstance(row["captions"], list) else [None]
        check(all(isinstance(text, str) for text in texts), f"a row of {row}")
    print(statistics(out))
    show_clips(out, folder / "shown.gif", 4)


READERS = {
    "checkpoint": read_checkpoint, "tower": read_tower, "captions": read_captions,
    "videos": read_videos, "prepared": read_prepared, "hub": read_hub,
}  # fmt: skip


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


def limit_memory() -> None:
    """What needs more raises MemoryError, where the system can limit it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


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
        for kind in (kind for kind in kinds if kind not in COMMANDS):
            if kind == "hostile":
                numbers, everything = sorted(choose(kind)), hostile_cases(place, seed)
                case, inputs = partial(hostile, place), [everything[n] for n in numbers]
            else:
                whole, names, read = FILES[kind]
                case = partial(damaged, getattr(place, whole), names=names, read=read)
                numbers = range(work[kind])
                inputs = [seed * 10**6 + n for n in numbers]
            began, context = time.monotonic(), multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(jobs, context, initializer=limit_memory) as pool:
                try:
                    for n, (end, why) in zip(numbers, pool.map(case, inputs, chunksize=8)):
                        outcome = "lost" if end == "lost" else "survived"
                        count(kind, n, outcome, why, time.monotonic())
                        counts[kind, end] += end != "lost"
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
        ends = [f", {counts[kind, end]} {end}" for end in ("refused", "right") if counts[kind, end]]
        print(f"{kind}: {counts[kind, 'seconds'] / max(1, cases):.1f} s a case{''.join(ends)}")
    kills, inside = (counts["hits", name] for name in ("killed", "inside a write"))
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills hit, {inside} of them inside a write; {minutes:.1f} minutes\n")
    print(format_table(counts, options.kinds))
    return 1 if any(counts[kind, "lost"] for kind in options.kinds) else 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
