"""unet.py: frames meet only in layers along time, nothing is convolved in 3-D, all weights learn.

Lesson 08. Compiling is what costs here, so few shapes, little optimization, shared functions.
"""

import dataclasses
import re
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinygif.attention import zeroed
from tinygif.config import DataConfig, ModelConfig
from tinygif.unet import SpaceTimeBlock, TextToGif

DATA = DataConfig(size=8, frames=4)
SMALL = ModelConfig(
    width=8, multipliers=(1, 2), patch=2, time_patch=2, heads=2, head_dim=4, full_attention=4,
    space_attention=(0, 1), time_attention=(0, 1), text_attention=(0, 1), temporal_conv=True,
    text_width=8, text_depth=1, max_tokens=4,
)  # fmt: skip
EACH_FRAME = dataclasses.replace(
    SMALL, time_patch=1, space_attention=(), time_attention=(0,), text_attention=(),
    temporal_conv=False, pixel_shuffle=True,
)  # fmt: skip
IDS, OTHER = jnp.array([2, 3, 4, 0], jnp.int32), jnp.array([2, 5, 4, 0], jnp.int32)
LEVEL = jnp.float32(0.3)


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X, PULL = noise(4, 1, 8, 8), noise(4, 1, 8, 8, seed=1)


def shapes(config: ModelConfig, data: DataConfig = DATA) -> TextToGif:
    """A model without numbers: nothing is computed for it."""
    return eqx.filter_eval_shape(lambda: TextToGif(data, config, 7, key=jax.random.key(0)))


@cache
def shaken(config: ModelConfig) -> TextToGif:
    """A model with every weight random: nothing is at the zero it starts from."""
    rng, shape = np.random.default_rng(0), lambda a: isinstance(a, jax.ShapeDtypeStruct)
    draw = lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype)  # noqa: E731
    return jax.tree.map(lambda a: draw(a) if shape(a) else a, shapes(config))


@cache
def options() -> dict[str, object]:
    """XLA's settings for compiling fast, where this version knows them."""
    fast = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=fast)(0.0)
    except Exception:
        return {}
    return fast


@cache
def pulled(config: ModelConfig):
    """Jitted: the output and the gradients of <output, pull> for the model's arrays and x."""
    static = eqx.partition(shaken(config), eqx.is_array)[1]

    def run(arrays, x, ids, pull):
        call = lambda arrays, x: eqx.combine(arrays, static)(x, LEVEL, ids)  # noqa: E731
        out, back = jax.vjp(call, arrays, x)
        return out, *back(pull)

    return jax.jit(run, compiler_options=options())


def pull(model: TextToGif, x=X, ids=IDS, by=PULL):
    config = model.unet.config
    return pulled(config)(eqx.filter(model, eqx.is_array), x, ids, by)


def without(model: TextToGif, *names: str) -> TextToGif:
    """The model with these layers of every block at zero."""
    block = lambda b: isinstance(b, SpaceTimeBlock)  # noqa: E731

    def empty(b):
        if not block(b):
            return b
        layers = lambda b: [getattr(b, name) for name in names if getattr(b, name)]  # noqa: E731
        return eqx.tree_at(layers, b, [zeroed(layer) for layer in layers(b)])

    return jax.tree.map(empty, model, is_leaf=block)


def seen(model: TextToGif) -> np.ndarray:
    """Row i tells which frames of the input frame i of the output depends on, by its gradient."""
    grads = [pull(model, by=jnp.zeros_like(PULL).at[i].set(PULL[i]))[2] for i in range(4)]
    return np.stack([np.abs(grad).max(axis=(1, 2, 3)) > 0 for grad in grads])


# ---- shapes ----------------------------------------------------------------------------------

CASES = [
    (DATA, SMALL),
    (DATA, EACH_FRAME),
    (DataConfig(size=16, frames=6, channels=3), dataclasses.replace(SMALL, patch=4, time_patch=3)),
    (DATA, dataclasses.replace(SMALL, multipliers=(1, 1, 2), patch=1, blocks=2)),
    (DATA, dataclasses.replace(SMALL, pixel_shuffle=True, checkpoint_gradients=True)),
    (DATA, dataclasses.replace(SMALL, space_attention=(), time_attention=(), text_attention=())),
]


def shape_of(model: TextToGif, *shape: int) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return eqx.filter_eval_shape(model, x, LEVEL, IDS).shape


@pytest.mark.parametrize("data, config", CASES, ids=range(len(CASES)))
def test_a_prediction_has_the_shape_of_the_clip(data, config):
    shape = (data.frames, data.channels, data.size, data.size)
    assert shape_of(shapes(config, data), *shape) == shape


@pytest.mark.parametrize("frames, h, w", [(2, 8, 8), (10, 8, 8), (4, 16, 16), (6, 4, 12)])
def test_other_clips_than_trained_on_work_where_they_fold(frames, h, w):
    assert shape_of(shapes(SMALL), frames, 1, h, w) == (frames, 1, h, w)


@pytest.mark.parametrize("size, frames", [(6, 4), (8, 3)])
def test_clips_that_do_not_fold_are_refused(size, frames):
    with pytest.raises(ValueError, match="that (is|are) a multiple of"):
        shapes(SMALL, DataConfig(size=size, frames=frames))


def test_large_images_get_linear_attention_and_small_ones_full():
    unet = shapes(SMALL).unet  # level 0 has 4 x 4 pixels, level 1 has 2 x 2
    assert [blocks[0].space.linear for blocks in unet.down] == [True, False]
    assert [blocks[0].space.linear for blocks in unet.up] == [True, False]


def test_many_blocks_can_be_built():
    one = dataclasses.replace(SMALL, multipliers=(1,), blocks=30, temporal_conv=False)
    assert len(shapes(one).unet.down[0]) == 30


# ---- what it computes ------------------------------------------------------------------------

def test_an_untrained_model_predicts_exactly_zero():
    make = lambda key: TextToGif(DATA, SMALL, 7, key=key).unet.head  # noqa: E731
    head = eqx.filter_jit(make)(jax.random.key(0))  # the rest is not computed
    new = eqx.tree_at(lambda m: m.unet.head, shaken(SMALL), head)
    assert not np.any(pull(new)[0]) and np.any(pull(shaken(SMALL))[0])


def test_every_parameter_learns():
    grads = jax.tree_util.tree_leaves_with_path(pull(shaken(SMALL))[1])
    assert len(grads) == len(jax.tree.leaves(eqx.filter(shaken(SMALL), eqx.is_array)))
    still = [jax.tree_util.keystr(path) for path, grad in grads if not np.abs(grad).max() > 0]
    assert still == []


def test_the_words_of_the_caption_learn_and_change_the_clip():
    out, grads, _ = pull(shaken(SMALL))
    rows = np.abs(grads.text.embedding).max(axis=1) > 0
    assert np.flatnonzero(rows).tolist() == [2, 3, 4]
    assert np.abs(pull(shaken(SMALL), ids=OTHER)[0] - out).max() > 1e-3


@pytest.mark.parametrize("deaf", [("text",), ("from_text",)])
def test_the_caption_comes_in_two_ways(deaf):
    """By FiLM and by attention: with either at zero, the other still tells."""
    model = shaken(SMALL)
    if deaf == ("from_text",):
        model = eqx.tree_at(lambda m: m.unet.from_text, model, zeroed(model.unet.from_text))
    else:
        model = without(model, "text")
    assert np.abs(pull(model)[0] - pull(model, ids=OTHER)[0]).max() > 1e-4


# ---- frames ----------------------------------------------------------------------------------

GROUPS = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)


def test_with_layers_along_time_at_zero_no_group_of_frames_sees_another():
    assert seen(shaken(SMALL)).all()
    np.testing.assert_array_equal(seen(without(shaken(SMALL), "time", "conv_time")), GROUPS)


@pytest.mark.parametrize("left", ["time", "conv_time"])
def test_each_kind_of_layer_along_time_carries_across_groups(left):
    gone = {"time": "conv_time", "conv_time": "time"}[left]
    assert seen(without(shaken(SMALL), gone)).all()


def test_with_groups_of_one_frame_no_frame_sees_another():
    assert seen(shaken(EACH_FRAME)).all()
    np.testing.assert_array_equal(seen(without(shaken(EACH_FRAME), "time")), np.eye(4, dtype=bool))


# ---- how it computes -------------------------------------------------------------------------

def test_nothing_is_convolved_in_three_dimensions():
    arrays = eqx.filter(shaken(SMALL), eqx.is_array)
    text = pulled(SMALL).lower(arrays, X, IDS, PULL).as_text()  # the model and its gradient
    kinds = re.findall(r"dim_numbers = \[(.*?)\]x\[(.*?)\]->\[(.*?)\]", text)
    assert len(kinds) > 30 and len(kinds) == text.count("stablehlo.convolution")
    for operand in {operand for kind in kinds for operand in kind}:
        assert re.findall(r"\d+", operand) in (["0", "1"], ["1", "0"]), operand


def test_recomputing_in_the_backward_pass_changes_no_gradient():
    again = dataclasses.replace(EACH_FRAME, checkpoint_gradients=True)
    saved, recomputed = pull(shaken(EACH_FRAME)), pull(shaken(again))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
    text = pulled(again).lower(eqx.filter(shaken(again), eqx.is_array), X, IDS, PULL).as_text()
    assert "optimization_barrier" in text  # of jax.checkpoint


def test_a_batch_is_mapped_and_jit_changes_nothing():
    model, clips = shaken(EACH_FRAME), noise(2, 4, 1, 8, 8, seed=2)
    ids = jnp.stack([IDS, OTHER])
    batch = jax.vmap(model, in_axes=(0, None, 0))
    batched = jax.jit(batch, compiler_options=options())(clips, LEVEL, ids)
    for clip, words, got in zip(clips, ids, batched, strict=True):
        want = pull(model, clip, words)[0]
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_bfloat16_stays_near():
    model = shaken(SMALL)
    low, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_array(a) else a, (model, X))
    got = jax.jit(lambda x: low(x, LEVEL, IDS), compiler_options=options())(x)
    want = np.asarray(pull(model)[0])
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float32) - want).std() < 0.1 * want.std()
