"""From a pipeline to numbers: sample clips, evaluate them, write the results. Lesson 18."""

import copy
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from tinygif import gif
from tinygif.config import Config
from tinygif.errors import expect
from tinygif.files import check_room, write_whole
from tinygif.metrics import stats
from tinygif.metrics.clip_score import ClipScore
from tinygif.metrics.free_prompts import evaluate_free_prompts
from tinygif.metrics.nearest_clip import evaluate_folder
from tinygif.metrics.prompts import (
    COLUMNS,
    MISTAKES,
    Judged,
    are_trained_on,
    draw_clips,
    judge,
    list_clips,
    make_captions,
    observed_digits,
    parse_caption,
    tell_mistake,
    unseen_data,
)
from tinygif.metrics.report import Evaluation, Sample, draw_sweep, write_failures
from tinygif.metrics.shape_reader import evaluate_shapes
from tinygif.metrics.sprite_reader import evaluate_sprites
from tinygif.metrics.stats import shares
from tinygif.moving_mnist import HELD_OUT
from tinygif.pipeline import Pipeline
from tinygif.sampler import SolverName
from tinygif.unet import without_time

ROWS = tuple(f"{digits}, {pairs}" for digits in ("one digit", "two digits")
             for pairs in ("seen pairs", "held-out pairs", "all"))  # fmt: skip
OVERLAP = ("real, strokes mostly apart", "real, strokes often overlap")
SWEEPS = {
    "guidance": (1.0, 2.0, 3.0, 4.0, 6.0),
    "solver": get_args(SolverName),
    "steps": (1, 2, 3, 5, 10, 20, 50),
    "temperature": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
}
SweepName = Literal[tuple(SWEEPS)]
BATCH = 50  # clips sampled at once
MIN_COUNT = 20  # clips: statistics of fewer are meaningless
ROOM = 20_000_000  # bytes that the files of an evaluation may take


# ---- moving digits ---------------------------------------------------------------------------


def evaluate_digits(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """What the oracle reads, how steady a digit is, and how near clips come to real ones.

    Half of the prompts are about two digits, if the model was trained on two; in a fifth of these
    one of both is in a pair that training never showed. Real clips have the
    same captions and are drawn with test digits: the oracle's score on them is the ceiling.
    "nearest" is None unless the digits that the model was trained on are on this machine.
    """
    test_digits = unseen_data(config.data)
    data = test_digits.config
    held_out = HELD_OUT if data.hold_out else ()
    ones = count if data.digits == 1 else count - count // 2
    captions = make_captions(ones, 1, data, seed)
    unseen = (count - ones) // 5 if held_out else 0
    captions += make_captions(count - ones - unseen, 2, data, seed, held_out)
    captions += make_captions(unseen, 2, data, seed + 1, held_out, first=held_out)
    generated = judge(sample(captions), captions, data)
    clips, overlaps = draw_clips(test_digits, captions, seed)
    real = judge(clips, captions, data)
    others = judge(draw_clips(test_digits, captions[:ones], seed + 1)[0], captions[:ones], data)
    readings = {"generated": generated.reading, "real": real.reading}
    generated_ones, real_ones = (reading[:ones] for reading in readings.values())
    known = are_trained_on(data, config.data)
    result = {
        "table": make_table(generated, real, overlaps, held_out),
        "constancy": {
            name: float(np.mean(stats.constancy(clips[:ones])))
            for name, clips in {"generated": generated.clips, "real": clips}.items()
        },
        "mistakes": count_mistakes(generated),
        "consistency": {name: stats.consistency(reading) for name, reading in readings.items()},
        "frechet": stats.distances(generated_ones, real_ones, others.reading),
        "nearest": stats.memorisation(generated_ones, real_ones, data) if known else None,
        "real clips": f"test digits of {test_digits.source}",
        "clips": list_clips(generated),
    }
    return Evaluation(captions, generated.clips, real.clips, result)


def make_table(
    generated: Judged, real: Judged, overlaps: Float[np.ndarray, " b"], held_out: Sequence[tuple]
) -> dict[str, Any]:
    """Rows of `shares`, for generated and for real clips; None where there is no such clip.

    Rows of two digits are left out if no prompt is about two.

    Two more rows are for real clips only: those with two digits whose strokes overlap in at most
    half of the frames, and those where they overlap in more.
    """
    expected = [parse_caption(text) for text in generated.captions]
    two = np.array([len(digits) == 2 for digits in expected])
    held = np.array([any(d[:2] in held_out for d in digits) for digits in expected])
    table, rows = {}, ROWS if two.any() else ROWS[:3]
    for name, chosen in zip(rows, (~two & ~held, ~two & held, ~two, two & ~held, two & held, two)):
        rights = {"generated": generated.right[chosen], "real": real.right[chosen]}
        table[name] = {kind: shares(right, COLUMNS) for kind, right in rights.items()}
    parted = two & (overlaps <= 0.5), two & (overlaps > 0.5)
    for name, chosen in zip(OVERLAP if two.any() else (), parted):
        table[name] = {"real": shares(real.right[chosen], COLUMNS)}
    return table


def count_mistakes(judged: Judged) -> dict[str, float] | None:
    """How many of the clips of two digits have which mistake, in percent; None without any."""
    pairs = [(parse_caption(text), observed_digits(judged.reading, i))
             for i, text in enumerate(judged.captions)]  # fmt: skip
    found = [tell_mistake(*pair) for pair in pairs if len(pair[0]) == 2]
    return {name: 100 * found.count(name) / len(found) for name in MISTAKES} if found else None


# ---- any model -------------------------------------------------------------------------------

EVALUATIONS = {
    "moving_mnist": evaluate_digits, "shapes": evaluate_shapes, "sprites": evaluate_sprites,
}  # fmt: skip
"""By the data set of a checkpoint. Any other is a folder of clips, for `evaluate_folder`."""


def evaluate(
    pipeline: Pipeline, *, count: int = 200, seed: int = 0, free_prompts: bool = False,
    no_time: bool = False, clip_score: str | None = None, out: Path | None = None, **choices: Any,
) -> dict[str, Any]:  # fmt: skip
    """Sample clips of a model and measure them; the numbers come as plain values for JSON.

    Which numbers depends on the data set of the checkpoint. `out` is a folder where they are also
    written, with a GIF of the failures and one of the first clips. choices: steps, guidance, solver
    and temperature of the pipeline, where None is the checkpoint's own. Raises TinygifError for
    options that do not fit the checkpoint.
    """
    config = pipeline.config
    check_request(pipeline, count, out, digits_for="free prompts" if free_prompts else None)
    score = ClipScore(clip_score) if clip_score else None
    sample = partial(sample_clips, pipeline, seed=seed, no_time=no_time, **choices)
    measure = EVALUATIONS.get(config.data.dataset, evaluate_folder)
    found = (evaluate_free_prompts if free_prompts else measure)(sample, config, count, seed)
    settings = dict(choices, count=count, seed=seed, no_time=no_time, free_prompts=free_prompts)
    result = {"checkpoint": str(pipeline.path), "settings": settings, **found.result}
    if score is not None:
        clips = {"generated": found.generated, "real": found.real}
        cosines = {name: score(x, found.prompts) for name, x in clips.items()}
        result["clip score"] = {name: float(x.mean()) for name, x in cosines.items()}
    if out is not None:
        write_whole(out / "metrics.json", json.dumps(result, indent=1).encode())
        write_failures(out / "failures.gif", found, config.data.fps)
        first = gif.grid(found.generated[:48], columns=8)  # not picked
        gif.write_gif(out / "clips.gif", first, config.data.fps)
    return result


def sweep(
    pipeline: Pipeline, name: SweepName, out: Path, *, count: int = 200, seed: int = 0,
    no_time: bool = False, **choices: Any,
) -> dict[str, Any]:  # fmt: skip
    """`shares` for each value of a setting, with the same one-digit prompts and the same noise.

    Also written to the folder `out` as JSON and as a plot. A value of that setting in `choices` is
    added to those of SWEEPS: `steps=1000`, say.
    """
    check_request(pipeline, count, out, digits_for="a sweep")
    config, T = pipeline.config.data, pipeline.config.diffusion.diffusion_steps
    captions, rows = make_captions(count, 1, config, seed), {}
    for value in sorted({*SWEEPS[name], choices.get(name)} - {None}):
        if name != "steps" or value <= T:
            options = {**choices, name: value}
            clips = sample_clips(pipeline, captions, seed=seed, no_time=no_time, **options)
            rows[str(value)] = shares(judge(clips, captions, config).right, COLUMNS)
    clips, _ = draw_clips(unseen_data(config), captions, seed)
    rows["real"] = shares(judge(clips, captions, config).right, COLUMNS)
    write_whole(out / f"sweep_{name}.json", json.dumps(rows, indent=1).encode())
    draw_sweep(out / f"sweep_{name}.png", name, rows)
    return rows


def check_request(
    pipeline: Pipeline, count: int, out: Path | None, digits_for: str | None = None
) -> None:
    """Refuse, before anything is sampled, a request that would fail later. Makes the folder `out`.

    digits_for: the requested option that needs a checkpoint of moving digits, if there is one.
    """
    dataset = pipeline.config.data.dataset
    if digits_for:
        got = f"one of {dataset}: leave that option out"
        expect(dataset == "moving_mnist", f"a checkpoint of moving_mnist for {digits_for}", got)
    expect(count >= MIN_COUNT, f"a count of at least {MIN_COUNT}, for the statistics", count)
    if out is not None:
        check_room(out, ROOM, "an evaluation")


def sample_clips(
    pipeline: Pipeline, prompts: Sequence[str], *, seed: int, no_time: bool = False, **choices: Any
) -> UInt8[np.ndarray, "b f h w c"]:
    """A clip for each prompt, in batches of one size, since each size is a compilation.

    no_time: without the layers that mix frames.
    """
    from tqdm import tqdm

    if no_time:
        pipeline = copy.copy(pipeline)
        pipeline.model = without_time(pipeline.model)
    batches = -(-len(prompts) // BATCH)
    size = -(-len(prompts) // batches)
    steps, parts = choices.get("steps") or pipeline.config.sample.sample_steps, []
    with tqdm(total=batches * steps, desc="sampling", disable=not sys.stderr.isatty()) as bar:

        def with_bar(trajectory: Iterable, total: int) -> Iterator:
            for step in trajectory:
                yield step
                bar.update()

        for i in range(0, len(prompts), size):
            batch = list(itertools.islice(itertools.cycle(prompts), i, i + size))
            parts.append(pipeline(batch, seed=seed + i, progress=with_bar, **choices).array)
    return np.concatenate(parts)[: len(prompts)]
