"""Does the GIF show what the prompt says? Tables, intervals, distances, pictures. Lesson 18.

    python -m tinygif.metrics                                    # of the newest run
    python -m tinygif.metrics --checkpoint runs/NAME --count 400 --guidance 2
    python -m tinygif.metrics --sweep guidance                   # a table and a plot

The oracle reads clips made for prompts, and beside them real clips with the same captions, drawn
with test digits: what it gets right there is the ceiling.
"""

import copy
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Bool, Float, UInt8

from tinygif import gif, oracle
from tinygif.asked import COLUMNS, Judged, ask, judge, say, seen, stage, unseen_data, wanted
from tinygif.clip_score import ClipScore
from tinygif.config import DataConfig
from tinygif.moving_mnist import MovingMNIST
from tinygif.oracle import Reading
from tinygif.pipeline import SHIPPED, Pipeline, keep_compiled, load

ROWS = ("one digit, seen pairs", "one digit, held-out pairs", "one digit, all", "two digits")
SWEEPS = {
    "guidance": (1.0, 2.0, 3.0, 4.0, 6.0),
    "solver": ("ddpm", "ddim", "dpmpp"),
    "steps": (1, 2, 3, 5, 10, 20, 50),
}
BATCH = 50  # clips sampled at once


# ---- numbers ---------------------------------------------------------------------------------


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share, for `right` of n (Wilson 1927, JASA 22, p. 209)."""
    p, q = right / n, z**2 / n
    half = (p * (1 - p) * q + q**2 / 4) ** 0.5
    return max(0.0, (p + q / 2 - half) / (1 + q)), min(1.0, (p + q / 2 + half) / (1 + q))


def shares(right: Bool[np.ndarray, "b 4"]) -> dict[str, Any] | None:
    """Percent right with its interval for each of COLUMNS; None if there is no clip."""
    if len(right) == 0:
        return None
    cells: dict[str, Any] = {"n": len(right)}
    for name, column in zip(COLUMNS, right.T):
        low, high = wilson(int(column.sum()), len(right))
        cells[name] = dict(percent=100 * float(column.mean()), low=100 * low, high=100 * high)
    return cells


def table(made: Judged, real: Judged, meets: Float[np.ndarray, " b"], held_out: Sequence) -> dict:
    """Rows of `shares`, of generated clips and of real ones; None where a row does not apply."""
    asked = [wanted(text) for text in made.captions]
    two = np.array([len(digits) == 2 for digits in asked])
    held = ~two & np.array([digits[0][:2] in held_out for digits in asked])
    result = {}
    for name, some in zip(ROWS, (~two & ~held, held, ~two, two)):
        clips = {"generated": made.right[some], "real": real.right[some]}
        result[name] = {kind: shares(right) for kind, right in clips.items()}
    for name, some in {"at most": two & (meets <= 0.5), "more than": two & (meets > 0.5)}.items():
        row = f"two digits, strokes meet in {name} half of the frames"
        result[row] = {"generated": None, "real": shares(real.right[some])}
    return result


def consistency(reading: Reading) -> float:
    """Percent of frames which, read alone, show the digit that their clip shows."""
    same = reading.frame_digits == reading.digits[..., None]
    found = reading.digits >= 0
    return 100 * float(same[found].mean()) if found.any() else 0.0


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance of the Gaussians through two sets (Dowson and Landau 1982, eq. 4).

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)), of covariances A and B.
    """
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return max(0.0, float(apart + np.trace(first) + np.trace(second) - 2 * cross))


def traits(reading: Reading) -> Float[np.ndarray, "b d"]:
    """A vector per clip of one digit: the net's features, where it starts and goes, its wobble."""
    track, half = reading.centres[:, 0], reading.centres.shape[2] // 2
    bends = np.diff(track, 2, axis=1)
    wobble = np.sqrt((bends**2).sum((1, 2)) / max(1, bends.shape[1]))
    moves = [track[:, 0], track[:, half] - track[:, 0], track[:, -1] - track[:, half]]
    return np.concatenate([reading.features[:, 0], *moves, wobble[:, None]], 1)


def distances(generated: Reading, real: Reading, other: Reading) -> dict[str, float]:
    """Frechet distances to real clips, of generated ones and of as many other real ones.

    Traits are measured in standard deviations of the real clips. The second distance is the bias
    of a sample of this size: between equal distributions it would be 0 if there were no end of
    clips. No I3D looks at the clips: these numbers compare with no published FVD. They say nothing
    of captions, and clips played backwards are as near.
    """
    reference = traits(real)
    scale = np.maximum(reference.std(0), 0.01)
    result = {"generated": generated, "real": other}
    gaps = {name: frechet(traits(x) / scale, reference / scale) for name, x in result.items()}
    return dict(gaps, n=len(reference))


def nearest(
    cutouts: Float[np.ndarray, "b v v"], digits: UInt8[np.ndarray, "n s s"], piece: int = 6000
) -> Float[np.ndarray, " b"]:
    """Root mean square distance to the nearest of n digits, moved by a pixel or not; 0 to 1."""
    side = cutouts.shape[-1] - 2
    shifts = [cutouts[:, y : y + side, x : x + side] for y in range(3) for x in range(3)]
    a = np.concatenate(shifts).reshape(9 * len(cutouts), -1)
    best = np.full(len(a), np.inf, np.float32)
    for i in range(0, len(digits), piece):
        b = oracle.views_of(digits[i : i + piece])[:, 1:-1, 1:-1].reshape(-1, side**2)
        best = np.minimum(best, ((b**2).sum(1) - 2 * a @ b.T).min(1))
    squares = (best + (a**2).sum(1)).reshape(9, -1).min(0)
    return np.sqrt(squares.clip(0) / side**2)


def memory(generated: Reading, real: Reading, config: DataConfig) -> dict[str, Any]:
    """How near the digits of clips come to a training digit: copies come nearer than test digits.

    Median and first percentile; ratios near 1, or above, say that none are copied.
    """
    digits = MovingMNIST(config).images
    cutouts = [reading.cutouts[:, 0] for reading in (generated, real)]
    gaps = np.split(nearest(np.concatenate(cutouts), digits), [len(cutouts[0])])
    made, true = ({"median": float(np.median(x)), "1%": float(np.percentile(x, 1))} for x in gaps)
    ratio = {name: made[name] / max(true[name], 1e-6) for name in made}
    return {"training digits": len(digits), "generated": made, "real": true, "ratio": ratio}


# ---- a whole evaluation ----------------------------------------------------------------------


def evaluate(
    pipeline: Pipeline, *, count: int = 200, seed: int = 0, no_time: bool = False,
    out: Path | None = None, clip_score: str | None = None, **choices: Any,
) -> dict[str, Any]:  # fmt: skip
    """All numbers as JSON holds them; also written to the folder `out`, with a GIF of failures.

    Half of `count` clips are of two digits if the model was trained on such. `choices` (steps,
    guidance, solver) are those of a pipeline; None is the checkpoint's own.
    """
    config = check(pipeline, count, out)
    score = ClipScore(clip_score) if clip_score else None
    data, held_out = unseen_data(config), pipeline.held_out
    config = replace(config, mnist_dir=data.source)
    ones = count if config.digits == 1 else count - count // 2
    captions = ask(ones, 1, config, seed) + ask(count - ones, 2, config, seed, held_out)
    clips = sample(without_time(pipeline) if no_time else pipeline, captions, seed, **choices)
    made = judge(clips, captions, config)
    clips, meets = stage(data, captions, seed)
    real = judge(clips, captions, config)
    other = judge(stage(data, captions[:ones], seed + 1)[0], captions[:ones], config)
    result = {
        "checkpoint": str(pipeline.path),
        "settings": dict(choices, count=count, seed=seed, no_time=no_time),
        "test digits": data.source,
        "table": table(made, real, meets, held_out),
        "consistency": {"generated": consistency(made.reading), "real": consistency(real.reading)},
        "frechet": distances(made.reading[:ones], real.reading[:ones], other.reading),
        "nearest": memory(made.reading[:ones], real.reading[:ones], config),
        "clips": [dict(asked=text, seen=say(seen(made.reading, i)), right=bool(made.right[i, 3]))
                  for i, text in enumerate(captions)],
    }  # fmt: skip
    if score is not None:
        cosines = {"generated": score(made.clips, captions), "real": score(real.clips, captions)}
        result["clip score"] = {name: float(x.mean()) for name, x in cosines.items()}
    if out is not None:
        (out / "metrics.json").write_text(json.dumps(result, indent=1))
        show_failures(out / "failures.gif", made, config.fps)
    return result


def sweep(
    pipeline: Pipeline, name: str, out: Path, *, count: int = 200, seed: int = 0,
    no_time: bool = False, **choices: Any,
) -> dict[str, Any]:  # fmt: skip
    """`shares` of the same prompts and noise for each value of a setting, written with a plot.

    A value of that setting among `choices` is one more: `steps=1000` beside 1 to 50.
    """
    config = check(pipeline, count, out)
    data, captions = unseen_data(config), ask(count, 1, config, seed)
    pipeline = without_time(pipeline) if no_time else pipeline
    most = pipeline.config.diffusion.diffusion_steps
    values = sorted({*SWEEPS[name], choices.get(name)} - {None})
    values = [v for v in values if name != "steps" or v <= most]
    rows = {}
    for value in values:
        clips = sample(pipeline, captions, seed, **{**choices, name: value})
        rows[str(value)] = shares(judge(clips, captions, config).right)
    rows["real"] = shares(judge(stage(data, captions, seed)[0], captions, config).right)
    (out / f"sweep_{name}.json").write_text(json.dumps(rows, indent=1))
    draw_sweep(out / f"sweep_{name}.png", name, rows)
    return rows


def check(pipeline: Pipeline, count: int, out: Path | None) -> DataConfig:
    """The data of a checkpoint; and mistakes are found before anything is sampled in vain."""
    config = pipeline.config.data
    if config.dataset != "moving_mnist":
        raise ValueError(f"expected a checkpoint of moving_mnist, got one of {config.dataset}: "
                         "the oracle reads digits only")  # fmt: skip
    if count < 20:
        raise ValueError(f"expected a count of at least 20, for the statistics, got {count}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    return config


def sample(
    pipeline: Pipeline, captions: Sequence[str], seed: int, **choices: Any
) -> UInt8[np.ndarray, "b f h w c"]:
    """A clip for each caption, in batches of one size: each size is a compilation."""
    from tqdm import tqdm

    batches = -(-len(captions) // BATCH)
    size = -(-len(captions) // batches)
    steps, parts = choices.get("steps") or pipeline.config.diffusion.sample_steps, []
    with tqdm(total=batches * steps, desc="sampling", disable=not sys.stderr.isatty()) as bar:

        def tick(trajectory: Iterable, total: int) -> Iterator:
            for step in trajectory:
                yield step
                bar.update()

        for i in range(0, len(captions), size):
            some = list(itertools.islice(itertools.cycle(captions), i, i + size))
            parts.append(pipeline(some, seed=seed + i, progress=tick, **choices).array)
    return np.concatenate(parts)[: len(captions)]


def without_time(pipeline: Pipeline) -> Pipeline:
    """With what the model learned along time taken out: its last projections are zero."""

    def cut(path: tuple, leaf: object) -> object:
        name = jax.tree_util.keystr(path)
        return leaf * 0 if ".conv_time.mix" in name or ".time.out" in name else leaf

    other = copy.copy(pipeline)
    other.model = jax.tree_util.tree_map_with_path(cut, pipeline.model)
    return other


# ---- what is shown ---------------------------------------------------------------------------


def show_failures(path: Path, judged: Judged, fps: int, most: int = 36) -> None:
    """A GIF of clips that are not all right, each with what was asked for and what was seen."""
    wrong = np.flatnonzero(~judged.right[:, 3])[:most].tolist()
    path.unlink(missing_ok=True)
    if len(wrong) > 0:
        asked = [say(wanted(judged.captions[i])) for i in wrong]
        texts = [f"{a} / {say(seen(judged.reading, i))}" for a, i in zip(asked, wrong)]
        scale = max(1, 96 // judged.clips.shape[2])
        gif.write_gif(path, gif.grid(judged.clips[wrong], captions=texts, scale=scale), fps)


def draw_sweep(path: Path, name: str, rows: dict[str, Any]) -> None:
    """Percent right over the values of a setting, with intervals; real clips are the last."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis, places = figure.subplots(), np.arange(len(rows))
    for k, column in enumerate(COLUMNS):
        cells = [row[column] for row in rows.values()]
        middle, *ends = np.array([[c[key] for c in cells] for key in ("percent", "low", "high")])
        bars = np.abs(ends - middle)
        axis.errorbar(places + 0.05 * k, middle, bars, label=column, marker="o", capsize=2)
    axis.set(xticks=places, xticklabels=list(rows), xlabel=name, ylabel="percent right")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def line(name: str, row: dict[str, Any] | None) -> str:
    """A row of the printed table."""
    if row is None:
        return f"{name:30} does not apply"
    cells = (row[column] for column in COLUMNS)
    texts = (f"{c['percent']:5.1f} [{c['low']:5.1f}, {c['high']:5.1f}]" for c in cells)
    return f"{name:30}{row['n']:5}  " + "   ".join(texts)


HEADER = f"{'percent right [95%]':34}n  " + "   ".join(f"{name:>20}" for name in COLUMNS)


def show(result: dict[str, Any]) -> str:
    """What `evaluate` gives, for people."""
    lines = [HEADER]
    for name, row in result["table"].items():
        if "strokes" not in name:
            lines.append(line(name, row["generated"]))
        if row["real"]:
            _, _, part = name.partition("strokes ")
            lines.append(line(f"   {part or 'real clips'}", row["real"]))
    same, far, near = (result[name] for name in ("consistency", "frechet", "nearest"))
    made, true, ratio = (near[name] for name in ("generated", "real", "ratio"))
    cosines = result.get("clip score")
    return "\n".join([*lines, "",
        f"frames that show their clip's digit: {same['generated']:.1f}%, real {same['real']:.1f}%",
        f"Frechet distance to {far['n']} real clips (the oracle's features and tracks, no FVD): "
        f"{far['generated']:.2f}, of as many other real clips {far['real']:.2f}",
        f"nearest of {near['training digits']} training digits, RMS: median {made['median']:.3f}, "
        f"1% {made['1%']:.3f}; real {true['median']:.3f}, {true['1%']:.3f}; "
        f"ratio {ratio['median']:.2f}, {ratio['1%']:.2f}",
        *([f"CLIP score, mean cosine of frames and prompt: {cosines['generated']:.4f}, real "
           f"{cosines['real']:.4f}"] if cosines else []),
        f"real clips: test digits of {result['test digits']}",
    ])  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Does the GIF show what the prompt says? The oracle reads clips of a trained model."""

    checkpoint: Path | None = None
    """A run folder or a model file; by default the newest run."""
    count: int = 200
    """Clips to sample; half of them of two digits, where the model was trained on such."""
    seed: int = 0
    """The same seed asks the same prompts and gives the same clips."""
    steps: int | None = None
    """Denoising steps; the checkpoint's default when left out, as for solver and guidance."""
    solver: Literal["ddpm", "ddim", "dpmpp"] | None = None
    guidance: float | None = None
    no_time: bool = False
    """Switch the layers off that mix frames: what are they worth?"""
    sweep: Literal["guidance", "solver", "steps"] | None = None
    """Instead, one-digit prompts for several values of a setting, and its own: table and plot."""
    clip_score: str | None = None
    """A CLIP model (clip, a hub id, a folder): how alike are frames and prompt to it?"""
    out: Path | None = None
    """The folder for JSON and pictures; by default metrics/ beside the checkpoint of a run."""


def main(options: Options) -> None:
    keep_compiled()
    pipeline = load(options.checkpoint)
    dataset = pipeline.config.data.dataset
    if dataset != "moving_mnist":
        print(f"{pipeline.path} was trained on {dataset}; the oracle reads digits only:")
        for name in (*ROWS, "consistency", "Frechet distance", "nearest training digit"):
            print(line(name, None))
        return
    beside = Path() if pipeline.path == SHIPPED else pipeline.path.parent
    out = options.out or beside / "metrics"
    choices = dict(steps=options.steps, solver=options.solver, guidance=options.guidance,
                   count=options.count, seed=options.seed, no_time=options.no_time)  # fmt: skip
    print(f"{pipeline.path}: {options.count} clips", flush=True)
    if options.sweep and options.clip_score:
        raise ValueError("--clip-score goes with the table, not with --sweep: leave one out")
    if options.sweep is None:
        print(show(evaluate(pipeline, out=out, clip_score=options.clip_score, **choices)))
    else:
        rows = sweep(pipeline, options.sweep, out, **choices)
        print(HEADER, *(line(name, row) for name, row in rows.items()), sep="\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError, ImportError) as error:
        print(f"metrics: {error}", file=sys.stderr)
        sys.exit(2)
