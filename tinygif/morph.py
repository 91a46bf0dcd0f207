"""Between two prompts and two noises: the clips that lie on the way from one clip to another.

A clip is a function of its noise and of what its prompt became. Both are vectors, and so have
something in between. Lesson 13.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from tinygif.errors import check_range
from tinygif.pipeline import Pipeline
from tinygif.text import Text


def slerp(a: Float[Array, "*x"], b: Float[Array, "*x"], share: float) -> Float[Array, "*x"]:
    """From noise a (share 0) to noise b (share 1) along an arc (Shoemake 1985, section 3.3).

    Two noises are nearly at right angles. On the straight line between them the deviation falls
    from 1 to 0.71, where clips are more like each other; on the arc it stays.
    """
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    near = jnp.sin(angle) < 1e-4  # there the arc is a straight line, and the formula 0 / 0
    whole = jnp.where(near, 1.0, jnp.sin(angle))
    from_a = jnp.where(near, 1 - share, jnp.sin((1 - share) * angle) / whole)
    from_b = jnp.where(near, share, jnp.sin(share * angle) / whole)
    return from_a * a + from_b * b


def stretch(text: Text, words: int) -> Text:
    """The text with its states spread evenly over another number of words, padding after them.

    The first word stays the first and the last the last; what is between is interpolated.
    """
    n, total = int(text.mask.sum()), len(text.mask)
    place = np.linspace(0, n - 1, words)
    low = np.minimum(place.astype(int), max(n - 2, 0))
    share = jnp.asarray(place - low, text.states.dtype)[:, None]
    states = (1 - share) * text.states[low] + share * text.states[np.minimum(low + 1, n - 1)]
    states = jnp.zeros_like(text.states).at[:words].set(states)
    return Text(states, text.pooled, jnp.arange(total) < words)


def blend(a: Text, b: Text, share: float) -> Text:
    """From text a (share 0) to text b (share 1), word by word; the shorter is stretched first."""
    if share in (0, 1):
        return b if share else a
    words = max(int(a.mask.sum()), int(b.mask.sum()))
    a, b = stretch(a, words), stretch(b, words)
    mix = lambda x, y: (1 - share) * x + share * y  # noqa: E731
    return Text(mix(a.states, b.states), mix(a.pooled, b.pooled), a.mask)


def morph(
    pipeline: Pipeline, first: str, second: str, *, count: int = 12, grid: bool = False,
    seed: int = 0, **options: Any,
) -> UInt8[np.ndarray, "b f h w c"]:  # fmt: skip
    """The clips from one prompt and noise to another, in `count` stages.

    With `grid` there are count x count of them: the prompt changes along a row, the noise down a
    column. Other options as in `Pipeline.denoising`; the solver is dpmpp unless another is named,
    because ddpm adds noise of its own to every clip. Raises TinygifError for bad options.
    """
    check_range("count", count, 2)
    texts = pipeline.encode_prompts([first, second])
    a, b = (jax.tree.map(lambda x: x[i], texts) for i in range(2))  # noqa: B023
    sizes = {name: options[name] for name in ("frames", "size") if name in options}
    start, end = pipeline.draw_noise(2, seed, pipeline.with_options(**sizes))
    shares = np.linspace(0, 1, count).tolist()
    pairs = [(s, r) for r in shares for s in shares] if grid else [(s, s) for s in shares]
    text = jax.tree.map(lambda *x: jnp.stack(x), *(blend(a, b, share) for share, _ in pairs))
    noise = jnp.stack([slerp(start, end, share) for _, share in pairs])
    options["solver"] = options.get("solver") or "dpmpp"
    return pipeline(text, noise=noise, seed=seed, **options).array


def there_and_back(clips: UInt8[np.ndarray, "b f h w c"]) -> UInt8[np.ndarray, "f2 h w c"]:
    """One clip that plays through all of them and back: its frame i is frame i of stage i.

    A clip begins again when its frames are over; 2 b - 2 frames, which close a loop.
    """
    b, f = clips.shape[:2]
    stages = [*range(b), *range(b - 2, 0, -1)]
    return np.stack([clips[stage, i % f] for i, stage in enumerate(stages)])
