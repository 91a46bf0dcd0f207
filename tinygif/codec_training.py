"""The codec of a run: opened, or trained before the model by the same jitted step. Lesson 16."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from tinygif import training
from tinygif.autoencoder import FOLDS, Autoencoder, CodecConfig, center, reconstruction_loss
from tinygif.checkpoint import CODEC, About, load_model, model_template, read, read_about, write
from tinygif.codec import FITTED, Pixels
from tinygif.config import Config, TrainConfig, named_keys
from tinygif.data import Dataset, Slice, prefetch, read_batch
from tinygif.errors import expect
from tinygif.gif import grid, write_gif
from tinygif.hub import fetch_model
from tinygif.latents import FrameCodec, normalize
from tinygif.log import Log
from tinygif.pipeline import NAMES, find_checkpoint
from tinygif.schedule import Schedule
from tinygif.taesd import HUB, TAESD, WEIGHTS
from tinygif.towers.pretrained import load_weights
from tinygif.training import Batch, TrainState, copy_arrays, init_state

FITTED_CLIPS, MEASURED_CLIPS = 2000, 256
"""Palette and tiles are fitted to one frame of so many clips; the deviation of a code that comes
from elsewhere is measured in fewer."""


# ---- opened ----------------------------------------------------------------------------------


def open_codec(
    config: Config, init: str | None, dataset: Dataset
) -> tuple[Config, Pixels | FrameCodec | None]:
    """The codec of the run that --codec names, and the config with its settings; else None."""
    name, channels = config.codec.codec, config.data.channels
    if init is not None:
        theirs = read_about(find_checkpoint(init)).config.codec.codec
        expect(name == theirs, f"the codec of {init}, {theirs}, with --init", name)
    if name in FITTED:
        got = f"{channels}: add --channels 3, or --codec pixels"
        expect(channels == 3, f"3 channels for --codec {name}", got)
        clips, _ = read_batch(dataset, 0, Slice(0, FITTED_CLIPS, 1))
        return config, FITTED[name](clips)
    if weights := find_taesd(name, init):
        codec, codec_config = load_taesd(weights, channels), CodecConfig("taesd", codec_steps=0)
    elif name in FOLDS:
        untrained = name == "autoencoder" and config.codec.codec_steps == 0 and init is None
        expect(not untrained, "--codec-steps of at least 1 for a new autoencoder", 0)
        return config, None
    else:
        what = f"--codec {', '.join(FOLDS)}, a run or model file, or the weights of a TAESD"
        expect("/" in name or Path(name).exists() or name in NAMES, what, repr(name))
        model, about = load_model(find_checkpoint(name))
        codec, codec_config = model.codec, replace(about.config.codec, codec_steps=0)
        theirs = about.config.data.channels
        what = f"a codec for {channels} channels, as the clips have"
        expect(channels == theirs, what, f"{name}, which has {theirs}")
    config = replace(config, codec=codec_config)
    config.check()
    if isinstance(codec, FrameCodec):  # it was made for other clips: these, too, get deviation 1
        clips, _ = read_batch(dataset, 0, Slice(0, MEASURED_CLIPS, 1))
        codec = normalize(codec, clips)
    return config, codec


def find_taesd(name: str, init: str | None) -> Path | None:
    """The weights of the TAESD that --codec names, if it does; downloaded if they must be."""
    if name == "taesd" and init is None:
        return fetch_model(HUB, "main", [WEIGHTS], "Or train with --codec autoencoder.")
    path = Path(name)
    is_weights = path.suffix == ".safetensors" and path.name.startswith(("taesd", "diffusion_"))
    return path if is_weights or (path / WEIGHTS).is_file() else None


def load_taesd(path: Path, channels: int) -> TAESD:
    """The codec with the weights of a file in the hub's layout, or of a folder with one.

    Raises TinygifError if names or shapes are not those of TAESD.
    """
    codec = TAESD(channels, key=jax.random.key(0))
    parts = {"encoder": codec.encoder, "decoder": codec.decoder}
    names = {part: f"{part}.layers" for part in parts}
    loaded = load_weights(parts, path / WEIGHTS if path.is_dir() else path, names, "$.")
    layers = loaded["encoder"], loaded["decoder"]
    return eqx.tree_at(lambda c: (c.encoder, c.decoder), codec, layers)


# ---- an autoencoder of its own ---------------------------------------------------------------


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
