"""Check of exercise 06."""

import jax.numpy as jnp
import numpy as np

from tinygif.attention import softmax_attention


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.causal_bias`."""
    for n in (1, 2, 5):
        bias = jnp.asarray(exercise.causal_bias(n), jnp.float32)
        assert bias.shape == (n, n), f"n = {n}: expected a bias of shape {(n, n)}, got {bias.shape}"
        rng = np.random.default_rng(n)
        q, k = (jnp.asarray(9 * rng.normal(size=(n, 1, n)), jnp.float32) for _ in range(2))
        # with the unit vectors as values, the answers are the weights
        answers = softmax_attention(q, k, jnp.eye(n)[:, None], bias[None])
        weights = np.asarray(answers)[:, 0]
        assert np.isfinite(weights).all(), (
            f"n = {n}: expected weights without NaN, got {weights.tolist()}: "
            "every row needs at least one finite bias"
        )
        for i in range(n):
            assert not weights[i, i + 1 :].any(), (
                f"n = {n}: expected token {i} to give tokens {list(range(i + 1, n))} the weight 0, "
                f"got {weights[i, i + 1 :].tolist()}"
            )
            scores = np.asarray(k)[: i + 1, 0] @ np.asarray(q)[i, 0] / n**0.5
            past = np.exp(scores - scores.max())
            expected = past / past.sum()
            assert np.allclose(weights[i, : i + 1], expected, atol=1e-4), (
                f"n = {n}: expected token {i} to weigh tokens {list(range(i + 1))} as if there "
                f"were no others, {expected.tolist()}, got {weights[i, : i + 1].tolist()}"
            )
