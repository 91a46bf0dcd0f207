"""Figures of lesson 16. They train two autoencoders, as the lesson does at full size."""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from tinygif import training
from tinygif.autoencoder import EDGE, NOISE, Autoencoder, CodecConfig, center
from tinygif.codec_training import codec_config
from tinygif.config import PRESETS, DataConfig
from tinygif.data import Slice, read_batch
from tinygif.gif import grid, write_gif
from tinygif.latents import normalize
from tinygif.moving_mnist import MovingMNIST

SLOW = True
STEPS, BATCH = 1500, 16
DIGITS = MovingMNIST(DataConfig(size=16, frames=4, mnist_dir="bundled"))
UNSEEN = MovingMNIST(DIGITS.config, held_out=True)


def read(dataset: MovingMNIST, start: int, size: int, frames: int = 4) -> np.ndarray:
    """Clips (b, f, 16, 16, 1)."""
    return read_batch(dataset, 0, Slice(start, size, frames))[0]


def dial_loss(codec, schedule, config, clip, noise, index, key):
    """The loss of the lesson: `reconstruction_loss` with a noise that can be chosen."""
    x = codec.pixels.encode(clip)
    z = jax.vmap(codec.encode_frame)(x)
    eps = jax.random.normal(jax.random.fold_in(key, index), z.shape)
    y = jax.vmap(codec.decode_frame)(z + noise * eps)
    outside = jax.nn.relu(jnp.abs(z) - EDGE)
    return jnp.mean((y - x) ** 2) + 0.1 * jnp.mean(outside**2)


def train(noise: float) -> Autoencoder:
    """An autoencoder trained with that noise on its codes."""
    train = replace(PRESETS["tiny"].train, batch_size=BATCH)
    config = codec_config(replace(PRESETS["tiny"], data=DIGITS.config, train=train))
    mesh, options = training.make_mesh(), CodecConfig("autoencoder", codec_width=16)
    step = training.make_step(config, mesh, dial_loss)
    codec = eqx.filter_jit(lambda: options.build(1, key=jax.random.key(0)))()
    known = read(DIGITS, 0, 256)
    state = training.replicate(training.init_state(config, center(codec, known)), mesh)
    with jax.numpy_dtype_promotion("standard"):
        for n in range(STEPS):
            dial, progress = np.full(BATCH, noise, np.float32), np.float32(n / STEPS)
            batch = training.Batch(read(DIGITS, BATCH * n, BATCH), dial, progress)
            state, _ = step(state, batch, jax.random.key(1))
    return normalize(state.ema, known)


def patches(clips: np.ndarray) -> np.ndarray:
    """Squares of 4 x 4 pixels as rows of 16 numbers in [-1, 1]."""
    return rearrange(clips / 127.5 - 1, "b f (h p) (w q) 1 -> (b f h w) (p q)", p=4, q=4)


def linear(clips: np.ndarray) -> np.ndarray:
    """The clips after PCA with 4 numbers for each square."""
    known = patches(read(DIGITS, 0, 256))
    mean = known.mean(axis=0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][:4]
    x = (patches(clips) - mean) @ axes.T @ axes + mean
    form = "(b f h w) (p q) -> b f (h p) (w q) 1"
    return to_clips(rearrange(x, form, b=len(clips), h=4, w=4, p=4))


def to_clips(x: np.ndarray) -> np.ndarray:
    """Numbers in [-1, 1] to 0..255, in 16 shades."""
    return np.round((np.clip(x, -1, 1) + 1) * 7.5).astype(np.uint8) * 17


def draw(folder: Path) -> None:
    """16_codes.gif, 16_noise.gif."""
    clips, rng = read(UNSEEN, 3, 4, frames=12), np.random.default_rng(0)
    quiet, noisy = train(0.0), train(NOISE)
    encode = eqx.filter_jit(lambda codec, x: jax.vmap(codec.encode)(x))
    codes = [np.asarray(encode(codec, clips)) for codec in (quiet, noisy)]
    eps = 0.4 * rng.standard_normal(codes[0].shape, np.float32)
    on_codes = [codec.decode(x + eps) / 127.5 - 1
                for codec, x in zip((quiet, noisy), codes, strict=True)]  # fmt: skip
    on_pixels = clips / 127.5 - 1 + 0.4 * clips.std() / 127.5 * rng.standard_normal(clips.shape)
    learned = noisy.decode(codes[1]) / 127.5 - 1
    rows = {
        "16_codes.gif": [to_clips(clips / 127.5 - 1), linear(clips), to_clips(learned)],
        "16_noise.gif": [to_clips(x) for x in (on_pixels, *on_codes)],
    }
    names = {
        "16_codes.gif": ["truth", "PCA", "autoencoder"],
        "16_noise.gif": [
            "noise on pixels", "on a code trained without", "on a code trained with noise",
        ],
    }  # fmt: skip
    for name, cells in rows.items():
        captions = [caption for caption in names[name] for _ in clips]
        write_gif(folder / name, grid(np.concatenate(cells), 4, captions, 6), fps=6)
