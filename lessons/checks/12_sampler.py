"""Check of exercise 12."""

import warnings

import numpy as np

T = 1000
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
ALPHA, SIGMA = (np.append(end, np.sqrt(x)) for end, x in ((1, ALPHA_BAR), (0, 1 - ALPHA_BAR)))
NOISE = np.linspace(-2, 2, 9)

# times, what goes wrong otherwise
CASES = {
    "one step": ([T, 0], "the only step has no guess before it: plain DDIM"),
    "two steps": ([T, 500, 0], "the last step goes to lam = infinity: plain DDIM there"),
    "three even steps": ([T, 700, 400, 0], "the second of them uses the guess of the first"),
    "three uneven steps": ([T, 900, 200, 0], "the factor is 0.5 * h / h_before, in lam, not in t"),
    "five steps": ([T, 800, 650, 300, 120, 0],
                   "`before` is the denoiser's own last guess, not the extrapolated one"),
}  # fmt: skip


def by_hand(denoiser, times: list[int]) -> np.ndarray:
    """The formula as Lu et al. write it: r, D, and one linear step."""
    lam = np.log(ALPHA[1:] / SIGMA[1:])
    x, guesses = NOISE, []
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        guesses.append(denoiser(x, t))
        D = guesses[-1]
        if i > 0 and s > 0:
            r = (lam[t - 1] - lam[times[i - 1] - 1]) / (lam[s - 1] - lam[t - 1])
            D = (1 + 1 / (2 * r)) * guesses[-1] - 1 / (2 * r) * guesses[-2]
        ratio = SIGMA[s] / SIGMA[t]
        x = ratio * x + (ALPHA[s] - ratio * ALPHA[t]) * D
    return x


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.sample_2m`."""
    calls = []

    def denoiser(x, t):
        calls.append(t)
        return 0.7 * np.tanh(ALPHA[t] * x) + 0.3 * ALPHA[t]

    for name, (times, advice) in CASES.items():
        calls.clear()
        given = NOISE.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = exercise.sample_2m(denoiser, ALPHA, SIGMA, given, times)
        assert np.array_equal(given, NOISE), f"{name}: the noise was changed in place"
        assert calls == times[:-1], (
            f"{name}, times {times}: expected one call of the denoiser at each of {times[:-1]}, "
            f"got calls at {calls}")
        assert np.shape(got) == NOISE.shape, (
            f"{name}: expected shape {NOISE.shape}, got {np.shape(got)}")
        expected = by_hand(denoiser, times)
        assert np.allclose(got, expected, atol=1e-6), (
            f"{name}, times {times}: expected x = {expected[0]:.4f} from noise -2, got "
            f"{got[0]:.4f}: {advice}")
