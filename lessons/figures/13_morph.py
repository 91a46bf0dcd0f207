"""Figures of lesson 13, drawn by the models that come with tinygif."""

from pathlib import Path

import numpy as np

import tinygif
from tinygif.gif import enlarge, grid, write, write_gif
from tinygif.morph import morph, there_and_back

SLOW = True
ORC = "an orc with purple hair in a leather vest and red trousers walking down"
HERO = "a pale person with blond hair in a blue shirt and white trousers walking down"


def temperatures() -> np.ndarray:
    """Clips of 12 noises, weaker from row to row; frame 8 of each."""
    pipeline = tinygif.load("moving_mnist")
    prompts = ["a 3 moving left"] * 12
    rows = [pipeline(prompts, seed=3, temperature=s).array[:, 8:9] for s in (1.0, 0.5, 0.2, 0.0)]
    return np.concatenate(rows)


def draw(folder: Path) -> None:
    """13_morph.gif, 13_grid.gif, 13_temperature.png."""
    stages = morph(tinygif.load("sprites"), ORC, HERO, count=12, seed=1)
    write_gif(folder / "13_morph.gif", enlarge(there_and_back(stages), 3), fps=8)
    write(folder / "13_temperature.png", grid(temperatures(), 12, scale=2))
    digits = tinygif.load("moving_mnist")
    prompts = "a 3 moving left", "an 8 moving up"
    cells = morph(digits, *prompts, count=4, grid=True, seed=1)
    write_gif(folder / "13_grid.gif", grid(cells[:, ::2], 4, scale=2), fps=4)
