"""Words become vectors: a word tokenizer and a tiny transformer, trained together with the model.

A prompt reaches the model as `Text`: one state per word for attention, and their mean for FiLM.
Guidance needs a null prompt. It is the one-word sentence `<null>`; its vector is learned, because
training replaces a share of the captions by it. A pretrained text encoder (a tower) can read the
prompts instead; then the layers trained here continue from its output. Lesson 10.
"""

import difflib
import re
import sys
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from tinygif.attention import Attention, zeroed
from tinygif.errors import TinygifError

PAD, NULL = "<pad>", "<null>"
FILLERS = set("a an the is are it its that which of please show me draw gif clip video".split())
"""Words that may be left out of a prompt, if the model does not know them."""


def split(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


class Tokenizer:
    """Splits a prompt into lower-case words and looks up their ids; 0 is padding, 1 `<null>`."""

    def __init__(self, words: list[str], max_tokens: int):
        self.words = sorted(set(words))
        self.max_tokens = max_tokens
        self.ids = {word: i for i, word in enumerate([PAD, NULL, *self.words])}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, prompt: str | None) -> Int[np.ndarray, " n"]:
        """The ids of a prompt, padded with 0 to `max_tokens`; None is the null prompt.

        A model that was trained without captions knows no words: for it "" is the null prompt, too.
        Unknown FILLERS are left out, with a remark. Raises TinygifError for a prompt without words
        or with too many, and for other unknown words.
        """
        words = [NULL] if prompt is None or (not prompt and not self.words) else split(prompt)
        if prompt and not self.words:
            raise TinygifError(f"this model was trained without captions: leave {prompt!r} out")
        if not words:
            raise TinygifError(f"the prompt {prompt!r} has no words; try {self.example()!r}")
        unknown = [word for word in words if word not in self.ids]
        words = [word for word in words if word in self.ids]
        strange = [word for word in unknown if word not in FILLERS or not words]
        if strange:
            raise TinygifError(self._unknown(strange[0]))
        if unknown:
            print(f"left out of {prompt!r}: {', '.join(unknown)}, which this model does not know",
                  file=sys.stderr)  # fmt: skip
        if len(words) > self.max_tokens:
            raise TinygifError(
                f"the prompt has {len(words)} words, this model reads at most {self.max_tokens}: "
                f"shorten {prompt!r}"
            )
        ids = [self.ids[word] for word in words]
        return np.array(ids + [0] * (self.max_tokens - len(ids)), np.int32)

    def batch(self, prompts: Sequence[str | None]) -> Int[np.ndarray, "b n"]:
        """The ids of several prompts, one row for each."""
        return np.stack([self.encode(prompt) for prompt in prompts])

    def tokens(self, prompt: str | None) -> list[str]:
        """The words of a prompt that the model reads, in their order."""
        names = [PAD, NULL, *self.words]
        return [names[i] for i in self.encode(prompt) if i]

    def example(self) -> str:
        """A prompt of known words, for error messages."""
        return " ".join(self.words[:4])

    def _unknown(self, word: str) -> str:
        near = difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
        known = f"near it: {', '.join(near)}" if near else f"it knows: {', '.join(self.words[:60])}"
        return f"this model does not know the word {word!r}; {known}"


class Text(eqx.Module):
    """A prompt as vectors; with a leading axis, a batch of prompts.

    One state per token for attention, one pooled vector for FiLM; the mask is False on padding.
    """

    states: Float[Array | np.ndarray, "*b n d"]
    pooled: Float[Array | np.ndarray, "*b d2"]
    mask: Bool[Array | np.ndarray, "*b n"]


class KnownFrames(eqx.Module):
    """The frames of a clip, in the codec's range, and a mask of those that are known.

    The others do not matter, whatever they hold. With a leading axis, a batch of them.
    """

    frames: Float[Array | np.ndarray, "*b f c h w"]
    mask: Bool[Array | np.ndarray, "*b f"]


class Condition(eqx.Module):
    """What a model is given besides the noisy clip and the noise level.

    circle: the clip loops, so for layers along time its first frame comes after its last.
    """

    text: Text
    known: KnownFrames | None = None
    circle: bool = eqx.field(static=True, default=False)


Prompt = Int[Array, "*k n"] | Text
"""Input of `TextToGif`: word ids, or the output of a pretrained text encoder. With a leading axis
of k, a prompt in parts."""


def hide(prompt: Prompt, hidden: Bool[Array, ""]) -> Prompt:
    """Replace a prompt by the null prompt where `hidden` is True.

    For word ids that is the word `<null>` alone; for a tower's output, a text without tokens. A
    prompt in parts keeps one part.
    """
    if isinstance(prompt, Text):
        return Text(prompt.states, prompt.pooled, prompt.mask & ~hidden)
    null = jnp.zeros_like(prompt).at[(0,) * prompt.ndim].set(1)
    return jnp.where(hidden, null, prompt)


class TransformerLayer(eqx.Module):
    """Attention, then a perceptron. Each normalises its input, and adds nothing at first."""

    attention: Attention
    norm: eqx.nn.RMSNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear

    def __init__(self, dim: int, heads: int, *, key: Key[Array, ""]):
        attention_key, fc1_key, fc2_key = jax.random.split(key, 3)
        self.attention = Attention(dim, heads, dim // heads, key=attention_key)
        self.norm = eqx.nn.RMSNorm(dim)
        self.fc1 = eqx.nn.Linear(dim, 4 * dim, key=fc1_key)
        self.fc2 = zeroed(eqx.nn.Linear(4 * dim, dim, key=fc2_key))

    def __call__(self, x: Float[Array, "n d"], mask: Bool[Array, " n"]) -> Float[Array, "n d"]:
        x = self.attention(x, mask=mask)
        return x + jax.vmap(lambda y: self.fc2(jax.nn.gelu(self.fc1(self.norm(y)))))(x)


class TextEncoder(eqx.Module):
    """Token ids to `Text`: embedding, learned positions, transformer layers, masked mean."""

    embedding: Float[Array, "words d"]
    positions: Float[Array, "n d"]
    layers: list[TransformerLayer]
    norm: eqx.nn.RMSNorm

    def __init__(
        self, words: int, dim: int, depth: int, *, max_tokens: int, heads: int = 4,
        key: Key[Array, ""],
    ):  # fmt: skip
        embedding_key, position_key, layer_key = jax.random.split(key, 3)
        self.embedding = jax.random.normal(embedding_key, (words, dim))
        self.positions = 0.1 * jax.random.normal(position_key, (max_tokens, dim))
        layer_keys = jax.random.split(layer_key, depth)
        self.layers = [TransformerLayer(dim, heads, key=k) for k in layer_keys]
        self.norm = eqx.nn.RMSNorm(dim)

    def __call__(self, ids: Int[Array, " n"]) -> Text:
        mask = ids != 0
        x = self.embedding[ids] + self.positions[: len(ids)]
        return transform(x, mask, self.layers, self.norm)


class TextAdapter(eqx.Module):
    """Trained layers on top of the output of a frozen tower.

    Tokens are projected to the model's width and go through transformer layers, as words do. The
    tower's own pooled vector is projected and added to their mean. A text without tokens is the
    null prompt: one learned vector in their place.
    """

    norms: tuple[eqx.nn.RMSNorm, eqx.nn.RMSNorm]
    states: eqx.nn.Linear
    pooled: eqx.nn.Linear
    null: Float[Array, " d"]
    layers: list[TransformerLayer]
    norm: eqx.nn.RMSNorm

    def __init__(
        self, dims: tuple[int, int], dim: int, depth: int, *, heads: int = 4, key: Key[Array, ""]
    ):
        states_key, pooled_key, null_key, layer_key = jax.random.split(key, 4)
        self.norms = eqx.nn.RMSNorm(dims[0]), eqx.nn.RMSNorm(dims[1])
        self.states = eqx.nn.Linear(dims[0], dim, key=states_key)
        self.pooled = eqx.nn.Linear(dims[1], dim, key=pooled_key)
        self.null = jax.random.normal(null_key, (dim,))
        layer_keys = jax.random.split(layer_key, depth)
        self.layers = [TransformerLayer(dim, heads, key=k) for k in layer_keys]
        self.norm = eqx.nn.RMSNorm(dim)

    def __call__(self, text: Text) -> Text:
        has_words = text.mask.any()
        x = jax.vmap(lambda y: self.states(self.norms[0](y)))(text.states)
        x = jnp.where(has_words, x, self.null)
        mask = jnp.where(has_words, text.mask, jnp.arange(len(x)) == 0)
        out = transform(x, mask, self.layers, self.norm)
        pooled = jnp.where(has_words, self.pooled(self.norms[1](text.pooled)), 0)
        return Text(out.states, out.pooled + pooled, mask)


def transform(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], layers: list[TransformerLayer],
    norm: eqx.nn.RMSNorm,
) -> Text:  # fmt: skip
    """Send tokens through the layers; set padding to zero; average the rest."""
    for layer in layers:
        x = layer(x, mask)
    x = jnp.where(mask[:, None], jax.vmap(norm)(x), 0)
    return Text(x, x.sum(axis=0) / jnp.maximum(mask.sum(), 1).astype(x.dtype), mask)


# ---- text and model --------------------------------------------------------------------------


class TextToGif(eqx.Module):
    """Everything that a checkpoint holds: the trained text encoder, the model, and the codec.

    `model` is any module with `model(x_t, t, condition) -> prediction`. The codec is not trained.
    """

    text: eqx.Module
    model: eqx.Module
    codec: eqx.Module

    def __call__(
        self, x_t: Float[Array, "*x"], t: Float[Array, ""], prompt: Prompt,
        known: KnownFrames | None = None, *, circle: bool = False,
    ) -> Float[Array, "*x"]:  # fmt: skip
        return self.model(x_t, t, Condition(self.text(prompt), known, circle))
