"""Check of exercise 15."""

import numpy as np

SHAPES = {"stem": (4, 3), "head": (2,)}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.update` or `exercise.read`."""
    rng = np.random.default_rng(0)
    for decay in (0.5, 0.9, 0.999):
        mean = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        past = []
        for steps in range(1, 8):
            past.append({name: rng.standard_normal(shape) for name, shape in SHAPES.items()})
            before = {name: value.copy() for name, value in mean.items()}
            new = exercise.update(mean, past[-1], decay)
            case = f"decay {decay}, after {steps} steps"
            assert all(np.array_equal(before[name], mean[name]) for name in SHAPES), (
                f"{case}: the mean was changed in place")
            assert set(new) == set(SHAPES), f"{case}: expected {set(SHAPES)}, got {set(new)}"
            mean, raw = new, {name: value.copy() for name, value in new.items()}
            got = exercise.read(mean, steps, decay)
            assert all(np.array_equal(raw[name], mean[name]) for name in SHAPES), (
                f"{case}: read changed the mean in place")
            powers = decay ** np.arange(steps - 1, -1, -1.0)
            for name in SHAPES:
                plain = (1 - decay) * np.tensordot(powers, [w[name] for w in past], 1)
                assert np.allclose(mean[name], plain), (
                    f"{case}: update of {name}: expected {plain.ravel()[0]:.5f} as first number, "
                    f"got {np.ravel(mean[name])[0]:.5f}")
                expected = plain / powers.sum() / (1 - decay)
                assert np.allclose(got[name], expected), (
                    f"{case}: read of {name}: expected {expected.ravel()[0]:.5f} as first number, "
                    f"{'the weights themselves, ' if steps == 1 else ''}"
                    f"got {np.ravel(got[name])[0]:.5f}")
