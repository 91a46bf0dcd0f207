"""training.py: one program, every weight learns, the average has no bias, devices change nothing.

Lessons 15 and 17.
"""

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from tiny import CONFIG, TOKENIZER, examples, inputs, leaves, state

from tinygif import training
from tinygif.config import TrainConfig
from tinygif.unet import TextToGif

KEY = jax.random.key(1)
START = jax.random.key(0, impl="rbg")  # compiles in a third of the time
SCHEDULE = CONFIG.diffusion.build()
MATRIX = optax.contrib.MuonDimensionNumbers((1,), (0,))
QUICK = {"xla_backend_optimization_level": 0}  # these programs run once or twice


# one level: every kind of attention is in the middle, and it compiles in half the time
LEVEL = replace(CONFIG, model=replace(CONFIG.model, multipliers=(1,), time_attention=()))


def changed(config, **fields):
    return replace(config, train=replace(config.train, **fields))


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Adam of optax 0.2.8 raises a float to an int32: not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Run(NamedTuple):
    """Last state; weights before; weights and average after every step; losses; compiles."""

    state: training.TrainState
    before: dict[str, np.ndarray]
    after: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]
    losses: list[float]
    compiled: list[str]


def train(config, steps, place):
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name)  # noqa: E731
    now, after, losses = training.init_state(config, len(TOKENIZER), key=START), [], []
    before = leaves(now.model)
    for step in range(steps):
        made, now = place(examples(step), now)
        now, metrics = training.train_step(inputs(config, step, made), now)
        losses.append(float(metrics["loss"]))
        after.append((leaves(now.model), leaves(now.ema)))
        if step == 0:
            jax.monitoring.register_event_duration_secs_listener(listen)
    jax.monitoring.unregister_event_duration_listener(listen)
    return Run(now, before, after, losses, [n for n in compiled if n.endswith("compile_duration")])


@pytest.fixture(scope="module")
def muon():
    """One device."""
    place = lambda batch, state: (jax.tree.map(jnp.asarray, batch), state)  # noqa: E731
    return train(CONFIG, 4, place)


@pytest.fixture(scope="module")
def adamw():
    """Eight devices."""
    return train(changed(CONFIG, optimizer="adamw"), 4, training.shard)


def shaped(leaf):
    return isinstance(leaf, jax.ShapeDtypeStruct)


def program(config):
    """Loss and gradients by name, as a function of (model, clips, ids)."""

    make = lambda: TextToGif(config.data, config.model, len(TOKENIZER), key=KEY)  # noqa: E731
    shapes, static = eqx.partition(eqx.filter_eval_shape(make), shaped)

    def call(model, clips, ids):
        arrays = jax.tree.unflatten(jax.tree.structure(shapes), jax.tree.leaves(model))
        model = eqx.combine(arrays, static)  # the config is part of a model
        loss, grads = training.gradients(model, SCHEDULE, config, clips, ids, KEY)
        return loss, eqx.filter(grads, eqx.is_array)

    compiled = {}

    def run(model, clips, ids):
        args = eqx.filter(model, eqx.is_array), jnp.asarray(clips), jnp.asarray(ids)
        if not compiled:
            compiled[0] = jax.jit(call).lower(*args).compile(compiler_options=QUICK)
        loss, grads = compiled[0](*args)
        return float(loss), leaves(grads)

    return run


@pytest.fixture(scope="module")
def gradients():
    return program(LEVEL)


@pytest.fixture(scope="module")
def expected(gradients):
    return gradients(state(LEVEL).model, *examples())


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    assert set(got[1]) == set(expected[1])
    for name, value in expected[1].items():
        most = tolerance * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(got[1][name], value, rtol=0, atol=most, err_msg=name)


# ---- the step --------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["muon", "adamw"])
def test_batches_and_rates_change_but_nothing_is_compiled_again(run, request):
    assert request.getfixturevalue(run).compiled == []


@pytest.mark.parametrize("run", ["muon", "adamw"])
def test_every_weight_learns(run, request):
    """Many layers start at zero and block what is below: a few steps open all of them.

    There is no weight decay here, so what moved had a gradient.
    """
    run = request.getfixturevalue(run)
    later = run.after[-1][0]
    assert [name for name in run.before if (run.before[name] == later[name]).all()] == []
    assert int(run.state.step) == len(run.after)


def test_the_losses_of_both_optimizers_start_equal(muon, adamw):
    """One device and eight: the same batch, the same noise."""
    assert muon.losses[0] == pytest.approx(adamw.losses[0], rel=1e-5)
    assert muon.losses[1:] != pytest.approx(adamw.losses[1:], rel=1e-5)


def test_one_batch_is_learned_by_heart(muon):
    """The noise differs from step to step; a model that learns nothing stays at 1."""
    now = jax.tree.map(training.copy, muon.state)
    once, losses = inputs(CONFIG, 2, map(jnp.asarray, examples())), []
    for _ in range(60):
        now, metrics = training.train_step(once, now)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.6 * muon.losses[0]


def test_the_average_follows_the_weights(muon):
    """After step n: the mean of all weights so far, the last counts most, by powers of 0.9."""
    for n, (_, ema) in enumerate(muon.after):
        powers = 0.9 ** np.arange(n, -1, -1)
        for name, value in ema.items():
            past = np.stack([model[name] for model, _ in muon.after[: n + 1]])
            wanted = np.tensordot(powers / powers.sum(), past, 1)
            np.testing.assert_allclose(value, wanted, atol=1e-6, rtol=1e-5, err_msg=name)


def test_the_state_has_the_weights_twice_and_not_shared():
    """Donated buffers must not be shared."""
    now = training.init_state(CONFIG, len(TOKENIZER), key=START)
    address = lambda tree: [a.unsafe_buffer_pointer() for a in jax.tree.leaves(tree)]  # noqa: E731
    addresses = address(training.trainable((now.model, now.ema)))
    assert len(set(addresses)) == len(addresses)
    assert all((leaves(now.ema)[name] == a).all() for name, a in leaves(now.model).items())


# ---- the average -----------------------------------------------------------------------------


@given(
    decay=st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999]),
    seed=st.integers(0, 99), steps=st.integers(1, 12),
)  # fmt: skip
def test_an_average_without_bias(decay, seed, steps):
    """The closed form; what it was before the first step leaves no trace."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((steps, 3)).astype(np.float32)
    ema = jnp.full(3, 1000.0)
    for step, weight in enumerate(weights):
        ema = training.average(ema, jnp.asarray(weight), jnp.int32(step), decay)
        if step == 0:
            np.testing.assert_allclose(ema, weight, atol=1e-3)
    powers = decay ** np.arange(steps - 1, -1, -1.0)
    np.testing.assert_allclose(ema, powers @ weights / powers.sum(), atol=1e-3)


def test_0_999_has_a_half_life_of_693_steps():
    late = jnp.int32(10**6)  # no bias left to correct
    move = lambda _, ema: training.average(ema, jnp.zeros(()), late, 0.999)  # noqa: E731
    left = jax.jit(lambda n: jax.lax.fori_loop(0, n, move, jnp.ones(())))
    assert float(left(692)) > 0.5 > float(left(693))
    assert float(left(693)) == pytest.approx(0.5, abs=1e-3)


# ---- the rate --------------------------------------------------------------------------------


@given(
    warmup=st.integers(0, 30), steps=st.integers(1, 200),
    decay=st.sampled_from(["cosine", "linear", "constant"]),
)  # fmt: skip
def test_the_rate_rises_then_falls_to_zero(warmup, steps, decay):
    config = TrainConfig(warmup=warmup, steps=warmup + steps, decay=decay)
    rates = [training.learning_rate_at(config, step) for step in range(warmup + steps + 3)]
    up, down = np.array(rates[:warmup]), np.array(rates[warmup:])
    np.testing.assert_allclose(up, np.arange(1, warmup + 1) / max(1, warmup))
    assert down[0] == 1 and (np.diff(down) <= 0).all() and (down >= 0).all()
    np.testing.assert_allclose(down[steps:], float(decay == "constant"), atol=1e-12)
    second = {"linear": 1 - 1 / steps, "cosine": (1 + np.cos(np.pi / steps)) / 2, "constant": 1}
    assert down[1] == pytest.approx(second[decay], abs=1e-12)


# ---- the optimizer ---------------------------------------------------------------------------

WEIGHTS = {
    "tall": (64, 16), "wide": (16, 64), "conv": (24, 8, 3, 3), "bias": (24, 1, 1), "norm": (24,),
    "stem": (16, 4, 3, 3), "head": (4, 16, 3, 3), "embedding": (40, 16), "places": (16, 16),
    "table": (32, 2),
}  # fmt: skip
INNER = {"tall", "wide", "conv"}


def weights(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
            for name, shape in WEIGHTS.items()}  # fmt: skip


def test_muon_gets_the_inner_matrices_and_nothing_else():
    config = replace(CONFIG.train, optimizer="muon")
    got = training.labels(config, weights(0))
    assert {name for name, label in got.items() if label == "muon"} == INNER
    params = training.trainable(state().model)
    got = jax.tree_util.tree_flatten_with_path(training.labels(config, params))[0]
    got = {jax.tree_util.keystr(path, simple=True, separator="."): label for path, label in got}
    shapes = {name: leaf.shape for name, leaf in leaves(params).items()}
    assert got["unet.stem.weight"] == got["unet.head.weight"] == got["text.embedding"] == "adamw"
    assert got["unet.bias.table"] == got["text.places"] == "adamw"
    for name, label in got.items():
        if name.endswith("bias") or len(shapes[name]) == 1:
            assert label == "adamw", name
        elif "conv" in name or "resnet" in name or "text.layers" in name:
            assert label == "muon", name
    assert set(jax.tree.leaves(training.labels(TrainConfig(), params))) == {"adamw"}


@pytest.fixture(scope="module")
def first_update():
    config = replace(CONFIG.train, optimizer="muon", muon_rate=0.02, learning_rate=1e-3, clip=1e9)
    optimizer = training.make_optimizer(config)
    grads, params = weights(1), weights(2)
    return jax.jit(lambda: optimizer.update(grads, optimizer.init(params), params)[0])(), grads


@pytest.mark.parametrize("name", sorted(INNER))
def test_muon_sets_singular_values_to_its_rate(first_update, name):
    """0.02, times the root of outputs over inputs where there are more outputs."""
    update, grads = (np.asarray(tree[name]) for tree in first_update)
    out, rest = update.shape[0], int(np.prod(update.shape[1:]))
    scale = 0.02 * max(1, out / rest) ** 0.5
    singular = np.linalg.svd(update.reshape(out, rest), compute_uv=False)
    assert 0.6 * scale < singular.min() and singular.max() < 1.3 * scale
    u, _, v = np.linalg.svd(grads.reshape(out, rest), full_matrices=False)
    cosine = -np.sum(u @ v * update.reshape(out, rest)) / np.linalg.norm(u @ v)
    assert cosine / np.linalg.norm(update) > 0.98


@pytest.mark.parametrize("name", sorted(INNER))
def test_muon_agrees_with_optax(first_update, name):
    update, grads = (np.asarray(tree[name]) for tree in first_update)
    matrix = jnp.asarray(grads.reshape(len(grads), -1))
    reference = optax.contrib.scale_by_muon(weight_dimension_numbers=MATRIX)
    wanted, _ = reference.update(matrix, reference.init(matrix))
    scale = 0.02 * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
    np.testing.assert_allclose(update.reshape(matrix.shape), -scale * wanted, atol=1e-4)


def test_adam_moves_the_others_by_its_rate(first_update):
    """Adam's first step is the sign of the gradient."""
    update, grads = first_update
    for name in set(WEIGHTS) - INNER:
        np.testing.assert_allclose(update[name], -1e-3 * np.sign(grads[name]), rtol=1e-3)


@given(seed=st.integers(0, 99), size=st.sampled_from([3.0, 1e4]))
def test_gradients_are_clipped_as_a_whole(seed, size):
    """After a small first one, or Adam would not see the difference."""
    rng = np.random.default_rng(seed)
    optimizer = training.make_optimizer(TrainConfig(clip=1.0))
    params = {"a": jnp.zeros((4, 3)), "b": jnp.zeros(5)}

    def draw(norm):
        grads = {k: rng.standard_normal(p.shape).astype(np.float32) for k, p in params.items()}
        whole = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return {name: jnp.asarray(norm * g / whole) for name, g in grads.items()}

    small, large = draw(0.1), draw(size)
    first = optimizer.init(params)
    _, second = optimizer.update(small, first, params)
    got, _ = optimizer.update(large, second, params)
    wanted, _ = optimizer.update({name: g / size for name, g in large.items()}, second, params)
    for name in params:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-8)


def test_weight_decay_shrinks_matrices_only():
    optimizer = training.make_optimizer(TrainConfig(weight_decay=0.1, learning_rate=0.5))
    params = {"matrix": jnp.ones((4, 3)), "vector": jnp.ones(5)}
    nothing = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(nothing, optimizer.init(params), params)
    np.testing.assert_allclose(update["matrix"], -0.05, rtol=1e-6)
    assert (update["vector"] == 0).all()


# ---- gradients -------------------------------------------------------------------------------


def test_a_caption_changes_every_gradient(gradients, expected):
    clips, ids = examples()
    _, grads = gradients(state(LEVEL).model, clips, np.roll(ids, 1, axis=0))
    same = [name for name, g in grads.items() if np.allclose(g, expected[1][name], rtol=1e-3)]
    assert same == []


def test_the_null_prompt_is_learned(expected):
    """Half of the captions were swapped for it; the padding is masked."""
    table = expected[1]["text.embedding"]
    assert np.abs(table[1]).max() > 1e-6
    assert (table[0] == 0).all()


def test_parts_of_a_batch_add_up(expected):
    close(program(changed(LEVEL, accumulate=2))(state(LEVEL).model, *examples()), expected)


def test_recomputed_blocks_give_the_same(expected):
    config = replace(LEVEL, model=replace(LEVEL.model, checkpoint_gradients=True))
    close(program(config)(state(LEVEL).model, *examples()), expected)


def test_bfloat16_is_near_and_the_weights_stay_float32(expected):
    config = changed(LEVEL, bfloat16=True)
    loss, grads = program(config)(state(LEVEL).model, *examples())
    assert loss != expected[0] and loss == pytest.approx(expected[0], rel=0.02)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    now = state(config)
    after, _ = eqx.filter_eval_shape(training.train_step, inputs(config, 0, examples()), now)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(after, shaped))}
    assert kinds == {np.dtype(np.float32), np.dtype(np.int32)}


def test_losses_are_strict_about_types():
    """Only optax needs leave to promote."""
    with jax.numpy_dtype_promotion("strict"):
        clips, ids = map(jnp.asarray, examples())
        loss, _ = eqx.filter_eval_shape(
            training.gradients, state(LEVEL).model, SCHEDULE, LEVEL, clips, ids, KEY
        )
    assert loss.dtype == np.float32


# ---- devices ---------------------------------------------------------------------------------


def test_eight_devices_are_one(expected, adamw):
    """The batch lies one example to a device, the weights on all; jit adds the gradients up."""
    assert jax.device_count() == 8
    (clips, ids), model = training.shard(examples(), state(LEVEL).model)
    spread = clips.sharding
    assert spread.spec == PartitionSpec("data") and spread.shard_shape(clips.shape)[0] == 1
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(training.trainable(model)))
    close(program(LEVEL)(model, clips, ids), expected)
    for leaf in jax.tree.leaves(eqx.filter(adamw.state, eqx.is_array)):
        assert leaf.is_fully_replicated and len(leaf.sharding.device_set) == 8


def test_a_state_that_is_there_is_not_copied():
    """`shard` is called at every step."""
    address = lambda tree: [a.addressable_shards[0].data.unsafe_buffer_pointer()  # noqa: E731
                            for a in jax.tree.leaves(tree)]  # fmt: skip
    _, once = training.shard(np.zeros(8), training.trainable(state().model))
    _, twice = training.shard(np.zeros(8), once)
    assert address(once) == address(twice)


def test_pmap_is_jit(expected):
    """What `pmap` was for: the gradients of each device's part, and their mean."""
    model = state(LEVEL).model
    arrays, static = eqx.partition(model, eqx.is_array)

    def part(arrays, clips, ids, indices):
        model = eqx.combine(arrays, static)
        value, grads = eqx.filter_value_and_grad(training.batch_loss)(
            model, SCHEDULE, LEVEL, clips, ids, indices, KEY
        )
        return jax.lax.pmean((value, eqx.filter(grads, eqx.is_array)), "data")

    clips, ids = examples()
    indices = np.arange(8, dtype=np.int32)
    one_each = [a.reshape(8, 1, *a.shape[1:]) for a in (clips, ids, indices)]
    value, grads = jax.pmap(part, "data", in_axes=(None, 0, 0, 0))(arrays, *one_each)
    close((float(value[0]), {name: g[0] for name, g in leaves(grads).items()}), expected)
