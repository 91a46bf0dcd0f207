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
from jaxtyping import Array, Bool, Float, Float16, Int, Key, PyTree, UInt8

from tinygif import diffusion, files
from tinygif.checkpoint import (
    MODEL,
    STATE,
    About,
    leaf_name,
    read,
    read_about,
    write,
)
from tinygif.config import Config, DiffusionConfig
from tinygif.diffusion import pick_step, q_sample
from tinygif.errors import TinygifError
from tinygif.lora import Adapted, merged, new_model, save_adapter
from tinygif.optimizer import average, learning_rate_at, make_optimizer
from tinygif.schedule import Schedule
from tinygif.text import KnownFrames, Prompt, TextToGif, hide

Clip = UInt8[Array, "f h w c"] | Float16[Array, "f z y x"]
Clips = UInt8[Array, "b f h w c"] | Float16[Array, "b f z y x"]


class TrainState(eqx.Module):
    """Everything that training changes. Saved and loaded, a run continues to the same bits.

    `model` is a `TextToGif`, or the autoencoder while the codec is trained. `seconds` and `tflop`
    are what the run has spent so far; train.py writes them when it saves.
    """

    model: eqx.Module
    ema: eqx.Module
    optimizer: PyTree
    step: Int[Array, ""]
    seconds: Float[Array, ""]
    tflop: Float[Array, ""]


class Batch(NamedTuple):
    """What a step trains on, and the progress of the run: 0 at its start, 1 at its end.

    In place of clips it may hold codes that were computed beforehand.
    """

    clips: UInt8[Array | np.ndarray, "b f h w c"] | Float16[Array | np.ndarray, "b f z y x"]
    prompts: PyTree
    progress: Float[Array | np.ndarray, ""]


def init_state(config: Config, model: eqx.Module) -> TrainState:
    """The state at step 0, for a model, or an autoencoder, that is not trained yet."""
    optimizer = make_optimizer(config.train).init(trainable(model))
    step, seconds, tflop = jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(())
    # donated buffers must not be shared: hence a copy of the model, and two zeros
    return TrainState(model, copy_arrays(model), optimizer, step, seconds, tflop)


def save_state(folder: Path, state: TrainState, about: About) -> None:
    """Write the files of a run. A kill leaves each of them old or new, never half written."""
    write(folder / STATE, state, about)
    if isinstance(state.ema, Adapted):
        save_adapter(folder, state.ema.adapter, about)
    write(folder / MODEL, merged(state.ema), about)


def check_room(folder: Path, state: TrainState) -> None:
    """Refuse a folder without room for both files of a run and, while they are replaced, a copy."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    files.check_room(folder / "samples", 3 * size, "its checkpoints")


def load_state(path: Path) -> tuple[TrainState, About]:
    """The state in a run's folder, to resume from, and the run's own config and vocabulary."""
    about = read_about(path / STATE)
    template = eqx.filter_eval_shape(lambda: init_state(about.config, new_model(about)))
    return read(path / STATE, template), about


FROZEN = {"frozen", "codec", "data_mean", "latent_mean", "latent_std"}
"""What training leaves alone: the model under an adapter, the codec of a model, and what a codec
measures in the data."""


def trainable(model: eqx.Module) -> PyTree:
    """The arrays that are trained; None in place of all other leaves."""

    def keep(path: tuple, leaf: object) -> object:
        frozen = FROZEN & set(leaf_name(path).split("."))
        return leaf if eqx.is_inexact_array(leaf) and not frozen else None

    return jax.tree_util.tree_map_with_path(keep, model)


def count_weights(model: eqx.Module) -> int:
    """The number of trained weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(trainable(model)))


def copy_arrays(tree: PyTree) -> PyTree:
    """The same pytree, its arrays copied."""
    return jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, tree)


# ---- loss ------------------------------------------------------------------------------------


def predict_loss(
    model: TextToGif | Adapted, schedule: Schedule, config: DiffusionConfig, x0: Float[Array, "*x"],
    prompt: Prompt, t: Int[Array, ""], eps: Float[Array, "*x"],
    known: Bool[Array, " f"] | None = None, *, circle: bool = False, bfloat16: bool = False,
) -> Float[Array, ""]:  # fmt: skip
    """Noise one example to step t, let the model predict, and compare.

    known: the frames that the model is also given as they are.
    """
    x_t = q_sample(schedule, x0, t, eps)
    given = prompt, None if known is None else KnownFrames(x0, known)
    if bfloat16:
        model, x_t, given = jax.tree.map(
            lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, (model, x_t, given)
        )
    level = t.astype(jnp.float32) / schedule.T
    prediction = model(x_t, level, *given, circle=circle).astype(jnp.float32)
    return diffusion.loss(
        schedule, prediction, x0, t, eps, predict=config.predict, measure=config.measure,
        kind=config.loss, weighting=config.weighting, gamma=config.gamma,
    )  # fmt: skip


def code(codec: eqx.Module, clip: Clip) -> Float[Array, "f z y x"]:
    """The x0 of a clip: of pixels by the codec; what is a code already stays one, in float32."""
    if clip.dtype == jnp.float16:
        return clip.astype(jnp.float32)
    return jax.lax.stop_gradient(codec.encode(clip))


def example_loss(
    model: TextToGif | Adapted, schedule: Schedule, config: Config, clip: Clip,
    prompt: Prompt, index: Int[Array, ""], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of one clip at a random step t; with probability `drop_text` without its caption.

    With probability `known_share` the model is given some of the frames; in half of these clips the
    caption is hidden as well.

    The steps t of a batch are spread evenly from one random start (Kingma et al. 2021, appendix
    I.1): same mean, less variance. `index` is the example's place in the whole batch.
    """
    start = jax.random.uniform(jax.random.fold_in(key, 0))
    example_key = jax.random.fold_in(key, 1 + index)
    eps_key, drop_key = jax.random.split(example_key)
    roll_key, frames_key, alone_key = jax.random.split(jax.random.fold_in(example_key, 1), 3)
    share = (start + index.astype(jnp.float32) / config.train.batch_size) % 1.0
    t = pick_step(share, schedule.T, config.diffusion.logit_normal)

    x0 = code(model.codec, clip)
    if circle := config.data.loops and len(clip) == config.data.frames:
        x0 = jnp.roll(x0, jax.random.randint(roll_key, (), 0, len(x0)), axis=0)
    eps = jax.random.normal(eps_key, x0.shape)
    hidden, known = jax.random.bernoulli(drop_key, config.diffusion.drop_text), None
    if config.train.known_share:
        known = random_frames(frames_key, len(x0), config.train.known_share)
        hidden |= known.any() & jax.random.bernoulli(alone_key)
    prompt = hide(prompt, hidden)
    return predict_loss(
        model, schedule, config.diffusion, x0, prompt, t, eps, known, circle=circle,
        bfloat16=config.train.bfloat16,
    )  # fmt: skip


def random_frames(key: Key[Array, ""], frames: int, share: float) -> Bool[Array, " {frames}"]:
    """Which frames a clip shows in training: none, or its beginning, its end or both.

    One end alone is every other time half a clip long, as when a clip goes on (`known.lengthen`);
    else it is shorter: the shorter, the likelier.
    """
    shown_key, kind_key, length_key, half_key = jax.random.split(key, 4)
    lengths = 1 + jnp.floor(frames // 2 * jax.random.uniform(length_key, (2,)) ** 3)
    kind, i = jax.random.randint(kind_key, (), 0, 3), jnp.arange(frames)
    half = jax.random.bernoulli(half_key) & (kind != 2)  # two halves would be the whole clip
    begins, ends = jnp.where(half, max(1, frames // 2), lengths).astype(jnp.int32)
    first, last = (i < begins) & (kind != 1), (i >= frames - ends) & (kind != 0)
    return (first | last) & jax.random.bernoulli(shown_key, share)


def batch_loss(
    model: eqx.Module, schedule: Schedule, config: Config, clips: Clips,
    prompts: PyTree, indices: Int[Array, " b"], key: Key[Array, ""], loss: Callable = example_loss,
) -> Float[Array, ""]:  # fmt: skip
    """The mean loss of the examples; the only place where the step adds a batch axis."""
    one = lambda *example: loss(model, schedule, config, *example, key)  # noqa: E731
    return jnp.mean(jax.vmap(one)(clips, prompts, indices))


def gradients(
    model: eqx.Module, schedule: Schedule, config: Config, clips: Clips,
    prompts: PyTree, key: Key[Array, ""], loss: Callable = example_loss,
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
        result = eqx.filter_value_and_grad(batch_loss)(model, schedule, config, *part, key, loss)
        total = result if total is None else jax.tree.map(jnp.add, total, result)
    return jax.tree.map(lambda a: a / count, total)


@eqx.filter_jit
def held_out_loss(
    model: TextToGif, schedule: Schedule, config: DiffusionConfig, clips: Clips,
    prompts: PyTree, key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of clips that are never trained on, each at a noise level of its own.

    The levels are spread evenly; with the same key the noise is the same, too.
    """
    t = jnp.asarray(np.linspace(1, schedule.T, len(clips)).round(), jnp.int32)
    x0 = jax.vmap(lambda clip: code(model.codec, clip))(clips)
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
    config: Config, schedule: Schedule, state: TrainState, batch: Batch, key: Key[Array, ""],
    loss: Callable = example_loss,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:  # fmt: skip
    """One step. `key` is the run's training key, from which the step's own key is made here."""
    key = jax.random.fold_in(key, state.step)
    # a batch of short clips has more of them than config.train.batch_size
    step_config = replace(config, train=replace(config.train, batch_size=len(batch.clips)))
    value, grads = gradients(
        state.model, schedule, step_config, batch.clips, batch.prompts, key, loss
    )
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
def make_step(config: Config, mesh: Mesh, loss: Callable = example_loss) -> Callable:
    """The jitted step: `state, logs = step(state, batch, key)`.

    `loss` is `example_loss`, or that of `codec_training` for a state whose model is an autoencoder.

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
        lambda state, batch, key: train_step(config, schedule, state, batch, key, loss),
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
