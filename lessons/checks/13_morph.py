"""Check of exercise 13."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.arc`."""
    rng = np.random.default_rng(0)
    for shape in ((2, 3), (4, 1, 8, 8)):
        a, b = rng.standard_normal((2, *shape))
        b *= np.linalg.norm(a) / np.linalg.norm(b)
        whole = np.arccos(np.sum(a * b) / np.sum(a * a))
        for share in (0.0, 0.25, 0.5, 1.0):
            case, given = f"shape {shape}, share {share:g}", (a.copy(), b.copy())
            got = np.asarray(exercise.arc(*given, share))
            unchanged = np.array_equal(given[0], a) and np.array_equal(given[1], b)
            assert unchanged, f"{case}: an argument was changed in place"
            assert got.shape == shape, f"{case}: expected shape {shape}, got {got.shape}"
            length, wanted = np.linalg.norm(got), np.linalg.norm(a)
            assert np.isclose(length, wanted), (
                f"{case}: expected the length of a and b, {wanted:.3f}, got {length:.3f}: on the "
                "straight line it would be shorter")
            turned = np.arccos(np.clip(np.sum(a * got) / wanted**2, -1, 1))
            assert np.isclose(turned, share * whole, atol=1e-6), (
                f"{case}: expected an angle of {share * whole:.3f} to a, got {turned:.3f}")
            if share == 1:
                assert np.allclose(got, b), f"{case}: expected b itself"
        same = exercise.arc(a, a, 0.3)
        assert np.allclose(same, a), "from a to a every noise is a: mind 0 / 0 where the angle is 0"
