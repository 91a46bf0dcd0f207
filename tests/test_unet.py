"""unet.py: frames meet only in layers along time, nothing is convolved in 3-D, all weights learn.

Lesson 08. Compiling is what costs here, so few shapes, little optimization, shared functions.
"""

import re
from dataclasses import replace
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from quick import noise, random_weights

from tinygif.attention import Attention, over_space, over_time, to_text, zeroed
from tinygif.checkpoint import named
from tinygif.config import Config, DataConfig, TextConfig
from tinygif.errors import TinygifError
from tinygif.resnet import TemporalConv
from tinygif.text import Text, TextToGif
from tinygif.unet import SpaceTimeBlock, UNetConfig, without_time

DATA = DataConfig(size=8, frames=4)
TEXT = TextConfig(text_width=8, text_depth=1, max_tokens=4)
SMALL = UNetConfig(
    width=8, multipliers=(1, 2), levels=("conv+space+text+time", "conv+time"),
    middle=("space+text",), patch=2, time_patch=2, heads=2, head_dim=4, full_attention=4,
    place_octaves=1,
)  # fmt: skip
EACH_FRAME = replace(
    SMALL, levels=("time", ""), middle=("conv",), time_patch=1, pixel_shuffle=True
)
IDS, OTHER = jnp.array([2, 3, 4, 0], jnp.int32), jnp.array([2, 5, 4, 0], jnp.int32)
LEVEL = jnp.float32(0.3)
X, PULL = noise(4, 1, 8, 8), noise(4, 1, 8, 8, seed=1)


def shapes(model: UNetConfig, data: DataConfig = DATA) -> TextToGif:
    """A model's shapes only; no array is allocated."""
    config = Config(data=data, text=TEXT, model=model)
    return eqx.filter_eval_shape(lambda: config.init(7, key=jax.random.key(0)))


@cache
def random_model(config: UNetConfig) -> TextToGif:
    return random_weights(lambda: shapes(config))


@cache
def pulled(config: UNetConfig):
    """Jitted: the output and the gradients of <output, pull> for the model's arrays and x."""
    static = eqx.partition(random_model(config), eqx.is_array)[1]

    def run(arrays, x, ids, pull):
        call = lambda arrays, x: eqx.combine(arrays, static)(x, LEVEL, ids)  # noqa: E731
        out, back = jax.vjp(call, arrays, x)
        return out, *back(pull)

    return jax.jit(run)


def pull(model: TextToGif, x=X, ids=IDS, by=PULL):
    config = model.model.config
    return pulled(config)(eqx.filter(model, eqx.is_array), x, ids, by)


def without(model: TextToGif, kind: str) -> TextToGif:
    """The model with the layers of a kind at zero, in every block."""
    is_block = lambda b: isinstance(b, SpaceTimeBlock)  # noqa: E731

    def empty(block):
        if not is_block(block) or kind not in block.mixing:
            return block
        return eqx.tree_at(lambda b: b.mixing[kind], block, zeroed(block.mixing[kind]))

    return jax.tree.map(empty, model, is_leaf=is_block)


def seen(model: TextToGif) -> np.ndarray:
    """Row i tells which frames of the input frame i of the output depends on, by its gradient."""
    rows = np.eye(4, dtype=np.float32)[..., None, None, None] * np.asarray(PULL)
    return np.stack([np.abs(pull(model, by=row)[2]).max(axis=(1, 2, 3)) > 0 for row in rows])


# ---- shapes ----------------------------------------------------------------------------------

CASES = [
    (DATA, SMALL),
    (DATA, EACH_FRAME),
    (DataConfig(size=16, frames=6, channels=3), replace(SMALL, patch=4, time_patch=3)),
    (DATA, replace(SMALL, multipliers=(1, 1, 2), levels=("", "time", "text"), patch=1, blocks=2)),
    (DATA, replace(SMALL, pixel_shuffle=True, checkpoint_gradients=True)),
    (DATA, replace(SMALL, levels=("", ""), middle=(), place_octaves=0)),
]


def shape_of(model: TextToGif, *shape: int) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return eqx.filter_eval_shape(model, x, LEVEL, IDS).shape


@pytest.mark.parametrize("data, config", CASES, ids=range(len(CASES)))
def test_a_prediction_has_the_shape_of_the_clip(data, config):
    shape = (data.frames, data.channels, data.size, data.size)
    assert shape_of(shapes(config, data), *shape) == shape


@pytest.mark.parametrize("frames, h, w", [(2, 8, 8), (6, 4, 12)])
def test_other_clips_than_trained_on_work_where_they_fold(frames, h, w):
    assert shape_of(random_model(SMALL), frames, 1, h, w) == (frames, 1, h, w)


@pytest.mark.parametrize("size, frames", [(6, 4), (8, 3)])
def test_clips_that_do_not_fold_are_refused(size, frames):
    with pytest.raises(TinygifError, match="that (is|are) a multiple of"):
        shapes(SMALL, DataConfig(size=size, frames=frames))


def test_large_images_get_linear_attention_and_small_ones_full():
    unet = shapes(replace(SMALL, levels=("space", "space"))).model
    for blocks in (unet.down, unet.up):  # level 0 has 4 x 4 pixels, level 1 has 2 x 2
        assert [level[0].mixing["space"].linear for level in blocks] == [True, False]


def test_many_blocks_can_be_built():
    one = replace(SMALL, multipliers=(1,), levels=("time",), middle=(), blocks=20)
    assert len(shapes(one).model.down[0]) == 20


# ---- levels ----------------------------------------------------------------------------------


def test_levels_and_middle_say_what_each_block_holds():
    config = replace(
        SMALL, multipliers=(1, 1, 1), levels=("conv+time", "", "text+space"), patch=1, blocks=2,
        middle=("time", "", "space+conv"),
    )  # fmt: skip
    unet = shapes(config).model
    rows = [*zip(config.levels, unet.down), *zip(config.levels, unet.up)]
    blocks = [(kinds, block) for kinds, level in rows for block in level]
    assert len(blocks) == 2 * 3 * 2 and len(unet.middle) == 3
    for kinds, block in [*blocks, *zip(config.middle, unet.middle)]:
        assert "+".join(block.kinds) == kinds
        assert set(block.mixing) == {*block.kinds}
        for kind, layer in block.mixing.items():
            if kind == "conv":
                assert isinstance(layer, TemporalConv)
                continue
            assert isinstance(layer, Attention) and layer.rotate == (kind == "time")
            assert layer.kv.in_features == (TEXT.text_width if kind == "text" else 8)


def test_layers_are_applied_in_the_order_in_which_they_are_named():
    kinds = ("time", "conv", "text", "space")
    make = lambda kinds: random_weights(  # noqa: E731
        lambda: SpaceTimeBlock(8, 4, kinds, SMALL, 2, 8, key=jax.random.key(0))
    )
    x, condition, bias = noise(3, 8, 2, 2), noise(4), noise(2, 3, 3)
    text = Text(noise(4, 8), noise(8), jnp.ones(4, bool))

    @jit
    def run(block, other):
        layers = block.mixing
        y = jax.vmap(block.resnet, (0, None))(x, condition)
        y = layers["conv"](over_time(layers["time"], y, bias))
        by_hand = over_space(layers["space"], to_text(layers["text"], y, text.states, text.mask))
        return block(x, condition, text, bias), by_hand, other(x, condition, text, bias)

    block, other = make(kinds), make(kinds[::-1])
    assert all(map(np.array_equal, jax.tree.leaves(block), jax.tree.leaves(other)))
    got, by_hand, other_order = run(block, other)
    np.testing.assert_allclose(got, by_hand, rtol=1e-4, atol=1e-4)
    assert np.abs(got - other_order).max() > 0.1


WRONG = [
    (dict(multipliers=(1, 2, 2, 2)), "a level for each of 4 multipliers, such as --levels time ti"),
    (dict(levels=("time",)), r"a level for each of 2 multipliers.*got \('time',\)"),
    (dict(levels=("", "conv+joint")), "conv, space, text, time, each at most once .*'conv.joint'"),
    (dict(levels=("time+time", "")), "got 'time.time'"),
    (dict(middle=("", "conv,time")), "got 'conv,time'"),
    (dict(levels=("conv+", "")), "got 'conv.'"),
    (dict(multipliers=(), levels=()), "1 to 12 multipliers, got 0"),
    (dict(multipliers=(1, 0)), "multipliers from 1 to"),
    (dict(head_dim=5), "an even head_dim, got 5"),
    (dict(head_dim=0), "head_dim from 2 to 1024, got 0"),
    *((dict([(n, 0)]), f"{n} from 1 to .*, got 0") for n in ("width", "blocks", "patch", "heads")),
    (dict(time_patch=-1), "time_patch from 1 to 256, got -1"),
]


@pytest.mark.parametrize("change, sentence", WRONG, ids=str)
def test_settings_that_make_no_network_are_refused(change, sentence):
    with pytest.raises(TinygifError, match=f"^expected .*{sentence}"):
        replace(SMALL, **change).check(frames=4, size=8)


# ---- what it computes ------------------------------------------------------------------------


def test_an_untrained_model_predicts_exactly_zero():
    config = Config(data=DATA, text=TEXT, model=SMALL)
    head = jit(lambda: config.init(7, key=jax.random.key(0)).model.head)()  # and nothing else
    model = eqx.tree_at(lambda m: m.model.head, random_model(SMALL), head)
    assert not np.any(pull(model)[0]) and np.any(pull(random_model(SMALL))[0])


def test_every_parameter_learns():
    grads = named(pull(random_model(SMALL))[1])
    assert set(grads) == set(named(random_model(SMALL)))
    assert [name for name, grad in grads.items() if not np.abs(grad).max() > 0] == []


def test_the_words_of_the_caption_learn_and_change_the_clip():
    out, grads, _ = pull(random_model(SMALL))
    rows = np.abs(grads.text.embedding).max(axis=1) > 0
    assert np.flatnonzero(rows).tolist() == [2, 3, 4]
    assert np.abs(pull(random_model(SMALL), ids=OTHER)[0] - out).max() > 1e-3


@pytest.mark.parametrize("deaf", ["text", "from_text"])
def test_the_caption_comes_in_two_ways(deaf):
    """By FiLM and by attention: with either at zero, the other still tells."""
    model = random_model(SMALL)
    if deaf == "from_text":
        condition = model.model.condition
        model = eqx.tree_at(
            lambda m: m.model.condition.from_text, model, zeroed(condition.from_text)
        )
    else:
        model = without(model, "text")
    assert np.abs(pull(model)[0] - pull(model, ids=OTHER)[0]).max() > 1e-4


# ---- frames ----------------------------------------------------------------------------------

GROUPS = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)


def test_with_layers_along_time_at_zero_no_group_of_frames_sees_another():
    assert seen(random_model(SMALL)).all()
    np.testing.assert_array_equal(seen(without_time(random_model(SMALL))), GROUPS)


@pytest.mark.parametrize("left, gone", [("time", "conv"), ("conv", "time")])
def test_each_kind_of_layer_along_time_carries_across_groups(left, gone):
    assert seen(without(random_model(SMALL), gone)).all()


def test_with_groups_of_one_frame_no_frame_sees_another():
    assert seen(random_model(EACH_FRAME)).all()
    still = without_time(random_model(EACH_FRAME))
    np.testing.assert_array_equal(seen(still), np.eye(4, dtype=bool))


def test_without_time_sets_last_projections_to_zero_and_nothing_else():
    before, after = named(random_model(SMALL)), named(without_time(random_model(SMALL)))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    last = re.compile(r"\.mixing\.(time\.out|conv\.conv\.linear)\.(weight|bias)$")
    assert changed == {name for name in before if last.search(name)} and len(changed) == 16
    assert not any(np.any(after[name]) for name in changed)


# ---- how it computes -------------------------------------------------------------------------


def test_nothing_is_convolved_in_three_dimensions():
    arrays = eqx.filter(random_model(SMALL), eqx.is_array)
    text = pulled(SMALL).lower(arrays, X, IDS, PULL).as_text()  # the model and its gradient
    kinds = re.findall(r"dim_numbers = \[(.*?)\]x\[(.*?)\]->\[(.*?)\]", text)
    assert len(kinds) > 30 and len(kinds) == text.count("stablehlo.convolution")
    for operand in {operand for kind in kinds for operand in kind}:
        assert re.findall(r"\d+", operand) in (["0", "1"], ["1", "0"]), operand


def test_recomputing_in_the_backward_pass_changes_no_gradient():
    again = replace(EACH_FRAME, checkpoint_gradients=True)
    saved, recomputed = pull(random_model(EACH_FRAME)), pull(random_model(again))
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
    arrays = eqx.filter(random_model(again), eqx.is_array)
    text = pulled(again).lower(arrays, X, IDS, PULL).as_text()
    assert "optimization_barrier" in text  # of jax.checkpoint


def test_a_batch_is_mapped_and_jit_changes_nothing():
    model, clips = random_model(EACH_FRAME), noise(2, 4, 1, 8, 8, seed=2)
    ids = jnp.asarray(np.stack([IDS, OTHER]))
    batched = jit(eqx.filter_vmap(model, in_axes=(0, None, 0)))(clips, LEVEL, ids)
    for clip, words, got in zip(clips, ids, batched, strict=True):
        want = np.asarray(pull(model, clip, words)[0])
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_bfloat16_stays_near():
    model = random_model(SMALL)
    low, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_array(a) else a, (model, X))
    got = jit(lambda x: low(x, LEVEL, IDS))(x)
    want = np.asarray(pull(model)[0])
    assert got.dtype == jnp.bfloat16
    assert (np.float32(got) - want).std() < 0.1 * want.std()
