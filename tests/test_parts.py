"""parts.py: each part is drawn by itself, shares sum to one, and nothing leaks. Lesson 20."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise
from tiny import CONFIG, DATA, TOKENIZER, batch, model, random_arrays

from tinygif import checkpoint, training
from tinygif.checkpoint import About
from tinygif.errors import TinygifError
from tinygif.parts import Composed, EachPart, PartReader, part_count, split_parts
from tinygif.pipeline import Pipeline
from tinygif.text import Condition, Text, hide

TWO = replace(CONFIG, text=replace(CONFIG.text, parts=2))
ONE_THING, TWO_THINGS = "a 7 moving left", "a 3 moving up and a 5 going left"
seeds = st.integers(0, 2**31)


class Painter(eqx.Module):
    """Paints the number that its part says, and wants it as much as its second number says."""

    def __call__(self, x_t, t, condition):
        number, logit = condition.text.pooled
        ones = jnp.ones_like(x_t[:, :1])
        return jnp.concatenate([number * ones + x_t, logit * ones], axis=1)


class NullWord(eqx.Module):
    """Makes a text without words, as a tower's output may be, one with a single word."""

    def __call__(self, text):
        return Text(text.states, text.pooled, jnp.arange(len(text.mask)) < 1)


def said(*parts, given=None):
    """A condition of parts (number, logit); `given` says which of them there are."""
    pooled = jnp.array(parts, jnp.float32)
    mask = jnp.array([True] * len(parts) if given is None else given)[:, None]
    return Condition(Text(pooled[:, None], pooled, mask))


def run(condition, x=None):
    x = jnp.zeros((2, 1, 2, 2)) if x is None else x
    return Composed(Painter())(x, jnp.float32(0.5), condition)


# ---- sentences -------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt, parts", [
    (ONE_THING, [ONE_THING]),
    (TWO_THINGS, ["a 3 moving up", "a 5 going left"]),
    ("a 3 up, a 4 down, and a 5 left", ["a 3 up", "a 4 down", "a 5 left"]),
    ("a 3 up AND a 4 down", ["a 3 up", "a 4 down"]),
    ("a 7, moving left", ["a 7, moving left"]),
    ("sand and bandits", ["sand", "bandits"]),
    ("and", ["and"]),
    ("", [""]),
    (None, [None]),
])  # fmt: skip
def test_sentences_are_split_at_and(prompt, parts):
    assert split_parts(prompt) == parts


def test_a_reader_fills_up_with_parts_that_say_nothing():
    ids = PartReader(TOKENIZER, 2).batch([ONE_THING, TWO_THINGS, None])
    assert ids.shape == (3, 2, CONFIG.text.max_tokens)
    expected = TOKENIZER.batch([ONE_THING, "a 3 moving up", "a 5 going left", None])
    np.testing.assert_array_equal(ids[[0, 1, 1, 2], [0, 0, 1, 0]], expected)
    assert (ids[[0, 2], 1] == 0).all()


@pytest.mark.parametrize("least, prompts, k", [
    (1, [ONE_THING], 1), (1, [TWO_THINGS], 2), (3, [ONE_THING], 3), (None, [ONE_THING], 2),
    (1, [f"{TWO_THINGS} and a 1 moving up", ONE_THING], 3),
])  # fmt: skip
def test_there_are_as_many_parts_as_a_prompt_has(least, prompts, k):
    assert PartReader(TOKENIZER, 2).batch(prompts, *([least] if least else [])).shape[1] == k


def test_a_tower_learns_the_parts_of_captions():
    class Tower:
        def learn(self, captions):
            self.learnt = list(captions)

    tower = Tower()
    PartReader(tower, 2).learn([TWO_THINGS, "a 3 moving up"])
    assert tower.learnt == ["a 3 moving up", "a 5 going left"]


# ---- text ------------------------------------------------------------------------------------


def test_every_part_is_read_by_itself():
    encoder = model(TWO).text
    ids = jnp.asarray(PartReader(TOKENIZER, 3).batch([TWO_THINGS])[0])
    text = jit(encoder)(ids)
    assert text.states.shape[0] == 3 and text.mask.any(1).tolist() == [True, True, False]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(text))
    for i in range(2):
        alone = jit(encoder.each)(ids[i])
        np.testing.assert_allclose(text.states[i], alone.states, atol=1e-5)
        np.testing.assert_allclose(text.pooled[i], alone.pooled, atol=1e-5)


def test_a_tower_without_words_still_has_one_part():
    states = Text(jnp.zeros((2, 3, 4)), jnp.zeros((2, 5)), jnp.zeros((2, 3), bool))
    given = EachPart(NullWord())(states)
    assert given.mask.any(1).tolist() == [True, False]


def test_the_null_prompt_is_one_part():
    ids = jnp.asarray(PartReader(TOKENIZER, 2).batch([TWO_THINGS, None]))
    np.testing.assert_array_equal(hide(ids[0], jnp.array(True)), ids[1])
    np.testing.assert_array_equal(hide(ids[0], jnp.array(False)), ids[0])


# ---- composition -----------------------------------------------------------------------------


@given(seeds)
def test_shares_sum_to_one_and_order_does_not_matter(seed):
    parts = np.random.default_rng(seed).normal(0, 3, (3, 2))
    x = noise(2, 1, 2, 2, seed=seed)
    _, shares = Composed(Painter()).layers(x, jnp.float32(0.5), said(*parts))
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(run(said(*parts), x), run(said(*parts[::-1]), x), atol=1e-5)


def test_one_part_is_the_model_itself_and_so_are_two_equal_ones():
    np.testing.assert_allclose(run(said((3, -50))), 3)
    np.testing.assert_allclose(run(said((3, 1), (3, -2))), 3, rtol=1e-6)


def test_a_part_that_wants_a_pixel_more_has_it():
    np.testing.assert_allclose(run(said((1, 40), (5, 0))), 1)
    np.testing.assert_allclose(run(said((1, 0), (5, 0))), 3)


def test_a_part_that_is_not_there_changes_nothing():
    """Neither the prediction nor, backwards, any gradient."""
    alone = run(said((2, 0)))
    beside = lambda other: run(said((2, 0), other, given=[True, False]))  # noqa: E731
    np.testing.assert_array_equal(beside((9, 99)), alone)
    assert (jax.grad(lambda other: beside(other).sum())(jnp.array([9.0, 99.0])) == 0).all()


# ---- in the house ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(model(TWO), TWO, DATA.words)


def test_a_clip_is_the_same_beside_a_longer_prompt(pipeline):
    beside = pipeline([ONE_THING, TWO_THINGS]).array
    np.testing.assert_allclose(pipeline([ONE_THING]).array[0], beside[0], atol=1)
    assert (beside[0] != beside[1]).any()


def test_there_may_be_more_parts_than_in_training(pipeline):
    text = pipeline.encode_prompts([f"{TWO_THINGS} and a 1 moving up"])
    assert part_count(text) == 3
    assert pipeline(text).shape == (1, 4, 16, 16, 1)


def test_a_negative_prompt_has_no_more_parts_than_the_prompts(pipeline):
    with pytest.raises(TinygifError, match="negative prompt of at most 1 parts"):
        pipeline([ONE_THING], negative_prompt=TWO_THINGS)
    assert len(pipeline([TWO_THINGS], negative_prompt=ONE_THING)) == 1


def test_training_reaches_every_weight():
    """The masks' too, though nobody says which pixels belong to which part."""
    clips, _, _ = batch()
    prompts = PartReader(TOKENIZER, 2).batch([TWO_THINGS] * len(clips))
    grads = jit(training.gradients)(
        model(TWO), TWO.diffusion.build(), TWO, clips, prompts, jax.random.key(0)
    )[1]
    trained = checkpoint.named(training.trainable(grads))
    assert "model.each.mask.weight" in trained
    idle = [name for name, g in trained.items() if not np.abs(g).max() > 0]
    assert idle == []


def test_new_masks_are_all_alike():
    fresh = TWO.init(len(TOKENIZER), key=jax.random.key(0)).model.each.mask
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(eqx.filter(fresh, eqx.is_array)))


@pytest.mark.parametrize("old, new", [(CONFIG, TWO), (TWO, CONFIG)])
def test_one_part_may_become_several_and_the_other_way_round(tmp_path, old, new):
    path, trained = tmp_path / "model.safetensors", model(old)
    checkpoint.write(path, trained, About(old, DATA.words, 0))
    make = lambda words: model(new, seed=1)  # noqa: E731
    started, _, message = checkpoint.transplant(path, make, DATA.words)
    theirs, ours = (
        {checkpoint.plain(name): leaf for name, leaf in checkpoint.named(m).items()}
        for m in (trained, started)
    )
    for name, leaf in ours.items():
        if ".mask." not in name:
            np.testing.assert_array_equal(leaf, theirs[name])
    assert ("model.mask.weight" in message) == (new is TWO)


def test_a_checkpoint_in_parts_comes_back(tmp_path):
    path, saved = tmp_path / "model.safetensors", model(TWO)
    checkpoint.write(path, saved, About(TWO, DATA.words, 0))
    loaded, about = checkpoint.load_model(path)
    assert about.config == TWO
    assert all(map(np.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(saved)))


def test_random_weights_draw_parts_apart():
    """What one part predicts does not change with the other part."""
    composed = random_arrays(model(TWO).model, 3)
    x, t = noise(4, 1, 16, 16), jnp.float32(0.5)
    text = lambda seed: noise(3, 16, seed=seed)  # noqa: E731

    def condition(*seeds):
        states = jnp.stack([text(seed) for seed in seeds])
        return Condition(Text(states, states.mean(1), jnp.ones(states.shape[:2], bool)))

    layers = jit(lambda c: composed.layers(x, t, c)[0])
    first, second = layers(condition(1, 2)), layers(condition(1, 3))
    np.testing.assert_allclose(first[0], second[0], atol=1e-4)
    assert np.abs(first[1] - second[1]).max() > 1e-2
