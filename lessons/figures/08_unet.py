"""Figures of lesson 08, drawn by a network that trains for four minutes first."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import tinygif
from tinygif.gif import grid, read_gif, write_gif
from tinygif.moving_mnist import WORDS
from tinygif.pipeline import Pipeline
from tinygif.unet import without_time

SLOW = True
SCRIPT = Path(tinygif.__file__).parent.parent / "train.py"
PROMPTS = ("a 1 moving right", "a 0 moving down right", "a 2 moving left", "a 7 moving up")


def first(path: Path, sample: Path) -> None:
    """The last sample grid of a run, in 16 shades of gray: a smaller file."""
    write_gif(path, read_gif(sample)[0][..., :1] // 17 * 17, fps=8)


def still(path: Path, pipeline: Pipeline) -> None:
    """Prompts drawn by a trained model, and by the same with its layers along time at zero."""
    timeless = Pipeline(without_time(pipeline.model), pipeline.config, WORDS)
    rows = [make(PROMPTS, seed=0, steps=25).array for make in (pipeline, timeless)]
    captions = [*PROMPTS, *(f"{prompt}, no time" for prompt in PROMPTS)]
    picture = grid(np.concatenate(rows), len(PROMPTS), captions, scale=3)
    write_gif(path, picture // 17 * 17, pipeline.config.data.fps)


def draw(folder: Path) -> None:
    """08_first.gif, 08_still.gif."""
    with tempfile.TemporaryDirectory() as place:
        run, environ = Path(place) / "run", {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
        words = f"--dataset moving_mnist --mnist-dir bundled --minutes 4 --out {run}"
        subprocess.run([sys.executable, SCRIPT, *words.split()], check=True, env=environ)
        first(folder / "08_first.gif", max((run / "samples").glob("*.gif")))
        still(folder / "08_still.gif", tinygif.load(run))
