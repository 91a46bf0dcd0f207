"""Check of exercise 01."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.q_sample`."""
    rng = np.random.default_rng(1)
    alpha = np.cos(np.linspace(0, np.pi / 2, 11))
    sigma = np.sin(np.linspace(0, np.pi / 2, 11))
    for shape in [(3, 2, 1, 4, 5), (4, 4, 4, 4, 4)]:  # equal axes broadcast wrongly in silence
        x0, eps = rng.standard_normal((2, *shape))
        for t in (np.zeros(shape[0], int), np.full(shape[0], 10), np.arange(shape[0]) * 3 % 11):
            rows = zip(t, x0, eps, strict=True)
            expected = np.stack([alpha[k] * x + sigma[k] * e for k, x, e in rows])
            before = x0.copy(), eps.copy()
            got = exercise.q_sample(alpha, sigma, x0, t, eps)
            case = f"x0 of shape {shape} and t = {t.tolist()}"
            assert np.array_equal(before, (x0, eps)), f"{case}: x0 or eps was changed in place"
            assert np.shape(got) == shape, f"{case}: expected shape {shape}, got {np.shape(got)}"
            for i, (g, e) in enumerate(zip(got, expected, strict=True)):
                assert np.allclose(g, e), (
                    f"{case}: expected clip {i} to be alpha[{t[i]}] x0 + sigma[{t[i]}] eps with "
                    f"standard deviation {e.std():.3f}, got {np.std(g):.3f}")
