"""Figures of lesson 19, drawn by the sprites model and the adapter that come with tinygif."""

from pathlib import Path

import numpy as np

import tinygif
from tinygif.gif import grid, write_gif
from tinygif.lora import with_adapter
from tinygif.palette import find_colors, pixel_art, read_palette

SLOW = True
PROMPTS = (
    "an orc with purple hair in a leather vest and red trousers walking left",
    "a pale person with blond hair in a blue shirt and white trousers walking down",
)


def scales() -> np.ndarray:
    """Two prompts with the adapter at 0, 0.5 and 1, with its word and, in the last column, without.
    """
    base, columns = tinygif.load("sprites"), []
    styled = [f"{prompt} gameboy" for prompt in PROMPTS]
    for scale, prompts in ((0.0, PROMPTS), (0.5, styled), (1.0, styled), (1.0, PROMPTS)):
        pipeline = with_adapter(base, "gameboy", scale) if scale else base
        columns.append(pipeline(list(prompts), seed=1).array)
    return np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])


def palettes() -> np.ndarray:
    """A clip as it is, in large pixels, and in four palettes, below each with dithering."""
    clip = tinygif.load("sprites")([PROMPTS[1]], seed=1).array[0]
    colors = [find_colors(clip, 4), *(read_palette(n) for n in ("pico8", "gameboy", "1bit"))]
    rows = []
    for dither in (False, True):
        first = clip if not dither else pixel_art(clip, side=32).repeat(2, 1).repeat(2, 2)
        rows += [first, *(pixel_art(clip, palette, dither=dither) for palette in colors)]
    return np.stack(rows)


def draw(folder: Path) -> None:
    """19_scales.gif, 19_palettes.gif."""
    write_gif(folder / "19_scales.gif", grid(scales(), 4, scale=2), fps=8)
    write_gif(folder / "19_palettes.gif", grid(palettes(), 5, scale=2), fps=8)
