"""attention.py: rows sum to one, masks hide, space and time stay apart.

Lesson 06.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise, random_weights

from tinygif.attention import (
    Attention,
    linear_attention,
    over_space,
    over_time,
    softmax_attention,
    to_text,
    zeroed,
)

seeds = st.integers(0, 2**31)
soft, linear = jit(softmax_attention), jit(linear_attention)


def layer(**options) -> Attention:
    """Attention of 6 features, 2 heads of 4, with random weights everywhere."""
    make = lambda: Attention(6, 2, 4, key=jax.random.key(0), **options)  # noqa: E731
    return random_weights(make, seed=3, scale=0.5)


# ---- the two formulas ------------------------------------------------------------------------


@given(seeds, st.sampled_from([(1, 1), (5, 5), (3, 7)]), st.floats(0.1, 100))
def test_rows_sum_to_one(seed, lengths, scale):
    n, m = lengths
    q, k = noise(n, 2, 4, seed=seed, scale=scale), noise(m, 2, 4, seed=seed + 1, scale=scale)
    bias, mask = noise(2, n, m, seed=seed + 2), np.arange(m) < max(1, m - 2)
    ones = np.ones((m, 2, 4), np.float32)
    np.testing.assert_allclose(soft(q, k, ones, bias, mask), 1, atol=1e-5)
    if n == m:  # linear attention spreads 1 / sqrt(d)
        np.testing.assert_allclose(linear(q, k, ones), 0.5, atol=1e-5)


@given(seeds)
def test_softmax_attention_is_its_formula(seed):
    q, k, v = (noise(n, 2, 4, seed=seed + i) for i, n in enumerate((3, 7, 7)))
    bias, mask = noise(2, 3, 7, seed=seed + 3), np.arange(7) < 5
    got = soft(q, k, v, bias, mask)
    for head in range(2):
        scores = np.asarray(q)[:, head] @ np.asarray(k)[:, head].T / 2 + np.asarray(bias)[head]
        weights = np.exp(scores) * mask
        want = weights / weights.sum(1, keepdims=True) @ np.asarray(v)[:, head]
        np.testing.assert_allclose(got[:, head], want, rtol=1e-4, atol=1e-5)


@given(seeds)
def test_linear_attention_is_its_quadratic_formula(seed):
    q, k, v = (np.asarray(noise(5, 2, 4, seed=seed + i)) for i in range(3))
    over_features = np.exp(q) / np.exp(q).sum(2, keepdims=True) / 2
    over_tokens = np.exp(k) / np.exp(k).sum(0, keepdims=True)
    pairs = np.einsum("nhd,mhd->hnm", over_features, over_tokens)
    want = np.einsum("hnm,mhd->nhd", pairs, v)
    np.testing.assert_allclose(linear(q, k, v), want, rtol=1e-4, atol=1e-5)


def test_scores_of_bfloat16_are_summed_and_kept_in_float32():
    """Scores of about 30, which bfloat16 rounds to multiples of 1 / 8."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(4, 1, 64)) * 2, jnp.bfloat16) for _ in range(2))
    v = np.float64(noise(4, 1, 64))
    scores = np.einsum("nhd,mhd->hnm", np.float64(q), np.float64(k)) / 8
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    got = softmax_attention(q, k, jnp.asarray(v, jnp.float32))
    np.testing.assert_allclose(got, np.einsum("hnm,mhd->nhd", weights, v), atol=1e-5)


def largest(function, n: int) -> int:
    """Elements of the largest array that a function of q, k and v makes on its way."""
    q = jax.ShapeDtypeStruct((n, 2, 4), jnp.float32)
    todo, sizes = [jax.make_jaxpr(function)(q, q, q).jaxpr], []
    while todo:
        for equation in todo.pop().eqns:
            sizes += [v.aval.size for v in equation.outvars]
            todo += [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
    return max(sizes)


def test_linear_attention_grows_with_n_and_softmax_with_its_square():
    assert largest(linear_attention, 512) == 2 * largest(linear_attention, 256) == 512 * 2 * 4
    assert largest(softmax_attention, 512) == 4 * largest(softmax_attention, 256)


def test_pairs_of_a_clip_are_fewer_apart():
    f, n = 8, 32 * 32
    assert round((f * n) ** 2 / (f * n**2 + n * f**2), 1) == 7.9


@pytest.mark.parametrize("attend", [softmax_attention, linear_attention])
def test_a_hidden_token_changes_nothing_and_learns_nothing(attend):
    """However large it is, the others get what they would get without it."""
    q, k, v = noise(3, 2, 4), np.array(noise(5, 2, 4, seed=1)), np.array(noise(5, 2, 4, seed=2))
    mask = np.arange(5) != 2

    @jit
    def run(k, v):
        attended = lambda k, v: attend(q, k, v, mask=jnp.asarray(mask))  # noqa: E731
        total = lambda k, v: jnp.sum(attended(k, v) ** 2)  # noqa: E731
        return attended(k, v), *jax.grad(total, (0, 1))(k, v)

    out, *grads = run(k, v)
    for grad in grads:
        assert (np.abs(grad).max(axis=(1, 2)) > 0).tolist() == mask.tolist()
    np.testing.assert_allclose(out, jit(attend)(q, k[mask], v[mask]), atol=1e-6)
    k[2], v[2] = 1000.0, -1000.0
    np.testing.assert_allclose(run(k, v)[0], out, atol=1e-6)


# ---- the layer -------------------------------------------------------------------------------


def test_a_new_layer_is_the_identity():
    new = lambda x: Attention(6, 2, 4, key=jax.random.key(0))(x)  # noqa: E731
    x = noise(5, 6)
    np.testing.assert_array_equal(jit(new)(x), x)


def test_zeroed_keeps_everything_but_the_numbers():
    before, after = layer(linear=True), zeroed(layer(linear=True))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert all(not np.any(a) for a in jax.tree.leaves(after))


@pytest.mark.parametrize("options", [{}, {"linear": True}, {"rotate": True}], ids=str)
def test_layer_jitted_and_batched(options):
    attention, x = layer(**options), noise(3, 5, 6)
    one = jit(attention)
    mapped = np.stack([one(tokens) for tokens in x])
    np.testing.assert_allclose(jit(eqx.filter_vmap(attention))(x), mapped, atol=1e-4)
    np.testing.assert_allclose(attention(x[0]), mapped[0], atol=1e-4)
    assert np.abs(mapped - x).max() > 0.1


@pytest.mark.parametrize("options", [{}, {"linear": True}], ids=str)
def test_a_layer_hides_tokens_of_its_own(options):
    """A hidden token still hears the others, but they do not hear it."""
    attention, x, mask = layer(**options), np.array(noise(5, 6)), np.arange(5) != 2
    run = jit(lambda x: attention(x, mask=jnp.asarray(mask)))
    before = np.asarray(run(x))
    x[2] += 1
    moved = np.abs(run(x) - before).max(axis=1)
    assert (moved[mask] < 1e-6).all() and moved[2] > 0.1


def test_linear_is_picked_when_asked_for():
    x = noise(5, 6)
    full, cheap = (jit(layer(linear=linear))(x) for linear in (False, True))
    assert np.abs(full - cheap).max() > 0.1


def test_linear_attention_refuses_a_bias():
    attention, bias = layer(linear=True), noise(2, 5, 5)
    with pytest.raises(ValueError, match="no scores to add a bias to: leave the bias out"):
        eqx.filter_eval_shape(lambda x: attention(x, bias=bias), noise(5, 6))


def test_tokens_have_no_order_unless_turned():
    x, order = noise(5, 6), np.array([3, 0, 4, 1, 2])
    for rotate in (False, True):
        one = jit(layer(rotate=rotate))
        same = np.allclose(one(np.asarray(x)[order]), np.asarray(one(x))[order], atol=1e-4)
        assert same != rotate


def test_bfloat16_stays_near():
    one, x = layer(rotate=True), noise(5, 6)
    low, x16 = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (one, x))
    got = jit(low)(x16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(got), jit(one)(x), atol=0.2)


# ---- clips -----------------------------------------------------------------------------------

CLIP = noise(3, 6, 2, 2, seed=5)


def seen(function) -> np.ndarray:
    """Which (frame, pixel) of the output depends on which of the input: (3 4 3 4) booleans."""

    def total(x):
        return function(x.reshape(3, 2, 2, 6).transpose(0, 3, 1, 2)).sum(axis=1).reshape(3, 4)

    pixels = np.asarray(CLIP).transpose(0, 2, 3, 1).reshape(3, 4, 6)
    return np.abs(jit(jax.jacobian(total))(jnp.asarray(pixels))).max(axis=-1) > 0


FRAMES = np.eye(3, dtype=bool)[:, None, :, None] & np.ones((3, 4, 3, 4), bool)
PIXELS = np.eye(4, dtype=bool)[None, :, None, :] & np.ones((3, 4, 3, 4), bool)


@pytest.mark.parametrize("linear", [False, True])
def test_attention_over_space_never_mixes_frames(linear):
    attention = layer(linear=linear)
    np.testing.assert_array_equal(seen(lambda x: over_space(attention, x)), FRAMES)


def test_attention_over_time_never_mixes_pixels():
    attention, bias = layer(rotate=True), noise(2, 3, 3)
    np.testing.assert_array_equal(seen(lambda x: over_time(attention, x, bias)), PIXELS)


def test_attention_to_text_mixes_neither():
    attention, states = layer(context_dim=5), noise(4, 5)
    words = lambda x: to_text(attention, x, states, jnp.ones(4, bool))  # noqa: E731
    np.testing.assert_array_equal(seen(words), FRAMES & PIXELS)


def test_attention_to_text_reads_the_words_that_are_not_hidden():
    attention, mask = layer(context_dim=5), jnp.asarray(np.arange(4) < 2)
    read = lambda s: jnp.sum(to_text(attention, CLIP, s, mask) ** 2)  # noqa: E731
    grad = jit(jax.grad(read))(noise(4, 5))
    assert (np.abs(grad).max(axis=1) > 0).tolist() == mask.tolist()


def test_the_bias_moves_attention_over_time():
    attention = layer()
    clip = jit(lambda bias: over_time(attention, CLIP, bias))
    still = np.where(np.eye(3), 0, -1e9).astype(np.float32)[None].repeat(2, axis=0)
    one = jit(lambda frame: over_time(attention, frame[None], jnp.zeros((2, 1, 1))))
    apart = np.concatenate([one(frame) for frame in CLIP])
    np.testing.assert_allclose(clip(still), apart, atol=1e-4)
    assert np.abs(clip(np.zeros_like(still)) - apart).max() > 0.1


def test_what_a_token_sees_is_what_it_takes():
    layer = random_weights(lambda: Attention(8, 2, 4, context_dim=6, key=jax.random.key(0)))
    x, words, mask = noise(5, 8), noise(3, 6, seed=1), jnp.array([True, True, False])
    seen = jit(layer.weights)(x, words, mask)
    np.testing.assert_allclose(seen.sum(1), 1, rtol=1e-5)
    assert (seen[:, 2] == 0).all()
    q, k, _ = layer.project(x, words)
    scores = np.einsum("nhd,mhd->nhm", q, k)[:, :, :2] / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(seen[:, :2], weights.mean(1), rtol=1e-4)
