"""guidance.py: 0 is one prompt, 1 the other, beyond extrapolates; thresholds keep the range.

Lesson 11. The model under test is ideal for data N(mu, 1), with mu told by the prompt.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise

from tinygif.diffusion import target, to_eps
from tinygif.errors import TinygifError
from tinygif.guidance import Denoiser, Thresholded, guide
from tinygif.sampler import sample
from tinygif.schedule import Schedule, cosine, linear, rectified, zero_terminal_snr
from tinygif.text import Condition, Text

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

    def __call__(self, x_t, level, condition):
        for count in self.calls:
            count()
        t = jnp.round(level * self.schedule.T).astype(jnp.int32)
        mu = condition.text.pooled[0]
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        x0 = mu + alpha / (alpha**2 + sigma**2) * (x_t - alpha * mu)
        return target(self.schedule, x0, t, to_eps(self.schedule, x0, x_t, t), self.predict)


def prompts(*mu):
    """One prompt for each number."""
    pooled = np.array(mu, np.float32)[:, None]
    text = Text(pooled[:, None], pooled, np.ones((len(mu), 1), bool))
    return Condition(jax.tree.map(jnp.asarray, text))


def clips(seed, b=2):
    return noise(b, 2, 1, 3, 3, seed=seed, scale=2)


def denoiser(schedule, condition, predict="x0", calls=()):
    return Denoiser(Gaussian(schedule, predict, calls), schedule, condition, predict)


call = jit(lambda denoise, x_t, t: denoise(x_t, t))


def run(denoise, x_t, t):
    return np.asarray(call(denoise, x_t, jnp.asarray(t)))


def guided(name, x_t, t, scale):
    """Away from N(0, 1) and N(2, 1), to N(1, 1) and N(-1, 1)."""
    return run(guide(denoiser(MADE[name], prompts(1, -1)), prompts(0, 2), scale), x_t, t)


# ---- a model becomes a denoiser --------------------------------------------------------------


@given(names, steps, seeds, st.sampled_from(["x0", "v"]))
def test_a_denoiser_returns_x0_whatever_its_model_predicts(name, t, seed, predict):
    schedule, x_t = MADE[name], clips(seed)
    alpha, sigma = (np.float64(curve)[t] for curve in (schedule.alpha, schedule.sigma))
    mu = np.array([1, -1]).reshape(2, 1, 1, 1, 1)
    expected = mu + alpha / (alpha**2 + sigma**2) * (np.float64(x_t) - alpha * mu)
    got = run(denoiser(schedule, prompts(1, -1), predict), x_t, t)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_each_example_has_its_own_prompt():
    got = run(denoiser(MADE["rectified"], prompts(1, -1)), np.zeros((2, 2, 1, 3, 3), "f"), T)
    np.testing.assert_allclose(got[:, 0, 0, 0, 0], [1, -1], atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "rectified"])
def test_eps_is_refused_where_no_signal_is_left(name):
    with pytest.raises(TinygifError, match="eps-prediction cannot start from pure noise"):
        denoiser(MADE[name], prompts(1), "eps")


class Echo(eqx.Module):
    def __call__(self, x_t, t, condition):
        return x_t


def test_any_module_can_be_the_model():
    x_t, schedule = clips(0), MADE["rectified"]
    from_x0, from_v = (
        run(Denoiser(Echo(), schedule, prompts(1, 2), predict), x_t, 20) for predict in ("x0", "v")
    )
    np.testing.assert_array_equal(from_x0, x_t)
    np.testing.assert_allclose(from_v, 0.6 * np.asarray(x_t), rtol=1e-5)  # x_t - sigma v


# ---- guidance --------------------------------------------------------------------------------


@given(names, steps, seeds)
def test_scale_0_is_the_null_prompt_and_1_the_prompt(name, t, seed):
    x_t = clips(seed)
    away = run(denoiser(MADE[name], prompts(0, 2)), x_t, t)
    to = run(denoiser(MADE[name], prompts(1, -1)), x_t, t)
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
        run(guide(denoiser(schedule, prompts(1, -1), kind), prompts(0, 2), 3.0), x_t, t)
        for kind in ("x0", "v")
    ]
    np.testing.assert_allclose(*by, atol=3e-3)


@pytest.mark.parametrize("name", sorted(MADE))
def test_from_a_gaussian_at_0_to_one_at_1_scale_3_samples_mean_3(name):
    start = noise(16, 2, 1, 16, 16)
    wrapped = guide(denoiser(MADE[name], prompts(*[1] * 16)), prompts(*[0] * 16), 3.0)
    x = np.asarray(sample(wrapped, MADE[name], start, key=jax.random.key(1), steps=T))
    # the start should have the mean alpha[T] * 3, but has 0
    missing = 3 * float(MADE[name].alpha[-1])
    assert float(x.mean()) == pytest.approx(3, abs=0.03 + missing)
    # T steps of DDIM lose 2 to 4 hundredths of the spread
    assert float(x.std() / np.std(start)) == pytest.approx(1, abs=0.04)


def test_both_prompts_are_one_batched_call():
    calls, x_t = [], clips(0)
    model = Gaussian(MADE["linear"], "x0", (lambda: calls.append(1),))
    plain = Denoiser(model, MADE["linear"], prompts(1, -1), "x0")
    wrapped = guide(plain, prompts(0, 2), 3.0)
    assert len(wrapped.both.condition.text.pooled) == 4
    assert eqx.filter_eval_shape(wrapped, x_t, 7).shape == x_t.shape
    assert len(calls) == 1


def test_one_compilation_serves_every_prompt_and_scale():
    calls = []
    model = Gaussian(MADE["linear"], "x0", (lambda: calls.append(1),))
    for mu, scale in [(1, 3.0), (-2, 0.0), (0.5, 1.0)]:
        plain = Denoiser(model, MADE["linear"], prompts(mu, mu), "x0")
        run(Thresholded(guide(plain, prompts(0, 2), scale), 1.0), clips(0), 7)
    assert len(calls) == 1


# ---- thresholds ------------------------------------------------------------------------------


class Answer(eqx.Module):
    """A denoiser that always returns the same guess."""

    x0: jax.Array

    def __call__(self, x_t, t):
        return self.x0


limits = st.sampled_from([1.0, 4.0])  # of pixels, of a code


def thresholded(x0, limit, percentile=None):
    percentile = None if percentile is None else jnp.float32(percentile)
    return run(Thresholded(Answer(x0), limit, percentile), x0, 3)


@given(seeds, limits)
def test_without_a_percentile_values_are_clipped(seed, limit):
    x0 = clips(seed) * 2
    np.testing.assert_array_equal(thresholded(x0, limit), np.clip(x0, -limit, limit))


@given(seeds, limits, st.sampled_from([0.5, 0.9, 0.995]))
def test_with_a_percentile_each_example_is_scaled_by_its_own(seed, limit, p):
    """Imagen: s is the p-quantile of |x0| of the example, at least the limit; clip to s, scale."""
    x0 = np.asarray(clips(seed)) * np.float32([0.1, 9]).reshape(2, 1, 1, 1, 1)
    got = thresholded(jnp.asarray(x0), limit, p)
    for one, expected in zip(got, np.float64(x0), strict=True):
        s = max(limit, np.quantile(np.abs(expected), p))
        np.testing.assert_allclose(one, np.clip(expected, -s, s) / s * limit, atol=1e-5)
    assert np.abs(got).max() <= limit * (1 + 1e-6)


@given(seeds, limits, st.sampled_from([None, 0.9]))
def test_what_is_in_range_is_left_alone(seed, limit, p):
    x0 = jnp.asarray(limit * np.tanh(clips(seed)))
    np.testing.assert_allclose(thresholded(x0, limit, p), x0, atol=1e-6)
