"""Figures of lesson 13, drawn by the models that come with tinygif."""

from pathlib import Path

import jax
import numpy as np

import tinygif
from tinygif.gif import enlarge, grid, strip, write, write_gif
from tinygif.guidance import Pinned
from tinygif.known import know, place
from tinygif.morph import morph, there_and_back
from tinygif.sampler import DPMSolver, sample

SLOW = True
ORC = "an orc with purple hair in a leather vest and red trousers walking down"
HERO = "a pale person with blond hair in a blue shirt and white trousers walking down"


def temperatures() -> np.ndarray:
    """Clips of 12 noises, weaker from row to row; frame 8 of each."""
    pipeline = tinygif.load("moving_mnist")
    prompts = ["a 3 moving left"] * 12
    rows = [pipeline(prompts, seed=3, temperature=s).array[:, 8:9] for s in (1.0, 0.5, 0.2, 0.0)]
    return np.concatenate(rows)


def put_in(pipeline, prompt: str, known, resample: int, seed: int) -> np.ndarray:
    """A clip whose known frames are pinned, at temperature 1, and the network is not told."""
    text, options = pipeline.encode_prompts([prompt]), pipeline.config.sample
    denoiser = pipeline.denoiser(text, pipeline.encode_prompts([None]), options.guidance, None)
    noise = pipeline.draw_noise(1, seed, pipeline.config)
    x0 = sample(Pinned(denoiser, known), pipeline.schedule, noise, key=jax.random.key(seed),
                solver=DPMSolver(), steps=options.sample_steps, resample=resample)  # fmt: skip
    return pipeline.model.codec.decode(x0)[0]


def known_frames() -> np.ndarray:
    """A clip, and three ways to draw one with its first frame; one below the other."""
    pipeline, prompt = tinygif.load("moving_mnist"), "a 3 moving left"
    clip = pipeline([prompt], seed=4).array[0]
    known = know(pipeline, *place({0: clip[0]}, len(clip), 1))
    ways = [put_in(pipeline, prompt, known, resample, seed=7) for resample in (1, 4)]
    told = pipeline([prompt], known=known, seed=7).array[0]
    return np.concatenate([strip(way[::3]) for way in (clip, *ways, told)])


def draw(folder: Path) -> None:
    """13_morph.gif, 13_grid.gif, 13_temperature.png, 13_known.png."""
    write(folder / "13_known.png", enlarge(known_frames()[None], 3))
    stages = morph(tinygif.load("sprites"), ORC, HERO, count=12, seed=1)
    write_gif(folder / "13_morph.gif", enlarge(there_and_back(stages), 3), fps=8)
    write(folder / "13_temperature.png", grid(temperatures(), 12, scale=2))
    digits = tinygif.load("moving_mnist")
    prompts = "a 3 moving left", "an 8 moving up"
    cells = morph(digits, *prompts, count=4, grid=True, seed=1)
    write_gif(folder / "13_grid.gif", grid(cells[:, ::2], 4, scale=2), fps=4)
