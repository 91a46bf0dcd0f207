"""schedule.py: from the data to noise, strictly, for every kind and every T.

Lesson 02. Curves are compared in NumPy: JAX would compile a program for each T.
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinygif.errors import TinygifError
from tinygif.schedule import (
    SCHEDULES,
    Schedule,
    cosine,
    linear,
    rectified,
    scaled_linear,
    shift,
    zero_terminal_snr,
)

kinds = st.sampled_from(sorted(SCHEDULES))
preserving = st.sampled_from(["cosine", "linear", "scaled_linear"])
lengths = st.integers(2, 2000)
factors = st.floats(0.1, 10)


def curves(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(schedule.alpha, np.float64), np.asarray(schedule.sigma, np.float64)


def log_snr(schedule: Schedule) -> np.ndarray:
    alpha, sigma = curves(schedule)
    with np.errstate(divide="ignore"):
        return 2 * (np.log(alpha) - np.log(sigma))


def assert_is_a_schedule(schedule: Schedule, T: int) -> None:
    alpha, sigma = curves(schedule)
    assert schedule.T == T and alpha.shape == sigma.shape == (T + 1,)
    assert schedule.alpha.dtype == schedule.sigma.dtype == np.float32
    assert (alpha[0], sigma[0]) == (1, 0)
    curve = alpha + sigma if schedule.flow else alpha**2 + sigma**2
    np.testing.assert_allclose(curve, 1, atol=1e-6)
    assert (np.diff(log_snr(schedule)) < 0).all()


# ---- what holds for every kind and every T ---------------------------------------------------


@given(kinds, lengths)
@example("linear", 2)  # beta is capped at 0.999
def test_index_0_is_the_data_and_log_snr_falls_strictly(kind, T):
    schedule = SCHEDULES[kind](T)
    assert schedule.flow == (kind == "rectified")
    assert_is_a_schedule(schedule, T)


@given(preserving, lengths)
def test_zero_terminal_ends_in_noise_and_keeps_indices_0_and_1(kind, T):
    plain = SCHEDULES[kind](T)
    zero = zero_terminal_snr(plain)
    assert_is_a_schedule(zero, T)
    (a, sigma), (alpha, zero_sigma) = curves(plain), curves(zero)
    assert (alpha[-1], zero_sigma[-1]) == (0, 1)
    np.testing.assert_array_equal(alpha[:2], a[:2])
    np.testing.assert_allclose(zero_sigma[1], sigma[1], rtol=5e-3)  # 1 - alpha^2 in float32
    np.testing.assert_allclose(alpha[1:], a[1] * (a[1:] - a[-1]) / (a[1] - a[-1]), atol=1e-6)
    np.testing.assert_allclose(zero_terminal_snr(zero).alpha, alpha, atol=1e-6)


@given(lengths)
def test_rectified_flow_is_a_straight_line_that_ends_in_noise(T):
    flow = rectified(T)
    alpha, sigma = curves(flow)
    np.testing.assert_allclose(sigma, np.arange(T + 1) / T, atol=1e-6)
    assert (alpha[-1], sigma[-1]) == (0, 1)
    assert zero_terminal_snr(flow) is flow


@given(kinds, lengths, factors, st.booleans())
def test_shift_moves_log_snr_by_minus_two_log_factor(kind, T, factor, zero):
    plain = SCHEDULES[kind](T)
    plain = zero_terminal_snr(plain) if zero else plain
    shifted = shift(plain, factor)
    assert shifted.flow == plain.flow
    assert_is_a_schedule(shifted, T)
    has_signal = np.asarray(plain.alpha) > 0
    inside = slice(1, has_signal.sum())
    moved = log_snr(shifted)[inside] - log_snr(plain)[inside]
    np.testing.assert_allclose(moved, -2 * np.log(factor), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(shifted.alpha) > 0, has_signal)


@given(kinds, lengths, factors)
def test_shift_by_the_inverse_undoes_a_shift(kind, T, factor):
    plain = SCHEDULES[kind](T)
    back = shift(shift(plain, 1 / factor), factor)
    np.testing.assert_allclose(back.alpha, plain.alpha, atol=1e-6)
    np.testing.assert_allclose(back.sigma, plain.sigma, atol=1e-6)


# ---- T is free -------------------------------------------------------------------------------


@given(st.integers(5, 2000))
def test_linear_ends_in_noise_at_any_T(T):
    assert curves(linear(T))[0][-1] < 0.007


def test_linear_at_300_is_not_the_thousand_cut_short():
    """A known defect: the betas of T = 1000 over 300 steps leave 0.22 of the clip."""
    cut = np.sqrt(np.prod(1 - np.linspace(1e-4, 0.02, 300)))
    assert cut == pytest.approx(0.22, abs=0.005)
    assert curves(linear(300))[0][-1] == pytest.approx(curves(linear())[0][-1], rel=0.1)


@given(st.integers(50, 2000))
def test_scaled_linear_ends_alike_at_any_T(T):
    assert 0.04 < curves(scaled_linear(T))[0][-1] < 0.07


# ---- the papers' numbers ---------------------------------------------------------------------

NUMBERS = [(linear, 260, 4.0e-5), (scaled_linear, 355, 4.7e-3), (cosine, 497, 2.4e-9)]


@pytest.mark.parametrize("make, middle, last", NUMBERS)
def test_where_snr_is_1_and_what_is_left_at_the_end(make, middle, last):
    """SNR reaches 1 at `middle`: there is more signal than noise before it, not from it on."""
    schedule = make()
    assert schedule.T == 1000
    assert int(np.argmax(log_snr(schedule) <= 0)) == middle
    assert curves(schedule)[0][-1] ** 2 == pytest.approx(last, rel=0.02)


@pytest.mark.parametrize("make, first, last", [(linear, 1e-4, 0.02), (scaled_linear, 85e-5, 0.012)])
def test_betas_are_the_papers(make, first, last):
    alpha, _ = curves(make())
    beta = 1 - (alpha[1:] / alpha[:-1]) ** 2
    middle = (first + last) / 2 if make is linear else ((first**0.5 + last**0.5) / 2) ** 2
    np.testing.assert_allclose(beta[[0, -1]], [first, last], rtol=2e-3)
    np.testing.assert_allclose(beta[499:501].mean(), middle, rtol=2e-3)


def test_cosine_is_a_squared_cosine_until_its_betas_are_capped():
    t = np.arange(1001) / 1000
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha, _ = curves(cosine())
    np.testing.assert_allclose(alpha[:999] ** 2, (f / f[0])[:999], atol=1e-6)
    assert 1 - (alpha[-1] / alpha[-2]) ** 2 == pytest.approx(0.999, abs=1e-5)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_the_properties_follow_from_the_arrays(kind):
    schedule = SCHEDULES[kind](64)
    np.testing.assert_allclose(schedule.log_snr[:-1], log_snr(schedule)[:-1], rtol=1e-4, atol=1e-5)
    snr = np.asarray(schedule.snr)
    np.testing.assert_allclose(snr[1:-1], np.exp(log_snr(schedule)[1:-1]), rtol=1e-4)
    assert snr[0] == np.inf and schedule.log_snr[0] == np.inf


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
@pytest.mark.parametrize("T", [1, 0, -3])
def test_too_few_steps_are_refused(kind, T):
    with pytest.raises(TinygifError, match=f"T >= 2 .* got T={T}"):
        SCHEDULES[kind](T)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_shift_that_is_not_positive_is_refused(factor):
    with pytest.raises(TinygifError, match="positive factor"):
        shift(linear(10), factor)
