"""transformer.py: tokens and back, frames meet in attention alone, all weights learn. Lesson 09."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise, random_weights

from tinygif.attention import zeroed
from tinygif.checkpoint import named
from tinygif.config import Config, DataConfig, TextConfig, from_dict
from tinygif.errors import TinygifError
from tinygif.text import Condition, KnownFrames, Text
from tinygif.transformer import (
    TransformerConfig,
    from_tokens,
    modulate,
    rotary_3d,
    to_tokens,
)
from tinygif.unet import fold, unfold

DATA = DataConfig(size=8, frames=4)
TEXT = TextConfig(text_width=8, text_depth=1, max_tokens=4)
FULL = TransformerConfig(width=24, depth=2, heads=2, patch=2, time_patch=2, place_octaves=1)
APART = replace(FULL, attend="factorised", read="cross", time_patch=1)
CONFIGS = {"full": FULL, "factorised": APART}
IDS, OTHER = jnp.array([2, 3, 4, 0], jnp.int32), jnp.array([2, 5, 4, 0], jnp.int32)
LEVEL = jnp.float32(0.3)
X = noise(4, 1, 8, 8)
GRID = (2, 3, 4)


def init(model, data=DATA):
    return Config(data=data, text=TEXT, model=model).init(7, key=jax.random.key(0))


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return random_weights(lambda: init(CONFIGS[request.param]))


@jit
def run(model, x, ids):
    return model(x, LEVEL, ids)


@jit
def pull(model, x, by):
    """The gradients of <output, by> for every weight, and for the clip."""
    return eqx.filter_grad(lambda both: jnp.sum(both[0](both[1], LEVEL, IDS) * by))((model, x))


# ---- tokens ----------------------------------------------------------------------------------


@given(st.sampled_from([(1, 1), (2, 2), (4, 2), (2, 4)]), st.integers(0, 100))
def test_a_clip_is_what_its_tokens_are_put_together_to(sides, seed):
    k, p = sides
    clip = noise(4, 3, 8, 8, seed=seed)
    folded = fold(clip, k, p)
    grid = (len(folded), *folded.shape[2:])
    tokens = to_tokens(folded)
    assert tokens.shape == (4 * 8 * 8 // (k * p * p), 3 * k * p * p)
    np.testing.assert_array_equal(unfold(from_tokens(tokens, grid), k, p), clip)


def test_a_token_is_one_box_of_the_clip():
    clip = np.zeros((4, 1, 8, 8), np.float32)
    clip[2:4, :, 4:6, 2:4] = 1
    tokens = np.asarray(to_tokens(fold(jnp.asarray(clip), 2, 2)))
    assert tokens.sum(1).tolist() == [8 if i == 16 + 2 * 4 + 1 else 0 for i in range(32)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scores_depend_on_how_far_apart_two_tokens_are(axis):
    """Moved together along an axis, two tokens keep their score; moved apart, they do not."""
    same = jnp.broadcast_to(noise(1, 2, 18), (24, 2, 18))
    turned = np.asarray(rotary_3d(same, GRID)).reshape(*GRID, 2, 18)
    moved = np.moveaxis(turned, axis, 0)
    score = lambda a, b: float((moved[a] * moved[b]).sum(-1).ravel()[0])  # noqa: E731
    last = GRID[axis] - 1
    assert abs(score(0, 0) - score(last, last)) < 1e-4
    if last > 1:
        assert abs(score(0, 1) - score(last - 1, last)) < 1e-4
    assert abs(score(0, 1) - score(0, 0)) > 1e-3


def test_rotation_keeps_lengths_and_a_circle_has_no_first_frame():
    x = noise(24, 2, 18)
    np.testing.assert_allclose(jnp.linalg.norm(rotary_3d(x, GRID), axis=-1),
                               jnp.linalg.norm(x, axis=-1), rtol=1e-5)  # fmt: skip
    same = jnp.broadcast_to(noise(1, 1, 18), (5, 1, 18))
    for circle in (True, False):
        turned = np.asarray(rotary_3d(same, (5, 1, 1), circle=circle))[:, 0]
        scores = turned @ turned.T
        assert (abs(scores[0, 4] - scores[0, 1]) < 1e-4) == circle


def test_modulation_of_nothing_is_a_layer_norm():
    x = 3 + 5 * noise(6, 24)
    y = modulate(x, jnp.zeros(24), jnp.zeros(24))
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(1), 1, atol=1e-3)
    moved = modulate(x, jnp.ones(24), jnp.ones(24))
    np.testing.assert_allclose(moved, 2 * y + 1, atol=1e-4)


# ---- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_untrained_model_predicts_exactly_zero_and_its_blocks_add_nothing(config):
    new = init(config)
    assert (run(new, X, IDS) == 0).all() and run(new, X, IDS).shape == X.shape
    block = new.model.blocks[0]
    x, words = noise(4 // config.time_patch * 16, 24), noise(4, 24 if block.cross is None else 8)
    grid = (4 // config.time_patch, 4, 4)
    y, _ = jit(block)(x, words, jnp.ones(4, bool), noise(24), grid, False, None)
    np.testing.assert_array_equal(y, x)


def test_every_weight_learns(model):
    (gradient, _) = pull(model, X, noise(4, 1, 8, 8, seed=1))
    for name, leaf in named(gradient.model).items():
        assert np.abs(leaf).max() > 0, name


def test_the_words_change_the_clip_and_padding_does_not(model):
    out = run(model, X, IDS)
    assert np.abs(run(model, X, OTHER) - out).max() > 1e-4
    text = jit(model.text)(IDS)
    longer = Text(
        jnp.concatenate([text.states, noise(2, 8)]), text.pooled,
        jnp.concatenate([text.mask, jnp.zeros(2, bool)]),
    )  # fmt: skip
    one, two = (jit(model.model)(X, LEVEL, Condition(given)) for given in (text, longer))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_batch_is_mapped_and_jit_changes_nothing(model):
    clips, ids = jnp.stack([X, X[::-1]]), jnp.stack([IDS, OTHER])
    batched = jit(jax.vmap(lambda x, i: model(x, LEVEL, i)))(clips, ids)
    for i in range(2):
        np.testing.assert_allclose(batched[i], run(model, clips[i], ids[i]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model(X, LEVEL, IDS), run(model, X, IDS), rtol=1e-3, atol=1e-4)


def test_without_attention_along_time_no_frame_sees_another():
    model = random_weights(lambda: init(APART))
    still = lambda block: eqx.tree_at(  # noqa: E731
        lambda b: b.out, block, zeroed(block.out)
    ) if block.axis == "time" else block  # fmt: skip
    blocks = [still(block) for block in model.model.blocks]
    alone = eqx.tree_at(lambda m: m.model.blocks, model, blocks)
    only = jnp.zeros_like(X).at[1].set(1)
    for cut, sees in ((alone, False), (model, True)):
        seen = np.abs(np.asarray(pull(cut, X, only)[1])).max((1, 2, 3))
        assert seen[1] > 0 and (seen[[0, 2, 3]] > 0).tolist() == [sees] * 3


def test_recomputing_in_the_backward_pass_changes_no_gradient():
    config = replace(FULL, checkpoint_gradients=True)
    by = noise(4, 1, 8, 8, seed=1)
    plain, again = (pull(random_weights(lambda c=c: init(c)), X, by) for c in (FULL, config))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_known_frames_reach_it_and_no_others():
    config = replace(FULL, known_frames=True)
    new, model = init(config).model, random_weights(lambda: init(config)).model
    text = Text(noise(3, 8), noise(8), jnp.ones(3, bool))
    mask = jnp.array([False, True, False, False])
    give = lambda net, frames: net(  # noqa: E731
        X, LEVEL, Condition(text, KnownFrames(frames, mask))
    )
    assert (jit(give)(new, X) == 0).all() and (new.known.weight == 0).all()
    out = jit(give)(model, X)
    other = jit(give)(model, X.at[0].add(1))
    np.testing.assert_array_equal(out, other)
    assert np.abs(jit(give)(model, X.at[1].add(1)) - out).max() > 1e-4


def test_it_shows_where_words_are_looked_at(model):
    text = jit(model.text)(IDS)
    maps = jit(model.model.words_seen)(X, LEVEL, Condition(text))
    assert maps.shape == (4, 4, 8, 8) and maps.min() >= 0 and maps.max() <= 1 + 1e-5
    assert maps[:, 3].max() == 0 and maps[:, :3].std() > 0  # the fourth is padding


def test_parts_have_masks():
    config = Config(data=DATA, text=replace(TEXT, parts=2), model=FULL)
    model = random_weights(lambda: config.init(7, key=jax.random.key(0)))
    assert model.model.each.mask is not None
    out = jit(model)(X, LEVEL, jnp.stack([IDS, OTHER]))
    assert out.shape == X.shape and np.isfinite(out).all()


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("change, says", [
    ({"width": 25}, "a width that is a multiple"), ({"heads": 8}, "a width that is a multiple"),
    ({"attend": "factorised"}, "--read cross with --attend factorised"),
    ({"patch": 3}, "a size that is a multiple of 3"), ({"time_patch": 3}, "multiple of 3"),
    ({"depth": 0}, "depth from 1"),
])  # fmt: skip
def test_settings_that_make_no_network_are_refused(change, says):
    with pytest.raises(TinygifError, match=says):
        Config(data=DATA, text=TEXT, model=replace(FULL, **change)).check()


def test_a_config_comes_back_from_json():
    config = Config(model=APART)
    import dataclasses
    import json

    assert from_dict(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
