"""Check of exercise 17."""

import jax
import jax.numpy as jnp
import numpy as np

RATES = {
    "three floats": [0.3, 0.2, 0.1],
    "whole numbers among floats": [1, 0.5, 0, 2],
    "numpy's numbers": [np.float64(0.5), np.float32(0.25), 0.125],
    "one step": [0.5],
}


def check(exercise) -> None:
    """Raise an error that says what is wrong with `exercise.run`."""
    grads = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    for name, rates in RATES.items():
        traces, plain = [], []

        def update(weights, grad, rate, traces=traces, plain=plain):
            (traces if isinstance(weights, jax.core.Tracer) else plain).append(rate)
            return weights - rate * grad

        got = exercise.run(update, jnp.ones(3), grads[: len(rates)], rates)
        expected = 1 - sum(float(rate) * grad for rate, grad in zip(rates, grads))
        assert np.shape(got) == (3,) and np.allclose(got, expected, atol=1e-6), (
            f"{name}: expected weights {expected.tolist()}, got {np.asarray(got).tolist()}")
        assert not plain, f"{name}: expected update to be compiled, it ran {len(plain)} times as is"
        assert len(traces) == 1, (
            f"{name}: expected 1 trace for the rates {rates}, got {len(traces)}")
