"""The smallest run there is, shared by the tests of training, checkpoints, pipeline and commands.

Weights come from numpy: JAX compiles a program for every shape it initialises, which takes longer
than the tests. None of them is zero, so that every gradient and every prompt shows.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from tinygif import checkpoint, training
from tinygif.config import Config, DataConfig, DiffusionConfig, ModelConfig, TrainConfig
from tinygif.data import batch
from tinygif.moving_mnist import MovingMNIST
from tinygif.text import Tokenizer

CONFIG = Config(
    data=DataConfig(size=16, frames=4, mnist_dir="bundled"),
    model=ModelConfig(
        width=16, multipliers=(1, 2), patch=2, time_patch=2, heads=2, head_dim=8, text_width=16,
        text_depth=1, space_attention=(), time_attention=(0,), text_attention=(),
    ),
    diffusion=DiffusionConfig(diffusion_steps=50, drop_text=0.5, solver="ddim", sample_steps=2),
    train=TrainConfig(
        steps=20, minutes=13.0, batch_size=8, optimizer="muon", learning_rate=2e-3,
        weight_decay=0.0, warmup=2, ema=0.9, short_frames=2, save_every=10, sample_every=15,
    ),
)  # fmt: skip
DATA = MovingMNIST(CONFIG.data)
TOKENIZER = Tokenizer(DATA.words, CONFIG.model.max_tokens)


def inputs(config: Config, step: int, batch: tuple) -> tuple:
    """The first argument of `train_step`, as train.py makes it."""
    static = replace(config, train=replace(config.train, steps=None))
    rate = jnp.asarray(training.learning_rate_at(config.train, step), jnp.float32)
    return static, config.diffusion.build(), *batch, jax.random.key(1), rate


def examples(step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clips and token ids of a step."""
    clips, captions = batch(DATA, 0, step, CONFIG.train.batch_size)
    return clips, TOKENIZER.batch(captions)


def state(config: Config = CONFIG, seed: int = 0) -> training.TrainState:
    """Step 0 with random weights, none of them zero."""
    init = lambda: training.init_state(config, len(TOKENIZER), key=jax.random.key(0))  # noqa: E731
    model = fill(eqx.filter_eval_shape(init).model, seed)
    optimizer = training.make_optimizer(config.train).init(training.trainable(model))
    step = jnp.zeros((), jnp.int32)
    return training.TrainState(model, jax.tree.map(training.copy, model), optimizer, step)


def fill(template: PyTree, seed: int) -> PyTree:
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
