"""Figures of lesson 07."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from tinygif.attention import Attention  # noqa: E402
from tinygif.codec import Pixels  # noqa: E402
from tinygif.gif import grid, write_gif  # noqa: E402
from tinygif.position import RelativePositionBias, bucket, rotary  # noqa: E402

SLOW = True  # trains three networks


def films(rng: np.random.Generator, n: int) -> np.ndarray:
    """The clips of the lesson, (n, f, pixels)."""
    start, speed = rng.integers(0, 10, (n, 1, 2)), rng.integers(-2, 3, (n, 1, 2))
    at = abs((start + speed * np.arange(8)[:, None]) % 10 - 5)
    line = np.arange(8) - at[..., None]
    line = (line >= 0) & (line < 3)
    square = line[:, :, 0, :, None] & line[:, :, 1, None, :]
    return np.where(square.reshape(n, 8, 64), 1, -1).astype(np.float32)


def hide(clips: np.ndarray) -> jax.Array:
    return jnp.asarray(clips).at[:, 1::2].set(0)


class Filler(eqx.Module):
    """The network of the lesson, with either way to tell places, or none."""

    see: eqx.nn.Linear
    look: Attention
    paint: eqx.nn.MLP
    bias: RelativePositionBias | None

    def __init__(self, how: str, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.see = eqx.nn.Linear(64, 64, key=keys[0])
        self.look = Attention(64, 4, 16, rotate=how == "rotary", key=keys[1])
        self.paint = eqx.nn.MLP(64, 64, 128, 1, key=keys[2])
        self.bias = RelativePositionBias(4, key=keys[3]) if how == "bias" else None

    def __call__(self, clip: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias(len(clip))
        return jax.vmap(self.paint)(self.look(jax.vmap(self.see)(clip), bias=bias))


def train(how: str, steps: int = 2000) -> Filler:
    optimizer = optax.adam(3e-3)
    model = eqx.filter_jit(Filler)(how, jax.random.key(0))
    state, rng = optimizer.init(eqx.filter(model, eqx.is_array)), np.random.default_rng(0)

    def loss(model: Filler, clips: jax.Array) -> jax.Array:
        return jnp.mean((jax.vmap(model)(hide(clips)) - clips)[:, 1::2] ** 2)

    @eqx.filter_jit
    def step(model: Filler, state: tuple, clips: jax.Array) -> tuple[Filler, tuple]:
        updates, state = optimizer.update(eqx.filter_grad(loss)(model, clips), state)
        return eqx.apply_updates(model, updates), state

    for _ in range(steps):
        model, state = step(model, state, films(rng, 32))
    test = films(np.random.default_rng(1), 500)
    print(f"{how}: error {eqx.filter_jit(loss)(model, test):.3f}")
    return model


def broken(x: jax.Array, base: float = 10000.0) -> jax.Array:
    """`rotary` with the sign of the lesson's "Break it"."""
    n, _, d = x.shape
    angle = np.arange(n)[:, None, None] * base ** (-np.arange(0, d, 2) / d)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * np.cos(angle) - b * np.sin(angle),
                            a * np.sin(angle) - b * np.cos(angle)], axis=-1)  # fmt: skip


def maps(path: Path) -> None:
    """Scores of equal queries and keys at twelve places, and a bias of random numbers."""
    rng = np.random.default_rng(2)
    q, k = rng.normal(size=(2, 16)).astype(np.float32)
    everywhere = np.ones((12, 1, 1), np.float32)
    scores = lambda turn: turn(q * everywhere)[:, 0] @ turn(k * everywhere)[:, 0].T  # noqa: E731
    n = jnp.arange(12)
    bias = rng.normal(size=16)[np.asarray(bucket(n[None, :] - n[:, None], 16, 12))]
    titles = {"rotary": scores(rotary), "bias, 16 buckets up to 12": bias,
              "rotary, broken sign": scores(broken)}  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
    for axis, (title, values) in zip(axes, titles.items(), strict=True):
        axis.imshow(values, cmap="viridis")
        axis.set(title=title, xlabel="n, the token looked at", xticks=[0, 5, 11])
        axis.set_yticks([0, 5, 11])
    axes[0].set_ylabel("m, the token that looks")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """07_scores.png, 07_filled.gif."""
    maps(folder / "07_scores.png")
    clips = films(np.random.default_rng(3), 12)
    clips = jnp.asarray(clips[(clips[:, 0] != clips[:, 1]).any(-1)][:3])  # some stand still
    shown = {"given": hide(clips)}
    for name, how in (("no places", "none"), ("bias", "bias"), ("rotary", "rotary")):
        guess = jax.jit(jax.vmap(train(how)))(hide(clips))
        shown[name] = clips.at[:, 1::2].set(guess[:, 1::2])
    shown["truth"] = clips
    columns = [Pixels(1).decode(x.reshape(3, 8, 1, 8, 8)) for x in shown.values()]
    cells = [column[i] // 17 * 17 for i in range(3) for column in columns]
    write_gif(folder / "07_filled.gif", grid(cells, 5, list(shown) * 3, scale=8), fps=3)
