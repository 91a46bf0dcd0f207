"""Check of exercise 19."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.thin`."""
    rng = np.random.default_rng(0)
    for n_out, n_in in ((6, 4), (3, 9)):
        change = rng.standard_normal((n_out, n_in))
        values = np.linalg.svd(change, compute_uv=False)
        for rank in range(1, min(n_out, n_in) + 1):
            case = f"change {n_out} x {n_in}, rank {rank}"
            given = change.copy()
            up, down = map(np.asarray, exercise.thin(given, rank))
            assert np.array_equal(given, change), f"{case}: the argument was changed in place"
            assert up.shape == (n_out, rank) and down.shape == (rank, n_in), (
                f"{case}: expected up {(n_out, rank)} and down {(rank, n_in)}, got {up.shape} and "
                f"{down.shape}")
            left = np.sum((up @ down - change) ** 2)
            best = np.sum(values[rank:] ** 2)
            worst = np.sum(values[: len(values) - rank] ** 2)
            assert not np.isclose(left, worst) or np.isclose(worst, best), (
                f"{case}: the smallest singular values were kept, expected the largest")
            assert np.isclose(left, best), (
                f"{case}: expected a squared difference of {best:.3f}, got {left:.3f}")
