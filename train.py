"""Train tinygif.

    python train.py --dataset moving_mnist                  # two CPU cores, under 15 minutes
    python train.py --dataset moving_mnist --preset small   # one GPU
    python train.py --dataset path/to/folder                # captioned GIFs; or shapes
    python train.py --resume                                # go on with the newest run

Writes runs/NAME/: model.safetensors, state.safetensors, log.jsonl, loss.png, samples/*.gif.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from tinygif import checkpoint, training
from tinygif.config import PRESETS, Config
from tinygif.data import Dataset, batch, prefetch
from tinygif.datasets import defaults, open_dataset
from tinygif.embeddings import reader, settle
from tinygif.gif import grid, write_gif
from tinygif.pipeline import Pipeline, find


@dataclass(frozen=True)
class Run(Config):
    """Train a text-to-GIF model. Defaults are those of the preset."""

    out: Path | None = None
    """Folder of the run; by default a new one below runs/."""
    resume: bool = False
    """Go on with the run in --out, or the newest, with its own settings."""
    init: str | None = None
    """Begin with the weights of a checkpoint, or of the shipped one, moving_mnist: its model and
    diffusion are the defaults of flags, what fits is kept, new words get new rows."""


# ---- what to run, and where ------------------------------------------------------------------


def parse() -> Run:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default="tiny")
    first.add_argument("--dataset", default="moving_mnist")
    first.add_argument("--init")
    known = first.parse_known_args()[0]
    default = Run(**vars(PRESETS[known.preset]) | {"data": defaults(known.dataset)})
    if known.init is not None:
        _, config, _, _ = checkpoint.load_model(find(known.init))
        default = replace(default, model=config.model, diffusion=config.diffusion)
    return tyro.cli(Annotated[Run, tyro.conf.OmitArgPrefixes], default=default, description=__doc__)


def choose_folder(run: Run) -> Path:
    if run.out is None and run.resume:
        return checkpoint.newest(checkpoint.STATE).parent
    if run.out is None:
        name, n = f"{Path(run.data.dataset).resolve().name}-{run.preset}", 1
        while (folder := Path("runs") / (name if n == 1 else f"{name}-{n}")).exists():
            n += 1
        return folder
    if (run.out / checkpoint.STATE).exists() and not run.resume:
        raise checkpoint.CheckpointError(
            f"{run.out} already holds a run: add --resume to go on with it, or choose another --out"
        )
    return run.out


def start(run: Run, folder: Path) -> tuple[training.TrainState, Config, Dataset, list[str]]:
    """The state to begin with, new or resumed; the config it has; the data; the vocabulary."""
    if run.resume:
        state, config, words = checkpoint.load_state(folder)
        return state, config, open_dataset(config)[0], words
    config = Config(**{f.name: getattr(run, f.name) for f in dataclasses.fields(Config)})
    config.check()
    config = replace(config, model=settle(config.model))
    dataset, config = open_dataset(config)  # the config keeps where clips came from: see --resume
    words, key = dataset.words, jax.random.key(config.train.seed)
    if run.init is None:
        return training.init_state(config, len(words) + 2, key=key), config, dataset, words
    state, words, said = checkpoint.transplant(find(run.init), config, words, key=key)
    print(said)
    return state, config, dataset, words


# ---- save, sample, log -----------------------------------------------------------------------


def draw_loss(folder: Path) -> None:
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    axis.grid(alpha=0.3, which="both")
    figure.savefig(folder / "loss.png", dpi=120)


def show(folder: Path, step: int, pipeline: Pipeline, prompts: Sequence[str]) -> None:
    """Fixed prompts, fixed noise: what the averaged weights draw by now."""
    data, most = pipeline.config.data, pipeline.config.diffusion.diffusion_steps
    clips = pipeline(prompts, seed=0, steps=min(25, most))
    picture = grid(clips.array, captions=clips.captions, scale=max(1, 96 // data.size))
    write_gif(folder / "samples" / f"{step:06d}.gif", picture, data.fps)


def open_log(folder: Path, step: int) -> None:
    """Keep the lines up to a step: what was logged after the last checkpoint is done again."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept))


# ---- the run ---------------------------------------------------------------------------------


def train(
    folder: Path, state: training.TrainState, config: Config, dataset: Dataset, words: list[str]
) -> None:
    began, first, options = time.time(), int(state.step), config.train
    texts = reader(config.model, words, dataset.captions)
    schedule, key = config.diffusion.build(), jax.random.key(options.seed + 1)

    def make(step: int) -> tuple:
        now = config.at(step)
        some = dataset.with_frames(now.data.frames)
        clips, captions = batch(some, options.seed, step, now.train.batch_size)
        return clips, texts.batch(captions)

    def inputs(step: int, made: tuple, rate: float) -> tuple:
        now = config.at(step)
        static = replace(now, train=replace(now.train, steps=None))  # one program, however long
        return static, schedule, *made, key, jnp.asarray(rate, jnp.float32)

    if options.steps is None:
        some, state = training.shard(make(first), state)
        steps = training.fit_steps(config, inputs(first, some, 1.0), state, began)
        options = replace(options, steps=steps)
        config = replace(config, train=options)
    bar = tqdm(total=options.steps, initial=first, unit="step", dynamic_ncols=True, mininterval=0.5)
    log, losses, pending = open(folder / "log.jsonl", "a"), [], None
    for step, made in enumerate(prefetch(make, range(first, options.steps)), first):
        rate = training.learning_rate_at(options, step)
        made, state = training.shard(made, state)
        state, metrics = training.train_step(inputs(step, made, rate), state)
        if pending is not None:  # read the step before while this one runs
            losses.append(training.finite(pending, step - 1))
        pending, done = metrics, step + 1
        bar.update()
        if losses and (done % 10 == 0 or done == options.steps):
            loss, losses = float(np.mean(losses)), []
            row = {"step": done, "loss": loss, "rate": rate, "seconds": time.time() - began}
            print(json.dumps(row), file=log, flush=True)
            speed = (bar.format_dict["rate"] or 0) * options.batch_size
            bar.set_postfix_str(f"loss {loss:.3f}, {speed:.0f} clips/s")
        if done % options.save_every == 0 or done == options.steps:
            training.finite(metrics, step)
            checkpoint.save(folder, state, config, words)
            draw_loss(folder)
        if done % options.sample_every == 0 or done == options.steps:
            show(folder, done, Pipeline(state.ema, config, words), dataset.prompts)
    bar.close()


def main() -> None:
    run = parse()
    state, config, dataset, words = start(run, folder := choose_folder(run))
    checkpoint.check_room(folder, state)
    open_log(folder, int(state.step))
    print(f"{folder}: {dataset.about}; {training.count(state.model) / 1e6:.1f} M weights, "
          f"{jax.device_count()} x {jax.devices()[0].device_kind}; compiling first")  # fmt: skip
    train(folder, state, config, dataset, words)
    print(f"wrote {folder}/: model.safetensors, state.safetensors, log.jsonl, loss.png, samples/\n"
          f'now:  python sample.py --prompt "{dataset.prompts[0]}"')  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; go on from the last checkpoint with --resume (and the --out you gave)")
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
