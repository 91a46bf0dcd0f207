"""Words become vectors: a word tokenizer and a tiny transformer that is trained along.

A prompt reaches the U-Net as `Text`: one state per word for cross-attention, and their mean for
FiLM. The null prompt, which guidance needs, is the one-word sentence `<null>`: its vector is
learned because training swaps it in for a share of the captions. Where a pretrained tower reads
the prompts instead (`embeddings.py`), what is trained stands on top of it. Lesson 10.
"""

import difflib
import re
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from tinygif.attention import Attention, zeroed

PAD, NULL = "<pad>", "<null>"


class PromptError(ValueError):
    """A prompt that the model cannot read; the message says what to change."""


def split(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


class Tokenizer:
    """Splits a prompt in lower-case words and looks them up. Id 0 is padding, id 1 the null."""

    def __init__(self, words: list[str], max_tokens: int):
        self.words = sorted(set(words))
        self.max_tokens = max_tokens
        self.ids = {word: i for i, word in enumerate([PAD, NULL, *self.words])}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, prompt: str | None) -> Int[np.ndarray, " n"]:
        """The ids of a prompt, padded with 0 to `max_tokens`; None is the null prompt.

        So is the empty prompt where no words are known at all. Raises `PromptError` for an empty or
        long prompt, or an unknown word.
        """
        words = [NULL] if prompt is None or (not prompt and not self.words) else split(prompt)
        if prompt and not self.words:
            raise PromptError(f"this model was trained without captions: leave {prompt!r} out")
        if not words:
            raise PromptError(f"the prompt {prompt!r} has no words; try {self.example()!r}")
        if len(words) > self.max_tokens:
            raise PromptError(
                f"the prompt has {len(words)} words, this model reads at most {self.max_tokens}: "
                f"shorten {prompt!r}"
            )
        unknown = [word for word in words if word not in self.ids]
        if unknown:
            raise PromptError(self._unknown(unknown))
        ids = [self.ids[word] for word in words]
        return np.array(ids + [0] * (self.max_tokens - len(ids)), np.int32)

    def batch(self, prompts: Sequence[str | None]) -> Int[np.ndarray, "b n"]:
        """The ids of prompts."""
        return np.stack([self.encode(prompt) for prompt in prompts])

    def example(self) -> str:
        """A few words that are known, for error messages."""
        return " ".join(self.words[:4])

    def _unknown(self, unknown: list[str]) -> str:
        word = unknown[0]
        near = difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
        some = f"near it: {', '.join(near)}" if near else f"it knows: {', '.join(self.words[:60])}"
        return f"this model does not know the word {word!r}; {some}"


class Text(eqx.Module):
    """A prompt as the U-Net reads it; with a leading axis, a batch of prompts."""

    states: Float[Array | np.ndarray, "*b n d"]
    pooled: Float[Array | np.ndarray, "*b d2"]
    mask: Bool[Array | np.ndarray, "*b n"]


Prompt = Int[Array, " n"] | Text
"""What `TextToGif` takes: the ids of words, or what a pretrained tower said of them."""


def hide(prompt: Prompt, hidden: Bool[Array, ""]) -> Prompt:
    """The null prompt where `hidden`: its own word alone, or no token at all."""
    if isinstance(prompt, Text):
        return Text(prompt.states, prompt.pooled, prompt.mask & ~hidden)
    return jnp.where(hidden, jnp.zeros_like(prompt).at[0].set(1), prompt)


class Layer(eqx.Module):
    """One transformer layer: attention and a perceptron, each after a norm and from zero."""

    attention: Attention
    norm: eqx.nn.RMSNorm
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear

    def __init__(self, dim: int, heads: int, *, key: Key[Array, ""]):
        attention_key, inner_key, outer_key = jax.random.split(key, 3)
        self.attention = Attention(dim, heads, dim // heads, key=attention_key)
        self.norm = eqx.nn.RMSNorm(dim)
        self.inner = eqx.nn.Linear(dim, 4 * dim, key=inner_key)
        self.outer = zeroed(eqx.nn.Linear(4 * dim, dim, key=outer_key))

    def __call__(self, x: Float[Array, "n d"], mask: Bool[Array, " n"]) -> Float[Array, "n d"]:
        x = self.attention(x, mask=mask)
        return x + jax.vmap(lambda y: self.outer(jax.nn.gelu(self.inner(self.norm(y)))))(x)


class TextEncoder(eqx.Module):
    """Token ids to `Text`: embedding, learned places, a few transformer layers, masked mean."""

    embedding: Float[Array, "words d"]
    places: Float[Array, "n d"]
    layers: list[Layer]
    norm: eqx.nn.RMSNorm

    def __init__(
        self, words: int, dim: int, depth: int, *, max_tokens: int, heads: int = 4,
        key: Key[Array, ""],
    ):  # fmt: skip
        embedding_key, place_key, layer_key = jax.random.split(key, 3)
        self.embedding = jax.random.normal(embedding_key, (words, dim))
        self.places = 0.1 * jax.random.normal(place_key, (max_tokens, dim))
        self.layers = [Layer(dim, heads, key=k) for k in jax.random.split(layer_key, depth)]
        self.norm = eqx.nn.RMSNorm(dim)

    def __call__(self, ids: Int[Array, " n"]) -> Text:
        mask = ids != 0
        x = self.embedding[ids] + self.places[: len(ids)]
        return transform(x, mask, self.layers, self.norm)


class TextAdapter(eqx.Module):
    """What is trained on top of a frozen tower, given its `Text`; without a token it is the null.

    Tokens are projected to the model's width and go through layers as words do. The tower's own
    pooled vector is added to their mean, which alone may tell much alike prompts apart.
    """

    norms: tuple[eqx.nn.RMSNorm, eqx.nn.RMSNorm]
    states: eqx.nn.Linear
    pooled: eqx.nn.Linear
    null: Float[Array, " d"]
    layers: list[Layer]
    norm: eqx.nn.RMSNorm

    def __init__(
        self, dims: tuple[int, int], dim: int, depth: int, *, heads: int = 4, key: Key[Array, ""]
    ):
        states_key, pooled_key, null_key, layer_key = jax.random.split(key, 4)
        self.norms = eqx.nn.RMSNorm(dims[0]), eqx.nn.RMSNorm(dims[1])
        self.states = eqx.nn.Linear(dims[0], dim, key=states_key)
        self.pooled = eqx.nn.Linear(dims[1], dim, key=pooled_key)
        self.null = jax.random.normal(null_key, (dim,))
        self.layers = [Layer(dim, heads, key=k) for k in jax.random.split(layer_key, depth)]
        self.norm = eqx.nn.RMSNorm(dim)

    def __call__(self, text: Text) -> Text:
        said = text.mask.any()
        x = jax.vmap(lambda y: self.states(self.norms[0](y)))(text.states)
        x = jnp.where(said, x, self.null)
        mask = jnp.where(said, text.mask, jnp.arange(len(x)) == 0)
        out = transform(x, mask, self.layers, self.norm)
        pooled = jnp.where(said, self.pooled(self.norms[1](text.pooled)), 0)
        return Text(out.states, out.pooled + pooled, mask)


def transform(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], layers: list[Layer], norm: eqx.nn.RMSNorm
) -> Text:
    """Through the layers; then states without padding, and their mean."""
    for layer in layers:
        x = layer(x, mask)
    x = jnp.where(mask[:, None], jax.vmap(norm)(x), 0)
    return Text(x, x.sum(axis=0) / mask.sum().astype(x.dtype), mask)
