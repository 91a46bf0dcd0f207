"""Figures of lesson 15."""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tinygif.codec import Pixels
from tinygif.config import TrainConfig
from tinygif.gif import grid, write_gif
from tinygif.optimizer import average, make_optimizer

CONFIG = TrainConfig(learning_rate=0.2, weight_decay=0.0, ema=0.99)


def square() -> np.ndarray:
    """The clip that the weights of the lesson should become, (f, h, w)."""
    line = lambda at: (np.arange(8) - at) % 8 < 3  # noqa: E731
    frames = [line(2)[:, None] & line(at)[None, :] for at in range(8)]
    return np.where(np.stack(frames), 1, -1).astype(np.float32)


def history(
    steps: int, config: TrainConfig = CONFIG
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Weights, their average, and the average by the plain rule, after every step."""
    optimizer, truth = make_optimizer(config), square()
    model = jnp.asarray(np.random.default_rng(1).standard_normal(truth.shape, np.float32))
    ema = plain = model
    memory = optimizer.init(model)

    @eqx.filter_jit
    def step(model, ema, plain, memory, clips, number):
        grads = jax.grad(lambda model: jnp.mean((model[None] - clips) ** 2))(model)
        updates, memory = optimizer.update(grads, memory, model)
        model = model + updates
        return (model, average(ema, model, number, CONFIG.ema),
                CONFIG.ema * plain + (1 - CONFIG.ema) * model, memory)  # fmt: skip

    out = []
    with jax.numpy_dtype_promotion("standard"):
        for number in range(steps):
            rng = np.random.default_rng([0, number])
            clips = truth + 2 * rng.standard_normal((4, *truth.shape), np.float32)
            model, ema, plain, memory = step(model, ema, plain, memory, clips, jnp.int32(number))
            out.append((model, ema, plain))
    return out


def film(states: list[np.ndarray]) -> np.ndarray:
    """Weights (f, h, w) at some steps as a clip, of each the next frame; 8 shades keep it small."""
    frames = np.stack([np.asarray(state)[k % 8] for k, state in enumerate(states)])
    return Pixels(1).decode(frames[:, None]) // 36 * 36


def draw(folder: Path) -> None:
    """15_average.gif and 15_rate.gif: every fourth of 256 steps."""
    clips = [film(states) for states in zip(*history(256)[::4])]
    captions = ["weights", "their average", "average, plain rule"]
    write_gif(folder / "15_average.gif", grid(clips, 3, captions, scale=12), fps=8)
    rates = (0.02, 0.2, 2.0)
    runs = [history(256, replace(CONFIG, learning_rate=rate))[::4] for rate in rates]
    clips = [film([model for model, _, _ in run]) for run in runs]
    captions = [f"learning rate {rate}" for rate in rates]
    write_gif(folder / "15_rate.gif", grid(clips, 3, captions, scale=12), fps=8)
