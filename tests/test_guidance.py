"""guidance.py: 0 is one prompt, 1 the other, beyond extrapolates; thresholds keep the range.

Lesson 11. The model under test is ideal for data N(mu, 1), with mu told by the prompt.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.diffusion import target, to_eps
from tinygif.guidance import Denoiser, Thresholded, guide
from tinygif.sampler import sample
from tinygif.schedule import Schedule, cosine, linear, rectified, zero_terminal_snr
from tinygif.text import Text

T = 50
MADE = {"linear": linear(T), "cosine": zero_terminal_snr(cosine(T)), "rectified": rectified(T)}
names = st.sampled_from(sorted(MADE))
steps = st.integers(1, T)
scales = st.floats(-2, 8, width=32)
seeds = st.integers(0, 2**31 - 1)


class Gaussian(eqx.Module):
    """E[x0 | x_t] for N(mu, 1), in any prediction; `calls` grows with every call, jitted or not."""

    schedule: Schedule
    predict: str = eqx.field(static=True, default="x0")
    calls: tuple = eqx.field(static=True, default=())  # of one function

    def __call__(self, x_t, level, text):
        for count in self.calls:
            count()
        t = jnp.round(level * self.schedule.T).astype(jnp.int32)
        mu = text.pooled[0]
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        x0 = mu + alpha / (alpha**2 + sigma**2) * (x_t - alpha * mu)
        return target(self.schedule, x0, t, to_eps(self.schedule, x0, x_t, t), self.predict)


def prompt(*mu):
    """One prompt for each number."""
    pooled = jnp.array(mu, jnp.float32)[:, None]
    return Text(pooled[:, None], pooled, jnp.ones((len(mu), 1), bool))


def clips(seed, b=2):
    return 2 * jax.random.normal(jax.random.key(seed), (b, 2, 1, 3, 3))


def denoiser(schedule, text, predict="x0", calls=()):
    return Denoiser(Gaussian(schedule, predict, calls), schedule, text, predict)


run = eqx.filter_jit(lambda denoise, x_t, t: denoise(x_t, t))


def guided(name, x_t, t, scale):
    """Away from N(0, 1) and N(2, 1), to N(1, 1) and N(-1, 1)."""
    wrapped = guide(denoiser(MADE[name], prompt(1, -1)), prompt(0, 2), scale)
    return run(wrapped, x_t, jnp.asarray(t))


# ---- a model becomes a denoiser --------------------------------------------------------------


@given(names, steps, seeds, st.sampled_from(["x0", "v"]))
def test_a_denoiser_returns_x0_whatever_its_model_predicts(name, t, seed, predict):
    schedule, x_t = MADE[name], clips(seed)
    alpha, sigma = float(schedule.alpha[t]), float(schedule.sigma[t])
    mu = np.array([1, -1]).reshape(2, 1, 1, 1, 1)
    expected = mu + alpha / (alpha**2 + sigma**2) * (np.float64(x_t) - alpha * mu)
    got = run(denoiser(schedule, prompt(1, -1), predict), x_t, jnp.asarray(t))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_each_example_has_its_own_prompt():
    x_t = jnp.zeros((2, 2, 1, 3, 3))
    got = denoiser(MADE["rectified"], prompt(1, -1))(x_t, T)
    np.testing.assert_allclose(got[:, 0, 0, 0, 0], [1, -1], atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "rectified"])
def test_eps_is_refused_where_no_signal_is_left(name):
    with pytest.raises(ValueError, match="eps-prediction cannot start from pure noise"):
        denoiser(MADE[name], prompt(1), "eps")


# ---- guidance --------------------------------------------------------------------------------


@given(names, steps, seeds)
def test_scale_0_is_the_null_prompt_and_1_the_prompt(name, t, seed):
    x_t = clips(seed)
    away = run(denoiser(MADE[name], prompt(0, 2)), x_t, jnp.asarray(t))
    to = run(denoiser(MADE[name], prompt(1, -1)), x_t, jnp.asarray(t))
    np.testing.assert_allclose(guided(name, x_t, t, 0.0), away, atol=1e-5)
    np.testing.assert_allclose(guided(name, x_t, t, 1.0), to, atol=1e-5)


@given(names, steps, seeds, scales)
def test_the_guess_is_linear_in_the_scale(name, t, seed, scale):
    x_t = clips(seed)
    zero, one, got = (guided(name, x_t, t, w) for w in (0.0, 1.0, scale))
    np.testing.assert_allclose(got, zero + np.float32(scale) * (one - zero), atol=1e-4)


@given(names, steps, seeds)
def test_guiding_x0_is_guiding_v(name, t, seed):
    """The weights sum to one, so the formula may be used on x0 whatever the model predicts."""
    x_t, schedule = clips(seed), MADE[name]
    by = [
        run(guide(denoiser(schedule, prompt(1, -1), kind), prompt(0, 2), 3.0), x_t, jnp.asarray(t))
        for kind in ("x0", "v")
    ]
    np.testing.assert_allclose(*by, atol=3e-3)


@pytest.mark.parametrize("name", sorted(MADE))
def test_from_a_gaussian_at_0_to_one_at_1_scale_3_samples_mean_3(name):
    noise = jax.random.normal(jax.random.key(0), (16, 2, 1, 16, 16))
    wrapped = guide(denoiser(MADE[name], prompt(*[1] * 16)), prompt(*[0] * 16), 3.0)
    x = sample(wrapped, MADE[name], noise, key=jax.random.key(1), steps=T)
    # what mean is left in the noise at index T, sampling does not know: alpha[T] * 3
    missing = 3 * float(MADE[name].alpha[-1])
    assert float(x.mean()) == pytest.approx(3, abs=0.03 + missing)
    assert float(x.std()) == pytest.approx(1, abs=0.03)


def test_both_prompts_are_one_batched_call():
    calls, x_t = [], clips(0)
    model = Gaussian(MADE["linear"], "x0", (lambda: calls.append(1),))
    plain = Denoiser(model, MADE["linear"], prompt(1, -1), "x0")
    wrapped = guide(plain, prompt(0, 2), 3.0)
    assert len(wrapped.both.text.pooled) == 4
    assert wrapped(x_t, 7).shape == x_t.shape
    assert len(calls) == 1


def test_one_compilation_serves_every_prompt_and_scale():
    calls = []
    model = Gaussian(MADE["linear"], "x0", (lambda: calls.append(1),))
    for mu, scale in [(1, 3.0), (-2, 0.0), (0.5, 1.0)]:
        plain = Denoiser(model, MADE["linear"], prompt(mu, mu), "x0")
        run(Thresholded(guide(plain, prompt(0, 2), scale)), clips(0), jnp.asarray(7))
    assert len(calls) == 1


# ---- thresholds ------------------------------------------------------------------------------


class Says(eqx.Module):
    """A denoiser that returns what it was told."""

    x0: jax.Array

    def __call__(self, x_t, t):
        return self.x0


@given(seeds)
def test_without_a_percentile_values_are_clipped(seed):
    x0 = clips(seed)
    np.testing.assert_array_equal(Thresholded(Says(x0))(x0, 3), np.clip(x0, -1, 1))


@given(seeds, st.sampled_from([0.5, 0.9, 0.995]))
def test_with_a_percentile_each_example_is_scaled_by_its_own(seed, p):
    """Imagen: s is the p-quantile of |x0| of the example, at least 1; clip to s, divide by s."""
    x0 = clips(seed) * jnp.array([0.1, 3.0]).reshape(2, 1, 1, 1, 1)
    got = Thresholded(Says(x0), jnp.asarray(p))(x0, 3)
    for one, expected in zip(got, np.float64(x0), strict=True):
        s = max(1, np.quantile(np.abs(expected), p))
        np.testing.assert_allclose(one, np.clip(expected, -s, s) / s, atol=1e-5)
    assert float(jnp.abs(got).max()) <= 1


@given(seeds, st.sampled_from([None, 0.9]))
def test_what_is_in_range_is_left_alone(seed, p):
    x0 = jnp.tanh(clips(seed))
    got = Thresholded(Says(x0), None if p is None else jnp.asarray(p))(x0, 3)
    np.testing.assert_allclose(got, x0, atol=1e-6)
