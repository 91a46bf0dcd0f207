"""Check of exercise 16."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.normalize`."""
    rng = np.random.default_rng(0)
    for lengths, z, h, w in (((4, 4), 3, 2, 5), ((1, 9, 2), 4, 4, 4), ((5,), 1, 3, 2)):
        case = f"clips of {', '.join(map(str, lengths))} frames, codes of shape (f, {z}, {h}, {w})"
        scale, shift = rng.uniform(0.2, 3, (z, 1, 1)), rng.normal(size=(z, 1, 1))
        codes = [scale * rng.normal(i, 1 + i, (f, z, h, w)) + shift for i, f in enumerate(lengths)]
        before = [code.copy() for code in codes]
        got, mean, std = exercise.normalize(codes)
        assert all(np.array_equal(a, b) for a, b in zip(codes, before, strict=True)), (
            f"{case}: expected the codes that came in to stay as they were, got them changed"
        )
        places = [np.concatenate([code[:, c].ravel() for code in codes]) for c in range(z)]
        for name, value, expected in (
            ("mean", mean, [x.mean() for x in places]),
            ("deviation", std, [x.std() for x in places]),
        ):
            assert np.shape(value) == (z,), (
                f"{case}: expected a {name} of shape ({z},), one for each channel, "
                f"got {np.shape(value)}"
            )
            assert np.allclose(value, expected), (
                f"{case}: expected the {name} {np.round(expected, 3)} over all frames of all "
                f"clips, got {np.round(value, 3)}: each frame counts once, whatever its clip"
            )
        shapes = [np.shape(code) for code in got]
        assert shapes == [code.shape for code in codes], (
            f"{case}: expected codes of the shapes that came in, got {shapes}"
        )
        for code, old in zip(got, codes, strict=True):
            for c in range(z):
                assert np.allclose(code[:, c], (old[:, c] - mean[c]) / std[c]), (
                    f"{case}: expected (code - mean) / deviation in channel {c}, got other numbers"
                )
