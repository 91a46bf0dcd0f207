"""diffusion.py: one jump equals many, predictions convert into each other, losses as by hand.

Lessons 01 and 04.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox import filter_jit as jit
from hypothesis import given
from hypothesis import strategies as st
from quick import noise

from tinygif.diffusion import (
    check_prediction,
    coefficients,
    distance,
    loss,
    pick_step,
    q_sample,
    target,
    to_eps,
    to_x0,
    weight,
)
from tinygif.errors import TinygifError
from tinygif.schedule import SCHEDULES, cosine, linear, rectified, shift, zero_terminal_snr

T = 100
MADE = {kind: make(T) for kind, make in SCHEDULES.items()}
MADE |= {f"zero {kind}": zero_terminal_snr(s) for kind, s in MADE.items() if not s.flow}
MADE |= {f"shifted {kind}": shift(MADE[kind], 3.0) for kind in ("cosine", "rectified")}

names = st.sampled_from(sorted(MADE))
steps = st.integers(1, T)
predictions = st.sampled_from(["eps", "x0", "v"])
seeds = st.integers(0, 2**31 - 1)


def pair(seed=0, size=64):
    """A clip and its noise, both of unit variance."""
    return tuple(noise(2, size, seed=seed))


def numbers(schedule, t):
    """alpha, sigma at t in float64."""
    return float(np.asarray(schedule.alpha)[t]), float(np.asarray(schedule.sigma)[t])


# ---- which step to train at --------------------------------------------------------------------

laws = st.none() | st.tuples(st.floats(-2, 2), st.floats(0.1, 2))


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(1, 1000), laws)
def test_the_step_is_one_of_the_schedule(u, T, law):
    assert 1 <= int(pick_step(jnp.float32(u), T, law)) <= T


def test_every_step_is_met_as_often_as_the_law_says():
    u = np.float32((np.arange(100_000) + 0.5) / 100_000)
    even = np.asarray(jit(jax.vmap(lambda u: pick_step(u, 50)))(u))
    np.testing.assert_array_equal(np.bincount(even)[1:], 2000)
    t = np.asarray(jit(jax.vmap(lambda u: pick_step(u, 10_000, (0.5, 0.8))))(u))
    assert (np.diff(t) >= 0).all()
    share = (t - 0.5) / 10_000
    logit = np.log(share / (1 - share))
    np.testing.assert_allclose((logit.mean(), logit.std()), (0.5, 0.8), atol=2e-3)


# ---- the forward process ---------------------------------------------------------------------


@given(names, steps, steps)
def test_one_jump_equals_two(name, s, t):
    """q(t, s) after q(s, 0) is q(t, 0): the means multiply, the variances add up.

    One step beyond s scales by a = alpha[t] / alpha[s]. On the circle it must add 1 - a^2 (DDPM,
    eq. 2), on the line what is missing, which must not be negative.
    """
    s, t = sorted((s, t))
    schedule = MADE[name]
    one, zero = jnp.ones(1), jnp.zeros(1)
    mean = lambda u: float(q_sample(schedule, one, u, zero)[0])  # noqa: E731
    std = lambda u: float(q_sample(schedule, zero, u, one)[0])  # noqa: E731
    a = mean(t) / mean(s) if s < t else 1.0
    added = std(t) ** 2 - (a * std(s)) ** 2 if schedule.flow else 1 - a**2
    assert added >= -1e-6
    assert a * mean(s) == pytest.approx(mean(t), abs=1e-6)
    assert (a * std(s)) ** 2 + added == pytest.approx(std(t) ** 2, abs=1e-6)


@given(names, seeds)
def test_step_0_is_the_clip(name, seed):
    x0, eps = pair(seed)
    np.testing.assert_array_equal(q_sample(MADE[name], x0, 0, eps), x0)


@given(st.sampled_from(["cosine", "linear", "zero linear"]), steps)
def test_unit_variance_stays_1(name, t):
    x0, eps = pair(size=50_000)
    assert float(q_sample(MADE[name], x0, t, eps).std()) == pytest.approx(1, abs=0.015)


# ---- eps, x0, v ------------------------------------------------------------------------------


@jit
def convert(schedule, x0, t, eps, kind):
    x_t = q_sample(schedule, x0, t, eps)
    guess = to_x0(schedule, target(schedule, x0, t, eps, kind), x_t, t, kind)
    return guess, to_eps(schedule, guess, x_t, t)


@given(names, steps, predictions, seeds)
def test_conversions_round_trip(name, t, kind, seed):
    """Within float32: x0 from eps loses a factor sigma / alpha, eps from x0 alpha / sigma."""
    schedule, (x0, eps) = MADE[name], pair(seed)
    alpha, sigma = numbers(schedule, t)
    if kind == "eps" and alpha == 0:
        return  # refused: test_eps_is_refused_where_no_signal_is_left
    guess, noise = convert(schedule, x0, jnp.asarray(t), eps, kind)
    loss_of_digits = sigma / alpha if kind == "eps" else 1
    np.testing.assert_allclose(guess, x0, atol=3e-6 * (1 + loss_of_digits))
    np.testing.assert_allclose(noise, eps, atol=3e-6 * (1 + (1 + loss_of_digits) * alpha / sigma))


@given(names, steps, seeds)
def test_targets_are_the_papers(name, t, seed):
    schedule, (x0, eps) = MADE[name], pair(seed)
    alpha, sigma = numbers(schedule, t)
    v = eps - x0 if schedule.flow else alpha * eps - sigma * x0
    np.testing.assert_array_equal(target(schedule, x0, t, eps, "eps"), eps)
    np.testing.assert_array_equal(target(schedule, x0, t, eps, "x0"), x0)
    np.testing.assert_allclose(target(schedule, x0, t, eps, "v"), v, atol=1e-6)


def test_v_is_the_velocity_of_x_t():
    """On the line d x_t / d sigma; on the circle d x_t / d phi with sigma = sin(phi)."""
    x0, eps = pair()
    for schedule in (rectified(1000), cosine(1000)):
        left, right = (q_sample(schedule, x0, t, eps) for t in (499, 501))
        sigma = np.asarray(schedule.sigma, np.float64)
        place = sigma if schedule.flow else np.arcsin(sigma)
        slope = (right - left) / (place[501] - place[499]).astype(np.float32)
        np.testing.assert_allclose(slope, target(schedule, x0, 500, eps, "v"), atol=5e-3)


@pytest.mark.parametrize("name", ["rectified", "zero cosine", "zero linear", "zero scaled_linear"])
def test_eps_is_refused_where_no_signal_is_left(name):
    with pytest.raises(TinygifError, match=r"alpha\[T\] = 0.*Predict 'v' or 'x0'"):
        check_prediction(MADE[name], "eps")
    check_prediction(MADE[name], "v")
    check_prediction(MADE[name], "x0")


@pytest.mark.parametrize("name", ["cosine", "linear", "scaled_linear"])
def test_eps_is_fine_where_signal_is_left(name):
    check_prediction(MADE[name], "eps")


# ---- the loss --------------------------------------------------------------------------------


@given(st.sampled_from(sorted(name for name in MADE if MADE[name].alpha[-1] > 0)), steps)
def test_a_network_of_zeros_has_eps_loss_1(name, t):
    x0, eps = pair(size=100_000)
    value = loss(MADE[name], jnp.zeros_like(x0), x0, t, eps, predict="eps")
    assert float(value) == pytest.approx(1.00, abs=0.01)


@given(names, steps, predictions, st.sampled_from(["l1", "l2", "huber"]), seeds)
def test_a_perfect_prediction_costs_nothing(name, t, kind, norm, seed):
    schedule, (x0, eps) = MADE[name], pair(seed)
    perfect = target(schedule, x0, t, eps, kind)
    assert float(loss(schedule, perfect, x0, t, eps, predict=kind, kind=norm)) == 0


def test_l2_l1_and_huber_by_hand():
    error = jnp.array([0.0, 0.5, -1.0, 2.0, -3.0])
    assert float(distance(error, "l2")) == pytest.approx((0.25 + 1 + 4 + 9) / 5)
    assert float(distance(error, "l1")) == pytest.approx((0.5 + 1 + 2 + 3) / 5)
    assert float(distance(error, "huber")) == pytest.approx((0.25 + 1 + 3 + 5) / 5)


slope = jit(jax.grad(lambda error: distance(error[None], "huber")))


@given(st.floats(-20, 20, width=32))
def test_hubers_slope_is_l2s_inside_and_bounded_outside(error):
    assert float(slope(jnp.float32(error))) == pytest.approx(np.clip(2 * error, -2, 2), abs=1e-5)


def error_share(schedule, t, kind):
    """By hand: the squared error of `kind` is this many times that of x0."""
    alpha, sigma = numbers(schedule, t)
    return {"x0": 1.0, "eps": (alpha / sigma) ** 2, "v": 1 / sigma**2}[kind]


@given(names, st.integers(1, T - 1), predictions, st.floats(0.5, 20))
def test_min_snr_weighs_the_error_of_x0_by_min_snr_gamma(name, t, kind, gamma):
    """Hang et al. 2023, eq. 9: min(SNR, gamma) for x0, over SNR for eps, over SNR + 1 for v.

    SNR + 1 is 1 / sigma^2 on the circle; on the line 1 / sigma^2 is right and SNR + 1 is not.
    """
    schedule = MADE[name]
    alpha, sigma = numbers(schedule, t)
    share, snr = error_share(schedule, t, kind), (alpha / sigma) ** 2
    got = lambda weighting: float(weight(schedule, t, kind, weighting, gamma))  # noqa: E731
    assert got("min_snr") == pytest.approx(min(snr, gamma) / share, rel=1e-3)
    assert got("capped") == pytest.approx(min(share, gamma) / share, rel=1e-3)
    assert got("uniform") == 1


@pytest.mark.parametrize("name", ["rectified", "zero linear"])
@pytest.mark.parametrize("kind, expected", [("eps", 1.0), ("x0", 0.0), ("v", 0.0)])
def test_min_snr_is_finite_where_no_signal_is_left(name, kind, expected):
    assert float(weight(MADE[name], T, kind, "min_snr", 5.0)) == pytest.approx(expected, abs=1e-6)


@given(names, st.integers(1, T - 1), predictions, predictions, seeds)
def test_a_loss_measured_on_another_kind_is_the_hand_formula(name, t, predict, measure, seed):
    """The error of x0 times the share of the kind it is measured on, whatever was predicted."""
    schedule, (x0, eps) = MADE[name], pair(seed)
    _, error = pair(seed + 1)
    prediction = target(schedule, x0, t, eps, predict) + error
    got = loss(schedule, prediction, x0, t, eps, predict=predict, measure=measure)
    ratio = error_share(schedule, t, measure) / error_share(schedule, t, predict)
    assert float(got) == pytest.approx(ratio * float(jnp.mean(error**2)), rel=5e-3)


def test_x0_measured_on_v_is_the_error_over_sigma_squared():
    schedule, (x0, eps) = MADE["cosine"], pair()
    guess = x0 + 0.5
    got = loss(schedule, guess, x0, 40, eps, predict="x0", measure="v")
    assert float(got) == pytest.approx(0.25 / float(schedule.sigma[40]) ** 2, rel=1e-4)
    plain = loss(schedule, guess, x0, 40, eps, predict="x0")
    assert float(plain) == pytest.approx(0.25, rel=1e-5)


@given(names, steps, st.floats(0.5, 20), seeds)
def test_the_weighted_loss_does_not_depend_on_where_it_is_measured(name, t, gamma, seed):
    """min-SNR means one thing, min(SNR, gamma) |x0 error|^2, for x0, eps and v."""
    schedule, (x0, eps) = MADE[name], pair(seed)
    guess = x0 + pair(seed + 1)[0]
    alpha, sigma = numbers(schedule, t)
    expected = min((alpha / sigma) ** 2, gamma) * float(jnp.mean((guess - x0) ** 2))
    for measure in ("x0", "v", "eps"):
        options = dict(predict="x0", measure=measure, weighting="min_snr", gamma=gamma)
        got = float(loss(schedule, guess, x0, t, eps, **options))
        assert got == pytest.approx(expected, rel=5e-3, abs=1e-8)


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "capped"])
@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("t", [1, T])
def test_gradients_are_finite_at_both_ends(weighting, kind, t):
    schedule, (x0, eps) = MADE["zero cosine"], pair()
    options = dict(predict=kind, measure="v", weighting=weighting)
    slope = jax.grad(lambda p: loss(schedule, p, x0, t, eps, **options))(jnp.zeros_like(x0))
    assert bool(jnp.isfinite(slope).all())


def test_nothing_promotes_the_dtype():
    schedule, (x0, eps) = linear(T), pair()
    x_t = q_sample(schedule, x0, jnp.asarray(3), eps)
    assert x_t.dtype == to_eps(schedule, x0, x_t, 3).dtype == jnp.float32
    assert all(number.dtype == jnp.float32 for number in coefficients(schedule, 3, "v"))
