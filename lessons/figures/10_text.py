"""Figures of lesson 10."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import tinygif
from tinygif.codec import Pixels
from tinygif.diffusion import q_sample
from tinygif.gif import grid, write_gif
from tinygif.pipeline import spotlights
from tinygif.schedule import cosine
from tinygif.text import TextEncoder, Tokenizer

SLOW = True  # trains two networks
SCHEDULE = cosine(1000)
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
TOKENIZER = Tokenizer(["go", "then", *WAYS], max_tokens=6)
CAPTIONS = TOKENIZER.batch([f"go {way}" for way in WAYS])


class Net(eqx.Module):
    """The network of the lesson."""

    text: TextEncoder
    paint: eqx.nn.MLP

    def __init__(self, key: jax.Array):
        one, two = jax.random.split(key)
        self.text = TextEncoder(len(TOKENIZER), 64, 0, max_tokens=12, key=one)
        self.paint = eqx.nn.MLP(512 + 1 + 64, 512, 256, 2, key=two)

    def __call__(self, x_t: jax.Array, t: jax.Array, ids: jax.Array) -> jax.Array:
        row = jnp.concatenate([x_t.ravel(), t[None] / 1000, self.text(ids).pooled])
        return self.paint(row).reshape(x_t.shape)


guess_all = eqx.filter_jit(lambda model, *args: jax.vmap(model)(*args))


def loss(model: Net, x0: jax.Array, ids: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    x_t = jax.vmap(q_sample, in_axes=(None, 0, 0, 0))(SCHEDULE, x0, t, eps)
    return jnp.mean((guess_all(model, x_t, t, ids) - x0) ** 2)


def draw_examples(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    """Clips, which way each goes, steps and noise."""
    start, way = rng.integers(0, 8, (n, 1, 2)), rng.integers(0, 4, n)
    at = start + np.array(list(WAYS.values()))[way][:, None] * np.arange(8)[:, None]
    line = (np.arange(8) - at[..., None]) % 8 < 3
    square = line[:, :, 0, :, None] & line[:, :, 1, None, :]
    x0 = np.where(square, 1, -1).astype(np.float32)
    t = 1 + (1000 * np.sqrt(rng.random(n))).astype(np.int32)
    return x0, way, t, rng.standard_normal(x0.shape, np.float32)


def train(shuffle: bool, steps: int = 1500) -> Net:
    optimizer = optax.adam(2e-3)
    model, rng = eqx.filter_jit(Net)(jax.random.key(0)), np.random.default_rng(0)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model: Net, state: tuple, *examples: jax.Array) -> tuple[Net, tuple]:
        updates, state = optimizer.update(eqx.filter_grad(loss)(model, *examples), state)
        return eqx.apply_updates(model, updates), state

    for _ in range(steps):
        x0, way, t, eps = draw_examples(rng, 64)
        shown = rng.permutation(way) if shuffle else way
        model, state = step(model, state, x0, CAPTIONS[shown], t, eps)
    x0, way, t, eps = draw_examples(np.random.default_rng(1), 1024)
    cost = [eqx.filter_jit(loss)(model, x0, CAPTIONS[w], t, eps) for w in (way, np.roll(way, 1))]
    print(f"captions {'shuffled' if shuffle else 'matching'} in training: "
          f"loss with right ones {cost[0]:.3f}, with wrong ones {cost[1]:.3f}")  # fmt: skip
    return model


def generate(model: Net, x: np.ndarray, ids: np.ndarray, steps: int = 20) -> np.ndarray:
    times = np.linspace(1000, 0, steps + 1).astype(np.int32)
    for t, s in zip(times, times[1:]):
        x0 = guess_all(model, x, np.full(len(x), t), ids)
        eps = (x - SCHEDULE.alpha[t] * x0) / SCHEDULE.sigma[t]
        x = SCHEDULE.alpha[s] * x0 + SCHEDULE.sigma[s] * eps
    return np.asarray(x)


def words() -> np.ndarray:
    """A sprite once for each word of its prompt, lit where that word is looked at."""
    prompt = "an orc with purple hair in chain mail and red trousers walking left"
    clip, names, maps = tinygif.load("sprites").attention(prompt, seed=1)
    return grid(spotlights(clip, maps)[:, ::2] // 32 * 32, 5, names, 2)


def draw(folder: Path) -> None:
    """10_obey.gif."""
    write_gif(folder / "10_words.gif", words(), fps=4)
    noise = np.random.default_rng(2).standard_normal((1, 8, 8, 8), np.float32).repeat(4, axis=0)
    cells, captions = [], []
    for shuffle in (False, True):
        clips = generate(train(shuffle), noise, CAPTIONS)[:, :, None]
        clips = Pixels(1).decode(clips) // 17 * 17
        cells += list(clips)
        captions += [f"go {way}" + (", shuffled" if shuffle else "") for way in WAYS]
    write_gif(folder / "10_obey.gif", grid(cells, 4, captions, scale=12), fps=8)
