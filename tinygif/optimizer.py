"""Muon and AdamW, the learning rate, and the average of the weights. Lesson 15.

optax has Muon, a schedule of the learning rate and an average, too. Ours are written out because
the lesson explains them. Besides, this Muon multiplies less where a matrix is wide, the rate
follows the clock, and nothing of the random start stays in the average.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from tinygif.checkpoint import leaf_name
from tinygif.config import TrainConfig


def orthogonalize(g: Float[Array, "out *rest"]) -> Float[Array, "out *rest"]:
    """The nearest matrix whose singular values are about 1 (Newton-Schulz, Jordan et al. 2024).

    A convolution counts as the matrix of its outputs by everything else. The iteration
    `X <- (a + b XX' + c (XX')^2) X` is run on the small square matrix XX', and applied to X once:
    a fifth of the multiplications where X is wide. XX' squares the spread of the singular values,
    so it needs all of float32: with the TF32 products that GPUs use by default the largest singular
    value of real gradients came out as 17, with the bfloat16 products of TPUs as 1e8.
    """
    x = g.reshape(len(g), -1)
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    with jax.default_matmul_precision("highest"):
        eye = jnp.eye(len(x))
        square, product = x @ x.T, eye
        for _ in range(5):  # unrolled: XLA runs several matrices side by side
            z = 3.4445 * eye - 4.7750 * square + 2.0315 * square @ square
            square, product = z @ square @ z, z @ product
        x = product @ x
    return (x if x.shape[0] == g.shape[0] else x.T).reshape(g.shape)


def muon(momentum: float = 0.95) -> optax.GradientTransformation:
    """Muon: Nesterov momentum, orthogonalized; larger steps where outputs outnumber inputs."""

    def update(grads: PyTree, buffer: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        buffer = jax.tree.map(lambda m, g: momentum * m + g, buffer, grads)
        ahead = jax.tree.map(lambda m, g: momentum * m + g, buffer, grads)  # Nesterov
        ratio = lambda g: len(g) / (g.size // len(g))  # noqa: E731
        step = jax.tree.map(lambda g: orthogonalize(g) * max(1, ratio(g)) ** 0.5, ahead)
        return step, buffer

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


NO_MATRICES = ("bias", "embedding", "positions", "table", "rows")
"""Arrays that have several axes but are no matrices: `eqx.nn.Conv2d`'s bias, rows to look up."""
OUTER_LAYERS = ("stem", "head")


def is_matrix(path: tuple, leaf: Array) -> bool:
    """Whether a leaf is a matrix or a convolution. Weight decay shrinks only these."""
    return leaf.ndim > 1 and leaf_name(path).split(".")[-1] not in NO_MATRICES


def choose_optimizers(config: TrainConfig, params: PyTree) -> PyTree:
    """Muon for the matrices between the first and the last layer, AdamW for all other arrays."""

    def choose(path: tuple, leaf: Array) -> str:
        inner = not any(part in OUTER_LAYERS for part in leaf_name(path).split("."))
        return "muon" if config.optimizer == "muon" and is_matrix(path, leaf) and inner else "adamw"

    return jax.tree_util.tree_map_with_path(choose, params)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW or Muon. The step scales the updates by `learning_rate_at`."""

    def chain(direction: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
        matrices = lambda params: jax.tree_util.tree_map_with_path(is_matrix, params)  # noqa: E731
        decay = optax.add_decayed_weights(config.weight_decay, mask=matrices)
        return optax.chain(direction, decay, optax.scale(-rate))

    parts = {
        "adamw": chain(optax.scale_by_adam(b2=0.99), config.learning_rate),
        "muon": chain(muon(), config.muon_rate),
    }
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.partition(parts, lambda params: choose_optimizers(config, params)),
    )


def learning_rate_at(
    config: TrainConfig, step: Int[Array, ""] | int, progress: Float[Array, ""] | float
) -> Float[Array, ""]:
    """The factor of the learning rate: it rises in `warmup` steps, then falls with `progress`.

    `progress` goes from 0 to 1 over the run, by steps or by the clock.
    """
    step, progress = jnp.asarray(step, jnp.float32), jnp.asarray(progress, jnp.float32)
    done = jnp.clip(progress, 0, 1)
    falling = {
        "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)),
        "linear": 1 - done,
        "constant": jnp.ones(()),
    }[config.decay]
    return falling * jnp.minimum(1.0, (step + 1) / max(1, config.warmup))


def average(ema: PyTree, model: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """Exponential moving average of the weights after step 0, 1, ..., without bias.

    Adam's correction (Kingma and Ba 2015, section 3) written as one update: after step 0 it equals
    the weights, whatever it was before, so nothing of the random start stays in it.
    """
    # 1 - decay^(step + 1), without the rounding of a decay near 1
    total = -jnp.expm1((step.astype(jnp.float32) + 1) * jnp.log1p(decay - 1))
    rate = (1 - decay) / total
    move = lambda a, b: a + rate * (b - a) if eqx.is_inexact_array(a) else a  # noqa: E731
    return jax.tree.map(move, ema, model)
