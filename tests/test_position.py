"""position.py: rotary keeps norms and tells only distances; buckets are T5's.

Lesson 07.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise, random_weights

from tinygif.position import RelativePositionBias, bucket, place_waves, rotary

KEY = jax.random.key(0)
seeds = st.integers(0, 2**31)
widths = st.sampled_from([2, 8, 32])
turn, to_bucket = jit(rotary), jit(bucket)


@given(seeds, widths)
def test_rotary_keeps_norms(seed, d):
    x = noise(12, 2, d, seed=seed)
    np.testing.assert_allclose(
        np.linalg.norm(turn(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )


@given(seeds, widths)
def test_rotary_scores_depend_on_distance_only(seed, d):
    """The same query and the same key at every position."""
    q, k = (np.asarray(noise(1, 1, d, seed=seed + i)) for i in range(2))
    turned_q, turned_k = (np.asarray(turn(np.broadcast_to(a, (12, 2, d))))[:, 0] for a in (q, k))
    scores = turned_q @ turned_k.T
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], atol=1e-4)
    assert np.ptp(scores) > 1e-3 * np.linalg.norm(q) * np.linalg.norm(k)


def test_rotary_turns_token_n_by_n_radians():
    x = np.tile(np.float32([1, 0]), (5, 1, 1))
    angle = np.arange(5)
    want = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]
    np.testing.assert_allclose(turn(x), want, atol=1e-6)


def test_rotary_turns_slower_along_the_features():
    x = np.asarray(turn(np.ones((2, 1, 8), np.float32)))
    angle = np.arctan2(x[1, 0, 4:], x[1, 0, :4]) - np.pi / 4
    np.testing.assert_allclose(angle, 10000.0 ** -np.array([0, 0.25, 0.5, 0.75]), atol=1e-6)


def test_rotary_keeps_the_type_and_refuses_odd_widths():
    assert turn(jnp.ones((3, 1, 4), jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="expected an even head width, got 3"):
        rotary(jnp.ones((2, 1, 3)))


@pytest.mark.parametrize(("h", "w"), [(16, 16), (8, 20), (1, 1)])
def test_waves_tell_every_place_apart_and_are_as_long_everywhere(h, w):
    waves = place_waves(h, w, 5)
    assert waves.shape == (20, h, w) and waves.dtype == np.float32
    np.testing.assert_allclose((waves**2).sum(0), 10, rtol=1e-5)
    places = waves.reshape(20, -1).T
    assert len(np.unique(places.round(4), axis=0)) == h * w


def test_waves_of_another_size_are_those_of_the_same_place():
    """Four pixels have the middle of the one that they divide between them."""
    small, large = (np.arctan2(*place_waves(n, n, 1)[:2]) for n in (4, 8))
    np.testing.assert_allclose(small, (large[::2, ::2] + large[1::2, 1::2]) / 2, atol=1e-6)


# ---- buckets ---------------------------------------------------------------------------------

sizes = st.sampled_from([(32, 128), (32, 64), (16, 50)])


def buckets(distance: np.ndarray, count: int, far: int) -> np.ndarray:
    return np.asarray(to_bucket(jnp.asarray(distance, jnp.int32), count, far))


@given(sizes)
def test_buckets_are_symmetric_monotone_and_capped(size):
    count, far = size
    distance = np.arange(1, 3 * far)
    ahead, behind = buckets(distance, count, far), buckets(-distance, count, far)
    np.testing.assert_array_equal(ahead - count // 2, behind)
    assert (np.diff(behind) >= 0).all() and (np.diff(behind) <= 1).all()
    np.testing.assert_array_equal(behind[: count // 4 - 1], distance[: count // 4 - 1])
    assert (behind[far - 1 :] == count // 2 - 1).all() and behind[far // 2] < count // 2 - 1
    assert buckets(np.zeros(1), count, far) == 0


def test_buckets_are_those_of_t5():
    # T5 with 32 buckets and 128: 8 exact ones, then edges at 8 * 16^(k/8)
    distance = np.array([0, 7, 8, 11, 12, 15, 17, 22, 23, 31, 33, 45, 46, 63, 65, 90, 91, 128, 999])
    want = np.array([0, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 15])
    np.testing.assert_array_equal(buckets(-distance, 32, 128), want)


def test_bias_depends_on_distance_only_and_learns():
    make = lambda: RelativePositionBias(3, buckets=8, max_distance=16, key=KEY)  # noqa: E731
    layer = random_weights(make)
    bias = np.asarray(jit(lambda layer: layer(10))(layer))
    assert bias.shape == (3, 10, 10)
    np.testing.assert_array_equal(bias[:, 1:, 1:], bias[:, :-1, :-1])
    assert (bias[:, 0, 1] != bias[:, 1, 0]).all()  # a sign is seen
    table = np.asarray(layer.table)
    np.testing.assert_array_equal(bias[:, 0, 1], table[buckets(np.ones(()), 8, 16)])
    grad = jit(jax.grad(lambda layer: jnp.sum(layer(20) ** 2)))(layer).table
    used = np.arange(8) != 4  # a distance of +0 does not exist
    assert (np.abs(grad).min(axis=1) > 0).tolist() == used.tolist()


@pytest.mark.parametrize("count, far", [(30, 64), (32, 8)])
def test_bias_refuses_buckets_that_cannot_be(count, far):
    with pytest.raises(ValueError, match=f"got {count} and {far}"):
        RelativePositionBias(1, buckets=count, max_distance=far, key=KEY)
