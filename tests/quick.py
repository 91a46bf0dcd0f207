"""Arrays, weights and compilation for tests of many small programs, where compiling costs most."""

from collections.abc import Callable
from functools import cache

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


@cache
def options() -> dict[str, object]:
    """XLA's settings for compiling fast, where this version knows them."""
    fast = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=fast)(0.0)
    except Exception:
        return {}
    return fast


def jit(function: Callable) -> Callable:
    """`eqx.filter_jit`, compiled fast rather than well."""
    return eqx.filter_jit(function, compiler_options=options())
