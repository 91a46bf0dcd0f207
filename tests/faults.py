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
import json
import multiprocessing
import os
import random
import shutil
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
from hostile import hostile, hostile_cases
from places import (
    FULL,
    MOST_MEMORY,
    ROOT,
    Lost,
    Place,
    Skipped,
    arrays,
    check,
    finish,
    judge,
    kill_later,
    read_set,
    same_arrays,
    undamaged,
    wait_for,
)
from tqdm import tqdm

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
