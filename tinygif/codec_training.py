"""Training the autoencoder, before the model and by the same jitted step. Lesson 16."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from tinygif import training
from tinygif.autoencoder import Autoencoder, center, normalize, reconstruction_loss
from tinygif.checkpoint import CODEC, About, model_template, read, read_about, write
from tinygif.config import Config, TrainConfig, named_keys
from tinygif.data import Dataset, Slice, prefetch, read_batch
from tinygif.gif import grid, write_gif
from tinygif.log import Log
from tinygif.schedule import Schedule
from tinygif.training import Batch, TrainState, copy_arrays, init_state


def codec_config(config: Config) -> Config:
    """The config that trains the autoencoder of a run: with Muon, whatever trains the model."""
    options, steps = config.train, config.codec.codec_steps
    train = TrainConfig(
        steps=steps if options.steps is None else min(steps, options.steps),
        batch_size=options.batch_size, optimizer="muon", muon_rate=0.05, learning_rate=1.5e-3,
        warmup=50, weight_decay=0.0, ema=0.99, save_every=options.save_every,
    )  # fmt: skip
    return replace(config, train=train)


def adopt_codec(
    state: TrainState, codec: TrainState, clips: UInt8[np.ndarray, "b f h w c"]
) -> TrainState:
    """The state of a run with its trained autoencoder, and with what that has cost.

    The deviation of the codes is measured in `clips`.
    """
    ready = normalize(codec.ema, clips)
    return replace(
        state, model=replace(state.model, codec=ready),
        ema=replace(state.ema, codec=copy_arrays(ready)), seconds=codec.seconds, tflop=codec.tflop,
    )  # fmt: skip


def codec_loss(
    codec: Autoencoder, schedule: Schedule, config: Config, clip: UInt8[Array, "f h w c"],
    prompt: None, index: Int[Array, ""], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of one clip when the autoencoder is trained; takes the place of `example_loss`."""
    return reconstruction_loss(codec, clip, jax.random.fold_in(key, index))


def load_codec_state(path: Path) -> TrainState:
    """The state in a run's folder of the autoencoder that is trained before the model."""
    about = read_about(path / CODEC)
    config, codec = codec_config(about.config), model_template(about).codec
    return read(path / CODEC, eqx.filter_eval_shape(init_state, config, codec))


def train_codec(folder: Path, state: TrainState, about: About, dataset: Dataset) -> TrainState:
    """The state with a trained autoencoder. Goes on where an earlier process ended.

    It sees four frames of each clip, for --codec-steps, but at most for a fifth of --minutes.
    """
    config, whole, data = codec_config(about.config), about.config.train, about.config.data
    options, keys, mesh = config.train, named_keys(whole.seed), training.make_mesh()
    stride, size = max(1, data.frames // 4), options.batch_size
    limit = math.inf if whole.steps else 60 * whole.minutes / 5

    def read(n: int) -> np.ndarray:
        clips, _ = read_batch(dataset, keys.stream_seed(), Slice(n * size, size, data.frames))
        return clips[:, n % stride :: stride]

    if (folder / CODEC).exists():
        codec = load_codec_state(folder)
    else:
        codec = training.init_state(config, center(state.model.codec, read(0)))
    step, codec = training.make_step(config, mesh, codec_loss), training.replicate(codec, mesh)
    done, tflop = int(codec.step), 0.0
    log = Log(folder, 0, float(codec.seconds), float(codec.tflop))
    batches = prefetch(read, itertools.count(done))
    while (progress := max(done / options.steps, log.seconds / limit)) < 1:
        batch = Batch(next(batches), None, np.float32(progress))
        tflop = tflop or training.count_tflop(step, codec, batch, keys.codec)
        codec, logs = step(codec, batch, keys.codec)
        log.begin_step(done, logs, size, tflop)
        done += 1
        if done % 10 == 0:
            log.show(progress, f"codec, step {done}")
        if done % options.save_every == 0:
            log.finish_step()  # raises if the loss is NaN
            write(folder / CODEC, log.write_into(codec), about)
    log.finish_step()
    log.show(1.0, f"codec, step {done}")
    codec = log.write_into(codec)
    write(folder / CODEC, codec, about)
    clips = np.concatenate([read(n) for n in range(8)])
    state, clips = adopt_codec(state, codec, clips), clips[:8]
    decoded = state.model.codec.decode(jax.vmap(state.model.codec.encode)(clips))
    picture = grid(np.concatenate([clips, decoded]), columns=8, scale=max(1, 96 // data.size))
    write_gif(folder / "samples" / "codec.gif", picture, data.fps)
    return state
