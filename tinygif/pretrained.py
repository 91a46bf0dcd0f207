"""Pretrained towers in Equinox: the text transformers of CLIP and of BERT.

Both are stacks of the same block. CLIP's (Radford et al. 2021, section 2.4) normalises before each
half, looks back only, and sums a prompt up at its last token; BERT's (Devlin et al. 2019, section
3) normalises after each half and looks both ways. Sizes come from the model's own config.json,
weights from its model.safetensors, never from a pickle, by the names in the tables below.
Lesson 10.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from tinygif.attention import softmax_attention
from tinygif.text import Text

POOLS = {"clip": ("last", "mean"), "bert": ("mean", "first")}
"""How a prompt becomes one vector: CLIP's own way is its last token, projected."""
ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


class TowerError(ValueError):
    """A pretrained model that cannot be had or read; the message says what to do."""


# ---- the towers ------------------------------------------------------------------------------


class Block(eqx.Module):
    """Attention and a perceptron, each with a residual; normed `before` (CLIP) or after (BERT)."""

    q: eqx.nn.Linear
    k: eqx.nn.Linear
    v: eqx.nn.Linear
    out: eqx.nn.Linear
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    norm1: eqx.nn.LayerNorm
    norm2: eqx.nn.LayerNorm
    heads: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    before: bool = eqx.field(static=True)

    def __init__(self, sizes: dict[str, Any], before: bool, *, key: Key[Array, ""]):
        d, wide, eps = (sizes[n] for n in ("hidden_size", "intermediate_size", "layer_norm_eps"))
        keys = jax.random.split(key, 6)
        self.q, self.k, self.v, self.out = (eqx.nn.Linear(d, d, key=k) for k in keys[:4])
        self.inner = eqx.nn.Linear(d, wide, key=keys[4])
        self.outer = eqx.nn.Linear(wide, d, key=keys[5])
        self.norm1, self.norm2 = eqx.nn.LayerNorm(d, eps), eqx.nn.LayerNorm(d, eps)
        self.heads, self.activation = sizes["num_attention_heads"], sizes["hidden_act"]
        self.before = before

    def __call__(
        self, x: Float[Array, "n d"], bias: Float[Array, "heads n n"] | None = None,
        mask: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "n d"]:  # fmt: skip
        norm1, norm2 = jax.vmap(self.norm1), jax.vmap(self.norm2)
        if self.before:
            x = x + self.attend(norm1(x), bias, mask)
            return x + self.think(norm2(x))
        x = norm1(x + self.attend(x, bias, mask))
        return norm2(x + self.think(x))

    def attend(
        self, x: Float[Array, "n d"], bias: Float[Array, "heads n n"] | None,
        mask: Bool[Array, " n"] | None,
    ) -> Float[Array, "n d"]:  # fmt: skip
        q, k, v = (jax.vmap(f)(x).reshape(len(x), self.heads, -1) for f in (self.q, self.k, self.v))
        return jax.vmap(self.out)(softmax_attention(q, k, v, bias, mask).reshape(x.shape))

    def think(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return jax.vmap(lambda y: self.outer(ACTIVATIONS[self.activation](self.inner(y))))(x)


def blocks(sizes: dict[str, Any], before: bool, key: Key[Array, ""]) -> list[Block]:
    keys = jax.random.split(key, sizes["num_hidden_layers"])
    return [Block(sizes, before, key=k) for k in keys]


class ClipText(eqx.Module):
    """CLIP's text tower: token ids to states of width d, and a vector beside those of images."""

    words: Float[Array, "words d"]
    places: Float[Array, "places d"]
    layers: list[Block]
    norm: eqx.nn.LayerNorm
    project: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d = sizes["hidden_size"]
        layer_key, project_key = jax.random.split(key)
        self.words = jnp.zeros((sizes["vocab_size"], d))
        self.places = jnp.zeros((sizes["max_position_embeddings"], d))
        self.layers = blocks(sizes, True, layer_key)
        self.norm = eqx.nn.LayerNorm(d, sizes["layer_norm_eps"])
        self.project = eqx.nn.Linear(d, sizes["projection_dim"], use_bias=False, key=project_key)

    def hidden(self, ids: Int[Array, " n"], mask: Bool[Array, " n"]) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer. A token sees those up to itself."""
        x = [self.words[ids] + self.places[: len(ids)]]
        future = jnp.triu(jnp.full((len(ids), len(ids)), -1e30), 1)
        for layer in self.layers:
            x.append(layer(x[-1], jnp.broadcast_to(future, (layer.heads, *future.shape)), mask))
        return x

    def __call__(self, ids: Int[Array, " n"], mask: Bool[Array, " n"], pool: str = "last") -> Text:
        x = jax.vmap(self.norm)(self.hidden(ids, mask)[-1])
        last = self.project(x[mask.sum() - 1])  # the tokenizer ends every prompt
        return pooled(x, mask, pool, last)


class Bert(eqx.Module):
    """BERT's encoder: token ids to states of width d."""

    words: Float[Array, "words d"]
    places: Float[Array, "places d"]
    types: Float[Array, "types d"]
    norm: eqx.nn.LayerNorm
    layers: list[Block]

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d = sizes["hidden_size"]
        self.words = jnp.zeros((sizes["vocab_size"], d))
        self.places = jnp.zeros((sizes["max_position_embeddings"], d))
        self.types = jnp.zeros((sizes["type_vocab_size"], d))
        self.norm = eqx.nn.LayerNorm(d, sizes["layer_norm_eps"])
        self.layers = blocks(sizes, False, key)

    def hidden(self, ids: Int[Array, " n"], mask: Bool[Array, " n"]) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer. A prompt is one sentence: its type is 0."""
        x = [jax.vmap(self.norm)(self.words[ids] + self.places[: len(ids)] + self.types[:1])]
        for layer in self.layers:
            x.append(layer(x[-1], mask=mask))
        return x

    def __call__(self, ids: Int[Array, " n"], mask: Bool[Array, " n"], pool: str = "mean") -> Text:
        x = self.hidden(ids, mask)[-1]
        return pooled(x, mask, pool, x[0])


def pooled(
    x: Float[Array, "n d"], mask: Bool[Array, " n"], pool: str, one: Float[Array, " d2"]
) -> Text:
    """The states without padding, and their mean or the `one` token that stands for all."""
    x = jnp.where(mask[:, None], x, 0)
    mean = x.sum(axis=0) / mask.sum().astype(x.dtype)
    return Text(x, mean if pool == "mean" else one, mask)


# ---- sizes and names -------------------------------------------------------------------------

# of ViT-B/32, for what a config.json of CLIP leaves out
CLIP_SIZES = dict(
    hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
    max_position_embeddings=77, vocab_size=49408, projection_dim=512, hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)  # fmt: skip

# Our name of each part of a path, and theirs. A layer of ours is layers.N.q.weight, and so on.
CLIP_BLOCK = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "out": "self_attn.out_proj", "inner": "mlp.fc1", "outer": "mlp.fc2",
    "norm1": "layer_norm1", "norm2": "layer_norm2",
}  # fmt: skip
CLIP = CLIP_BLOCK | {
    "words": "text_model.embeddings.token_embedding.weight",
    "places": "text_model.embeddings.position_embedding.weight",
    "layers": "text_model.encoder.layers",
    "norm": "text_model.final_layer_norm",
    "project": "text_projection",
}
BERT = {
    "words": "embeddings.word_embeddings.weight",
    "places": "embeddings.position_embeddings.weight",
    "types": "embeddings.token_type_embeddings.weight",
    "norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "out": "attention.output.dense", "inner": "intermediate.dense", "outer": "output.dense",
    "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm",
}  # fmt: skip
OTHERS = {
    "clip": r"vision_model\.|visual_projection\.|logit_scale$|.*position_ids$",
    "bert": r"pooler\.|cls\.|classifier\.|embeddings\.position_ids$",
}
"""What a file may hold besides: CLIP's image tower; BERT's heads; places counted 0, 1, 2, ..."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return dict(config, model_type=config["model_type"].removesuffix("_text_model"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise TowerError(f"expected a model's config.json in {folder}, got: {error!r}") from error


def text_sizes(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The sizes of a text tower, by the names of config.json; other kinds are refused."""
    kind = config["model_type"]
    if kind == "clip":
        inside = config.get("text_config") or {}
        inside = inside | (config.get("text_config_dict") or {})
        if inside and "projection_dim" in config:
            inside["projection_dim"] = config["projection_dim"]
        return checked(CLIP_SIZES | (inside or config), folder)
    if kind == "bert":
        return checked({"projection_dim": 0} | config, folder)
    raise TowerError(f"expected a model of type {' or '.join(POOLS)} in {folder}, got {kind!r}")


def checked(sizes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sizes that a tower can be built from."""
    wrong = [f"{name} is missing" for name in CLIP_SIZES if sizes.get(name) is None]
    if not wrong and sizes["hidden_size"] % sizes["num_attention_heads"]:
        wrong += ["hidden_size is no multiple of num_attention_heads"]
    if not wrong and sizes["hidden_act"] not in ACTIVATIONS:
        wrong += [f"hidden_act is {sizes['hidden_act']!r}, expected one of {list(ACTIVATIONS)}"]
    if sizes.get("position_embedding_type", "absolute") != "absolute" or sizes.get("is_decoder"):
        wrong += ["only encoders with absolute places are known"]
    if wrong:
        raise TowerError(f"cannot build the model of {folder / 'config.json'}: {'; '.join(wrong)}")
    return sizes


# ---- weights ---------------------------------------------------------------------------------


def load_tower(folder: Path) -> ClipText | Bert:
    """The text tower of a folder with config.json and model.safetensors, in float32."""
    config = read_config(folder)
    sizes, kind = text_sizes(config, folder), config["model_type"]
    build, names = {"clip": (ClipText, CLIP), "bert": (Bert, BERT)}[kind]
    template = eqx.filter_eval_shape(build, sizes, key=jax.random.key(0))
    return fill(template, folder / "model.safetensors", names, OTHERS[kind])


def fill(template: PyTree, path: Path, names: dict[str, str], others: str) -> PyTree:
    """The arrays of a file in a pytree of shapes, by `names`; every array must have its place.

    One array is read at a time, so that the weights are in memory once. Arrays whose names begin
    as `others` says are left out.
    """
    from safetensors import SafetensorError, safe_open

    def theirs(place: tuple) -> str:
        parts = jax.tree_util.keystr(place, simple=True, separator=".").split(".")
        return ".".join(names.get(part, part) for part in parts)

    try:
        with safe_open(path, "numpy") as file:
            found = {plain(name): name for name in file.keys()}
            shapes = {name: tuple(file.get_slice(key).get_shape()) for name, key in found.items()}
            wanted = {theirs(place): x.shape for place, x in leaves(template)}
            check_names(shapes, wanted, others, path)
            read = lambda place, x: (  # noqa: E731
                jnp.asarray(file.get_tensor(found[theirs(place)]), x.dtype) if is_shape(x) else x
            )
            return jax.tree_util.tree_map_with_path(read, template)
    except (OSError, SafetensorError) as error:
        raise TowerError(f"cannot read the weights {path}: {error}") from error


def plain(name: str) -> str:
    """BERT's older files say gamma and beta, and files with heads put `bert.` before all."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def is_shape(x: object) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def leaves(template: PyTree) -> list[tuple]:
    return [(p, x) for p, x in jax.tree_util.tree_leaves_with_path(template) if is_shape(x)]


def check_names(found: dict[str, tuple], wanted: dict[str, tuple], others: str, path: Path) -> None:
    """Refuse a file that lacks an array, has one too many, or one of another shape."""
    wrong = [f"missing {name}" for name in wanted if name not in found]
    for name, shape in found.items():
        if name not in wanted and not re.match(others, name):
            wrong.append(f"not expected {name}")
        elif shape != wanted.get(name, shape):
            wrong.append(f"{name} has shape {shape}, expected {wanted[name]}")
    if wrong:
        some = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise TowerError(f"{path} does not fit its config.json: {some}")
