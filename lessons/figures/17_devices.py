"""Figures of lesson 17."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tinygif.codec import Pixels
from tinygif.exact import ExactDenoiser
from tinygif.gif import grid, write_gif
from tinygif.schedule import cosine
from tinygif.training import make_mesh


def squares() -> np.ndarray:
    """A square that starts anywhere and goes down to the right, (b, f, h, w)."""
    starts = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 1, 2)
    line = (np.arange(8) - (starts + np.arange(8)[:, None])[..., None]) % 8 < 3
    return np.where(line[:, :, 0, :, None] & line[:, :, 1, None, :], 1, -1).astype(np.float32)


def draw(folder: Path) -> None:
    """17_devices.gif; the clips are the same however many devices share the work."""
    schedule = cosine(1000)
    noise = np.random.default_rng(1).standard_normal((8, 8, 8, 8), np.float32)
    x = jax.device_put(noise, NamedSharding(make_mesh(), PartitionSpec("data")))
    guess = eqx.filter_jit(ExactDenoiser(schedule, jnp.asarray(squares())))
    times = np.linspace(1000, 0, 21).astype(np.int32)
    for t, s in zip(times, times[1:]):
        clip = guess(x, t)
        eps = (x - schedule.alpha[t] * clip) / schedule.sigma[t]
        x = schedule.alpha[s] * clip + schedule.sigma[s] * eps
    clips = Pixels(1).decode(np.asarray(x)[:, :, None])
    captions = [f"device {i}" for i in range(8)]
    write_gif(folder / "17_devices.gif", grid(clips, 4, captions, scale=8), fps=8)
