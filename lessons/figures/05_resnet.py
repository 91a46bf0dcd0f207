"""Figures of lesson 05."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from tinygif.codec import Pixels  # noqa: E402
from tinygif.gif import grid, write_gif  # noqa: E402
from tinygif.resnet import ResnetBlock, time_embedding  # noqa: E402
from tinygif.schedule import cosine  # noqa: E402


def told(path: Path) -> None:
    """The best guess of a pixel at five steps, and the best one of who does not know the step."""
    schedule, x = cosine(1000), np.linspace(-3, 3, 301)
    alpha, sigma = (np.asarray(curve, float)[1:] for curve in (schedule.alpha, schedule.sigma))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for t, style in ((100, "-"), (300, "--"), (500, "-."), (700, ":"), (900, (0, (1, 3)))):
        guess = np.tanh(alpha[t - 1] / sigma[t - 1] ** 2 * x)
        axes.plot(x, guess, color="C0", ls=style, lw=2, label=f"told: t = {t}")
    # how likely x is under +1 and -1, summed over the steps
    plus, minus = (
        np.mean(np.exp(-((x[:, None] - s * alpha) ** 2) / (2 * sigma**2)) / sigma, axis=1)
        for s in (1, -1)
    )
    axes.plot(x, (plus - minus) / (plus + minus), color="C3", lw=3, label="blind")
    axes.set(xlabel="x_t", ylabel="best guess of x0", xlim=(-3, 3))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def bouncing() -> np.ndarray:
    """The clip of the lesson, (f, 1, h, w)."""
    clip = np.zeros((16, 32, 32, 1), np.uint8)
    for f, frame in enumerate(clip):
        at = abs(2 * f - 16)
        frame[at : at + 16, at : at + 16] = 255
    return np.asarray(Pixels(1).encode(clip))


def read_off(path: Path) -> None:
    """The film that a linear layer draws when told the plain number, and when it sees the hands."""
    film, levels = bouncing().reshape(16, 1024), jnp.arange(16) / 16
    number = np.stack([np.ones(16), levels], axis=1)
    hands = np.asarray(jax.vmap(lambda t: time_embedding(t, 64))(levels))
    drawn = [features @ np.linalg.lstsq(features, film, rcond=None)[0]
             for features in (number, hands)]  # fmt: skip
    cells = [Pixels(1).decode(x.reshape(16, 1, 32, 32)) // 17 * 17 for x in (film, *drawn)]
    write_gif(path, grid(cells, 3, ["truth", "plain number", "sines and cosines"], 5), fps=8)


def deep(path: Path) -> None:
    """The film, the same behind 30 new blocks, and behind 30 random ones without their input."""
    make = eqx.filter_jit(lambda key: ResnetBlock(8, 64, key=key))
    condition = time_embedding(jnp.float32(5 / 16), 64)
    run = eqx.filter_jit(lambda block, x: jax.vmap(block, (0, None))(x, condition))
    x = y = z = jnp.asarray(bouncing().repeat(8, axis=1))
    for key in jax.random.split(jax.random.key(0), 30):
        block = make(key)
        y = run(block, y)
        z = run(eqx.tree_at(lambda b: b.conv2, block, block.conv1), z) - z
    cells = [Pixels(1).decode(a[:, :1]) // 17 * 17 for a in (x, y, z)]
    captions = ["truth", "30 new blocks", "30 without the input"]
    write_gif(path, grid(cells, 3, captions, 5), fps=8)


def draw(folder: Path) -> None:
    """05_told.png, 05_film.gif, 05_deep.gif."""
    told(folder / "05_told.png")
    read_off(folder / "05_film.gif")
    deep(folder / "05_deep.gif")
