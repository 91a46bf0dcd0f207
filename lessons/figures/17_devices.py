"""Figures of lesson 17."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tinygif.exact import ExactDenoiser
from tinygif.gif import grid, to_clip, write_gif
from tinygif.schedule import cosine


def squares() -> np.ndarray:
    """A square that starts anywhere and goes down to the right, (b, f, h, w)."""
    starts = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 1, 2)
    line = (np.arange(8) - (starts + np.arange(8)[:, None])[..., None]) % 8 < 3
    return np.where(line[:, :, 0, :, None] & line[:, :, 1, None, :], 1, -1).astype(np.float32)


def draw(folder: Path) -> None:
    """17_devices.gif: on as many devices as there are, up to eight."""
    schedule, devices = cosine(1000), jax.devices()[:8]
    mesh = Mesh(np.array(devices[: 8 if len(devices) == 8 else 1]), ("data",))
    noise = np.random.default_rng(1).standard_normal((8, 8, 8, 8), np.float32)
    x = jax.device_put(noise, NamedSharding(mesh, PartitionSpec("data")))
    guess = eqx.filter_jit(ExactDenoiser(schedule, jnp.asarray(squares())))
    denoiser_on_all = jax.device_put(eqx.filter(guess, eqx.is_array), NamedSharding(
        mesh, PartitionSpec()))  # fmt: skip
    guess = eqx.combine(denoiser_on_all, guess)
    times = np.linspace(1000, 0, 21).astype(np.int32)
    for t, s in zip(times, times[1:]):
        clip = guess(x, t)
        eps = (x - schedule.alpha[t] * clip) / schedule.sigma[t]
        x = schedule.alpha[s] * clip + schedule.sigma[s] * eps
    clips = to_clip(np.asarray(x)[:, :, None])
    captions = [f"device {i}" for i in range(8)]
    write_gif(folder / "17_devices.gif", grid(clips, 4, captions, scale=8), fps=8)
