"""State in, state out: loss, gradients, optimizer and average of weights in one jitted step.

The same step serves one device and many: the batch is sharded over them, the state is on all, and
jit adds the gradients up (what `pmap` became). Lessons 15 and 17.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from tinygif.config import Config, TrainConfig
from tinygif.diffusion import loss, pick_step, q_sample
from tinygif.gif import to_model
from tinygif.schedule import Schedule
from tinygif.text import Prompt, hide
from tinygif.unet import TextToGif


class TrainState(eqx.Module):
    """All that training is: save it, load it, and the run goes on to the same bits."""

    model: TextToGif
    ema: TextToGif
    optimizer: PyTree
    step: Int[Array, ""]


def init_state(config: Config, words: int, *, key: Key[Array, ""]) -> TrainState:
    """Step 0. The average starts as a copy: donated buffers must not be shared."""
    model = TextToGif(config.data, config.model, words, key=key)
    optimizer = make_optimizer(config.train).init(trainable(model))
    return TrainState(model, jax.tree.map(copy, model), optimizer, jnp.zeros((), jnp.int32))


def trainable(model: PyTree) -> PyTree:
    """The arrays that gradients move."""
    return eqx.filter(model, eqx.is_inexact_array)


def count(model: PyTree) -> int:
    """The number of weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(trainable(model)))


def copy(leaf: PyTree) -> PyTree:
    return jnp.array(leaf) if eqx.is_array(leaf) else leaf


def fan(shape: tuple[int, ...]) -> float:
    """Outputs over inputs of a matrix or a convolution."""
    return shape[0] / int(np.prod(shape[1:]))


def orthogonalize(g: Float[Array, "out *rest"]) -> Float[Array, "out *rest"]:
    """The nearest matrix whose singular values are about 1 (Newton-Schulz, Jordan et al. 2024).

    A convolution counts as the matrix of its outputs by everything else. The iteration
    `X <- (a + b XX' + c (XX')^2) X` is run on the small square matrix XX', and applied to X once:
    a fifth of the multiplications where X is wide.
    """
    x = g.reshape(len(g), -1)
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    eye = jnp.eye(len(x))
    square, product = x @ x.T, eye
    for _ in range(5):  # unrolled: XLA runs several matrices side by side
        z = 3.4445 * eye - 4.7750 * square + 2.0315 * square @ square
        square, product = z @ square @ z, z @ product
    x = product @ x
    return (x if x.shape[0] == g.shape[0] else x.T).reshape(g.shape)


def muon(momentum: float = 0.95) -> optax.GradientTransformation:
    """Muon: Nesterov momentum, orthogonalized, larger where there are more outputs than inputs."""

    def update(grads: PyTree, mean: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        mean = jax.tree.map(lambda m, g: momentum * m + g, mean, grads)
        ahead = jax.tree.map(lambda m, g: momentum * m + g, mean, grads)
        step = jax.tree.map(lambda g: orthogonalize(g) * max(1, fan(g.shape)) ** 0.5, ahead)
        return step, mean

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def labels(config: TrainConfig, params: PyTree) -> PyTree:
    """'muon' for matrices inside the networks, 'adamw' for the first layer, the last, the rest."""
    outer = ("stem", "head", "embedding", "places", "table")

    def label(path: tuple, leaf: Array) -> str:
        name = jax.tree_util.keystr(path)
        inner = leaf.ndim > 1 and fan(leaf.shape) != leaf.shape[0]  # a bias of shape (c, 1, 1)
        return "muon" if inner and not any(word in name for word in outer) else "adamw"

    if config.optimizer == "adamw":
        return jax.tree.map(lambda _: "adamw", params)
    return jax.tree_util.tree_map_with_path(label, params)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW or Muon. The step scales the updates by `learning_rate_at`."""

    def chain(direction: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
        matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
        decay = optax.add_decayed_weights(config.weight_decay, mask=matrices)
        return optax.chain(direction, decay, optax.scale(-rate))

    parts = {
        "adamw": chain(optax.scale_by_adam(b2=0.99), config.learning_rate),
        "muon": chain(muon(), config.muon_rate),
    }
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.partition(parts, lambda params: labels(config, params)),
    )


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """The share of the learning rate at a step: up in `warmup` steps, down to 0 at `steps`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return {
        "cosine": 0.5 * (1 + np.cos(np.pi * min(done, 1.0))),
        "linear": 1 - min(done, 1.0),
        "constant": 1.0,
    }[config.decay]


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


def example_loss(
    model: TextToGif, schedule: Schedule, config: Config, clip: UInt8[Array, "f h w c"],
    prompt: Prompt, index: Int[Array, ""], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The loss of one clip: noise it, maybe hide its caption, predict, compare.

    The steps t of a batch are spread evenly from one random start (Kingma et al. 2021, appendix
    I.1): same mean, less variance. `index` is the example's place in the whole batch.
    """
    start = jax.random.uniform(jax.random.fold_in(key, 0))
    eps_key, drop_key = jax.random.split(jax.random.fold_in(key, 1 + index))
    place = (start + index.astype(jnp.float32) / config.train.batch_size) % 1.0
    t = pick_step(place, schedule.T, config.diffusion.logit_normal)

    x0 = to_model(clip)
    eps = jax.random.normal(eps_key, x0.shape)
    hidden = jax.random.bernoulli(drop_key, config.diffusion.drop_text)
    prompt = hide(prompt, hidden)
    x_t = q_sample(schedule, x0, t, eps)
    if config.train.bfloat16:
        model, x_t, prompt = jax.tree.map(
            lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, (model, x_t, prompt)
        )
    level = t.astype(jnp.float32) / schedule.T
    prediction = model(x_t, level, prompt).astype(jnp.float32)
    d = config.diffusion
    return loss(
        schedule, prediction, x0, t, eps,
        predict=d.predict, measure=d.measure, kind=d.loss, weighting=d.weighting, gamma=d.gamma,
    )  # fmt: skip


def batch_loss(
    model: TextToGif, schedule: Schedule, config: Config, clips: UInt8[Array, "b f h w c"],
    prompts: PyTree, indices: Int[Array, " b"], key: Key[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """The mean of `example_loss`; the only place where training adds a batch axis."""
    one = lambda *example: example_loss(model, schedule, config, *example, key)  # noqa: E731
    return jnp.mean(jax.vmap(one)(clips, prompts, indices))


def gradients(
    model: TextToGif, schedule: Schedule, config: Config, clips: UInt8[Array, "b f h w c"],
    prompts: PyTree, key: Key[Array, ""],
) -> tuple[Float[Array, ""], PyTree]:  # fmt: skip
    """Loss and gradients of a batch, in `accumulate` parts one after another.

    The parts are unrolled: convolutions inside `lax.scan` are slow on CPUs.
    """
    parts = config.train.accumulate
    split = lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1)  # noqa: E731
    whole = jax.tree.map(split, (clips, prompts, jnp.arange(len(clips), dtype=jnp.int32)))
    total = None
    for part in (jax.tree.map(lambda a: a[i], whole) for i in range(parts)):  # noqa: B023
        new = eqx.filter_value_and_grad(batch_loss)(model, schedule, config, *part, key)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
    return jax.tree.map(lambda a: a / parts, total)


@eqx.filter_jit(donate="all-except-first")
def train_step(
    inputs: tuple[Config, Schedule, Array, PyTree, Key[Array, ""], Float[Array, ""]],
    state: TrainState,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step: `inputs` is (config, schedule, clips, prompts, key, rate), the state is donated.

    `key` is the run's; the step's is folded in here. `rate` is `learning_rate_at`, as an array: a
    Python float would compile anew for every value.
    """
    config, schedule, clips, prompts, key, rate = inputs
    key = jax.random.fold_in(key, state.step)
    value, grads = gradients(state.model, schedule, config, clips, prompts, key)
    optimizer = make_optimizer(config.train)
    updates, optimizer_state = optimizer.update(grads, state.optimizer, trainable(state.model))
    updates = jax.tree.map(lambda u: u * rate, updates)
    model = eqx.apply_updates(state.model, updates)
    ema = average(state.ema, model, state.step, config.train.ema)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(model, ema, optimizer_state, state.step + 1), metrics


def fit_steps(config: Config, inputs: tuple, state: TrainState, began: float) -> int:
    """How many steps end `minutes` after `began`, by the speed of a few on a copy of the state.

    The first call compiles. A part is left over for sample grids and checkpoints.
    """
    state, times = jax.tree.map(copy, state), []
    for _ in range(8):
        mark = time.time()
        state, metrics = train_step(inputs, state)
        jax.block_until_ready(metrics)
        times.append(time.time() - mark)
    left = 60 * config.train.minutes - (time.time() - began)
    return max(config.train.warmup, int(0.93 * left / np.median(times[1:])))


def finite(metrics: dict[str, Float[Array, ""]], step: int) -> float:
    """The loss of a step; raises FloatingPointError where it is no number."""
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    if not np.isfinite(loss + norm):
        raise FloatingPointError(
            f"stopped: the loss of step {step} is {loss} and its gradient {norm}. The last good "
            "checkpoint, if any, is untouched. Lower --learning-rate or --muon-rate, or train "
            "without --bfloat16."
        )
    return loss


def shard(batch: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Spread a batch over all devices and put the state on each; what is there is not copied."""
    size, devices = len(jax.tree.leaves(batch)[0]), jax.device_count()
    if size % devices:
        raise ValueError(f"expected a batch_size that {devices} devices can share, got {size}")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def place(tree: PyTree, *spec: str) -> PyTree:  # `eqx.filter_shard` would copy every time
        arrays, rest = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(*spec))), rest)

    return place(batch, "data"), place(state)
