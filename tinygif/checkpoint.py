"""Checkpoints: named arrays with the whole config inside, written so that a kill loses nothing.

`state.safetensors` alone suffices to resume; `model.safetensors` holds the averaged weights to
sample from, and is derived from it. Both carry the config, the vocabulary and the step as JSON.
Names are the paths of the pytree, so a renamed or reshaped layer is refused with its name.
Lesson 15.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from tinygif.config import Config, from_dict
from tinygif.gif import write_whole
from tinygif.text import Tokenizer
from tinygif.training import TrainState, copy, init_state
from tinygif.unet import TextToGif

MODEL, STATE = "model.safetensors", "state.safetensors"
ABOUT = "tinygif"
"""The one key of a file's metadata."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message says what to do."""


def named(tree: PyTree) -> dict[str, jax.Array]:
    """Every array of a pytree by its path, such as `unet.stem.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def write(path: Path, tree: PyTree, metadata: dict[str, str]) -> None:
    """Write a pytree's arrays, all or nothing."""
    from safetensors.numpy import save

    # safetensors takes the memory as it lies: anything but C order would be written scrambled
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named(tree).items()}
    try:
        write_whole(path, save(arrays, metadata))
    except OSError as error:
        raise CheckpointError(
            f"could not write {path} ({error.strerror}); the last good checkpoint is untouched. "
            "Free some space or choose another --out."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The JSON stored beside the arrays, without reading the arrays."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if ABOUT not in metadata:
        raise CheckpointError(f"{path} holds weights, but no tinygif config: not one of ours?")
    return metadata


def read(path: Path, template: PyTree) -> PyTree:
    """Fill a pytree of shapes with the arrays of a file, by name; refuse what does not fit."""
    from safetensors.numpy import load_file

    arrays, wanted = load_file(path), named_shapes(template)
    wrong = [f"missing {name}" for name in wanted if name not in arrays]
    wrong += [f"not expected {name}" for name in arrays if name not in wanted]
    wrong += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        some = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CheckpointError(f"{path} does not fit its own config: {some}")
    fill = lambda key, leaf: (  # noqa: E731
        jax.numpy.asarray(arrays[jax.tree_util.keystr(key, simple=True, separator=".")], leaf.dtype)
        if is_shape(leaf) else leaf
    )  # fmt: skip
    return jax.tree_util.tree_map_with_path(fill, template)


def is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def named_shapes(template: PyTree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(template, is_shape))
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")  # noqa: E731
    return {name(path): leaf.shape for path, leaf in leaves}


def metadata(config: Config, words: list[str], step: int) -> dict[str, str]:
    values = {"config": dataclasses.asdict(config), "words": words, "step": step}
    return {ABOUT: json.dumps(values)}  # one key: safetensors writes several in a random order


def save(folder: Path, state: TrainState, config: Config, words: list[str]) -> None:
    """Write both files of a run; at every moment each of them is whole."""
    about = metadata(config, words, int(state.step))
    write(folder / STATE, state, about)
    write(folder / MODEL, state.ema, about)


def export(run: Path, path: Path) -> None:
    """A run's averaged weights in half precision, to be passed on: half the size, and no paths."""
    model, config, words, step = load_model(run / MODEL)
    name = Path(config.data.dataset).name
    data = dataclasses.replace(config.data, mnist_dir=None, dataset=name)
    config = dataclasses.replace(config, data=data)
    half = jax.tree.map(lambda a: a.astype("float16") if eqx.is_inexact_array(a) else a, model)
    write(path, half, metadata(config, words, step))


def load_state(folder: Path) -> tuple[TrainState, Config, list[str]]:
    """The state to resume from, with the run's own config and vocabulary."""
    path = folder / STATE
    if not path.exists():
        raise CheckpointError(f"nothing to resume: there is no {path}. Start without --resume.")
    config, words, _ = parse(read_metadata(path))
    make = lambda: init_state(config, len(words) + 2, key=jax.random.key(0))  # noqa: E731
    return read(path, eqx.filter_eval_shape(make)), config, words


def load_model(path: Path) -> tuple[TextToGif, Config, list[str], int]:
    """Averaged weights, config, vocabulary and step of a `model.safetensors`."""
    config, words, step = parse(read_metadata(path))
    make = lambda: TextToGif(  # noqa: E731
        config.data, config.model, len(words) + 2, key=jax.random.key(0)
    )
    return read(path, eqx.filter_eval_shape(make)), config, words, step


def transplant(
    path: Path, config: Config, words: list[str], *, key: Key[Array, ""]
) -> tuple[TrainState, list[str], str]:
    """Step 0 of a run that begins with the averaged weights of `path`; its vocabulary; what fitted.

    An array is kept where name and shape are the same. The vocabulary is that of both, with new
    rows for new words; no words at all (a model without captions) stay none.
    """
    old, _, known, _ = load_model(path)
    every = sorted({*words, *known}) if words else []
    state = init_state(config, len(every) + 2, key=key)
    arrays, new = named(old), []
    table, rows = (getattr(model.text, "embedding", None) for model in (state.model, old))
    if table is not None and rows is not None and table.shape[1:] == rows.shape[1:]:
        ours, theirs = Tokenizer(every, 1).ids, Tokenizer(known, 1).ids
        to, of = np.array([(ours[word], theirs[word]) for word in theirs if word in ours]).T
        arrays["text.embedding"] = table.at[to].set(rows[of])

    def fill(key: tuple, leaf: object) -> object:
        name = jax.tree_util.keystr(key, simple=True, separator=".")
        if eqx.is_array(leaf) and (name not in arrays or arrays[name].shape != leaf.shape):
            new.append(name)
        return arrays.get(name, leaf) if name not in new else leaf

    model = jax.tree_util.tree_map_with_path(fill, state.model)
    total, fresh = len(named(model)), len(set(every) - set(known))
    if len(new) > total // 2:
        raise CheckpointError(
            f"{path} has only {total - len(new)} of {total} arrays of this model, of their shape: "
            "leave out flags such as --width, and they are taken from the checkpoint"
        )
    kept = f"from {path} {total - len(new)} of {total} arrays; new: {fresh} words"
    said = ", ".join([kept, *new])
    ema = jax.tree.map(copy, model)
    return TrainState(model, ema, state.optimizer, state.step), every, said


def parse(about: dict[str, str]) -> tuple[Config, list[str], int]:
    """Config, vocabulary and step out of the metadata."""
    try:
        values = json.loads(about[ABOUT])
        return from_dict(Config, values["config"]), values["words"], values["step"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"this checkpoint's config is of another version: {error}") from error


def newest(name: str, folder: Path = Path("runs")) -> Path:
    """The file of this name that was written last among all runs below `folder`."""
    found = sorted(folder.glob(f"*/{name}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(
            f"no {name} found in {folder}/: train a model with `python train.py --dataset "
            "moving_mnist`, or name the place of one (train.py --out, sample.py --checkpoint)"
        )
    return found[-1]


def check_room(folder: Path, state: TrainState) -> None:
    """Before training: can the folder be written, and is there room for the checkpoints?"""
    size = sum(leaf.nbytes for leaf in named(state).values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"tinygif")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {folder} ({error.strerror}): choose another --out"
        ) from error
    free, need = shutil.disk_usage(folder).free, 3 * size
    if free < need:
        raise CheckpointError(
            f"{folder} has {free / 1e6:.0f} MB free, this run needs {need / 1e6:.0f} MB for its "
            "checkpoints: free some space or choose another --out"
        )
