"""resnet.py: zero-initialised blocks are the identity, and the noise level gets through.

Lesson 05.
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

from tinygif.resnet import (
    Conv1x1,
    Conv3x3,
    Downsample,
    FiLM,
    ResnetBlock,
    TemporalConv,
    Upsample,
    group_norm,
    time_embedding,
)

KEY = jax.random.key(0)
call = jit(lambda module, *x: module(*x))
new = jit(lambda make, *x: make()(*x))  # a new module with its own first weights, in one program
embed = jit(lambda t, dim: time_embedding(t, dim))


# ---- the convolutions ------------------------------------------------------------------------


@given(st.sampled_from([(1, 4), (2, 2), (5, 3)]), st.integers(0, 99))
def test_a_convolution_sums_every_neighbourhood_of_any_image(sides, seed):
    """Images smaller than the kernel, too: they get a margin, which is cut off again."""
    h, w = sides
    conv = random_weights(lambda: Conv3x3(2, 3, key=KEY))
    x = noise(2, h, w, seed=seed)
    around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    patches = [[around[:, i : i + 3, j : j + 3] for j in range(w)] for i in range(h)]
    want = np.einsum("oabc,hwcab->ohw", np.asarray(conv.weight), np.array(patches))
    want = want + np.asarray(conv.bias)[:, None, None]
    np.testing.assert_allclose(call(conv, x), want, atol=1e-5)


def test_a_1x1_convolution_is_the_same_matrix_at_every_pixel():
    conv, x = random_weights(lambda: Conv1x1(3, 8, key=KEY)), noise(3, 4, 5)
    got, matrix = np.asarray(call(conv, x)), np.asarray(conv.linear.weight)
    for pixel in [(0, 0), (3, 1)]:
        want = matrix @ np.asarray(x)[:, *pixel] + np.asarray(conv.linear.bias)
        np.testing.assert_allclose(got[:, *pixel], want, rtol=1e-4, atol=1e-5)


# ---- the noise level -------------------------------------------------------------------------


@given(st.floats(0, 1, width=32), st.sampled_from([2, 16, 64]))
def test_sinusoids_have_squared_norm_half_their_width(t, dim):
    waves = np.asarray(embed(jnp.float32(t), dim))
    np.testing.assert_allclose((waves**2).sum(), dim / 2, rtol=1e-5)


def test_sinusoids_of_width_64_are_those_of_the_formula():
    frequency = 10 ** np.linspace(3, -1, 32)
    want = np.concatenate([np.sin(0.3 * frequency), np.cos(0.3 * frequency)])
    np.testing.assert_allclose(embed(jnp.float32(0.3), 64), want, atol=1e-3)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_sinusoids_tell_levels_apart(i, j):
    a, b = (embed(jnp.float32(k / 1000), 64) for k in (i, j))
    assert i == j or np.linalg.norm(np.asarray(a) - np.asarray(b)) > 0.3


def test_sinusoids_refuse_an_odd_width():
    with pytest.raises(ValueError, match="expected an even width .*, got 7"):
        time_embedding(jnp.float32(0.5), 7)


# ---- FiLM and norm ---------------------------------------------------------------------------


def test_film_is_nothing_at_first_and_then_scale_and_shift():
    make, x, condition = lambda: FiLM(4, 3, key=KEY), noise(3, 2, 2), noise(4, seed=1)
    np.testing.assert_array_equal(new(make, x, condition), x)
    film = random_weights(make)
    linear = np.asarray(film.linear.weight) @ np.asarray(condition) + np.asarray(film.linear.bias)
    scale, shift = np.split(linear, 2)
    want = np.asarray(x) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(call(film, x, condition), want, rtol=1e-5, atol=1e-6)


def test_norm_has_groups_of_at_least_8_channels():
    want = {1: 1, 3: 1, 8: 1, 12: 1, 16: 2, 24: 2, 32: 4, 48: 4, 64: 8, 96: 8, 200: 8, 256: 8}
    groups = {c: eqx.filter_eval_shape(group_norm, c).groups for c in want}
    assert groups == want


def test_norm_is_over_channels_and_pixels_not_along_the_width():
    ramp = np.float32(np.broadcast_to(np.arange(6), (16, 4, 6)) * np.arange(1, 17)[:, None, None])
    y = np.asarray(new(lambda: group_norm(16), ramp)).reshape(2, -1)
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(1), 1, atol=1e-3)


# ---- blocks ----------------------------------------------------------------------------------


def test_a_new_block_is_the_identity_for_any_noise_level():
    x = noise(8, 4, 4)
    make = lambda: ResnetBlock(8, 4, key=KEY)  # noqa: E731
    np.testing.assert_array_equal(new(make, x, noise(4)), x)


def test_block_jitted_batched_and_told_the_noise_level():
    block = random_weights(lambda: ResnetBlock(8, 4, key=KEY))
    x, condition = noise(3, 8, 4, 4), noise(3, 4, seed=1)
    one = jit(block)
    mapped = np.stack([one(a, c) for a, c in zip(x, condition, strict=True)])
    batched = jit(eqx.filter_vmap(block))(x, condition)
    np.testing.assert_allclose(batched, mapped, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(block(x[0], condition[0]), mapped[0], rtol=1e-4, atol=1e-4)
    assert np.abs(one(x[0], condition[1]) - mapped[0]).max() > 0.1


def test_down_halves_and_up_doubles():
    x = jax.ShapeDtypeStruct((4, 6, 8), jnp.float32)
    size = lambda make: eqx.filter_eval_shape(lambda x: make()(x), x).shape  # noqa: E731
    assert size(lambda: Downsample(4, 10, key=KEY)) == (10, 3, 4)
    for shuffle in (False, True):
        assert size(lambda: Upsample(4, 10, shuffle=shuffle, key=KEY)) == (10, 12, 16)  # noqa: B023


def test_up_by_shuffling_undoes_down():
    def plain(make):
        """The layer whose matrix is one and whose bias is zero."""
        fill = lambda a: np.eye(12, dtype="f") if a.ndim == 2 else np.zeros(12, "f")  # noqa: E731
        leaf = lambda a: jnp.asarray(fill(a)) if eqx.is_array(a) else a  # noqa: E731
        return jax.tree.map(leaf, random_weights(make))

    down = plain(lambda: Downsample(3, 12, key=KEY))
    up = plain(lambda: Upsample(12, 3, shuffle=True, key=KEY))
    x = noise(3, 4, 4)
    small = np.asarray(call(down, x))
    np.testing.assert_array_equal(call(up, small), x)
    np.testing.assert_array_equal(small[:4, 0, 0], np.ravel(np.asarray(x)[0, :2, :2]))


def test_up_by_repeating_keeps_a_flat_image_flat():
    up = random_weights(lambda: Upsample(2, 2, shuffle=False, key=KEY))
    y = np.asarray(call(up, np.ones((2, 4, 4), np.float32)))
    y = y[:, 1:-1, 1:-1]  # the border sees the padding
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1, :1], y.shape), atol=1e-5)


# ---- convolution along time ------------------------------------------------------------------


def test_new_convolution_along_time_is_the_identity():
    x = noise(4, 2, 2, 2)
    np.testing.assert_array_equal(new(lambda: TemporalConv(2, key=KEY), x), x)


def test_convolution_along_time_sees_just_the_neighbours():
    layer, x = random_weights(lambda: TemporalConv(2, key=KEY)), noise(5, 2, 2, 2)
    jacobian = jit(jax.jacobian(lambda x: layer(x).sum(axis=(1, 2, 3))))(x)
    seen = np.abs(jacobian).max(axis=(2, 3, 4)) > 0
    near = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) <= 1
    np.testing.assert_array_equal(seen, near)


@pytest.mark.parametrize("third, offset", [(0, -1), (1, 0), (2, 1)])
def test_convolution_along_time_is_ordered(third, offset):
    """Each third of the matrix reads its own frame: the one before, the same, the one after."""
    matrix = np.zeros((2, 6), np.float32)
    matrix[:, 2 * third : 2 * third + 2] = np.eye(2)

    @jit
    def ordered(matrix, x):
        layer = TemporalConv(2, key=KEY)
        return eqx.tree_at(lambda m: m.conv.linear.weight, layer, matrix)(x)

    x = noise(5, 2, 2, 2)
    y = np.asarray(x).reshape(5, -1)
    y = (y - y.mean(1, keepdims=True)) / y.std(1, keepdims=True)
    added = np.pad((y / (1 + np.exp(-y))).reshape(x.shape), ((1, 1), (0, 0), (0, 0), (0, 0)))
    got = ordered(jnp.asarray(matrix), x) - np.asarray(x)
    np.testing.assert_allclose(got, added[1 + offset : 6 + offset], atol=1e-4)
