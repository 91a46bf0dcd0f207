"""How fast is tinygif here, and how far from what the machine can do? Lesson 17.

    python -m tinygif.bench                        # preset tiny: a table, and bench.json
    python -m tinygif.bench --scaling              # also the cost of frames, side, width, batch
    python -m tinygif.bench --dataset data/NAME    # does reading your clips hide behind the step?
    python -m tinygif.bench --out new.json --compare old.json

A large matrix product is timed in turn with what is measured: their ratio holds on a noisy machine.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from tinygif import sampler, training
from tinygif.config import PRESETS, Config, named_keys
from tinygif.data import Dataset, Slice, prefetch, read_batch
from tinygif.datasets import defaults, open_dataset
from tinygif.errors import TinygifError, expect, run_command
from tinygif.files import write_whole
from tinygif.pipeline import Pipeline
from tinygif.text import Tokenizer
from tinygif.training import Batch

AXES = {
    ("data", "frames"): (8, 16, 32, 64),
    ("data", "size"): (32, 64, 128),
    ("model", "width"): (32, 64, 128),
    ("train", "batch_size"): (4, 8, 16, 32),
}
"""The fields of a config that `--scaling` varies, one at a time; the batch is 4 unless it is the
field."""
Call = Callable[[], Any]


# ---- clocks ----------------------------------------------------------------------------------


def seconds(call: Call) -> float:
    """How long a call takes until its arrays are there."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def in_turn(calls: dict[str, Call], repeat: int) -> dict[str, np.ndarray]:
    """Seconds of each call, A B A B: what slows one slows the other. A first round warms up."""
    rounds = [[seconds(call) for call in calls.values()] for _ in range(repeat + 1)]
    return dict(zip(calls, np.array(rounds[1:]).T))


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": middle, "low": low, "high": high}


def product(dtype: str, n: int) -> tuple[Call, float]:
    """A product of two n x n matrices as a call, and its FLOPs: 2 n^3."""
    a = jnp.ones((n, n), dtype)
    f = jax.jit(jnp.matmul)
    return lambda: f(a, a), 2.0 * n**3


def rate(flops: float, times: np.ndarray) -> float:
    """GFLOP/s at the median time."""
    return flops / float(np.median(times)) / 1e9


@contextlib.contextmanager
def disk_cache() -> Iterator[None]:
    """Compiled programs are kept in an empty folder meanwhile, to time cold and warm."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(names, (folder, 0.0)):
            jax.config.update(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def compile_twice(lower: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The compiled program, and the seconds to trace and compile it without and with a cache."""
    times = {}
    for name in ("cold", "from disk"):
        jax.clear_caches()
        began = time.perf_counter()
        program = lower().compile()
        times[name] = time.perf_counter() - began
    return program, times


# ---- what is timed ---------------------------------------------------------------------------


def describe(program: Any, times: dict[str, np.ndarray], flops: float, clips: float) -> dict:
    """The numbers of a program timed in turn with a matrix product of so many FLOPs.

    clips: how many come out of one call.
    """
    own = float(program.cost_analysis()["flops"])
    memory = program.memory_analysis()
    share = own / times["program"] / (flops / times["matrix"])
    return {
        "ms": spread(1e3 * times["program"]),
        "clips/s": clips / float(np.median(times["program"])),
        "GFLOP": own / 1e9,
        "GFLOP/s": rate(own, times["program"]),
        "share of matrix rate": spread(share),
        "MB that stay": memory.argument_size_in_bytes / 1e6,
        "MB at work": memory.temp_size_in_bytes / 1e6,
    }


def noise(config: Config, words: int) -> Batch:
    """A batch of clips and token ids without meaning."""
    data, size = config.data, config.train.batch_size
    shape = (size, data.frames, data.size, data.size, data.channels)
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Batch(clips, np.full((size, config.text.max_tokens), words - 1, np.int32), np.float32(0))


def train_row(config: Config, dataset: Dataset, repeat: int, matrix: tuple) -> dict:
    """A training step: loss, gradients, optimizer, average; and the wait for clips in a loop."""
    words, key = len(dataset.words) + 2, named_keys(0).train
    model = config.init(words, key=named_keys(0).init)
    state, batch = training.init_state(config, model), noise(config, words)
    weights = training.count_weights(model)
    step = training.make_step(config, training.make_mesh())
    program, compiling = compile_twice(lambda: step.lower(state, batch, key))

    def run(batch: Batch) -> Any:
        nonlocal state
        state, logs = program(state, batch, key)
        return logs

    times = in_turn({"matrix": matrix[0], "program": lambda: run(batch)}, repeat)
    row = describe(program, times, matrix[1], float(config.train.batch_size))
    waits = waiting(run, config, dataset, repeat + 2)
    return {"M weights": weights / 1e6, **row, "s to compile": compiling, **waits}


def sampling_inputs(pipeline: Pipeline, prompt: str, count: int) -> tuple:
    """The arguments of `sampler.sample_step` for a batch of guided clips, in mid-schedule."""
    data, options, schedule = pipeline.config.data, pipeline.config.sample, pipeline.schedule
    text, null = (pipeline.encode_prompts([text] * count) for text in (prompt, None))
    denoiser = pipeline.denoiser(text, null, options.guidance, None)
    x = jnp.zeros((count, *pipeline.model.codec.shape(data.frames, data.size)))
    t, t_next, key = np.int32(schedule.T), np.int32(schedule.T // 2), named_keys(0).sample
    return denoiser, schedule, sampler.SOLVERS[options.solver](), x, x, t, t, t_next, key


def sample_row(config: Config, words: list[str], repeat: int, matrix: tuple[Call, float]) -> dict:
    """A sampling step of a batch, guided; clips/s are of whole clips, at the default steps."""
    pipeline = Pipeline(config.init(len(words) + 2, key=named_keys(0).init), config, words)
    inputs = sampling_inputs(pipeline, words[0], config.train.batch_size)
    program, compiling = compile_twice(lambda: sampler.sample_step.lower(*inputs))
    times = in_turn({"matrix": matrix[0], "program": lambda: program(*inputs)}, repeat)
    clips = config.train.batch_size / config.sample.sample_steps
    row = describe(program.compiled, times, matrix[1], clips)
    return {**row, "s to compile": compiling}


def waiting(run: Callable, config: Config, dataset: Dataset, steps: int) -> dict[str, float]:
    """The share of a training loop's time in which it waits for clips."""
    tokenizer = Tokenizer(dataset.words, config.text.max_tokens)
    size, frames = config.train.batch_size, config.data.frames

    def make(step: int) -> Batch:
        clips, captions = read_batch(dataset, 0, Slice(step * size, size, frames))
        return Batch(clips, tokenizer.batch(captions), np.float32(0))

    alone = seconds(lambda: make(0).clips)
    waits, whole, batches = [], [], prefetch(make, itertools.count())
    for _ in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        jax.block_until_ready(run(batch))
        whole.append(time.perf_counter() - began)
    batches.close()
    share = 100 * sum(waits[2:]) / sum(whole[2:])  # the first ones fill the queue
    return {"ms to make a batch": 1e3 * alone, "% waiting for it": share}


def scaling(config: Config, words: int, repeat: int) -> dict[str, dict]:
    """Milliseconds of loss and gradients when one thing grows, and the exponent that fits them."""
    rows = {}
    base = replace(config, train=replace(config.train, batch_size=4, accumulate=1))
    for (part, field), values in AXES.items():
        cells = {}
        for value in tqdm(values, desc=field, disable=not sys.stderr.isatty()):
            inner, keys = replace(getattr(base, part), **{field: value}), named_keys(0)
            config = replace(base, **{part: inner})
            model, schedule = config.init(words, key=keys.init), config.diffusion.build()
            batch = noise(config, words)
            inputs = model, schedule, config, batch.clips, batch.prompts, keys.train
            call = partial(eqx.filter_jit(training.gradients), *inputs)
            times = in_turn({"gradients": call}, repeat)["gradients"]
            cells[str(value)] = 1e3 * float(np.median(times))
        rows[field] = {"ms": cells, "exponent": exponent(values, list(cells.values()))}
    return rows


def exponent(sizes: tuple[int, ...], costs: list[float]) -> float:
    """p of the power law cost = a size^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def import_seconds() -> float:
    """`import tinygif` in a new process, JAX included."""
    line = "import time; t = time.perf_counter(); import tinygif; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return float(done.stdout)


# ---- the whole, and what is shown ------------------------------------------------------------


def measure(config: Config, dataset: Dataset, repeat: int, with_scaling: bool) -> dict[str, Any]:
    """All numbers of a preset on this machine; `format_table` prints them."""
    device, on_cpu = jax.devices()[0], jax.default_backend() == "cpu"
    kinds = ["float32"] if on_cpu else ["float32", "bfloat16"]
    matrices = {kind: product(kind, 2048 if on_cpu else 8192) for kind in kinds}
    rates = {k: rate(flops, in_turn({k: f}, repeat)[k]) for k, (f, flops) in matrices.items()}
    matrix = matrices["bfloat16" if config.train.bfloat16 and not on_cpu else "float32"]
    with disk_cache():
        result = {
            "device": f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores",
            "jax": jax.__version__,
            "preset": config.preset,
            "data set": Path(config.data.dataset).name,
            "matrix GFLOP/s": rates,
            "training step": train_row(config, dataset, repeat, matrix),
            "sampling step": sample_row(config, dataset.words, repeat, matrix),
            "s to import tinygif": import_seconds(),
        }
        if stats := device.memory_stats():
            result["peak MB of the device"] = stats["peak_bytes_in_use"] / 1e6
        if with_scaling:
            result["scaling"] = scaling(config, len(dataset.words) + 2, max(3, repeat // 3))
    return result


def flat(tree: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Nested numbers by their full names."""
    out = {}
    for key, value in tree.items():
        full = f"{name}, {key}" if name else key
        out |= flat(value, full) if isinstance(value, dict) else {full: value}
    return out


def format_table(result: dict[str, Any], other: dict[str, Any] | None = None) -> str:
    """A table: a number a line; beside another result with the ratio of the two."""
    lines, before = [], flat(other or {})
    for name, value in flat(result).items():
        number = isinstance(value, float)
        row = f"{name:48}{value:12.4g}" if number else f"{name:48}{value!s:>12}"
        if name in before:
            then = before[name]
            row += f"{then:12.4g}   x{value / then:.2f}" if number and then else f"   {then}"
        lines.append(row)
    return "\n".join(lines)


def read_result(path: Path) -> dict[str, Any]:
    """An earlier bench.json."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TinygifError(f"expected a bench.json in {path}, got: {error}") from error


@dataclass(frozen=True)
class Options:
    """How fast is tinygif on this machine, beside a large matrix product?"""

    preset: Literal[tuple(PRESETS)] = "tiny"
    repeat: int = 15
    """How often each thing is timed."""
    dataset: str | None = None
    """shapes, or a folder of clips; by default moving digits."""
    scaling: bool = False
    """Also the cost of more frames, pixels, channels and clips."""
    compare: Path | None = None
    """An earlier result to set beside this one."""
    out: Path = Path("bench.json")


def main(options: Options) -> None:
    expect(options.repeat >= 1, "--repeat of at least 1", options.repeat)
    other = None if options.compare is None else read_result(options.compare)
    config = PRESETS[options.preset]
    data = config.data if options.dataset is None else defaults(options.dataset)
    if data.dataset == "moving_mnist":
        data = replace(data, mnist_dir="bundled")
    dataset, _, config = open_dataset(replace(config, data=data))
    result = measure(config, dataset, options.repeat, options.scaling)
    write_whole(options.out, json.dumps(result, indent=1).encode())
    print(format_table(result, other), f"\nwrote {options.out}", sep="\n")


if __name__ == "__main__":
    run_command("bench", lambda: main(tyro.cli(Options, description=__doc__)))
