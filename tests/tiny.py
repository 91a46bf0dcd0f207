"""The smallest run there is, shared by the tests of training, checkpoints, pipeline and commands.

Weights come from numpy: JAX compiles a program for every shape it initialises, which takes longer
than the tests. None of them is zero, so that every gradient and every prompt shows.
"""

import importlib.util
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree

from tinygif import checkpoint, training
from tinygif.checkpoint import About
from tinygif.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    SampleConfig,
    TextConfig,
    TrainConfig,
)
from tinygif.data import read_batch, slice_at
from tinygif.moving_mnist import MovingMNIST
from tinygif.text import TextToGif, Tokenizer
from tinygif.unet import UNetConfig

CONFIG = Config(
    data=DataConfig(size=16, frames=4, mnist_dir="bundled"),
    text=TextConfig(text_width=16, text_depth=1),
    model=UNetConfig(
        width=16, multipliers=(1, 2), levels=("time", ""), middle=("space+text+time",), patch=2,
        time_patch=2, heads=2, head_dim=8,
    ),
    diffusion=DiffusionConfig(diffusion_steps=50, drop_text=0.5),
    train=TrainConfig(
        steps=20, minutes=13.0, batch_size=8, optimizer="muon", learning_rate=2e-3,
        weight_decay=0.0, warmup=2, ema=0.9, short_frames=2, save_every=10, sample_every=15,
    ),
    sample=SampleConfig(solver="ddim", sample_steps=2),
)  # fmt: skip
DATA = MovingMNIST(CONFIG.data)
CONFIG = replace(CONFIG, data=DATA.config)  # with the hash of its digits
TOKENIZER = Tokenizer(DATA.words, CONFIG.text.max_tokens)
ABOUT = About(CONFIG, DATA.words, 0)
PROMPTS = ("a 7 moving left", "an 8 standing still")
TRAIN = Path(__file__).parents[1] / "train.py"


def batch(step: int = 0, progress: float = 0.5, config: Config = CONFIG) -> training.Batch:
    """What train.py gives to a step: clips, token ids, progress."""
    options = config.train
    where = slice_at(
        step, options.batch_size, config.data.frames, options.short_frames, options.short_share
    )
    clips, captions = read_batch(DATA, 0, where)
    return training.Batch(clips, TOKENIZER.batch(captions), np.float32(progress))


def model(config: Config = CONFIG, seed: int = 0) -> TextToGif:
    """Random weights, none of them zero."""
    init = lambda: config.init(len(TOKENIZER), key=jax.random.key(0))  # noqa: E731
    return random_arrays(eqx.filter_eval_shape(init), seed)


def state(config: Config = CONFIG, seed: int = 0) -> training.TrainState:
    """Step 0 of that model."""
    return training.init_state(config, model(config, seed))


def random_arrays(template: PyTree, seed: int) -> PyTree:
    """A pytree of shapes with random arrays in them, large enough to matter."""
    rng = np.random.default_rng(seed)

    def draw(leaf: object) -> object:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        x = rng.standard_normal(leaf.shape) * max(1, np.prod(leaf.shape[1:])) ** -0.5
        return jnp.asarray(x if leaf.ndim > 1 else 1 + 0.1 * x, leaf.dtype)

    return jax.tree.map(draw, template)


def leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """A copy of every array by its name."""
    return {name: np.array(leaf) for name, leaf in checkpoint.named(tree).items()}


# ---- the command -----------------------------------------------------------------------------


def load_script(monkeypatch: pytest.MonkeyPatch, path: Path = TRAIN) -> ModuleType:
    """train.py, or another script, as a module."""
    name = f"{path.stem}_script"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def flags(config: Config) -> list[str]:
    """Every field of a config as a flag."""
    words = ["--preset", config.preset]
    for part in ("data", "codec", "text", "model", "diffusion", "train", "sample"):
        for name, value in vars(getattr(config, part)).items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words += [f"--{flag}" if value else f"--no-{flag}"]
            elif isinstance(value, tuple):
                words += [f"--{flag}", *map(str, value)]
            else:
                words += [f"--{flag}", str(value)]
    return words


def call(*words: str | Path) -> object:
    """train.py in this process: its exit code, or what it said to `sys.exit`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TRAIN), *map(str, words)])
        patch.setattr(MovingMNIST, "prompts", PROMPTS)
        try:
            with jax.numpy_dtype_promotion("standard"):  # Adam of optax 0.2.8 is not strict
                runpy.run_path(str(TRAIN), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def train(folder: Path) -> None:
    """A whole run of the command, saved every 10 of 20 steps."""
    assert call(*flags(CONFIG), "--out", folder) == 0
