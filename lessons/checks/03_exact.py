"""Check of exercise 03."""

import warnings

import numpy as np

CASES = {
    "two equal logits": ([[0.0, 0.0]], [[0.5, 0.5]]),
    "weights 1 to 3": ([[0.0, np.log(3)]], [[0.25, 0.75]]),
    "rows of their own": ([[0.0, 0.0], [0.0, np.log(3)]], [[0.5, 0.5], [0.25, 0.75]]),
    "large logits (exp overflows)": ([[1e5, 1e5 + np.log(3)]], [[0.25, 0.75]]),
    "small logits (all exp are 0)": ([[-1e5, -1e5 + np.log(3)]], [[0.25, 0.75]]),
    "far apart": ([[-1e5, 1e5]], [[0.0, 1.0]]),
    "far apart from row to row": ([[1e5, 1e5], [-1e5, -1e5]], [[0.5, 0.5], [0.5, 0.5]]),
    "an impossible clip, -inf": ([[-np.inf, 3.0]], [[0.0, 1.0]]),
    "one axis only": ([2.0, 2.0, 2.0, 2.0], [0.25, 0.25, 0.25, 0.25]),
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.softmax`."""
    for name, (logits, expected) in CASES.items():
        given = np.array(logits)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = exercise.softmax(given)
        assert np.array_equal(given, logits), f"{name}: the logits were changed in place"
        assert np.shape(got) == given.shape, (
            f"{name}: expected shape {given.shape}, got {np.shape(got)}")
        assert np.allclose(got, expected), (
            f"{name}: expected {expected}, got {np.asarray(got).tolist()}")
