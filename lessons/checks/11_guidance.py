"""Check of exercise 11."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.guided_guess`."""
    rng, sizes = np.random.default_rng(0), []

    def model(x_t, prompts):
        sizes.append(len(x_t))
        assert len(x_t) == len(prompts), (
            f"expected one prompt for each clip, got {len(prompts)} for {len(x_t)}")
        return 0.5 * x_t + np.tanh(prompts).sum(1).reshape(-1, 1, 1, 1, 1)

    for b in (1, 3):
        x_t = rng.standard_normal((b, 2, 1, 3, 4))
        to, away = rng.standard_normal((2, b, 5))
        null, prompted = model(x_t, away), model(x_t, to)
        for w, meaning in ((0.0, "w = 0 is `away` alone"), (1.0, "w = 1 is `to` alone"),
                           (3.0, "away + w (to - away); mind which half is which"),
                           (-1.0, "w = -1 goes the other way")):
            sizes.clear()
            given = x_t.copy(), to.copy(), away.copy()
            got = exercise.guided_guess(model, *given, w)
            case = f"{b} clips, w = {w:g}"
            unchanged = all(map(np.array_equal, given, (x_t, to, away)))
            assert unchanged, f"{case}: an argument was changed in place"
            assert sizes == [2 * b], (
                f"{case}: expected one call of the model with {2 * b} clips, got {len(sizes)} "
                f"calls with {sizes}")
            assert np.shape(got) == x_t.shape, (
                f"{case}: expected shape {x_t.shape}, got {np.shape(got)}")
            expected = null + w * (prompted - null)
            assert np.allclose(got, expected), (
                f"{case}: expected {expected.flat[0]:.4f} first, got {np.ravel(got)[0]:.4f}: "
                f"{meaning}")
