"""Arrays and weights for tests of many small programs, where compiling costs most."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> jax.Array:
    """Standard normal numbers by NumPy: JAX compiles a program for every shape it draws."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_weights(make: Callable[[], PyTree], seed: int = 0, scale: float = 0.3) -> PyTree:
    """What `make` returns, with every weight random: nothing is at the zero it starts from."""
    rng, is_shape = np.random.default_rng(seed), lambda a: isinstance(a, jax.ShapeDtypeStruct)
    draw = lambda a: jnp.asarray(scale * rng.normal(size=a.shape), a.dtype)  # noqa: E731
    return jax.tree.map(lambda a: draw(a) if is_shape(a) else a, eqx.filter_eval_shape(make))
