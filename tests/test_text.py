"""text.py: padding changes nothing, and a prompt that cannot be read says what to change.

Lesson 10.
"""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.moving_mnist import WORDS
from tinygif.text import PromptError, Text, TextAdapter, TextEncoder, Tokenizer, hide

TOKENIZER = Tokenizer(WORDS, 8)


@cache
def encoder(max_tokens: int) -> TextEncoder:
    """Two layers with random weights everywhere; longer ones only have more places."""
    make = lambda: TextEncoder(  # noqa: E731
        len(TOKENIZER), 8, 2, max_tokens=12, heads=2, key=jax.random.key(0)
    )
    rng = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype)  # noqa: E731
    shape = lambda a: isinstance(a, jax.ShapeDtypeStruct)  # noqa: E731
    full = jax.tree.map(lambda a: draw(a) if shape(a) else a, eqx.filter_eval_shape(make))
    return eqx.tree_at(lambda m: m.places, full, full.places[:max_tokens])


read = eqx.filter_jit(lambda model, ids: model(ids))
prompts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


# ---- the tokenizer ---------------------------------------------------------------------------

@given(st.lists(st.text("abcxyz019", min_size=1), min_size=1, max_size=8))
def test_vocabulary_round_trips(words):
    tokenizer = Tokenizer(words, 8)
    name = {i: word for word, i in tokenizer.ids.items()}
    ids = tokenizer.encode(" ".join(words))
    assert ids.dtype == np.int32 and ids.shape == (8,)
    assert [name[i] for i in ids if i] == words
    assert sorted(name) == list(range(len(tokenizer))) and len(tokenizer) == len(set(words)) + 2
    assert ids.max() < len(tokenizer) and (ids[: len(words)] >= 2).all()


def test_every_word_of_the_digits_is_one_token():
    for word in WORDS:
        assert np.count_nonzero(TOKENIZER.encode(word)) == 1


def test_order_of_the_vocabulary_does_not_matter():
    assert Tokenizer(["b", "a", "b"], 2).ids == Tokenizer(["a", "b"], 2).ids


def test_case_and_punctuation_do_not_matter():
    same = TOKENIZER.encode("a three moving up")
    np.testing.assert_array_equal(TOKENIZER.encode("  A three,\n MOVING-up! "), same)


def test_the_null_prompt_is_one_token_of_its_own():
    assert TOKENIZER.encode(None).tolist() == [1] + [0] * 7
    for typed in ("<null>", "<pad>"):
        with pytest.raises(PromptError, match="does not know the word"):
            TOKENIZER.encode(typed)


def test_an_unknown_word_is_answered_with_near_ones():
    with pytest.raises(PromptError, match="know the word 'quikly'; near it: quickly"):
        TOKENIZER.encode("a 3 moving left quikly")
    with pytest.raises(PromptError, match="know the word 'bcbcb'; it knows: 0, 1, .*zero"):
        TOKENIZER.encode("bcbcb")


@pytest.mark.parametrize("prompt", ["", "  ", "?!_"])
def test_an_empty_prompt_is_answered_with_an_example(prompt):
    with pytest.raises(PromptError, match="has no words; try") as raised:
        TOKENIZER.encode(prompt)
    TOKENIZER.encode(raised.value.args[0].split("'")[-2])


def test_a_long_prompt_is_refused_not_cut():
    TOKENIZER.encode("a " * 8)
    with pytest.raises(PromptError, match="has 9 words, this model reads at most 8"):
        TOKENIZER.encode("a " * 9)


# ---- the encoder -----------------------------------------------------------------------------

@given(prompts)
def test_padding_changes_nothing(prompt):
    short = read(encoder(4), jnp.asarray(Tokenizer(WORDS, 4).encode(prompt)))
    long = read(encoder(12), jnp.asarray(Tokenizer(WORDS, 12).encode(prompt)))
    n = len(prompt.split())
    np.testing.assert_allclose(long.states[:4], short.states, atol=1e-5)
    np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
    assert long.mask.tolist() == [True] * n + [False] * (12 - n)
    assert not long.states[n:].any() and long.states[:n].any()
    np.testing.assert_allclose(short.pooled, short.states[:n].mean(axis=0), atol=1e-5)


def test_words_places_and_the_null_learn_and_padding_does_not():
    model = encoder(8)
    ids = jnp.asarray(TOKENIZER.batch(["a 3 moving up", None]))

    @eqx.filter_jit
    @eqx.filter_grad
    def grad(model):
        text = jax.vmap(model)(ids)
        return jnp.sum(text.states**3) + jnp.sum(text.pooled**3)

    slopes = grad(model)
    learn = np.abs(slopes.embedding).max(axis=1) > 0
    assert np.flatnonzero(learn).tolist() == sorted({*np.asarray(ids).ravel().tolist()} - {0})
    assert (np.abs(slopes.places).max(axis=1) > 0).tolist() == [True] * 4 + [False] * 4
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


def test_order_and_words_change_the_states():
    model = encoder(8)
    one, other, third, null = (
        read(model, jnp.asarray(TOKENIZER.encode(p))).pooled
        for p in ("a 3 moving up", "3 a moving up", "a 3 moving down", None)
    )
    for a, b in [(one, other), (one, third), (one, null)]:
        assert np.abs(a - b).max() > 0.05


# ---- on top of a tower -----------------------------------------------------------------------


@cache
def adapter() -> TextAdapter:
    """Two layers on states of width 6 and summaries of width 5, random weights everywhere."""
    make = lambda: TextAdapter((6, 5), 8, 2, heads=2, key=jax.random.key(0))  # noqa: E731
    rng = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype)  # noqa: E731
    shape = lambda a: isinstance(a, jax.ShapeDtypeStruct)  # noqa: E731
    return jax.tree.map(lambda a: draw(a) if shape(a) else a, eqx.filter_eval_shape(make))


def said(n: int, length: int, seed: int = 0) -> Text:
    """What a tower may say of n tokens, padded."""
    rng = np.random.default_rng(seed)
    states = np.zeros((length, 6), np.float32)
    states[:n] = rng.normal(size=(n, 6))
    pooled = rng.normal(size=5).astype(np.float32)
    return jax.tree.map(jnp.asarray, Text(states, pooled, np.arange(length) < n))


@given(st.integers(1, 5), st.integers(0, 9))
def test_padding_changes_nothing_on_a_tower(n, seed):
    short, long = (read(adapter(), said(n, length, seed)) for length in (5, 9))
    np.testing.assert_allclose(long.states[:5], short.states, atol=1e-5)
    np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
    assert long.mask.sum() == n and not long.states[n:].any()


def test_no_token_at_all_is_the_null_prompt():
    """Whatever the tower said: one token, learned, and its state is the summary."""
    hidden = [hide(said(n, 5, seed=n), jnp.asarray(True)) for n in (1, 4)]
    one, other = (read(adapter(), text) for text in hidden)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(a, b)
    assert one.mask.tolist() == [True] + [False] * 4
    np.testing.assert_allclose(one.pooled, one.states[0], atol=1e-6)
    shown = hide(said(4, 5), jnp.asarray(False))
    assert np.abs(read(adapter(), shown).pooled - one.pooled).max() > 0.05


def test_hidden_words_are_the_null_word():
    ids = jnp.asarray(TOKENIZER.encode("a 3 moving up"))
    np.testing.assert_array_equal(hide(ids, jnp.asarray(True)), TOKENIZER.encode(None))
    np.testing.assert_array_equal(hide(ids, jnp.asarray(False)), ids)


def test_all_of_the_adapter_learns_from_prompts_shown_and_hidden():
    texts = [said(3, 5), hide(said(4, 5), jnp.asarray(True))]

    @eqx.filter_jit
    @eqx.filter_grad
    def grad(model):
        read = [model(text) for text in texts]
        return sum(jnp.sum(text.states**3) + jnp.sum(text.pooled**3) for text in read)

    slopes = grad(adapter())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    only = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(m(texts[0]).states ** 3)))(adapter())
    assert not only.null.any()
