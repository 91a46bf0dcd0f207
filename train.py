"""Train a text-to-GIF model.

    python train.py --dataset moving_mnist                  # two CPU cores, under 15 minutes
    python train.py --dataset moving_mnist --preset small   # one GPU
    python train.py --dataset path/to/folder                # captioned GIFs; or shapes
    python train.py --resume                                # go on with the newest run
    python train.py --resume --minutes 30                   # train a finished run for longer

The flags that people use first: --dataset, --preset, --minutes or --steps, --out, --resume, --init,
--size, --frames, --batch-size, --seed. All flags follow, section by section.

Writes runs/NAME/: model.safetensors, state.safetensors, log.jsonl, loss.png, samples/*.gif.
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from tinygif import checkpoint, files, training
from tinygif.checkpoint import STATE, About
from tinygif.config import MODELS, PRESETS, Config, named_keys
from tinygif.data import Dataset, Slice, prefetch, read_batch, slice_at
from tinygif.datasets import defaults, open_dataset
from tinygif.errors import TinygifError, run_command
from tinygif.gif import write_gif
from tinygif.log import Log
from tinygif.pipeline import Pipeline, find_checkpoint, prompt_reader
from tinygif.towers import resolve_tower
from tinygif.training import Batch, TrainState

LOG_EVERY, HELD_OUT_EVERY, HELD_OUT_CLIPS = 10, 100, 32
RESUME_FLAGS = ("--resume", "--out", "--steps", "--minutes")
BAR = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


# ---- config ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run(Config):
    """Defaults are those of the preset."""

    out: Path | None = None
    """Folder of the run; by default a new one below runs/."""
    resume: bool = False
    """Go on with the run in --out, or the newest, with its own settings. A larger --steps or
    --minutes makes it longer."""
    init: str | None = None
    """Begin with the weights of a checkpoint, or of the shipped one, moving_mnist: its model and
    diffusion are the defaults of flags, what fits is kept, new words get new rows."""


def parse(arguments: Sequence[str]) -> Run:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=list(PRESETS), default="tiny")
    first.add_argument("--model", choices=list(MODELS))
    first.add_argument("--dataset", default="moving_mnist")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--init")
    chosen, _ = first.parse_known_args(arguments)
    default = Run(**vars(PRESETS[chosen.preset]) | {"data": defaults(chosen.dataset)})
    if chosen.model not in (None, default.model.model):
        default = replace(default, model=MODELS[chosen.model]())
    if chosen.init is not None:
        config = checkpoint.read_about(find_checkpoint(chosen.init)).config
        default = replace(default, model=config.model, text=config.text, diffusion=config.diffusion)
    if chosen.resume:
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        if ignored := sorted(flags - {*RESUME_FLAGS, "--help"}):
            raise TinygifError(f"a resumed run keeps its settings: leave out {', '.join(ignored)}. "
                               f"--resume goes with {', '.join(RESUME_FLAGS[1:])}")  # fmt: skip
        default = replace(default, train=replace(default.train, steps=None, minutes=None))
    return tyro.cli(Annotated[Run, tyro.conf.OmitArgPrefixes], args=list(arguments),
                    default=default, description=__doc__)  # fmt: skip


def named_folder(run: Run) -> Path | None:
    """The folder that was asked for, or of the newest run; None for a new one."""
    if run.resume and run.out is None:
        if (state := checkpoint.newest(STATE)) is None:
            raise TinygifError("nothing to resume: no run in runs/. Start without --resume.")
        return state.parent
    if run.out is not None and (run.out / STATE).exists() and not run.resume:
        raise TinygifError(f"{run.out} already holds a run: add --resume to go on with it, or "
                           "choose another --out")  # fmt: skip
    return run.out


# ---- data and state --------------------------------------------------------------------------


def new_run(run: Run) -> tuple[TrainState, About, Dataset, Dataset | None]:
    """Step 0; what its checkpoints say of it; the data set; clips that are not trained on."""
    config = Config(**{f.name: getattr(run, f.name) for f in dataclasses.fields(Config)})
    if config.train.steps is None and config.train.minutes is None:
        raise TinygifError("how long? add --steps N or --minutes M")
    config.check()
    config = replace(config, text=resolve_tower(config.text))
    dataset, held_out, config = open_dataset(config)
    words, key = dataset.words, named_keys(config.train.seed).init
    build = lambda words: config.init(len(words) + 2, key=key)  # noqa: E731
    if run.init is None:
        model = build(words)
    else:
        model, words, message = checkpoint.transplant(find_checkpoint(run.init), build, words)
        print(message)
    return training.init_state(config, model), About(config, words, 0), dataset, held_out


def resumed_run(run: Run, folder: Path) -> tuple[TrainState, About, Dataset, Dataset | None]:
    """The same of a run that goes on, perhaps for longer than it was meant to."""
    state, about = training.load_state(folder)
    config = about.config
    if run.train.steps or run.train.minutes:
        longer = replace(config.train, steps=run.train.steps, minutes=run.train.minutes)
        config = replace(config, train=longer)
        config.check()
        done = progress_of(config, about.step, float(state.seconds))
        rate = float(training.learning_rate_at(longer, about.step, done))
        print(f"{min(done, 1):.0%} of the run is done; the learning rate goes on at {rate:.2f} of "
              "its peak and falls to zero at the end")  # fmt: skip
    dataset, held_out, config = open_dataset(config)
    return state, about._replace(config=config), dataset, held_out


def progress_of(config: Config, step: int, seconds: float) -> float:
    """How far a run is: 0 at its start, 1 at its end; by steps, or else by the clock."""
    options = config.train
    return step / options.steps if options.steps else seconds / (60 * options.minutes)


# ---- the loop --------------------------------------------------------------------------------


def train(
    folder: Path, state: TrainState, about: About, dataset: Dataset, held_out: Dataset | None
) -> None:
    config, options, data = about.config, about.config.train, about.config.data
    keys, mesh, schedule = named_keys(options.seed), training.make_mesh(), config.diffusion.build()
    data_key, held_out_key = jax.random.split(keys.data)
    seed, reader = int(jax.random.bits(data_key)), prompt_reader(config.text, about.words)
    if config.text.text != "words":
        reader.learn(dataset.captions)  # at once, so that no step waits for the tower
    step, evaluate = training.make_step(config, mesh), eqx.filter_jit(training.held_out_loss)

    def examples(of: Dataset, where: Slice) -> tuple[np.ndarray, object]:
        clips, captions = read_batch(of, seed, where)
        return clips, reader.batch(captions)

    def held_out_loss() -> float | None:
        if held_out is None or done % HELD_OUT_EVERY:
            return None
        batch = examples(held_out, Slice(0, HELD_OUT_CLIPS, data.frames))
        return float(evaluate(state.ema, schedule, config.diffusion, *batch, held_out_key))

    def finish_step() -> None:  # waits until the step is over; NaN ends the run here
        nonlocal pending
        if pending is not None:
            log.read(training.check_finite(pending, done - 1))
        pending = None

    def save() -> None:
        finish_step()
        spent = {"seconds": jnp.asarray(log.seconds), "tflop": jnp.asarray(log.tflop)}
        training.save_state(folder, replace(state, **spent), about._replace(step=done))
        log.draw()

    def write_samples() -> None:  # the same prompts and noise every time
        pipeline = Pipeline(state.ema, config, about.words)
        clips = pipeline(dataset.prompts, steps=min(25, config.diffusion.diffusion_steps))
        write_gif(folder / "samples" / f"{done:06d}.gif", clips.picture(), data.fps)

    mix = options.batch_size, data.frames, options.short_frames, options.short_share
    slices = (slice_at(number, *mix) for number in itertools.count(about.step))
    programs, pending, done = {}, None, about.step
    log = Log(folder, done, float(state.seconds), float(state.tflop))
    batches = prefetch(partial(examples, dataset), slices)
    progress = progress_of(config, done, log.seconds)
    with tqdm(total=1.0, initial=min(progress, 1.0), bar_format=BAR) as bar:
        while progress < 1:
            with log.waiting():
                clips, prompts = next(batches)
            batch = Batch(clips, prompts, np.float32(progress))
            if clips.shape not in programs:  # one for long clips, perhaps one for short ones
                program = step.lower(state, batch, keys.train).compile()
                programs[clips.shape] = program, program.cost_analysis()["flops"] * mesh.size / 1e12
            program, tflop = programs[clips.shape]
            state, logs = program(state, batch, keys.train)
            finish_step()  # the step before, while this one runs
            pending, done = logs, done + 1
            log.add(len(clips), tflop)
            if done % LOG_EVERY == 0:
                finish_step()
                line = log.write_line(done, held_out_loss())
                speed = f"{line['clips_per_second']:.0f} clips/s"
                bar.set_postfix_str(f"step {done}, loss {line['loss']:.3f}, {speed}", refresh=False)
            if done % options.save_every == 0:
                save()
            if done % options.sample_every == 0:
                write_samples()
            progress = progress_of(config, done, log.seconds)
            bar.update(min(progress, 1.0) - bar.n)
    save()
    write_samples()


def main() -> None:
    run = parse(sys.argv[1:])
    folder = named_folder(run)
    state, about, *data = resumed_run(run, folder) if run.resume else new_run(run)
    name = f"{Path(about.config.data.dataset).name}-{run.preset}"
    folder = checkpoint.new_folder(name) if folder is None else folder
    size = sum(leaf.nbytes for leaf in checkpoint.named(state).values())
    files.check_room(folder / "samples", 3 * size, "its checkpoints")
    with files.lock(folder / ".lock"):
        print(f"{folder}: {data[0].about}; {training.count_weights(state.model) / 1e6:.1f} M "
              f"weights, {jax.device_count()} x {jax.devices()[0].device_kind}; compiling first",
              flush=True)  # fmt: skip
        train(folder, state, about, *data)
    print(f"wrote {folder}/: model.safetensors, state.safetensors, log.jsonl, loss.png, samples/\n"
          f'now:  python sample.py --prompt "{data[0].prompts[0]}"')  # fmt: skip


if __name__ == "__main__":
    stopped = "stopped; go on from the last checkpoint with --resume (and the --out you gave)"
    run_command("train.py", main, stopped)
