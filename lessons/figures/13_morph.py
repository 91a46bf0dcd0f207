"""Figures of lesson 13, drawn by the models that come with tinygif."""

from pathlib import Path

import numpy as np

import tinygif
from tinygif.gif import enlarge, grid, write, write_gif
from tinygif.morph import blend, morph, there_and_back

SLOW = True
ORC = "an orc with purple hair in a leather vest and red trousers walking down"
HERO = "a pale person with blond hair in a blue shirt and white trousers walking down"


def straight(count: int) -> np.ndarray:
    """The stages on the straight line between two noises, frame 0 of each."""
    import jax
    import jax.numpy as jnp

    pipeline = tinygif.load("sprites")
    texts = pipeline.encode_prompts([ORC, HERO])
    one, other = (jax.tree.map(lambda x: x[i], texts) for i in range(2))  # noqa: B023
    a, b = pipeline.draw_noise(2, 1, pipeline.config)
    shares = np.linspace(0, 1, count).tolist()
    text = jax.tree.map(lambda *x: jnp.stack(x), *(blend(one, other, s) for s in shares))
    noise = jnp.stack([(1 - s) * a + s * b for s in shares])
    return pipeline(text, noise=noise, solver="dpmpp").array[:, :1]


def draw(folder: Path) -> None:
    """13_morph.gif, 13_grid.gif, 13_lerp.png."""
    stages = morph(tinygif.load("sprites"), ORC, HERO, count=12, seed=1)
    write_gif(folder / "13_morph.gif", enlarge(there_and_back(stages), 3), fps=8)
    rows = np.concatenate([stages[::2, :1], straight(12)[::2]])
    write(folder / "13_lerp.png", grid(rows, 6, scale=2))
    digits = tinygif.load("moving_mnist")
    prompts = "a 3 moving left", "an 8 moving up"
    cells = morph(digits, *prompts, count=4, grid=True, seed=1)
    write_gif(folder / "13_grid.gif", grid(cells[:, ::2], 4, scale=2), fps=4)
