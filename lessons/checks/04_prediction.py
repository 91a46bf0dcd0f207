"""Check of exercise 04."""

import warnings

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.v_target` or `exercise.from_v`."""
    x0, eps = np.random.default_rng(0).standard_normal((2, 3, 4))
    for angle in (0, np.pi / 2, np.pi / 4, 0.3, 1.5):
        alpha, sigma = np.cos(angle), np.sin(angle)
        if angle == np.pi / 2:
            alpha = 0.0  # exactly, as zero terminal SNR ends
        case = f"alpha = {alpha:.3f}, sigma = {sigma:.3f}"
        x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = exercise.v_target(alpha, sigma, x0.copy(), eps.copy())
            back = exercise.from_v(alpha, sigma, v.copy(), x_t.copy())
        compare(f"{case}: v_target", got, v, "it is alpha eps - sigma x0")
        assert isinstance(back, tuple) and len(back) == 2, (
            f"{case}: expected from_v to return the pair (x0, eps), got {type(back).__name__}")
        compare(f"{case}: x0 from from_v", back[0], x0, "make eps vanish, as the hint says")
        compare(f"{case}: eps from from_v", back[1], eps, "make x0 vanish")


def compare(name: str, got: np.ndarray, expected: np.ndarray, advice: str) -> None:
    assert np.shape(got) == expected.shape, (
        f"{name}: expected shape {expected.shape}, got {np.shape(got)}")
    assert np.allclose(got, expected), (
        f"{name}: expected {expected.flat[0]:.4f} first, got {np.ravel(got)[0]:.4f}: {advice}")
