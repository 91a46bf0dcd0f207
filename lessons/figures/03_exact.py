"""Figures of lesson 03."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tinygif.codec import Pixels
from tinygif.exact import ExactDenoiser
from tinygif.gif import grid, write, write_gif
from tinygif.moving_mnist import bundled_digits, resize
from tinygif.schedule import cosine

SCHEDULE, PIXELS = cosine(1000), Pixels(1)
PARTS = ((1, 2), (2, 1))  # x_t at half contrast, the guess at full


def drifting_digits(n: int = 64) -> jax.Array:
    """Clips like those of the lesson, (n, f, c, h, w)."""
    rng = np.random.default_rng(0)
    clips = np.zeros((n, 16, 32, 32, 1), np.uint8)
    digits = resize(bundled_digits(test=False)[0][:n], 16)
    for clip, digit in zip(clips, digits, strict=True):
        start, speed = rng.integers(0, 17, 2), rng.integers(-1, 2, 2)
        for f, frame in enumerate(clip):
            row, column = 16 - abs((start + speed * f) % 32 - 16)
            frame[row : row + 16, column : column + 16, 0] = digit
    return PIXELS.encode(clips)


def generate(denoiser, x: jax.Array, steps: int = 20) -> list[tuple[int, jax.Array, jax.Array]]:
    """(t, x_t, guess of x0) for every step, and the clip with t = 0 at the end."""
    times = np.linspace(SCHEDULE.T, 0, steps + 1).astype(int).tolist()
    history = []
    for t, s in zip(times[:-1], times[1:], strict=True):
        x0 = denoiser(x, t)
        history.append((t, x, x0))
        eps = (x - SCHEDULE.alpha[t] * x0) / SCHEDULE.sigma[t]
        x = SCHEDULE.alpha[s] * x0 + SCHEDULE.sigma[s] * eps
    return [*history, (0, x, x)]


def timid(data: jax.Array):
    """The broken denoiser: a mean over pixels instead of the sum."""
    flat = data.reshape(len(data), -1)
    norms = jnp.sum(flat**2, axis=1)[None]

    def denoise(x: jax.Array, t: int) -> jax.Array:
        alpha, sigma = SCHEDULE.alpha[t], SCHEDULE.sigma[t]
        logits = (alpha * x.reshape(len(x), -1) @ flat.T - alpha**2 * norms / 2) / sigma**2
        p = jax.nn.softmax(logits / flat.shape[1], axis=1)
        return (p @ flat).reshape(x.shape)

    return denoise


def draw(folder: Path) -> None:
    """03_generated.gif, 03_denoising.gif, 03_denoising.png, 03_timid.png."""
    data = drifting_digits()
    noise = jax.random.normal(jax.random.key(0), (8, *data.shape[1:]))
    history = generate(ExactDenoiser(SCHEDULE, data), noise)
    clips = PIXELS.decode(history[-1][1])
    write_gif(folder / "03_generated.gif", grid(clips, 4, scale=3), fps=8)

    moving = [*history, *[history[-1]] * 16]  # one GIF frame a step, then the clip once
    cells = [
        np.concatenate([PIXELS.decode(step[part][i, k % 16][None] / scale)
                        for k, step in enumerate(moving)])
        for i in range(2) for part, scale in PARTS
    ]  # fmt: skip
    cells = [cell // 17 * 17 for cell in cells]  # 16 shades: a smaller file
    write_gif(folder / "03_denoising.gif", grid(cells, 4, ["x_t", "guess of x0"] * 2, 3), fps=5)

    shown = [step for step in history if step[0] in (1000, 950, 900, 850, 600, 300, 0)]
    cells, captions = [], []
    for i in range(3):
        for name, (part, scale) in zip(("x_t", "guess"), PARTS, strict=True):
            cells += [PIXELS.decode(step[part][i, :1] / scale) for step in shown]
            captions += [f"{name}, t = {step[0]}" for step in shown]
    write(folder / "03_denoising.png", grid(cells, len(shown), captions, scale=3))

    broken = PIXELS.decode(generate(timid(data), noise[:2])[-1][1])
    cells = [clip[:1] for clip in (*broken, *clips[:2])]
    captions = ["mean, noise 0", "mean, noise 1", "sum, noise 0", "sum, noise 1"]
    write(folder / "03_timid.png", grid(cells, 4, captions, scale=3))
