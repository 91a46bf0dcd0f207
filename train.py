"""Train a text-to-GIF model.

    python train.py --dataset moving_mnist                  # two CPU cores, under 15 minutes
    python train.py --dataset moving_mnist --preset small   # one GPU
    python train.py --dataset path/to/folder                # captioned GIFs; or shapes, sprites
    python train.py --resume                                # continue the newest run
    python train.py --resume --minutes 30                   # train a finished run for longer

The flags to know first: --dataset, --preset, --minutes or --steps, --out, --resume, --init, --size,
--frames, --batch-size, --seed. --help lists all flags, section by section.

A run trains its codec first, then the model. It writes runs/NAME/: model.safetensors,
state.safetensors, codec.safetensors, log.jsonl, loss.png, samples/*.gif.
"""

import argparse
import dataclasses
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import numpy as np
import tyro

from tinygif import checkpoint, files, optimizer, training
from tinygif.checkpoint import CODEC, MODEL, STATE, About
from tinygif.codec_training import open_codec, train_codec
from tinygif.config import MODELS, PRESETS, Config, named_keys
from tinygif.data import Dataset, Slice, prefetch, read_batch, slice_at
from tinygif.datasets import in_codes, open_dataset, preset_for
from tinygif.errors import TinygifError, expect, run_command
from tinygif.gif import write_gif
from tinygif.log import Log
from tinygif.lora import adapt, merged
from tinygif.pipeline import Pipeline, find_checkpoint, keep_compiled, prompt_reader
from tinygif.towers import resolve_tower
from tinygif.training import Batch, TrainState

LOG_EVERY, HELD_OUT_EVERY, HELD_OUT_CLIPS = 10, 100, 32
RESUME_FLAGS = ("--resume", "--out", "--steps", "--minutes")


# ---- config ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run(Config):
    """Flags that are left out take the values of --preset."""

    out: Path | None = None
    """Folder of the run; by default a new one in runs/."""
    resume: bool = False
    """Continue the run in --out, or the newest run, with its own settings. A larger --steps or
    --minutes makes the run longer."""
    init: str | None = None
    """Start from the weights of a checkpoint; moving_mnist, two_digits and sprites come with
    tinygif. Its autoencoder is used, if it has one, and its model, text and diffusion settings
    become the defaults of the flags. Weights are copied where name and shape agree; new words get
    new rows in the embedding."""


def parse(arguments: list[str]) -> Run:
    """The run that the flags describe. A first pass reads the flags that set others' defaults."""
    first_pass = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first_pass.add_argument("--preset", choices=list(PRESETS), default="tiny")
    first_pass.add_argument("--model", choices=list(MODELS))
    first_pass.add_argument("--dataset", default="moving_mnist")
    first_pass.add_argument("--digits", type=int, default=1)
    first_pass.add_argument("--resume", action="store_true")
    first_pass.add_argument("--init")
    first_pass.add_argument("--lora", type=int, default=0)
    chosen, _ = first_pass.parse_known_args(arguments)
    preset = preset_for(chosen.dataset, chosen.preset, chosen.digits, chosen.model)
    default = Run(**vars(preset))
    if chosen.init is not None:
        config = checkpoint.read_about(find_checkpoint(chosen.init)).config
        ours, theirs = default.text, config.text
        longest = {name: max(getattr(ours, name), getattr(theirs, name))
                   for name in ("max_tokens", "parts") if not chosen.lora}  # fmt: skip
        default = replace(
            default, codec=replace(config.codec, codec_steps=0), model=config.model,
            text=replace(theirs, **longest), diffusion=config.diffusion,
            train=replace(default.train, short_frames=config.train.short_frames),
        )  # fmt: skip
        if chosen.lora:  # the clips must be those of the model that is adapted
            same = {name: getattr(config.data, name)
                    for name in ("size", "frames", "channels", "fps")}  # fmt: skip
            default = replace(default, data=replace(default.data, **same))
    if chosen.resume:
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        ignored = ", ".join(sorted(flags - {*RESUME_FLAGS, "--help"}))
        expect(not ignored, f"only {', '.join(RESUME_FLAGS[1:])} with --resume", ignored)
        default = replace(default, train=replace(default.train, steps=None, minutes=None))
    flags = Annotated[Run, tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands]
    return tyro.cli(flags, args=arguments, default=default, description=__doc__)


# ---- data and state --------------------------------------------------------------------------


def new_run(run: Run) -> tuple[TrainState, About, Dataset, Dataset | None]:
    """What `train` needs for a new run: state at step 0, metadata, data set, held-out clips."""
    expect((run.train.steps, run.train.minutes) != (None, None), "--steps or --minutes", "neither")
    config = Config(**{f.name: getattr(run, f.name) for f in dataclasses.fields(Config)})
    config.check()
    adaptable = run.init is not None or not config.train.lora
    expect(adaptable, "--init, a model to adapt, with --lora", "none")
    config = replace(config, text=resolve_tower(config.text))
    dataset, held_out, config = open_dataset(config)
    config, codec = open_codec(config, run.init, dataset)
    words, key = dataset.words, named_keys(config.train.seed).init
    build = lambda words: config.init(len(words) + 2, key=key)  # noqa: E731
    if run.init is None:
        model = build(words)
    else:
        file = find_checkpoint(run.init)
        model, words, message = checkpoint.transplant(file, build, words)
        print(message)
    if codec is not None and run.init is None:
        model = replace(model, codec=codec)
    elif codec is not None:  # the model knows the code that came with it: only the colours are new
        model = eqx.tree_at(lambda m: m.codec.colors, model, codec.colors)
    if config.train.lora:
        theirs = checkpoint.read_about(file)
        check_adaptable(config, theirs.config)
        is_words = config.text.text == "words"
        new = tuple(sorted(set(words) - set(theirs.words))) if is_words else ()
        config = replace(config, train=replace(config.train, lora_words=new))
        model = adapt(model, About(config, words, 0), key=key)
    return training.init_state(config, model), About(config, words, 0), dataset, held_out


def check_adaptable(config: Config, theirs: Config) -> None:
    """Refuse a run with --lora whose frozen model would not be that of --init, `theirs`."""
    expect(not config.codec.is_trained_first, "no --codec-steps with --lora",
           config.codec.codec_steps)  # fmt: skip
    noise = "schedule", "diffusion_steps", "zero_snr", "shift", "predict"
    for section, names in (("model", vars(config.model)), ("text", vars(config.text)),
                           ("diffusion", noise)):  # fmt: skip
        for name in names:
            ours, other = (getattr(getattr(c, section), name, None) for c in (config, theirs))
            expect(ours == other, f"{name} {other}, as --init has it, with --lora", ours)


def resumed_run(run: Run, folder: Path) -> tuple[TrainState, About, Dataset, Dataset | None]:
    """The same for a run that goes on, with another length if --steps or --minutes is given."""
    if (folder / STATE).exists():
        state, about = training.load_state(folder)
    else:  # the run ended while its codec was trained
        about = checkpoint.read_about(folder / CODEC)
        key = named_keys(about.config.train.seed).init
        model = about.config.init(len(about.words) + 2, key=key)
        state = training.init_state(about.config, model)
    config, steps, minutes = about.config, run.train.steps, run.train.minutes
    if steps is not None or minutes is not None:
        config = replace(config, train=replace(config.train, steps=steps, minutes=minutes))
        config.check()
        progress = config.train.progress(about.step, float(state.seconds))
        rate = float(optimizer.learning_rate_at(config.train, about.step, progress))
        print(f"{min(progress, 1):.0%} of the run is done; the learning rate goes on at {rate:.2f} "
              f"of its peak (decay: {config.train.decay})")  # fmt: skip
    dataset, held_out, config = open_dataset(config)
    return state, about._replace(config=config), dataset, held_out


# ---- the loop --------------------------------------------------------------------------------


def train(
    folder: Path, state: TrainState, about: About, dataset: Dataset, held_out: Dataset | None
) -> None:
    """Train until the run is over, and write its files into `folder`."""
    config, options, data = about.config, about.config.train, about.config.data
    keys, mesh, schedule = named_keys(options.seed), training.make_mesh(), config.diffusion.build()
    held_out_key = jax.random.split(keys.data)[1]
    seed, reader = keys.stream_seed(), prompt_reader(config.text, about.words)
    if config.text.text != "words":
        reader.learn(dataset.captions)  # encode them all now, so that no step waits for the tower

    def read(where: Slice, source: Dataset = dataset) -> tuple[np.ndarray, object]:
        clips, captions = read_batch(source, seed, where)
        return clips, reader.batch(captions)

    def held_out_loss() -> jax.Array | None:
        if held_out is None or not (is_last or done % HELD_OUT_EVERY == 0):
            return None
        batch, model = read(Slice(0, HELD_OUT_CLIPS, data.frames), held_out), merged(state.ema)
        return training.held_out_loss(model, schedule, config.diffusion, *batch, held_out_key)

    def save() -> None:
        log.finish_step()  # raises if the loss is NaN, so that no broken state is saved
        training.save_state(folder, log.write_into(state), about._replace(step=done))
        log.draw()

    def write_samples() -> None:  # the same prompts and noise every time
        log.finish_step()
        pipeline = Pipeline(merged(state.ema), config, about.words)
        clips, scale = pipeline(dataset.prompts), max(1, 96 // data.size)
        write_gif(folder / "samples" / f"{done:06d}.gif", clips.picture(scale), data.fps)

    step, state, tflop = training.make_step(config, mesh), training.replicate(state, mesh), {}
    done, log = about.step, Log(folder, about.step, float(state.seconds), float(state.tflop))
    short = options.short_frames, options.short_share
    slices = (slice_at(n, options.batch_size, data.frames, *short) for n in itertools.count(done))
    batches = prefetch(read, slices)
    progress = options.progress(done, log.seconds)
    log.show(progress, "compiling")
    while progress < 1:
        try:
            with log.waiting():
                clips, prompts = next(batches)
        except TinygifError:  # such as a caption that is too long
            if done > about.step:
                save()
            raise
        batch = Batch(clips, prompts, np.float32(progress))
        if clips.shape not in tflop:  # compiles the step: for long clips, and for short ones
            tflop[clips.shape] = training.count_tflop(step, state, batch, keys.train)
        state, logs = step(state, batch, keys.train)
        log.begin_step(done, logs, len(clips), tflop[clips.shape])
        done, progress = done + 1, options.progress(done + 1, log.seconds)
        is_last = progress >= 1
        if done % LOG_EVERY == 0 or is_last:
            log.write_line(done, progress, held_out_loss())
        if done % options.sample_every == 0 or is_last:
            write_samples()  # before the state: a run that is killed in between makes them again
        if done % options.save_every == 0 or is_last:
            save()
    if checkpoint.step_of(folder / MODEL) != done:  # an earlier process died between both files
        save()
    print(f"wrote {folder}/: model.safetensors, state.safetensors, log.jsonl, loss.png, samples/\n"
          f'now:  python sample.py --prompt "{dataset.prompts[0]}"')  # fmt: skip


def train_both(
    folder: Path, state: TrainState, about: About, dataset: Dataset, held_out: Dataset | None
) -> None:
    """Train the codec, unless there is one, then the model."""
    training.check_room(folder, state)
    weights, device = training.count_weights(state.model), jax.devices()[0].device_kind
    print(f"{folder}: {dataset.about}; {weights / 1e6:.1f} M weights, {jax.device_count()} x "
          f"{device}", flush=True)  # fmt: skip
    if about.config.codec.is_trained_first and not (folder / STATE).exists():
        state = train_codec(folder, state, about, dataset)
    codec = state.model.codec
    dataset, held_out = (part and in_codes(part, codec) for part in (dataset, held_out))
    train(folder, state, about, dataset, held_out)


def main() -> None:
    keep_compiled()
    run = parse(sys.argv[1:])
    folder = checkpoint.run_folder(run.out, run.resume)
    start = None if run.resume else new_run(run)
    if folder is None:
        folder = checkpoint.new_folder(f"{Path(run.data.dataset).resolve().name}-{run.preset}")
    with files.lock(folder / ".lock"):
        train_both(folder, *(start or resumed_run(run, folder)))


if __name__ == "__main__":
    stopped = "stopped; continue from the last checkpoint with --resume (and the same --out)"
    run_command("train.py", main, stopped)
