"""exact.py: the ideal denoiser is Bayes' mean of the data, at every noise level.

Lesson 03.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise

from tinygif.exact import ExactDenoiser
from tinygif.schedule import SCHEDULES, zero_terminal_snr

T = 100
MADE = {kind: make(T) for kind, make in SCHEDULES.items()}
MADE["zero linear"] = zero_terminal_snr(MADE["linear"])
SHAPE = (3, 1, 4, 4)  # f c h w

names = st.sampled_from(sorted(MADE))
steps = st.integers(1, T)
seeds = st.integers(0, 2**31 - 1)
run = jit(lambda denoiser, x_t, t: denoiser(x_t, t))


def denoise(schedule, data, x_t, t):
    return np.asarray(run(ExactDenoiser(schedule, jnp.asarray(data)), x_t, jnp.asarray(t)))


def clips(n, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def numbers(schedule, t):
    return np.asarray(schedule.alpha)[t], np.asarray(schedule.sigma)[t]


def noised(schedule, x0, t, seed):
    alpha, sigma = numbers(schedule, t)
    return alpha * x0 + sigma * np.asarray(noise(*x0.shape, seed=seed))


@given(names, steps, st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_two_numbers_give_a_tanh(name, t, x):
    """Data {-1, +1}: the mean of the posterior is tanh(alpha x / sigma^2)."""
    schedule, x = MADE[name], np.array(x, np.float32)[:, None]
    got = denoise(schedule, np.float32([[-1], [1]]), x, t)
    alpha, sigma = np.float64(numbers(schedule, t))
    np.testing.assert_allclose(got, np.tanh(alpha * np.float64(x) / sigma**2), atol=1e-4)


@given(names, steps, seeds)
def test_it_is_bayes_mean(name, t, seed):
    """Against the densities themselves, written out in float64."""
    schedule, data = MADE[name], clips(5, seed)
    x_t = noised(schedule, data[:2], t, seed)
    alpha, sigma = np.float64(numbers(schedule, t))
    d, x = np.float64(data).reshape(5, -1), np.float64(x_t).reshape(2, -1)
    log_p = -((x[:, None] - alpha * d[None]) ** 2).sum(-1) / (2 * sigma**2)
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    mean = (p / p.sum(axis=1, keepdims=True)) @ d
    got = denoise(schedule, data, x_t, t)
    assert got.shape == x_t.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, mean.reshape(x_t.shape), atol=1e-3)


@given(names, seeds)
def test_with_little_noise_it_returns_the_nearest_clip(name, seed):
    """It only memorises: the distance to the nearest clip is 0."""
    schedule, data = MADE[name], clips(5, seed)
    chosen = np.random.default_rng(seed).permutation(data)[:2]
    got = denoise(schedule, data, noised(schedule, chosen, 1, seed), 1)
    np.testing.assert_allclose(got, chosen, atol=1e-6)


@pytest.mark.parametrize(
    "name, tolerance",
    [("zero linear", 1e-6), ("rectified", 1e-6), ("cosine", 0.1), ("linear", 0.1)],
)
def test_in_pure_noise_it_returns_the_mean(name, tolerance):
    schedule, data = MADE[name], clips(5)
    got = denoise(schedule, data, noise(2, *SHAPE, seed=1), T)
    np.testing.assert_allclose(got, np.broadcast_to(data.mean(axis=0), got.shape), atol=tolerance)


@given(names, steps, seeds)
def test_the_order_of_the_data_changes_nothing(name, t, seed):
    schedule, data = MADE[name], clips(5, seed)
    shuffled = np.random.default_rng(seed).permutation(data)
    x_t = noised(schedule, data[:2], t, seed)
    one, other = (denoise(schedule, d, x_t, t) for d in (data, shuffled))
    np.testing.assert_allclose(one, other, atol=1e-4)


@given(names, steps, seeds)
def test_examples_of_a_batch_do_not_mix(name, t, seed):
    schedule, data = MADE[name], clips(5, seed)
    x_t = noised(schedule, data[:2], t, seed)
    together = denoise(schedule, data, x_t, t)
    apart = np.concatenate([denoise(schedule, data, x[None], t) for x in x_t])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_a_clip_twice_counts_twice():
    """Repeating a clip raises its probability: the mean in pure noise moves to it."""
    got = denoise(MADE["rectified"], np.float32([[0], [1], [1]]), np.zeros((1, 1), np.float32), T)
    assert float(got[0, 0]) == pytest.approx(2 / 3, abs=1e-6)


def test_real_sizes_stay_finite():
    """16,384 pixels at sigma = 0.01: logits of 1e8, which only a stable softmax survives."""
    data, schedule = clips(4, shape=(16, 1, 32, 32)), SCHEDULES["linear"](1000)
    got = denoise(schedule, data, noised(schedule, data, 1, 0), 1)
    np.testing.assert_allclose(got, data, atol=1e-6)
