"""text.py: padding changes nothing, and a prompt that cannot be read says what to change.

Lesson 10.
"""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise, random_weights

from tinygif.codec import Pixels
from tinygif.errors import TinygifError
from tinygif.moving_mnist import WORDS
from tinygif.text import Condition, Text, TextAdapter, TextEncoder, TextToGif, Tokenizer, hide

TOKENIZER = Tokenizer(WORDS, 8)
KEY = jax.random.key(0)
run = jit(lambda encoder, prompt: encoder(prompt))
prompts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


@cache
def encoder(max_tokens: int) -> TextEncoder:
    """Two layers with random weights everywhere; a longer one only has more positions."""
    make = lambda: TextEncoder(len(TOKENIZER), 8, 2, max_tokens=8, heads=2, key=KEY)  # noqa: E731
    full = random_weights(make, scale=0.5)
    return eqx.tree_at(lambda m: m.positions, full, full.positions[:max_tokens])


def read(encoder: eqx.Module, prompt: Text | np.ndarray) -> Text:
    return jax.tree.map(np.asarray, run(encoder, jax.tree.map(jnp.asarray, prompt)))


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


def test_unknown_words_of_no_meaning_are_left_out_with_a_remark(capsys):
    words = Tokenizer(["left", "moving", "7"], 4)
    for prompt in ("7 moving left", "Please show me that 7, it is moving to the left."):
        if "to" in prompt.split():
            with pytest.raises(TinygifError, match="does not know the word 'to'"):
                words.encode(prompt)
            prompt = prompt.replace("to the", "the")
        assert words.encode(prompt).tolist() == [2, 4, 3, 0]
    remark = capsys.readouterr().err
    assert "left out" in remark and "please, show, me, that, it, is, the, which" in remark
    with pytest.raises(TinygifError, match="does not know the word 'the'"):
        words.encode("the")
    assert capsys.readouterr().err == ""


def test_the_null_prompt_is_one_token_of_its_own():
    assert TOKENIZER.encode(None).tolist() == [1] + [0] * 7
    for typed in ("<null>", "<pad>"):
        with pytest.raises(TinygifError, match="does not know the word"):
            TOKENIZER.encode(typed)


def test_an_unknown_word_is_answered_with_near_ones():
    with pytest.raises(TinygifError, match="know the word 'quikly'; near it: quickly"):
        TOKENIZER.encode("a 3 moving left quikly")
    with pytest.raises(TinygifError, match="know the word 'bcbcb'; it knows: 0, 1, .*zero"):
        TOKENIZER.encode("bcbcb")


@pytest.mark.parametrize("prompt", ["", "  ", "?!_"])
def test_an_empty_prompt_is_answered_with_an_example(prompt):
    with pytest.raises(TinygifError, match="has no words; try") as raised:
        TOKENIZER.encode(prompt)
    TOKENIZER.encode(raised.value.args[0].split("'")[-2])


def test_a_long_prompt_is_refused_not_cut():
    TOKENIZER.encode("a " * 8)
    with pytest.raises(TinygifError, match="has 9 words, this model reads at most 8"):
        TOKENIZER.encode("a " * 9)


def test_a_batch_is_its_prompts_and_without_captions_the_empty_prompt_is_null():
    batch = TOKENIZER.batch(["a 3 moving up", None])
    np.testing.assert_array_equal(batch, [TOKENIZER.encode("a 3 moving up"), [1] + [0] * 7])
    wordless = Tokenizer([], 8)
    np.testing.assert_array_equal(wordless.encode(""), wordless.encode(None))
    with pytest.raises(TinygifError, match="trained without captions: leave 'a 3' out"):
        wordless.encode("a 3")


# ---- the encoder -----------------------------------------------------------------------------


@given(prompts)
def test_padding_changes_nothing(prompt):
    short = read(encoder(4), Tokenizer(WORDS, 4).encode(prompt))
    long = read(encoder(8), TOKENIZER.encode(prompt))
    n = len(prompt.split())
    np.testing.assert_allclose(long.states[:4], short.states, atol=1e-5)
    np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
    assert long.mask.tolist() == [True] * n + [False] * (8 - n)
    assert not long.states[n:].any() and long.states[:n].any()
    np.testing.assert_allclose(short.pooled, short.states[:n].mean(axis=0), atol=1e-5)


def test_words_positions_and_the_null_learn_and_padding_does_not():
    ids = jnp.asarray(TOKENIZER.batch(["a 3 moving up", None]))

    @jit
    @eqx.filter_grad
    def grad(model):
        text = jax.vmap(model)(ids)
        return jnp.sum(text.states**3) + jnp.sum(text.pooled**3)

    slopes = grad(encoder(8))
    learn = np.abs(slopes.embedding).max(axis=1) > 0
    assert np.flatnonzero(learn).tolist() == sorted({*np.asarray(ids).ravel().tolist()} - {0})
    assert (np.abs(slopes.positions).max(axis=1) > 0).tolist() == [True] * 4 + [False] * 4
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))


def test_order_and_words_change_the_states():
    one, other, third, null = (
        read(encoder(8), TOKENIZER.encode(p)).pooled
        for p in ("a 3 moving up", "3 a moving up", "a 3 moving down", None)
    )
    for a, b in [(one, other), (one, third), (one, null)]:
        assert np.abs(a - b).max() > 0.01


# ---- on top of a tower -----------------------------------------------------------------------


@cache
def adapter() -> TextAdapter:
    """Two layers on states of width 6 and pooled vectors of width 5, random weights everywhere."""
    return random_weights(lambda: TextAdapter((6, 5), 8, 2, heads=2, key=KEY), scale=0.5)


def tower_output(n: int, length: int, seed: int = 0) -> Text:
    """What a tower may return for n tokens, padded."""
    rng = np.random.default_rng(seed)
    states = np.zeros((length, 6), np.float32)
    states[:n] = rng.normal(size=(n, 6))
    return Text(states, rng.normal(size=5).astype(np.float32), np.arange(length) < n)


def hide_if(hidden: bool, prompt: Text | np.ndarray) -> Text | np.ndarray:
    return hide(jax.tree.map(jnp.asarray, prompt), jnp.asarray(hidden))


@given(st.integers(1, 5), st.integers(0, 9))
def test_padding_changes_nothing_on_a_tower(n, seed):
    short, long = (read(adapter(), tower_output(n, length, seed)) for length in (5, 9))
    np.testing.assert_allclose(long.states[:5], short.states, atol=1e-5)
    np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
    assert long.mask.sum() == n and not long.states[n:].any()


def test_no_token_at_all_is_the_null_prompt():
    """Whatever the tower returned: one token, learned, and its state is the pooled vector."""
    one, other = (read(adapter(), hide_if(True, tower_output(n, 5, seed=n))) for n in (1, 4))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        np.testing.assert_array_equal(a, b)
    assert one.mask.tolist() == [True] + [False] * 4
    np.testing.assert_allclose(one.pooled, one.states[0], atol=1e-6)
    shown = read(adapter(), hide_if(False, tower_output(4, 5)))
    assert np.abs(shown.pooled - one.pooled).max() > 0.05


def test_hidden_words_are_the_null_word():
    ids = TOKENIZER.encode("a 3 moving up")
    np.testing.assert_array_equal(hide_if(True, ids), TOKENIZER.encode(None))
    np.testing.assert_array_equal(hide_if(False, ids), ids)


def test_all_of_the_adapter_learns_from_prompts_shown_and_hidden():
    @jit
    @eqx.filter_grad
    def grad(model, text):
        text = model(text)
        return jnp.sum(text.states**3) + jnp.sum(text.pooled**3)

    shown, hidden = (grad(adapter(), hide_if(hid, tower_output(3, 5))) for hid in (False, True))
    assert not np.any(shown.null) and np.any(hidden.null)
    for a, b in zip(jax.tree.leaves(shown), jax.tree.leaves(hidden)):
        assert np.any(a) or np.any(b)


# ---- text and model --------------------------------------------------------------------------


class Echo(eqx.Module):
    def __call__(self, x_t, t, condition):
        return x_t


class Told(eqx.Module):
    """Shows what it was given besides x_t."""

    def __call__(self, x_t, t, condition):
        assert isinstance(condition, Condition)
        return jnp.full_like(x_t, t * condition.text.pooled[0])


def test_any_module_can_be_the_model():
    """It gets x_t, t and the prompt as the text encoder reads it; its answer comes back."""
    ids, x_t = TOKENIZER.encode("a 3 moving up"), noise(2, 1, 3, 3)
    level = 0.3 * read(encoder(8), ids).pooled[0]
    for model, answer in [(Echo(), x_t), (Told(), np.full(x_t.shape, level))]:
        both = jit(TextToGif(encoder(8), model, Pixels(1)))
        got = both(x_t, jnp.float32(0.3), jnp.asarray(ids))
        np.testing.assert_allclose(got, answer, rtol=1e-5)
