"""Several things in one sentence: each part is drawn by itself, and masks put them together.

"a 3 moving up and a 5 going left" is split at "and". The model is called once for each part, with
the same noisy clip, and says besides its guess how much of every pixel belongs to its part. A
softmax over the parts makes shares of that, and the guesses are added by their shares: the mixture
of a slot decoder (Locatello et al. 2020, section 2.2). Nothing but the whole clip is compared with
the data, so nobody has to say which pixels belong to which part. Lesson 20.
"""

import re
from collections.abc import Iterable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from tinygif.text import Condition, Prompt, Text


def split_parts(prompt: str | None) -> list[str | None]:
    """The parts of a prompt: what stands between its "and"s, and commas, if there is an "and"."""
    if prompt is None or not re.search(r"\band\b", prompt, re.IGNORECASE):
        return [prompt]
    parts = re.split(r"\band\b|,", prompt, flags=re.IGNORECASE)
    return [part.strip() for part in parts if part.strip()] or [prompt]


class PartReader:
    """Reads prompts part by part, with a tokenizer or a tower, into arrays (b, k, ...).

    Prompts with fewer than k parts are filled up with parts of zeros, which say nothing.
    """

    def __init__(self, reader, parts: int):
        self.reader, self.parts = reader, parts

    def batch(self, prompts: Sequence[str | None], parts: int | None = None) -> PyTree:
        """Input for `EachPart`; k is `parts`, as in training, or more if a prompt has more."""
        lists = [split_parts(prompt) for prompt in prompts]
        k = max(self.parts if parts is None else parts, *map(len, lists))
        places = [i * k + j for i, found in enumerate(lists) for j in range(len(found))]

        def spread(rows: np.ndarray) -> np.ndarray:
            out = np.zeros((len(lists) * k, *rows.shape[1:]), rows.dtype)
            out[places] = rows
            return out.reshape(len(lists), k, *rows.shape[1:])

        read = self.reader.batch([part for found in lists for part in found])
        return jax.tree.map(spread, read)

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of all parts of a prompt, one part after the other."""
        return [token for part in split_parts(prompt) for token in self.reader.tokens(part)]

    def learn(self, captions: Iterable[str]) -> None:
        """Let a tower read all parts of captions now."""
        self.reader.learn(dict.fromkeys(part for text in captions for part in split_parts(text)))


class EachPart(eqx.Module):
    """A text encoder that reads every part of a prompt by itself."""

    each: eqx.Module

    def __call__(self, prompt: Prompt) -> Text:
        """`Text` with a leading axis of parts; one without words is masked out, but for the first.
        """
        text = jax.vmap(self.each)(prompt)
        words = prompt.mask if isinstance(prompt, Text) else prompt != 0
        given = words.any(axis=-1).at[0].set(True)
        return Text(text.states, text.pooled, text.mask & given[:, None])


class Composed(eqx.Module):
    """A model for several parts, `model(x_t, t, condition)`, made of a model for one.

    `each` gives one channel more than a clip has: how much of a pixel belongs to its part, as a
    logit. The mixture is right for eps, x0 and v alike: for one x_t each is a linear function of
    x0, and the shares sum to one.
    """

    each: eqx.Module

    def __call__(
        self, x_t: Float[Array, "f c h w"], t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "f c h w"]:
        predictions, shares = self.layers(x_t, t, condition)
        return jnp.sum(predictions * shares.astype(predictions.dtype), axis=0)

    def words_seen(
        self, x_t: Float[Array, "f c h w"], t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "k f n h w"]:
        """What each part sees of its words."""
        known, circle = condition.known, condition.circle
        one = lambda text: self.each.words_seen(x_t, t, Condition(text, known, circle))  # noqa: E731
        return jax.vmap(one)(condition.text)

    def layers(
        self, x_t: Float[Array, "f c h w"], t: Float[Array, ""], condition: Condition
    ) -> tuple[Float[Array, "k f c h w"], Float[Array, "k f 1 h w"]]:
        """What each part predicts, and its share of every pixel."""
        known, circle = condition.known, condition.circle
        one = lambda text: self.each(x_t, t, Condition(text, known, circle))  # noqa: E731
        out = jax.vmap(one)(condition.text)
        logits = out[:, :, -1:].astype(jnp.float32)
        given = condition.text.mask.any(axis=-1).reshape(-1, 1, 1, 1, 1)
        return out[:, :, :-1], jax.nn.softmax(jnp.where(given, logits, -1e30), axis=0)


def part_count(text: Text) -> int:
    """The parts of a batch of texts, filled ones included; 1 for a model without parts."""
    return text.mask.shape[1] if text.mask.ndim == 3 else 1
