"""Check of exercise 20."""

import numpy as np


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.compose`."""
    rng = np.random.default_rng(0)
    guesses, logits = rng.standard_normal((3, 2, 1, 4, 4)), rng.standard_normal((3, 2, 1, 4, 4))

    def run(what: str, guesses=guesses, logits=logits, given=(True, True, True)) -> np.ndarray:
        arguments = guesses.copy(), logits.copy(), np.array(given)
        got = np.asarray(exercise.compose(*arguments))
        assert got.shape == guesses.shape[1:], (
            f"{what}: expected one clip of shape {guesses.shape[1:]}, got {got.shape}")
        assert np.isfinite(got).all(), (
            f"{what}: expected numbers, got {got.ravel()[0]}: subtract the largest logit")
        return got

    same = np.broadcast_to(guesses[:1], guesses.shape)
    got = run("three equal guesses", guesses=same)
    assert np.allclose(got, guesses[0]), (
        "three equal guesses: expected that guess, so the shares of a pixel must sum to 1")
    got = run("equal logits", logits=0 * logits)
    assert np.allclose(got, guesses.mean(0)), "equal logits: expected the mean of the guesses"
    wanted = logits.copy()
    wanted[1] += 1000
    got = run("a part that wants every pixel by 1000 more", logits=wanted)
    assert np.allclose(got, guesses[1]), (
        "a part that wants every pixel by 1000 more: expected its guess alone")
    alone = run("two parts of which one is given", guesses[:2], logits[:2], (True, False))
    assert np.allclose(alone, guesses[0]), (
        "two parts of which one is given: expected the guess of the given one, whatever the other "
        "says")
    shares = np.exp(logits) / np.exp(logits).sum(0)
    assert np.allclose(run("three parts"), (shares * guesses).sum(0)), (
        "three parts: expected the guesses, added by the softmax of the logits over the parts")
