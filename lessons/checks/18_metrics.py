"""Check of exercise 18."""

import numpy as np

from tinygif.moving_mnist import bundled_digits

COLUMN = lambda *values: np.array(values, float)[:, None]  # noqa: E731

# training, unseen, generated, memorised, what goes wrong otherwise
BY_HAND = {
    "gaps 0.5, 0.8, 5 and 10 where the unseen have 1 and 3": (
        COLUMN(0, 10), COLUMN(1, 13), COLUMN(0.5, 9.2, 5, 20), [True, True, False, False],
        "take the nearest training clip, on either side of it"),
    "a gap between those of the unseen": (
        COLUMN(0, 10), COLUMN(1, 13), COLUMN(11.5), [False],
        "compare with the smallest gap of the unseen, not with their mean or median"),
    "a gap equal to the smallest": (
        COLUMN(0, 10), COLUMN(1, 13), COLUMN(11), [False], "equal is not smaller"),
    "the same new clip three times": (
        COLUMN(0, 10), COLUMN(1, 13), COLUMN(5, 5, 5), [False, False, False],
        "compare with training clips, not with generated ones"),
    "two numbers per clip, each off by 0.8, so 1.13 apart": (
        np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.array([[0.8, 0.8], [0.6, 0.6]]),
        [False, True], "the distance is Euclidean, over all numbers of a clip"),
}  # fmt: skip


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.memorised`."""
    for name, (training, unseen, generated, expected, advice) in BY_HAND.items():
        compare(exercise, name, generated, training, unseen, expected, advice)
    training, unseen = (bundled_digits(test)[0].reshape(-1, 64) / 255 for test in (False, True))
    blurred = training[:5] + np.random.default_rng(0).normal(0, 0.02, (5, 64))
    generated, expected = np.concatenate([blurred, unseen[:5]]), [True] * 5 + [False] * 5
    for scale in (1, 0.001):
        name = f"five noisy copies and five new digits, pixels up to {scale}"
        compare(exercise, name, scale * generated, scale * training, scale * unseen[5:], expected,
                "let the unseen clips set the limit, no fixed number")  # fmt: skip


def compare(exercise, name, generated, training, unseen, expected, advice) -> None:
    got = np.asarray(exercise.memorised(generated.copy(), training.copy(), unseen.copy()))
    assert got.shape == (len(generated),) and got.dtype == bool, (
        f"{name}: expected {len(generated)} booleans, got {got.dtype} of shape {got.shape}")
    assert got.tolist() == expected, f"{name}: expected {expected}, got {got.tolist()}: {advice}"
