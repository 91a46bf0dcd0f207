"""Figures of lesson 20, drawn by the model for two digits that comes with tinygif."""

from collections import deque
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import tinygif
from tinygif.gif import enlarge, write_gif
from tinygif.text import Condition

SLOW = True
TWO = "a 3 moving right and a 5 moving left"
THREE = "a 3 moving up and a 5 going left and a 7 moving right"
FRAMES = (0, 4, 8, 12, 15)


def layers(pipeline, prompt: str, seed: int, t: int = 300):
    """A clip, and what each part says of it: guesses (k f c h w) and shares, at step t."""
    text = pipeline.encode_prompts([prompt])
    x0 = deque(pipeline.denoising(text, seed=seed), maxlen=1).pop()[0][0]
    schedule, noise = pipeline.schedule, jax.random.normal(jax.random.key(0), x0.shape)
    x_t = schedule.alpha[t] * x0 + schedule.sigma[t] * noise
    condition = Condition(jax.tree.map(lambda a: a[0], text))
    return x0, *pipeline.model.model.layers(x_t, jnp.float32(t / schedule.T), condition)


def draw(folder: Path) -> None:
    """20_masks.png, 20_three.gif."""
    pipeline = tinygif.load("two_digits")
    x0, guesses, shares = layers(pipeline, TWO, seed=1)
    rows = {"the clip": x0, "guess for the 3": guesses[0], "guess for the 5": guesses[1],
            "share of the 3": 2 * shares[0] - 1, "share of the 5": 2 * shares[1] - 1}  # fmt: skip
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis, side = figure.subplots(), x0.shape[-1]
    strips = [np.concatenate([np.asarray(row[i, 0]) for i in FRAMES], 1) for row in rows.values()]
    axis.imshow(np.concatenate(strips), cmap="gray", vmin=-1, vmax=1)
    axis.set_yticks([(i + 0.5) * side for i in range(len(rows))], list(rows))
    axis.set_xticks([(i + 0.5) * side for i in range(len(FRAMES))], [f"frame {i}" for i in FRAMES])
    for i in range(1, len(rows)):
        axis.axhline(i * side - 0.5, color="tab:blue", linewidth=0.5)
    figure.savefig(folder / "20_masks.png", dpi=120)
    clips = pipeline([THREE] * 5, seed=1).array  # the last is the one in the README
    write_gif(folder / "20_three.gif", enlarge(clips[4], 4), fps=8)
