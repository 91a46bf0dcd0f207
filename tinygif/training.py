"""State in, state out: loss, gradients, optimizer and average of weights in one jitted step.

The same step serves one device and many: the batch is split between them, each holds the whole
state, and jit adds up the gradients (as `pmap` once did). Lessons 15 and 17.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from tinygif import files
from tinygif.checkpoint import (
    MODEL,
    STATE,
    About,
    leaf_name,
    model_template,
    read,
    read_about,
    write,
)
from tinygif.config import Config, DiffusionConfig, TrainConfig
from tinygif.diffusion import loss, pick_step, q_sample
from tinygif.errors import TinygifError
from tinygif.schedule import Schedule
from tinygif.text import Prompt, TextToGif, hide


class TrainState(eqx.Module):
    """Everything that training changes. Saved and loaded, a run continues to the same bits.

    `seconds` and `tflop` are what the run has spent so far; train.py writes them when it saves.
    """

    model: TextToGif
    ema: TextToGif
    optimizer: PyTree
    step: Int[Array, ""]
    seconds: Float[Array, ""]
    tflop: Float[Array, ""]


class Batch(NamedTuple):
    """What a step trains on, and the progress of the run: 0 at its start, 1 at its end."""

    clips: UInt8[Array | np.ndarray, "b f h w c"]
    prompts: PyTree
    progress: Float[Array | np.ndarray, ""]


def init_state(config: Config, model: TextToGif) -> TrainState:
    """The state at step 0, for a model that is not trained yet."""
    optimizer = make_optimizer(config.train).init(trainable(model))
    step, seconds, tflop = jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(())
    # donated buffers must not be shared: hence a copy of the model, and two zeros
    return TrainState(model, copy_arrays(model), optimizer, step, seconds, tflop)


def save_state(folder: Path, state: TrainState, about: About) -> None:
    """Write both files of a run. A kill leaves each of them old or new, never half written."""
    write(folder / STATE, state, about)
    write(folder / MODEL, state.ema, about)


def check_room(folder: Path, state: TrainState) -> None:
    """Refuse a folder without room for both files of a run and, while they are replaced, a copy."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    files.check_room(folder / "samples", 3 * size, "its checkpoints")


def load_state(path: Path) -> tuple[TrainState, About]:
    """The state in a run's folder, to resume from, and the run's own config and vocabulary."""
    about = read_about(path / STATE)
    template = eqx.filter_eval_shape(init_state, about.config, model_template(about))
    return read(path / STATE, template), about


def trainable(model: TextToGif) -> PyTree:
    """The arrays that are trained: all but the codec's."""
    arrays = eqx.filter(model, eqx.is_inexact_array)
    return replace(arrays, codec=jax.tree.map(lambda _: None, arrays.codec))


def count_weights(model: TextToGif) -> int:
    """The number of trained weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(trainable(model)))


def copy_arrays(tree: PyTree) -> PyTree:
    """The same pytree, its arrays copied."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, tree)


# ---- optimizer -------------------------------------------------------------------------------


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


NO_MATRICES = ("bias", "embedding", "positions", "table")
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


# ---- loss ------------------------------------------------------------------------------------


def predict_loss(
    model: TextToGif, schedule: Schedule, config: DiffusionConfig, x0: Float[Array, "*x"],
    prompt: Prompt, t: Int[Array, ""], eps: Float[Array, "*x"], *, bfloat16: bool = False,
) -> Float[Array, ""]:  # fmt: skip
    """Noise one example to step t, let the model predict, and compare."""
    x_t = q_sample(schedule, x0, t, eps)
    if bfloat16:
        model, x_t, prompt = jax.tree.map(
            lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, (model, x_t, prompt)
        )
    prediction = model(x_t, t.astype(jnp.float32) / schedule.T, prompt).astype(jnp.float32)
    return loss(
        schedule, prediction, x0, t, eps, predict=config.predict, measure=config.measure,
        kind=config.loss, weighting=config.weighting, gamma=config.gamma,
    )  # fmt: skip


def example_loss(
    model: TextToGif, schedule: Schedule, config: Config, clip: UInt8[Array, "f h w c"],
    prompt: Prompt, index: Int[Array, ""], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of one clip at a random step t; with probability `drop_text` without its caption.

    The steps t of a batch are spread evenly from one random start (Kingma et al. 2021, appendix
    I.1): same mean, less variance. `index` is the example's place in the whole batch.
    """
    start = jax.random.uniform(jax.random.fold_in(key, 0))
    eps_key, drop_key = jax.random.split(jax.random.fold_in(key, 1 + index))
    share = (start + index.astype(jnp.float32) / config.train.batch_size) % 1.0
    t = pick_step(share, schedule.T, config.diffusion.logit_normal)

    x0 = model.codec.encode(clip)
    eps = jax.random.normal(eps_key, x0.shape)
    prompt = hide(prompt, jax.random.bernoulli(drop_key, config.diffusion.drop_text))
    return predict_loss(
        model, schedule, config.diffusion, x0, prompt, t, eps, bfloat16=config.train.bfloat16
    )


def batch_loss(
    model: TextToGif, schedule: Schedule, config: Config, clips: UInt8[Array, "b f h w c"],
    prompts: PyTree, indices: Int[Array, " b"], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The mean of `example_loss`; the only place where the step adds a batch axis."""
    one = lambda *example: example_loss(model, schedule, config, *example, key)  # noqa: E731
    return jnp.mean(jax.vmap(one)(clips, prompts, indices))


def gradients(
    model: TextToGif, schedule: Schedule, config: Config, clips: UInt8[Array, "b f h w c"],
    prompts: PyTree, key: Key[Array, ""],
) -> tuple[Float[Array, ""], PyTree]:  # fmt: skip
    """Loss and gradients of a batch, in `accumulate` parts one after another.

    A Python loop, not `lax.scan`: convolutions inside of it are slow on CPUs.
    """
    count = config.train.accumulate
    split = lambda a: a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1)  # noqa: E731
    parts = jax.tree.map(split, (clips, prompts, jnp.arange(len(clips), dtype=jnp.int32)))
    total = None
    for i in range(count):
        part = jax.tree.map(lambda a: a[i], parts)  # noqa: B023
        result = eqx.filter_value_and_grad(batch_loss)(model, schedule, config, *part, key)
        total = result if total is None else jax.tree.map(jnp.add, total, result)
    return jax.tree.map(lambda a: a / count, total)


@eqx.filter_jit
def held_out_loss(
    model: TextToGif, schedule: Schedule, config: DiffusionConfig, clips: UInt8[Array, "b f h w c"],
    prompts: PyTree, key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of clips that are never trained on, each at a noise level of its own.

    The levels are spread evenly; with the same key the noise is the same, too.
    """
    t = jnp.asarray(np.linspace(1, schedule.T, len(clips)).round(), jnp.int32)
    x0 = jax.vmap(model.codec.encode)(clips)
    eps = jax.random.normal(key, x0.shape)
    one = lambda *example: predict_loss(model, schedule, config, *example)  # noqa: E731
    return jnp.mean(jax.vmap(one)(x0, prompts, t, eps))


# ---- the step --------------------------------------------------------------------------------


def make_mesh() -> Mesh:
    """All devices along one axis, over which batches are split."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """Copy the state to every device. Steps return it there, so they are compiled only once."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def train_step(
    config: Config, schedule: Schedule, state: TrainState, batch: Batch, key: Key[Array, ""]
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step. `key` is the run's training key, from which the step's own key is made here."""
    key = jax.random.fold_in(key, state.step)
    # a batch of short clips has more of them than config.train.batch_size
    step_config = replace(config, train=replace(config.train, batch_size=len(batch.clips)))
    value, grads = gradients(state.model, schedule, step_config, batch.clips, batch.prompts, key)
    grads = trainable(grads)
    optimizer = make_optimizer(config.train)
    updates, optimizer_state = optimizer.update(grads, state.optimizer, trainable(state.model))
    rate = learning_rate_at(config.train, state.step, batch.progress)
    model = eqx.apply_updates(state.model, jax.tree.map(lambda u: u * rate, updates))
    ema = average(state.ema, model, state.step, config.train.ema)
    logs = {"loss": value, "gradient_norm": optax.tree.norm(grads), "rate": rate}
    state = TrainState(model, ema, optimizer_state, state.step + 1, state.seconds, state.tflop)
    return state, logs


@lru_cache
def make_step(config: Config, mesh: Mesh) -> Callable:
    """The jitted step: `state, logs = step(state, batch, key)`.

    The state and the key are on every device, the batch is split between them. The state's memory
    is reused (donated): after a step the old state is gone. Raises TinygifError if the devices
    cannot share a batch. A step raises TypeError if a leaf of the state is not an array.
    """
    if config.train.batch_size % mesh.size:
        raise TinygifError(
            f"expected a batch_size that {mesh.size} devices can share, got "
            f"{config.train.batch_size}"
        )
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    schedule = config.diffusion.build()
    return jax.jit(
        lambda state, batch, key: train_step(config, schedule, state, batch, key),
        in_shardings=(everywhere, Batch(split, split, everywhere), everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )


def count_tflop(step: Callable, state: TrainState, batch: Batch, key: Key[Array, ""]) -> float:
    """The 10^12 floating-point operations of a step on all devices, as XLA counts them.

    Compiles the step.
    """
    program = step.lower(state, batch, key).compile()
    return program.cost_analysis()["flops"] * jax.device_count() / 1e12


def check_finite(logs: dict[str, Float[Array, ""]], step: int) -> dict[str, float]:
    """The logs of a step as floats. Raises TinygifError if loss or gradient is not finite."""
    numbers = {name: float(value) for name, value in logs.items()}
    if not np.isfinite(numbers["loss"] + numbers["gradient_norm"]):
        raise TinygifError(
            f"stopped: the loss of step {step} is {numbers['loss']}, the norm of its gradient is "
            f"{numbers['gradient_norm']}. The last good checkpoint, if any, is untouched. Lower "
            "--learning-rate or --muon-rate, or train without --bfloat16."
        )
    return numbers
