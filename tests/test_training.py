"""training.py: one program, every weight learns, the average has no bias, devices change nothing.

Lessons 15 and 17.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from tiny import CONFIG, TOKENIZER, examples, leaves, state

from tinygif import training
from tinygif.config import TrainConfig
from tinygif.unet import TextToGif

KEY = jax.random.key(1)
SCHEDULE = CONFIG.diffusion.build()
QUICK = {"xla_backend_optimization_level": 0}  # these programs run once or twice


def changed(**fields):
    return replace(CONFIG, train=replace(CONFIG.train, **fields))


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Adam of optax 0.2.8 raises a float to an int32: not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def train(config, steps, place=lambda batch, state: (batch, state), batch_of=examples):
    """The state after every step, the losses, and how many programs were compiled after step 0."""
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name)  # noqa: E731
    now, after, losses = state(config), [], []
    for step in range(steps):
        (clips, ids), now = place(batch_of(step), now)
        rate = jnp.asarray(training.learning_rate_at(config.train, step), jnp.float32)
        now, metrics = training.train_step((config, SCHEDULE, clips, ids, KEY, rate), now)
        losses.append(float(metrics["loss"]))
        after.append((leaves(now.model), leaves(now.ema)))
        if step == 0:
            jax.monitoring.register_event_duration_secs_listener(listen)
    jax.monitoring.unregister_event_duration_listener(listen)
    return now, after, losses, [name for name in compiled if name.endswith("compile_duration")]


@pytest.fixture(scope="module")
def muon():
    """One device."""
    place = lambda batch, state: (jax.tree.map(jnp.asarray, batch), state)  # noqa: E731
    return train(CONFIG, 4, place)


@pytest.fixture(scope="module")
def adamw():
    """Eight devices."""
    return train(changed(optimizer="adamw"), 4, training.shard)


def program(config, **options):
    """Loss and gradients by name, as a function of (model, clips, ids)."""

    def call(model, clips, ids):
        new = TextToGif(config.data, config.model, len(TOKENIZER), key=KEY)  # its config is static
        new = jax.tree.unflatten(jax.tree.structure(new), jax.tree.leaves(model))
        loss, grads = training.gradients(new, SCHEDULE, config, clips, ids, KEY)
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
    return program(CONFIG)


@pytest.fixture(scope="module")
def expected(gradients):
    return gradients(state().model, *examples())


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got[0], expected[0], rtol=tolerance)
    assert set(got[1]) == set(expected[1])
    for name, value in expected[1].items():
        scale = max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(got[1][name] / scale, value / scale, atol=tolerance, err_msg=name)


# ---- the step --------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["muon", "adamw"])
def test_batches_and_rates_change_but_nothing_is_compiled_again(run, request):
    assert request.getfixturevalue(run)[3] == []


@pytest.mark.parametrize("run", ["muon", "adamw"])
def test_every_weight_learns(run, request):
    """There is no weight decay here: what moved had a gradient."""
    now, after, *_ = request.getfixturevalue(run)
    before, (later, _) = leaves(state().model), after[-1]
    assert [name for name in before if (before[name] == later[name]).all()] == []
    assert int(now.step) == len(after)


def test_every_weight_learns_from_the_real_start():
    """Many layers start at zero, and block what is below them: a few steps open all."""
    config = changed(optimizer="adamw")
    make = lambda: training.init_state(config, len(TOKENIZER), key=KEY)  # noqa: E731
    shapes = eqx.filter_eval_shape(make)
    assert jax.tree.structure(shapes) == jax.tree.structure(eqx.filter_eval_shape(lambda: state()))


def test_the_state_has_the_weights_twice_and_not_shared():
    """Donated buffers must not be shared."""
    now = state()
    pairs = zip(jax.tree.leaves(training.trainable(now.model)),
                jax.tree.leaves(training.trainable(now.ema)), strict=True)  # fmt: skip
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs)
