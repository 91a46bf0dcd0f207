"""Pretrained text transformers in Equinox, called towers: those of CLIP and of BERT.

Both are stacks of the same block. CLIP's (Radford et al. 2021, section 2.4) normalises before
attention and perceptron, and a token attends to itself and those before it; the vector of a prompt
is that of its last token. BERT's (Devlin et al. 2019, section 3) normalises after them, and tokens
attend in both directions. Sizes come from the model's own config.json, weights from its
model.safetensors, by the names in the tables below. Pickled weights are never read. Lesson 10.
"""

import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from tinygif.attention import softmax_attention
from tinygif.checkpoint import FLOATS, check_names, fill, named, open_file
from tinygif.errors import TinygifError, expect
from tinygif.text import Text

POOLS = {"clip": ("last", "mean"), "bert": ("mean", "first")}
"""How each kind of tower can make one vector of a prompt: from the last token (which CLIP
projects), from the first, or as the mean of all. The default comes first."""
ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


# ---- the towers ------------------------------------------------------------------------------


class Block(eqx.Module):
    """Attention and a perceptron, each added to its input.

    `norm_first` puts the norm before each of the two (CLIP), else it follows the sum (BERT).
    """

    q: eqx.nn.Linear
    k: eqx.nn.Linear
    v: eqx.nn.Linear
    out: eqx.nn.Linear
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    heads: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    norm_first: bool = eqx.field(static=True)

    def __init__(self, sizes: dict[str, Any], norm_first: bool, *, key: Key[Array, ""]):
        d, wide, eps = (sizes[n] for n in ("hidden_size", "intermediate_size", "layer_norm_eps"))
        keys = jax.random.split(key, 6)
        self.q, self.k, self.v, self.out = (eqx.nn.Linear(d, d, key=k) for k in keys[:4])
        self.fc1 = eqx.nn.Linear(d, wide, key=keys[4])
        self.fc2 = eqx.nn.Linear(wide, d, key=keys[5])
        self.norm1, self.norm2 = eqx.nn.LayerNorm(d, eps), eqx.nn.LayerNorm(d, eps)
        self.heads, self.activation = sizes["num_attention_heads"], sizes["hidden_act"]
        self.norm_first = norm_first

    def __call__(
        self, x: Float[Array, "n d"], bias: Float[Array, "heads n n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:  # fmt: skip
        norm1, norm2 = jax.vmap(self.norm1), jax.vmap(self.norm2)
        if self.norm_first:
            x = x + self.attention(norm1(x), bias, mask)
            return x + self.mlp(norm2(x))
        x = norm1(x + self.attention(x, bias, mask))
        return norm2(x + self.mlp(x))

    def attention(
        self, x: Float[Array, "n d"], bias: Float[Array, "heads n n"] | None,
        mask: Bool[Array, " n"] | None,
    ) -> Float[Array, "n d"]:  # fmt: skip
        q, k, v = (jax.vmap(f)(x).reshape(len(x), self.heads, -1) for f in (self.q, self.k, self.v))
        return jax.vmap(self.out)(softmax_attention(q, k, v, bias, mask).reshape(x.shape))

    def mlp(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return jax.vmap(lambda y: self.fc2(ACTIVATIONS[self.activation](self.fc1(y))))(x)


def make_blocks(sizes: dict[str, Any], norm_first: bool, key: Key[Array, ""]) -> list[Block]:
    keys = jax.random.split(key, sizes["num_hidden_layers"])
    return [Block(sizes, norm_first, key=k) for k in keys]


class ClipText(eqx.Module):
    """CLIP's text tower: from token ids to states of width d, and a vector comparable to images."""

    embedding: Float[Array, "words d"]
    positions: Float[Array, "positions d"]
    layers: list[Block]
    norm: eqx.nn.LayerNorm
    projection: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d, d2 = sizes["hidden_size"], sizes["projection_dim"]
        layer_key, projection_key = jax.random.split(key)
        self.embedding = jnp.zeros((sizes["vocab_size"], d))
        self.positions = jnp.zeros((sizes["max_position_embeddings"], d))
        self.layers = make_blocks(sizes, True, layer_key)
        self.norm = eqx.nn.LayerNorm(d, sizes["layer_norm_eps"])
        self.projection = eqx.nn.Linear(d, d2, use_bias=False, key=projection_key)

    def hidden_states(
        self, ids: Int[Array, " n"], mask: Bool[Array, " n"]
    ) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer. A token attends to those up to itself."""
        x = [self.embedding[ids] + self.positions[: len(ids)]]
        future = jnp.triu(jnp.full((len(ids), len(ids)), -1e30), 1)
        for layer in self.layers:
            x.append(layer(x[-1], jnp.broadcast_to(future, (layer.heads, *future.shape)), mask))
        return x

    def __call__(self, ids: Int[Array, " n"], mask: Bool[Array, " n"], pool: str = "last") -> Text:
        x = jax.vmap(self.norm)(self.hidden_states(ids, mask)[-1])
        last = self.projection(x[mask.sum() - 1])  # the end mark, which every prompt has
        return pool_states(x, mask, pool, last)


class Bert(eqx.Module):
    """BERT's encoder: from token ids to states of width d."""

    embedding: Float[Array, "words d"]
    positions: Float[Array, "positions d"]
    types: Float[Array, "types d"]
    norm: eqx.nn.LayerNorm
    layers: list[Block]

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d = sizes["hidden_size"]
        self.embedding = jnp.zeros((sizes["vocab_size"], d))
        self.positions = jnp.zeros((sizes["max_position_embeddings"], d))
        self.types = jnp.zeros((sizes["type_vocab_size"], d))
        self.norm = eqx.nn.LayerNorm(d, sizes["layer_norm_eps"])
        self.layers = make_blocks(sizes, False, key)

    def hidden_states(
        self, ids: Int[Array, " n"], mask: Bool[Array, " n"]
    ) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer. A prompt is one sentence, so its type is 0."""
        x = self.embedding[ids] + self.positions[: len(ids)] + self.types[:1]
        x = [jax.vmap(self.norm)(x)]
        for layer in self.layers:
            x.append(layer(x[-1], mask=mask))
        return x

    def __call__(self, ids: Int[Array, " n"], mask: Bool[Array, " n"], pool: str = "mean") -> Text:
        x = self.hidden_states(ids, mask)[-1]
        return pool_states(x, mask, pool, x[0])


def pool_states(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], pool: str, token: Float[Array, " d2"]
) -> Text:
    """States, zero on padding, with one vector: their mean if `pool` says so, else `token`."""
    x = jnp.where(mask[:, None], x, 0)
    mean = x.sum(axis=0) / mask.sum().astype(x.dtype)
    return Text(x, mean if pool == "mean" else token, mask)


# ---- sizes and names -------------------------------------------------------------------------

CLIP_SIZES = dict(
    hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
    max_position_embeddings=77, vocab_size=49408, projection_dim=512, hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)  # fmt: skip
"""The sizes of ViT-B/32, which stand for those that CLIP's config.json leaves out."""
BERT_SIZES = [name for name in (*CLIP_SIZES, "type_vocab_size") if name != "projection_dim"]
"""The entries that BERT's config.json must have."""
LARGEST = dict(
    hidden_size=2**14, intermediate_size=2**16, num_hidden_layers=128, num_attention_heads=2**8,
    max_position_embeddings=2**16, vocab_size=2**21, projection_dim=2**14, type_vocab_size=2**10,
    image_size=2**12, patch_size=2**10,
)  # fmt: skip
"""The largest whole numbers accepted in a config.json, several times those of known models: a file
that asks for more than memory holds is refused before anything is built."""

# Each part of our names, and what the files call it. Our `layers.0.q.weight` is
# `text_model.encoder.layers.0.self_attn.q_proj.weight` in CLIP's.
CLIP_BLOCK = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "out": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    "norm1": "layer_norm1", "norm2": "layer_norm2",
}  # fmt: skip
CLIP = CLIP_BLOCK | {
    "embedding": "text_model.embeddings.token_embedding.weight",
    "positions": "text_model.embeddings.position_embedding.weight",
    "layers": "text_model.encoder.layers",
    "norm": "text_model.final_layer_norm",
    "projection": "text_projection",
}
BERT = {
    "embedding": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "out": "attention.output.dense", "fc1": "intermediate.dense", "fc2": "output.dense",
    "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm",
}  # fmt: skip
OTHER_ARRAYS = {
    "clip": r"vision_model\.|visual_projection\.|logit_scale$|.*position_ids$",
    "bert": r"pooler\.|cls\.|classifier\.|embeddings\.position_ids$",
}
"""Arrays that a file may also hold, and that are not needed: CLIP's image tower, layers on top of
BERT for other tasks, and the numbers 0, 1, 2, ... of positions."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model. Raises TinygifError if it is missing or cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return dict(config, model_type=config["model_type"].removesuffix("_text_model"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise TinygifError(f"expected a model's config.json in {folder}, got: {error!r}") from error


def text_sizes(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The sizes of a text tower, by their names in config.json.

    Raises TinygifError for models other than CLIP and BERT, and for impossible sizes.
    """
    kind = config["model_type"]
    expect(kind in POOLS, f"a model of type {' or '.join(POOLS)} in {folder}", repr(kind[:80]))
    if kind == "bert":
        return check_sizes(config, BERT_SIZES, folder)
    sizes = tower_config(config, "text", folder)
    if sizes and "projection_dim" in config:
        sizes["projection_dim"] = config["projection_dim"]
    return check_sizes(CLIP_SIZES | (sizes or config), CLIP_SIZES, folder)


def tower_config(config: dict[str, Any], tower: str, folder: Path) -> dict[str, Any]:
    """The part of CLIP's config.json about its text or vision tower; empty if there is none."""
    sizes = {}
    for name in (f"{tower}_config", f"{tower}_config_dict"):  # the second is of older versions
        section = config.get(name) or {}
        expect(isinstance(section, dict), f"a table {name} in {folder}/config.json", type(section))
        sizes |= section
    return sizes


def check_sizes(sizes: dict[str, Any], names: Iterable[str], folder: Path) -> dict[str, Any]:
    """The same sizes. Raises TinygifError unless a tower can be built from the entries in `names`.

    Before anything is built, every number's type is checked, and that it is not above LARGEST.
    """
    wrong = []
    for name in names:
        value = sizes.get(name)
        if name == "hidden_act":
            fits = isinstance(value, str) and value in ACTIVATIONS
            expected = f"one of {list(ACTIVATIONS)}"
        elif name == "layer_norm_eps":
            fits = isinstance(value, float) and 0 < value < 1
            expected = "a number between 0 and 1"
        else:
            fits = type(value) is int and 1 <= value <= LARGEST[name]
            expected = f"a whole number from 1 to {LARGEST[name]}"
        if value is None:
            wrong.append(f"{name} is missing")
        elif not fits:
            wrong.append(f"{name} is {repr(value)[:80]}, expected {expected}")
    if not wrong:
        for whole, part in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
            if whole in names and sizes[whole] % sizes[part]:
                wrong.append(f"{whole} is no multiple of {part}")
    if sizes.get("position_embedding_type", "absolute") != "absolute" or sizes.get("is_decoder"):
        wrong.append("only encoders with absolute positions are known")
    if wrong:
        file = folder / "config.json"
        raise TinygifError(f"cannot build the model of {file}: {'; '.join(wrong)}")
    return sizes


# ---- files -----------------------------------------------------------------------------------


def load_tower(folder: Path) -> ClipText | Bert:
    """The text tower of a folder with config.json and model.safetensors, in float32."""
    config = read_config(folder)
    sizes, kind = text_sizes(config, folder), config["model_type"]
    build, names = {"clip": (ClipText, CLIP), "bert": (Bert, BERT)}[kind]
    template = eqx.filter_eval_shape(build, sizes, key=jax.random.key(0))
    return load_weights(template, folder / "model.safetensors", names, OTHER_ARRAYS[kind])


def load_weights(template: PyTree, path: Path, names: dict[str, str], others: str) -> PyTree:
    """A pytree of shapes with the arrays of a safetensors file.

    names: for each part of our names, what the file calls it. others: a regular expression for
    arrays that are left out. One array is read at a time, so that the weights are in memory only
    once. Raises TinygifError if arrays are missing, unexpected or of another shape, or if the
    file's length is not that in its header.
    """

    def name_in_file(name: str) -> str:
        return ".".join(names.get(part, part) for part in name.split("."))

    with open_file(path) as file:
        keys = {modern_name(key): key for key in file.keys()}
        slices = {name: file.get_slice(key) for name, key in keys.items()}
        found = {name: tuple(slices[name].get_shape()) for name in keys}
        wanted = {name_in_file(name): leaf.shape for name, leaf in named(template).items()}
        check_names(found, wanted, str(path), others)
        kinds = {slices[name].get_dtype() for name in wanted}
        expect(kinds <= set(FLOATS), f"only numbers of {sorted(FLOATS)} in {path}", sorted(kinds))
        return fill(template, lambda name: file.get_tensor(keys[name_in_file(name)]))


def modern_name(key: str) -> str:
    """The name in current files: no prefix `bert.`, and weight and bias for gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
