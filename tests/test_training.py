"""training.py: one program, every weight learns, the average has no bias, devices change nothing.

What does not depend on the network is tested with one that compiles in no time. Lessons 15 and 17.
"""

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny import CONFIG, TOKENIZER, leaves

from tinygif import optimizer, training
from tinygif.codec import Pixels
from tinygif.config import TrainConfig, named_keys
from tinygif.diffusion import q_sample
from tinygif.errors import TinygifError
from tinygif.text import Text, TextAdapter, TextEncoder, TextToGif

KEY = named_keys(0).train
SCHEDULE = CONFIG.diffusion.build()
MATRIX = optax.contrib.MuonDimensionNumbers((1,), (0,))
# one level: every kind of attention is in the middle, and it compiles in half the time
LEVEL = replace(CONFIG, model=replace(CONFIG.model, multipliers=(1,), levels=("",)))


def changed(config, **fields):
    return replace(config, train=replace(config.train, **fields))


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Adam of optax 0.2.8 raises a float to an int32: not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@cache
def mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def close(got, expected, tolerance=1e-5):
    """Two pairs of a loss and of arrays by name."""
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    assert set(got[1]) == set(expected[1])
    for name, value in expected[1].items():
        most = tolerance * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(got[1][name], value, rtol=0, atol=most, err_msg=name)


# ---- a network of two layers -----------------------------------------------------------------


class Pointwise(eqx.Module):
    """A model as any other, `model(x_t, t, condition) -> prediction`: one number for each pixel."""

    matrix: jax.Array
    bias: jax.Array

    def __call__(self, x_t, t, condition):
        film = self.matrix @ condition.text.pooled
        return x_t * film[0] + film[1] * t + self.bias


def small_model(seed: int = 0) -> TextToGif:
    def build():
        text = TextEncoder(len(TOKENIZER), 8, 1, max_tokens=24, key=KEY)
        return TextToGif(text, Pointwise(jnp.zeros((2, 8)), jnp.zeros((1, 1, 1, 1))), Pixels(1))

    return tiny.random_arrays(eqx.filter_eval_shape(build), seed)


class Run(NamedTuple):
    """What a few steps did: weights and average before and after each, logs, cached programs."""

    step: object
    start: training.TrainState
    state: training.TrainState
    weights: list[dict[str, np.ndarray]]
    averages: list[dict[str, np.ndarray]]
    logs: list[dict[str, float]]
    programs: int


def train(config, model, devices, steps=4):
    step = training.make_step(config, mesh(devices))
    start = training.init_state(config, model)
    state = start = training.replicate(start, mesh(devices))
    weights, averages, logs = [leaves(model)], [], []
    for i in range(steps):
        state, numbers = step(state, tiny.batch(i, i / steps, config), KEY)
        weights.append(leaves(state.model))
        averages.append(leaves(state.ema))
        logs.append({name: float(value) for name, value in numbers.items()})
    return Run(step, start, state, weights, averages, logs, step._cache_size())


@pytest.fixture(scope="module")
def adamw():
    """Four steps on one device."""
    config = changed(CONFIG, optimizer="adamw", learning_rate=0.1)
    return train(config, small_model(), 1)


@pytest.fixture(scope="module")
def muon():
    """Four steps on eight devices, of which every second is on short clips."""
    return train(changed(CONFIG, learning_rate=0.1), small_model(), 8)


# ---- the step --------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["muon", "adamw"])
def test_batches_and_rates_change_but_nothing_is_compiled_again(run, request):
    """One program for long clips, one for short ones."""
    run = request.getfixturevalue(run)
    assert run.programs == 2
    assert [tiny.batch(i).clips.shape[:2] for i in range(2)] == [(8, 4), (16, 2)]


def test_a_placed_state_is_used_again_and_its_memory_too(muon):
    """Nothing is moved between devices, nothing compiled; the old state is gone (donated)."""
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(muon.start))
    everywhere, split = (NamedSharding(mesh(8), PartitionSpec(*axes)) for axes in ((), ("data",)))
    batch = jax.tree.map(jnp.asarray, tiny.batch(0))
    batch = jax.device_put(batch, training.Batch(split, split, everywhere))
    state, key = jax.tree.map(jnp.copy, muon.state), jax.device_put(KEY, everywhere)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = muon.step(state, batch, key)
    assert int(state.step) == 7
    for leaf in jax.tree.leaves(state):
        assert leaf.is_fully_replicated and len(leaf.sharding.device_set) == 8


def test_a_step_on_eight_devices_is_one_on_one(muon, adamw):
    """The same logs and the same state; and each device really has an eighth of the batch."""
    program = muon.step.lower(muon.state, tiny.batch(0), KEY).compile()
    _, batch, _ = program.input_shardings[0]
    assert batch.clips.shard_shape((8, 4, 16, 16, 1)) == (1, 4, 16, 16, 1)
    assert batch.prompts.shard_shape((8, 16)) == (1, 16)
    tflop = training.count_tflop(muon.step, muon.state, tiny.batch(0), KEY)
    assert tflop == 8 * program.cost_analysis()["flops"] / 1e12 > 0
    run = train(changed(CONFIG, learning_rate=0.1), small_model(), 1)
    for got, wanted in zip(run.logs, muon.logs, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)
    state = leaves(muon.state)
    for name, value in leaves(run.state).items():
        np.testing.assert_allclose(value, state[name], atol=1e-4, err_msg=name)
    assert muon.logs[0] == pytest.approx(adamw.logs[0], rel=1e-5)  # the optimizer acts after it
    assert muon.logs[1]["loss"] != pytest.approx(adamw.logs[1]["loss"], rel=1e-5)


def test_devices_that_cannot_share_a_batch_are_refused():
    with pytest.raises(TinygifError, match="a batch_size that 8 devices can share, got 12"):
        training.make_step(changed(CONFIG, batch_size=12), mesh(8))


def test_the_logs_are_those_of_the_step(muon):
    """The loss, the norm of the whole gradient, and the rate at the progress of the batch."""
    for i, logs in enumerate(muon.logs):
        assert set(logs) == {"loss", "gradient_norm", "rate"} and logs["gradient_norm"] > 0
        rate = optimizer.learning_rate_at(CONFIG.train, i, i / 4)
        assert logs["rate"] == pytest.approx(float(rate))
    batch = jax.tree.map(jnp.asarray, tiny.batch(0))
    loss, grads = eqx.filter_jit(training.gradients)(
        small_model(), SCHEDULE, CONFIG, batch.clips, batch.prompts, jax.random.fold_in(KEY, 0)
    )
    norm = np.sqrt(sum((g**2).sum() for g in leaves(grads).values()))
    assert (muon.logs[0]["loss"], muon.logs[0]["gradient_norm"]) == pytest.approx(
        (float(loss), norm), rel=1e-4
    )


def test_the_noise_of_a_step_comes_from_the_key_and_the_step(muon):
    """Two steps on one batch differ; another key differs; the same three give the same."""

    def loss(step, key):
        state = jax.tree.map(jnp.copy, muon.state)
        state = eqx.tree_at(lambda s: s.step, state, jnp.asarray(step, jnp.int32))
        _, logs = muon.step(state, tiny.batch(0), key)
        return float(logs["loss"])

    other = named_keys(1).train
    losses = [loss(5, KEY), loss(6, KEY), loss(5, other)]
    assert len(set(losses)) == 3 and loss(5, KEY) == losses[0]


def test_captions_may_be_the_output_of_a_tower():
    """The batch then has vectors in the place of word ids; the layers on top of the tower learn."""

    def build():
        text = TextAdapter((6, 5), 8, 1, key=KEY)
        return TextToGif(text, Pointwise(jnp.zeros((2, 8)), jnp.zeros((1, 1, 1, 1))), Pixels(1))

    model, rng = tiny.random_arrays(eqx.filter_eval_shape(build), 0), np.random.default_rng(0)
    before = leaves(model)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    prompts = Text(draw(8, 3, 6), draw(8, 5), np.arange(3) < rng.integers(1, 4, (8, 1)))
    batch = training.Batch(tiny.batch().clips, prompts, np.float32(0))
    state, _ = training.make_step(CONFIG, mesh(8))(training.init_state(CONFIG, model), batch, KEY)
    after = leaves(state.model)
    assert [name for name in before if (before[name] == after[name]).all()] == []


def test_what_is_no_number_stops_the_run():
    logs = {"loss": jnp.asarray(0.5), "gradient_norm": jnp.asarray(2.0), "rate": jnp.asarray(1.0)}
    assert training.check_finite(logs, 3) == {"loss": 0.5, "gradient_norm": 2.0, "rate": 1.0}
    for name in ("loss", "gradient_norm"):
        for value in (np.nan, np.inf):
            with pytest.raises(TinygifError, match="step 3 .*last good .*--learning-rate"):
                training.check_finite({**logs, name: jnp.asarray(value)}, 3)


def test_the_state_has_the_weights_twice_and_not_shared():
    """Donated buffers must not be shared."""
    state = training.init_state(CONFIG, small_model())
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    addresses = [array.unsafe_buffer_pointer() for array in arrays]
    assert len(set(addresses)) == len(addresses)
    model = leaves(state.model)
    assert all((leaves(state.ema)[name] == array).all() for name, array in model.items())


# ---- the U-Net -------------------------------------------------------------------------------


def gradient_program(config):
    """Loss and gradients by name, as a function of (model, clips, ids)."""
    compiled = eqx.filter_jit(training.gradients)

    def run(model, clips, ids):
        clips, ids = jnp.asarray(clips), jnp.asarray(ids)
        loss, grads = compiled(model, SCHEDULE, config, clips, ids, KEY)
        return float(loss), leaves(grads)

    return run


@pytest.fixture(scope="module")
def gradients():
    return gradient_program(LEVEL)


@pytest.fixture(scope="module")
def level():
    return tiny.model(LEVEL)


@pytest.fixture(scope="module")
def expected(gradients, level):
    return gradients(level, *tiny.batch()[:2])


def test_every_weight_learns_and_a_batch_is_learned_by_heart(trained):
    """Many layers start at zero and block what is below: a few steps open all of them.

    There is no weight decay here, so what moved had a gradient. The noise differs from step to
    step; a model that learns nothing stays at 1.
    """
    step = training.make_step(CONFIG, training.make_mesh())  # the program of the trained run
    model = CONFIG.init(len(TOKENIZER), key=named_keys(0).init)
    before, losses = leaves(model), []
    state = training.replicate(training.init_state(CONFIG, model), training.make_mesh())
    for i in range(60):
        state, logs = step(state, tiny.batch(2 * min(i, 4), 0.0), KEY)
        losses.append(float(logs["loss"]))
        if i == 3:
            same = [name for name, a in leaves(state.model).items() if (a == before[name]).all()]
            assert same == []
    assert 0.5 < losses[0] and np.mean(losses[-10:]) < 0.6 * losses[0]


def test_a_caption_changes_every_gradient(gradients, level, expected):
    clips, ids, _ = tiny.batch()
    _, grads = gradients(level, clips, np.roll(ids, 1, axis=0))
    same = [name for name, g in grads.items() if np.allclose(g, expected[1][name], rtol=1e-3)]
    assert same == []


def test_the_null_prompt_is_learned(expected):
    """Half of the captions were swapped for it; the padding is masked."""
    table = expected[1]["text.embedding"]
    assert np.abs(table[1]).max() > 1e-6
    assert (table[0] == 0).all()


@pytest.mark.slow
def test_parts_of_a_batch_and_recomputed_blocks_give_the_same(level, expected):
    config = changed(LEVEL, accumulate=2)
    config = replace(config, model=replace(config.model, checkpoint_gradients=True))
    model = tiny.model(config)
    close(gradient_program(config)(model, *tiny.batch()[:2]), expected)


def test_bfloat16_is_near_and_the_weights_stay_float32(level, expected):
    config = changed(LEVEL, bfloat16=True)
    loss, grads = gradient_program(config)(level, *tiny.batch()[:2])
    assert loss != expected[0] and loss == pytest.approx(expected[0], rel=0.02)
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}
    step, state = training.make_step(config, mesh(1)), training.init_state(config, small_model())
    after, _ = jax.eval_shape(step, state, tiny.batch(), KEY)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(after)}
    assert kinds == {np.dtype(np.float32), np.dtype(np.int32)}


def test_losses_are_strict_about_types(level):
    """Only optax needs leave to promote."""
    batch = jax.tree.map(jnp.asarray, tiny.batch())
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = eqx.filter_eval_shape(
            training.gradients, level, SCHEDULE, LEVEL, batch.clips, batch.prompts, KEY
        )
    assert loss.dtype == np.float32


def test_eight_devices_are_one(gradients, level, expected):
    """The batch lies one example to a device, the weights on all; jit adds the gradients up."""
    clips, ids = (jnp.asarray(a) for a in tiny.batch()[:2])
    clips, ids = jax.device_put((clips, ids), NamedSharding(mesh(8), PartitionSpec("data")))
    assert clips.sharding.shard_shape(clips.shape)[0] == 1
    arrays, static = eqx.partition(level, eqx.is_array)
    arrays = jax.device_put(arrays, NamedSharding(mesh(8), PartitionSpec()))
    close(gradients(eqx.combine(arrays, static), clips, ids), expected)


def test_pmap_is_jit(level, expected):
    """What `pmap` was for: the gradients of each device's part, and their mean."""
    arrays, static = eqx.partition(level, eqx.is_array)

    def part(arrays, clips, ids, indices):
        model = eqx.combine(arrays, static)
        value, grads = eqx.filter_value_and_grad(training.batch_loss)(
            model, SCHEDULE, LEVEL, clips, ids, indices, KEY
        )
        return jax.lax.pmean((value, eqx.filter(grads, eqx.is_array)), "data")

    clips, ids, _ = tiny.batch()
    indices = np.arange(8, dtype=np.int32)
    one_each = [a.reshape(8, 1, *a.shape[1:]) for a in (clips, ids, indices)]
    value, grads = jax.pmap(part, "data", in_axes=(None, 0, 0, 0))(arrays, *one_each)
    close((float(value[0]), {name: g[0] for name, g in leaves(grads).items()}), expected)


# ---- clips that are not trained on -----------------------------------------------------------


class Level(eqx.Module):
    """Predicts the noise level, whatever it sees."""

    def __call__(self, x_t, t, condition):
        return 0 * x_t + t


def test_the_held_out_loss_is_that_of_fixed_noise_levels():
    """Each clip at a level of its own, from 1 to T; the same key gives the same noise."""
    model = replace(small_model(), model=Level())
    clips, ids = (jnp.asarray(a) for a in tiny.batch()[:2])
    config = replace(CONFIG.diffusion, measure=None, weighting="uniform", predict="eps")
    evaluate = lambda key: float(  # noqa: E731
        training.held_out_loss(model, SCHEDULE, config, clips, ids, key)
    )
    t = np.round(np.linspace(1, SCHEDULE.T, 8)).astype(int)
    assert (t[0], t[-1], len(set(t))) == (1, 50, 8)
    eps = np.asarray(jax.random.normal(KEY, (8, 4, 1, 16, 16)))
    wanted = [np.mean((level / SCHEDULE.T - noise) ** 2) for level, noise in zip(t, eps)]
    assert evaluate(KEY) == pytest.approx(np.mean(wanted), rel=1e-5)
    assert evaluate(KEY) == evaluate(KEY) != evaluate(jax.random.fold_in(KEY, 1))


def test_the_steps_of_a_batch_are_spread_evenly():
    """One random start for all, then equal distances: less variance, the same mean."""
    model = replace(small_model(), model=Level())
    clips, ids = (jnp.asarray(a) for a in tiny.batch()[:2])
    seen = []

    def watch(schedule, x0, t, eps):
        jax.debug.callback(lambda t: seen.append(int(t)), t)
        return q_sample(schedule, x0, t, eps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "q_sample", watch)
        indices, batch_loss = jnp.arange(8, dtype=jnp.int32), eqx.filter_jit(training.batch_loss)
        for i in range(20):
            batch_loss(model, SCHEDULE, CONFIG, clips, ids, indices, jax.random.fold_in(KEY, i))
            jax.effects_barrier()
    steps = np.sort(np.reshape(seen, (20, 8)), axis=1)
    gaps = np.diff(steps, axis=1)
    assert gaps.min() >= 6 and gaps.max() <= 7 and steps.min() >= 1 and steps.max() <= 50
    assert len(set(steps[:, 0])) > 3


# ---- the average -----------------------------------------------------------------------------


def test_the_average_follows_the_weights(muon):
    """After step n: the mean of all weights so far, the last counts most, by powers of 0.9."""
    for n, ema in enumerate(muon.averages):
        powers = 0.9 ** np.arange(n, -1, -1)
        for name, value in ema.items():
            past = np.stack([weights[name] for weights in muon.weights[1 : n + 2]])
            wanted = np.tensordot(powers / powers.sum(), past, 1)
            np.testing.assert_allclose(value, wanted, atol=1e-5, rtol=1e-5, err_msg=name)


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
        ema = optimizer.average(ema, jnp.asarray(weight), jnp.int32(step), decay)
        if step == 0:
            np.testing.assert_allclose(ema, weight, atol=1e-3)
    powers = decay ** np.arange(steps - 1, -1, -1.0)
    np.testing.assert_allclose(ema, powers @ weights / powers.sum(), atol=1e-3)


def test_0_999_has_a_half_life_of_693_steps():
    late = jnp.int32(10**6)  # no bias left to correct
    move = lambda _, ema: optimizer.average(ema, jnp.zeros(()), late, 0.999)  # noqa: E731
    left = jax.jit(lambda n: jax.lax.fori_loop(0, n, move, jnp.ones(())))
    assert float(left(692)) > 0.5 > float(left(693))
    assert float(left(693)) == pytest.approx(0.5, abs=1e-3)


# ---- the rate --------------------------------------------------------------------------------


@given(
    warmup=st.integers(0, 30), steps=st.integers(31, 200),
    decay=st.sampled_from(["cosine", "linear", "constant"]),
)  # fmt: skip
def test_the_rate_rises_in_the_warmup_and_falls_to_zero(warmup, steps, decay):
    config = TrainConfig(warmup=warmup, decay=decay)
    step = np.arange(steps + 3)
    rates = np.array([optimizer.learning_rate_at(config, int(i), i / steps) for i in step])
    done = np.minimum(step / steps, 1)
    cosine = (1 + np.cos(np.pi * done)) / 2
    falling = {"linear": 1 - done, "cosine": cosine, "constant": np.ones_like(done)}[decay]
    rising = np.minimum(1, (step + 1) / max(1, warmup))
    np.testing.assert_allclose(rates, rising * falling, atol=1e-6)
    np.testing.assert_allclose(rates[steps:], float(decay == "constant"), atol=1e-6)
    assert (np.diff(rates[warmup:]) <= 1e-6).all()


# ---- the optimizer ---------------------------------------------------------------------------

WEIGHTS = {
    "tall": (64, 16), "wide": (16, 64), "conv": (24, 8, 3, 3), "conv.bias": (24, 1, 1),
    "norm": (24,), "stem": (16, 4, 3, 3), "head": (4, 16, 3, 3), "embedding": (40, 16),
    "positions": (16, 16), "table": (32, 2),
}  # fmt: skip
INNER = {"tall", "wide", "conv"}


def weights(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32)
            for name, shape in WEIGHTS.items()}  # fmt: skip


def test_muon_gets_the_inner_matrices_and_nothing_else():
    config = replace(CONFIG.train, optimizer="muon")
    chosen = optimizer.choose_optimizers(config, weights(0))
    assert {name for name, label in chosen.items() if label == "muon"} == INNER
    params = training.trainable(tiny.model())
    labels = jax.tree_util.tree_leaves_with_path(optimizer.choose_optimizers(config, params))
    labels = {training.leaf_name(path): label for path, label in labels}
    adamw = ("text.embedding", "text.positions", "model.bias.table", "model.stem.weight",
             "model.head.weight")  # fmt: skip
    for name, leaf in leaves(params).items():
        assert (labels[name] == "adamw") == (leaf.ndim == 1 or name in adamw), name
    assert set(jax.tree.leaves(optimizer.choose_optimizers(TrainConfig(), params))) == {"adamw"}


@pytest.fixture(scope="module")
def first_update():
    config = replace(CONFIG.train, optimizer="muon", muon_rate=0.02, learning_rate=1e-3, clip=1e9)
    rule = optimizer.make_optimizer(config)
    grads, params = weights(1), weights(2)
    return jax.jit(lambda: rule.update(grads, rule.init(params), params)[0])(), grads


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


def rounded(jaxpr, consts, *arguments):
    """Evaluate a jaxpr as a TPU would: products round their operands to bfloat16.

    Only those that ask for the highest precision keep all of float32.
    """
    values = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))
    value = lambda v: v.val if isinstance(v, jax.extend.core.Literal) else values[v]  # noqa: E731
    for eqn in jaxpr.eqns:
        inputs = [value(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if inner is not None:
            inner = inner if hasattr(inner, "jaxpr") else jax.extend.core.ClosedJaxpr(inner, [])
            outputs = rounded(inner.jaxpr, inner.consts, *inputs)
        else:
            highest = (jax.lax.Precision.HIGHEST,) * 2
            if eqn.primitive.name == "dot_general" and eqn.params["precision"] != highest:
                inputs = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs]
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values |= dict(zip(eqn.outvars, outputs))
    return [value(v) for v in jaxpr.outvars]


@pytest.mark.parametrize("spread", [1e0, 1e-2, 1e-4, 1e-8])
def test_muon_holds_where_products_have_low_precision(spread):
    """The largest singular value was 1e8 with bfloat16 products; real gradients are as badly
    conditioned as these."""
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.standard_normal((32, 96)), full_matrices=False)
    g = jnp.asarray(u * np.geomspace(1, spread, 32) @ v, jnp.float32)
    closed = jax.make_jaxpr(optimizer.orthogonalize)(g)
    (x,) = jax.jit(lambda g: rounded(closed.jaxpr, closed.consts, g))(g)
    singular = np.linalg.svd(np.asarray(x), compute_uv=False)
    assert 0.6 < singular.max() < 1.3


def test_the_emulation_rounds_plain_products():
    """Or the test above could not fail."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8)), jnp.float32)
    closed = jax.make_jaxpr(lambda x: jax.jit(jnp.matmul)(x, x))(x)
    (product,) = rounded(closed.jaxpr, closed.consts, x)
    error = float(jnp.abs(product - jnp.matmul(x, x, precision="highest")).max())
    assert 1e-3 < error < 1e-1


def test_adam_moves_the_others_by_its_rate(first_update):
    """Adam's first step is the sign of the gradient."""
    update, grads = first_update
    for name in set(WEIGHTS) - INNER:
        np.testing.assert_allclose(update[name], -1e-3 * np.sign(grads[name]), rtol=1e-3)


@given(seed=st.integers(0, 99), size=st.sampled_from([3.0, 1e4]))
def test_gradients_are_clipped_as_a_whole(seed, size):
    """After a small first one, or Adam would not see the difference."""
    rng = np.random.default_rng(seed)
    rule = optimizer.make_optimizer(TrainConfig(clip=1.0))
    params = {"a": jnp.zeros((4, 3)), "b": jnp.zeros(5)}

    def draw(norm):
        grads = {k: rng.standard_normal(p.shape).astype(np.float32) for k, p in params.items()}
        whole = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return {name: jnp.asarray(norm * g / whole) for name, g in grads.items()}

    small, large = draw(0.1), draw(size)
    first = rule.init(params)
    _, second = rule.update(small, first, params)
    got, _ = rule.update(large, second, params)
    wanted, _ = rule.update({name: g / size for name, g in large.items()}, second, params)
    for name in params:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_only(kind):
    """No bias, embedding, position or bias table, however many axes it has."""
    config = TrainConfig(weight_decay=0.1, learning_rate=0.5, muon_rate=0.25, optimizer=kind)
    rule, params = optimizer.make_optimizer(config), weights(0)
    nothing = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(lambda: rule.update(nothing, rule.init(params), params)[0])()
    for name, value in params.items():
        rate = 0.25 if kind == "muon" and name in INNER else 0.5
        wanted = -0.1 * rate * np.asarray(value) * (name in INNER | {"stem", "head"})
        np.testing.assert_allclose(update[name], wanted, rtol=1e-5, err_msg=name)


def test_the_matrices_of_the_network_are_its_weights():
    params = training.trainable(tiny.model())
    flags = jax.tree_util.tree_map_with_path(optimizer.is_matrix, params)
    tables = {"text.embedding", "text.positions", "model.bias.table"}
    for (path, decays), leaf in zip(
        jax.tree_util.tree_leaves_with_path(flags), jax.tree.leaves(params), strict=True
    ):
        name = training.leaf_name(path)
        is_weight = name.endswith("weight") and "norm" not in name
        assert decays == is_weight == (leaf.ndim > 1 and name not in tables), name
