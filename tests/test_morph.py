"""morph.py: the way between two noises is an arc, the ends are what was asked for. Lesson 13."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import noise
from tiny import CONFIG, DATA, model

from tinygif.errors import TinygifError
from tinygif.morph import blend, morph, slerp, stretch, there_and_back
from tinygif.pipeline import Pipeline
from tinygif.text import Text

SHORT, LONG = "an 8 standing still", "a 7 moving up left quickly"
seeds = st.integers(0, 2**31)
shares = st.floats(0, 1)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(model(), CONFIG, DATA.words)


def text(words: int, seed: int, total: int = 9) -> Text:
    """A text as an encoder makes it: padding is zero."""
    mask = jnp.arange(total) < words
    states = jnp.where(mask[:, None], noise(total, 4, seed=seed), 0)
    return Text(states, states.sum(0) / words, mask)


# ---- noise -----------------------------------------------------------------------------------


@given(seeds, shares)
def test_the_arc_keeps_the_length_and_the_speed(seed, share):
    a, b = (noise(4, 1, 8, 8, seed=seed + i) for i in range(2))
    b = b * (jnp.linalg.norm(a) / jnp.linalg.norm(b))
    on = slerp(a, b, share)
    np.testing.assert_allclose(np.linalg.norm(on), np.linalg.norm(a), rtol=1e-4)
    angle = lambda x, y: np.arccos(np.clip(np.vdot(x, y) / np.vdot(a, a), -1, 1))  # noqa: E731
    assert abs(angle(a, on) - share * angle(a, b)) < 2e-3


@given(seeds)
def test_the_ends_of_the_arc_are_the_noises(seed):
    a, b = (noise(3, 5, seed=seed + i) for i in range(2))
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-5)
    np.testing.assert_allclose(slerp(a, a, 0.3), a, atol=1e-5)


def test_half_way_noise_is_still_noise_and_the_mean_is_not():
    a, b = noise(16, 1, 32, 32), noise(16, 1, 32, 32, seed=1)
    assert abs(float(slerp(a, b, 0.5).std()) - 1) < 0.02
    assert abs(float(((a + b) / 2).std()) - 0.5**0.5) < 0.02


# ---- text ------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_stretched_words_keep_first_last_and_order(seed, n, words):
    states = np.asarray(text(n, seed).states)
    ramp = Text(jnp.where(jnp.arange(9)[:, None] < n, jnp.arange(9.0)[:, None], 0), states[0],
                jnp.arange(9) < n)  # fmt: skip
    got = stretch(ramp, words)
    want = np.linspace(0, n - 1, words)
    np.testing.assert_allclose(np.asarray(got.states)[:words, 0], want, atol=1e-5)
    assert not np.any(np.asarray(got.states)[words:]) and int(got.mask.sum()) == words
    same = stretch(text(n, seed), n)
    np.testing.assert_allclose(same.states, states, atol=1e-6)


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 0.99))
def test_a_blend_has_two_ends_and_no_direction(seed, n, m, share):
    a, b = text(n, seed), text(m, seed + 1)
    assert blend(a, b, 0.0) is a and blend(a, b, 1.0) is b
    there, back = blend(a, b, share), blend(b, a, 1 - share)
    for x, y in zip(jax.tree.leaves(there), jax.tree.leaves(back)):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert int(there.mask.sum()) == max(n, m)
    np.testing.assert_allclose(there.pooled, (1 - share) * a.pooled + share * b.pooled, atol=1e-5)
    if n == m:
        want = (1 - share) * a.states + share * b.states
        np.testing.assert_allclose(there.states, want, atol=1e-5)


# ---- clips -----------------------------------------------------------------------------------


def test_the_first_and_the_last_stage_are_what_was_asked_for(pipeline):
    clips = morph(pipeline, SHORT, LONG, count=3, seed=5)
    asked = pipeline([SHORT, LONG], seed=5, solver="dpmpp").array
    assert clips.shape == (3, *asked.shape[1:])
    for got, want in zip(clips[[0, 2]], asked):
        assert np.abs(got.astype(int) - want).max() <= 1
    assert np.abs(clips[1].astype(int) - clips[0]).max() > 9


def test_in_the_grid_the_sentence_goes_across_and_the_noise_down(pipeline):
    grid = morph(pipeline, SHORT, LONG, count=2, grid=True, seed=5, solver="ddim")
    left, right = (pipeline([prompt] * 2, seed=5, solver="ddim").array for prompt in (SHORT, LONG))
    for got, want in zip(grid, (left[0], right[0], left[1], right[1])):
        assert np.abs(got.astype(int) - want).max() <= 1


def test_one_stage_is_no_way(pipeline):
    with pytest.raises(TinygifError, match="count"):
        morph(pipeline, SHORT, LONG, count=1)


def test_there_and_back_plays_every_stage_and_closes():
    clips = np.arange(5 * 3, dtype=np.uint8).reshape(5, 3, 1, 1, 1)
    film = there_and_back(clips).ravel()
    assert (film // 3).tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert (film % 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
