"""LoRA: a trained model learns something new, and what it learned is a small file of its own.

Each matrix W of the model stays as it is. What is added to it is a product of two thin matrices,
`up @ down`, of rank 4 or 8, say (Hu et al. 2021, section 4.1). `up` starts at zero, so that at
first nothing changes. A convolution counts as the matrix of its outputs by everything else.
Words that are new have rows of their own in the embedding. Lesson 19.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from tinygif.checkpoint import (
    LORA,
    About,
    leaf_name,
    move_rows,
    named,
    read,
    read_about,
    write_to_share,
)
from tinygif.codec import COLORS
from tinygif.errors import expect
from tinygif.optimizer import is_matrix
from tinygif.pipeline import SHIPPED, Pipeline
from tinygif.text import KnownFrames, Prompt, TextToGif, Tokenizer

ADAPTERS = ("gameboy",)
"""The adapters that come with the package; theirs is the model of sprites."""


class Pair(eqx.Module):
    """The two factors of what is added to one matrix."""

    down: Float[Array, "r n_in"]
    up: Float[Array, "n_out r"]


class Adapter(eqx.Module):
    """What a run with --lora learns: pairs by the names of the weights they change, new words.

    colors: the colours of the new data, if the codec decodes into those of its data.
    """

    pairs: dict[str, Pair]
    rows: Float[Array, "words d"]
    colors: UInt8[Array, "n 3"] | None


class Adapted(eqx.Module):
    """A frozen model with an adapter that is trained; in training it stands for a `TextToGif`."""

    frozen: TextToGif
    adapter: Adapter
    ids: tuple[int, ...] = eqx.field(static=True)

    def __call__(
        self, x_t: Float[Array, "*x"], t: Float[Array, ""], prompt: Prompt,
        known: KnownFrames | None = None, *, circle: bool = False,
    ) -> Float[Array, "*x"]:  # fmt: skip
        return self.merged(1.0)(x_t, t, prompt, known, circle=circle)

    @property
    def codec(self) -> eqx.Module:
        """The codec of the frozen model."""
        return self.frozen.codec

    def merged(self, scale: float) -> TextToGif:
        """The model with `scale * up @ down` added to its matrices, and with the new words."""

        def add(path: tuple, leaf: Array) -> Array:
            name = leaf_name(path)
            if name in (pairs := self.adapter.pairs):
                change = (pairs[name].up @ pairs[name].down).reshape(leaf.shape)
                return leaf + jnp.asarray(scale, leaf.dtype) * change
            if self.ids and name.endswith("embedding"):
                return leaf.at[np.array(self.ids)].set(self.adapter.rows.astype(leaf.dtype))
            return leaf

        return jax.tree_util.tree_map_with_path(add, self.frozen)


def adapt(model: TextToGif, about: About, *, key: Key[Array, ""]) -> Adapted:
    """The model with a new adapter, which changes nothing yet.

    The config in `about` says of which rank, for which layers, and which words are new; these start
    from the rows that the model has for them.
    """
    options, pairs = about.config.train, {}
    for i, (name, leaf) in enumerate(matrices(model, options.lora_layers).items()):
        n_out, n_in = len(leaf), leaf.size // len(leaf)
        rank = min(options.lora, n_out, n_in)
        down = jax.random.normal(jax.random.fold_in(key, i), (rank, n_in)) / n_in**0.5
        pairs[name] = Pair(down, jnp.zeros((n_out, rank)))
    ids = new_ids(about)
    table = next((a for name, a in named(model.text).items() if name.endswith("embedding")), None)
    rows = table[np.array(ids)] if ids else jnp.zeros((0, 0))
    colors = getattr(model.codec, "colors", None)
    colors = None if colors is None else jnp.array(colors)  # donated buffers must not be shared
    return Adapted(model, Adapter(pairs, rows, colors), ids)


def matrices(model: TextToGif, layers: Sequence[str] = ()) -> dict[str, Array]:
    """The matrices and convolutions by name; with `layers` those whose names contain one of them.

    Raises TinygifError if there are none.
    """
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array))
    found = {name: leaf for path, leaf in arrays
             if is_matrix(path, leaf) and not (name := leaf_name(path)).startswith("codec.")}
    chosen = {name: leaf for name, leaf in found.items()
              if not layers or any(part in name for part in layers)}  # fmt: skip
    what = f"--lora-layers that are parts of names such as {', '.join(list(found)[:3])}"
    expect(len(chosen) > 0, what, " ".join(layers))
    return chosen


def new_ids(about: About) -> tuple[int, ...]:
    """The ids of the words that the run of an adapter added to those of its frozen model."""
    ids = Tokenizer(about.words, 1).ids
    return tuple(ids[word] for word in about.config.train.lora_words)


def merged(model: TextToGif | Adapted) -> TextToGif:
    """A model to sample from: itself, or with its adapter added."""
    return model.merged(1.0) if isinstance(model, Adapted) else model


def new_model(about: About) -> TextToGif | Adapted:
    """A model with random weights for a run; frozen and with an adapter if the run has one."""
    model = about.config.init(len(about.words) + 2, key=jax.random.key(0))
    return adapt(model, about, key=jax.random.key(0)) if about.config.train.lora else model


# ---- use -------------------------------------------------------------------------------------


def save_adapter(folder: Path, adapter: Adapter, about: About) -> None:
    """Write an adapter into the folder of its run, in half precision, ready to be shared."""
    write_to_share(folder / LORA, adapter, about)


def load_adapter(path: str | Path) -> tuple[Adapter, About]:
    """The adapter in a file, in a run's folder, or of ADAPTERS, and the metadata of its run."""
    name, path = str(path), Path(path)
    path = path / LORA if path.is_dir() else path
    path = SHIPPED.with_name(f"{name}.safetensors") if name in ADAPTERS else path
    expect(path.exists(), f"{', '.join(ADAPTERS)}, or a run with --lora, or its {LORA}", path)
    about = read_about(path)
    expect(about.config.train.lora > 0, f"an adapter in {path}", "a whole model")
    return read(path, eqx.filter_eval_shape(lambda: new_model(about).adapter)), about


def with_adapter(pipeline: Pipeline, path: str | Path, scale: float = 1.0) -> Pipeline:
    """The pipeline of the model with an adapter, `scale` times as strong as it was trained.

    Several may be added one after another. A codec that decodes into the colours of its data takes
    those of the adapter's data, or, with another scale than 1, both. Raises TinygifError if it was
    trained for a model of other channels, codec, text or shapes.
    """
    adapter, about = load_adapter(path)
    ours, theirs = pipeline.config, about.config
    for what, one, other in [
        ("channels", ours.data.channels, theirs.data.channels),
        ("codec", ours.codec.codec, theirs.codec.codec),
        ("text", ours.text.text, theirs.text.text),
        ("parts", ours.text.parts, theirs.text.parts),
    ]:
        expect(one == other, f"an adapter for a model with {what} {one}, like {pipeline.path}",
               f"{path}, made for {what} {other}")  # fmt: skip
    found = named(pipeline.model)
    for name, pair in adapter.pairs.items():
        shape = getattr(found.get(name), "shape", (0,))
        fits = (shape[0], int(np.prod(shape[1:]))) == (pair.up.shape[0], pair.down.shape[1])
        expect(fits, f"an adapter for a model of the shapes of {pipeline.path}",
               f"{path}, whose {name} has another shape or is not there")  # fmt: skip
    words = sorted({*pipeline.words, *theirs.train.lora_words})
    model = with_words(pipeline.model, pipeline.words, words)
    if (colors := adapter.colors) is not None:
        colors = colors if scale == 1 else join_colors(model.codec.colors, colors)
        model = eqx.tree_at(lambda m: m.codec.colors, model, jnp.asarray(colors))
    ids = new_ids(about._replace(words=words))
    model = Adapted(model, adapter, ids).merged(scale)
    return Pipeline(model, ours, words, pipeline.path)


def with_words(model: TextToGif, old: list[str], new: list[str]) -> TextToGif:
    """The model for a larger vocabulary; rows of words that it did not have are zero."""

    def move(path: tuple, leaf: Array) -> Array:
        if not leaf_name(path).endswith("embedding"):
            return leaf
        empty = jnp.zeros((len(new) + 2, leaf.shape[1]), leaf.dtype)
        return move_rows(leaf, old, empty, new)

    text = jax.tree_util.tree_map_with_path(move, model.text)
    return replace(model, text=text)


def join_colors(
    a: UInt8[Array, "n 3"], b: UInt8[Array, "n 3"]
) -> UInt8[np.ndarray, "n 3"]:
    """The colours of two palettes as one. Raises TinygifError if they are too many."""
    colors = np.unique(np.concatenate([a, b]), axis=0)
    expect(len(colors) <= COLORS, f"at most {COLORS} colours in both together", len(colors))
    return np.pad(colors, ((0, COLORS - len(colors)), (0, 0)), "edge")
