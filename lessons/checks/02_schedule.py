"""Check of exercise 02."""

import numpy as np

from tinygif.schedule import cosine, linear, scaled_linear, zero_terminal_snr


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.zero_terminal_snr`."""
    for make in (scaled_linear, linear, cosine):
        for T in (10, 1000):
            before = np.asarray(make(T).alpha, np.float64)
            alpha, sigma = exercise.zero_terminal_snr(before.copy())
            case = f"{make.__name__}({T})"
            for name, got in (("alpha", alpha), ("sigma", sigma)):
                assert np.shape(got) == (T + 1,), (
                    f"{case}: expected {name} of shape {(T + 1,)}, got {np.shape(got)}")
            ends = alpha[0], sigma[0], alpha[-1], sigma[-1]
            assert np.allclose(ends[:2], (1, 0)), (
                f"{case}: expected the data (1, 0) at index 0, got {ends[:2]}")
            assert np.allclose(ends[2:], (0, 1), atol=1e-12), (
                f"{case}: expected pure noise (0, 1) at index T, got {ends[2:]}")
            assert np.isclose(alpha[1], before[1]), (
                f"{case}: expected alpha[1] to stay {before[1]:.6f}, got {alpha[1]:.6f}: "
                "scale after the shift")
            assert np.allclose(alpha**2 + sigma**2, 1), (
                f"{case}: expected alpha^2 + sigma^2 = 1 at every step")
            expected = np.asarray(zero_terminal_snr(make(T)).alpha)
            worst = int(np.argmax(np.abs(alpha - expected)))
            assert np.allclose(alpha, expected, atol=1e-5), (
                f"{case}: expected alpha[{worst}] = {expected[worst]:.5f}, got {alpha[worst]:.5f}: "
                "shift and scale alpha itself, in a line, neither alpha-bar nor the SNR")
