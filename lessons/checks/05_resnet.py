"""Check of exercise 05."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.film`."""
    rng = np.random.default_rng(0)
    for c, h, w in ((3, 4, 5), (4, 4, 4), (1, 2, 3)):
        case = f"x of shape {(c, h, w)}"
        x, condition = rng.normal(size=(c, h, w)), rng.normal(size=6)
        weight, bias = np.zeros((2 * c, 6)), np.zeros(2 * c)

        def run(weight, bias, x=x, condition=condition, case=case):
            got = np.asarray(exercise.film(x.copy(), condition, weight, bias))
            assert got.shape == x.shape, f"{case}: expected that shape, got {got.shape}"
            return got

        assert not np.array_equal(run(weight, bias), 0 * x), (
            f"{case}: expected x unchanged where weight and bias are zero, got zeros: a scale of 0 "
            "has to mean a factor of 1"
        )
        assert np.array_equal(run(weight, bias), x), (
            f"{case}: expected x unchanged where weight and bias are zero, got other numbers"
        )
        for i in range(2 * c):
            one = bias.copy()
            one[i] = 1
            expected = x.copy()
            expected[i % c] = 2 * x[i] if i < c else x[i - c] + 1
            what = f"channel {i} doubled" if i < c else f"channel {i - c} plus 1"
            assert np.allclose(run(weight, one), expected), (
                f"{case}: expected {what} and the rest unchanged where bias[{i}] = 1 and all else "
                "is zero: first the scales, then the shifts, each for a channel"
            )
        weight, bias = rng.normal(size=(2 * c, 6)), rng.normal(size=2 * c)
        numbers = weight @ condition + bias
        expected = [x[i] * (1 + numbers[i]) + numbers[c + i] for i in range(c)]
        assert np.allclose(run(weight, bias), expected), (
            f"{case}: expected scale and shift to be weight @ condition + bias"
        )
