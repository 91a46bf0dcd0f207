"""Checkpoints: named arrays with the whole config inside, never half written, even after a kill.

`state.safetensors` alone suffices to resume; `model.safetensors` holds the averaged weights to
sample from, and is derived from it. `codec.safetensors` is the state of the autoencoder that a run
trains first, `lora.safetensors` what a run with `--lora` has learned. All carry the config, the
vocabulary and the step as JSON.
An array is named by its path in the pytree, so the error for a renamed or reshaped layer names it.
Lesson 15.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from tinygif.config import Config, from_dict
from tinygif.errors import TinygifError, expect
from tinygif.files import write_whole
from tinygif.text import TextToGif, Tokenizer

MODEL, STATE, CODEC = "model.safetensors", "state.safetensors", "codec.safetensors"
LORA = "lora.safetensors"
METADATA_KEY = "tinygif"  # a single key: safetensors writes several in a random order
FLOATS = ("F32", "F16", "BF16", "F64")
WHOLE_NUMBERS = ("I32", "U32", "I8", "U8", "BOOL")
"""The types of numbers that are read, as safetensors calls them."""


class About(NamedTuple):
    """The metadata of a checkpoint: config, vocabulary, and the step at which it was written."""

    config: Config
    words: list[str]
    step: int

    def to_json(self, arrays: str) -> str:
        """As JSON, with two checksums: the given one, of the arrays, and one of this JSON."""
        values = self._asdict() | {"config": dataclasses.asdict(self.config), "arrays": arrays}
        return json.dumps(values | {"json": text_digest(json.dumps(values))})


# ---- names -----------------------------------------------------------------------------------


def leaf_name(path: tuple) -> str:
    """The path of a leaf in a pytree, such as `model.stem.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_named(leaf: object) -> bool:
    """Whether a leaf is an array or a shape. These have names; other leaves are built by code."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def named(tree: PyTree) -> dict[str, jax.Array | jax.ShapeDtypeStruct]:
    """Every array, or shape of one, in a pytree by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): leaf for path, leaf in leaves if is_named(leaf)}


def check_names(
    found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], source: str,
    others: str = "$.",
) -> None:  # fmt: skip
    """Refuse arrays, given by name and shape, if one is missing, unexpected or of another shape.

    Unexpected names are accepted if they match the regular expression `others`.
    """
    wrong = [f"missing {name}" for name in wanted if name not in found]
    for name, shape in found.items():
        if name not in wanted and not re.match(others, name):
            wrong.append(f"not expected {name}")
        elif name in wanted and tuple(shape) != tuple(wanted[name]):
            wrong.append(f"{name} has shape {tuple(shape)}, expected {tuple(wanted[name])}")
    if wrong:
        rest = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise TinygifError(f"{source} does not fit its own config: {'; '.join(wrong[:5])}{rest}")


def fill(template: PyTree, read: Callable[[str], np.ndarray]) -> PyTree:
    """A pytree of shapes with the arrays that `read(name)` gives, in the template's dtypes."""

    def one(path: tuple, leaf: object) -> object:
        return jnp.asarray(read(leaf_name(path)), leaf.dtype) if is_named(leaf) else leaf

    return jax.tree_util.tree_map_with_path(one, template)


# ---- files -----------------------------------------------------------------------------------


def write(path: Path, tree: PyTree, about: About) -> None:
    """Write a pytree's arrays and their metadata, all or nothing."""
    from safetensors.numpy import save

    # safetensors copies memory as it is: arrays in another order than C would come out scrambled
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named(tree).items()}
    write_whole(path, save(arrays, {METADATA_KEY: about.to_json(digest(arrays))}))


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays: of their names, types, shapes and values."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8))
    return total.hexdigest()


def read_about(path: Path) -> About:
    """The metadata of a checkpoint; its arrays are not read.

    Raises TinygifError for a config that cannot work, or that asks for unreasonable sizes.
    """
    with open_file(path) as file:
        values = read_values(file, path)
    try:
        config, words, step = from_dict(Config, values["config"]), values["words"], values["step"]
        is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
        expect(is_list, "a list of words", repr(words))
        expect(type(step) is int and step >= 0, "a step of at least 0", repr(step))
        has_dims = config.text.text == "words" or config.text.text_dims is not None
        expect(has_dims, f"text_dims for {config.text.text}", None)
        config.check()
    except (ValueError, KeyError) as error:
        raise TinygifError(
            f"{path} was written by another version of tinygif, or is damaged ({error}): use that "
            "version, or train a new model"
        ) from error
    return About(config, words, step)


def read(path: Path, template: PyTree) -> PyTree:
    """Fill a pytree of shapes with the arrays of a file, by name; refuse what does not fit."""
    with open_file(path) as file:
        checksum = read_values(file, path).get("arrays")
        found, wanted = {name: file.get_slice(name) for name in file.keys()}, named(template)
        shapes = {name: leaf.shape for name, leaf in wanted.items()}
        check_names({name: tuple(s.get_shape()) for name, s in found.items()}, shapes, str(path))
        for name, leaf in wanted.items():
            kinds = FLOATS if jnp.issubdtype(leaf.dtype, jnp.floating) else WHOLE_NUMBERS
            kind = found[name].get_dtype()
            expect(kind in kinds, f"{name} in {path} of a type of {', '.join(kinds)}", kind)
        arrays = {name: file.get_tensor(name) for name in found}
    if checksum not in (None, digest(arrays)):  # older versions wrote none
        raise damaged(path)
    return fill(template, arrays.__getitem__)


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """An open safetensors file. safetensors checks its length against its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise TinygifError(f"cannot read the checkpoint {path}: {error}") from error


def read_values(file: Any, path: Path) -> dict[str, Any]:
    """The JSON of an open checkpoint. Raises TinygifError if it is not what was written."""
    metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise TinygifError(f"expected a checkpoint, got {path}, which has no tinygif config")
    try:
        values = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or set(values) - {*About._fields, "arrays", "json"}:
        raise damaged(path)
    checksum = values.pop("json", None)  # older versions wrote none
    if checksum not in (None, text_digest(json.dumps(values))):
        raise damaged(path)
    return values


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: Path) -> TinygifError:
    return TinygifError(
        f"{path} is damaged, or was written by another version of tinygif: its content does not "
        "match its checksums. Use an earlier copy, or train a new model"
    )


def model_template(about: About) -> TextToGif:
    """The shapes of a checkpoint's model; no array is allocated."""
    init = lambda: about.config.init(len(about.words) + 2, key=jax.random.key(0))  # noqa: E731
    return eqx.filter_eval_shape(init)


def load_model(path: Path) -> tuple[TextToGif, About]:
    """The averaged weights in a `model.safetensors`, and its metadata."""
    about = read_about(path)
    return read(path, model_template(about)), about


def export(run: Path, path: Path) -> None:
    """Write a run's averaged weights for other people: in half precision, and without paths."""
    write_to_share(path, *load_model(run / MODEL))


def write_to_share(path: Path, tree: PyTree, about: About) -> None:
    """Write a pytree in half precision, and its metadata without the folders of this machine."""
    data, text = about.config.data, about.config.text
    name = Path(data.dataset).name
    data = dataclasses.replace(data, mnist_dir=None, sprites_dir=None, images=None, dataset=name)
    if Path(text.text).is_absolute():  # a tower in a folder; its revision identifies it
        text = dataclasses.replace(text, text=Path(text.text).name)
    about = about._replace(config=dataclasses.replace(about.config, data=data, text=text))
    half = jax.tree.map(lambda a: a.astype("float16") if eqx.is_inexact_array(a) else a, tree)
    write(path, half, about)


def step_of(path: Path) -> int | None:
    """The step at which a checkpoint was written; None if there is no such file."""
    return read_about(path).step if path.exists() else None


# ---- folders of runs -------------------------------------------------------------------------


def newest(name: str, folder: Path = Path("runs")) -> Path | None:
    """Of the files of this name in all runs in `folder`, the one written last; None without any."""
    files = sorted(folder.glob(f"*/{name}"), key=lambda file: file.stat().st_mtime)
    return files[-1] if files else None


def run_folder(out: Path | None, resume: bool) -> Path | None:
    """The folder of a run: `out`, or if None that of the newest run to resume; None for a new run.

    Raises TinygifError if there is nothing to resume, or if a run would be overwritten.
    """
    states = [newest(name) for name in (STATE, CODEC)] if resume and out is None else []
    states = sorted(filter(None, states), key=lambda file: file.stat().st_mtime)
    folder = states[-1].parent if states else out
    has_run = folder is not None and any((folder / name).exists() for name in (STATE, CODEC))
    if resume and not has_run:
        raise TinygifError(f"nothing to resume: there is no {folder or 'runs/*'}/{STATE}")
    if has_run and not resume:
        raise TinygifError(f"{folder} already holds a run: add --resume, or choose another --out")
    return folder


def new_folder(name: str, parent: Path = Path("runs")) -> Path:
    """A new folder for a run: NAME, NAME-2, ... It is made here, so that no other run takes it."""
    for n in itertools.count(1):
        folder = parent / (name if n == 1 else f"{name}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise TinygifError(f"cannot make {folder} ({error.strerror}): choose --out") from error


# ---- starting from trained weights -----------------------------------------------------------


def plain(name: str) -> str:
    """The name of a leaf in a model for one part, which one for several holds as its `each`."""
    return name.replace(".each.", ".")


def move_rows(
    rows: Float[jax.Array, "n d"], old: list[str], table: Float[jax.Array, "m d"], new: list[str]
) -> Float[jax.Array, "m d"]:
    """The embedding `table` of the vocabulary `new`, with the rows that `old` has for its words."""
    old_ids, new_ids = Tokenizer(old, 1).ids, Tokenizer(new, 1).ids
    pairs = [(new_ids[word], old_ids[word]) for word in old_ids if word in new_ids]
    new_rows, old_rows = np.array(pairs).T
    return table.at[new_rows].set(rows[old_rows])


def transplant(
    path: Path, model: Callable[[list[str]], TextToGif], words: list[str]
) -> tuple[TextToGif, list[str], str]:
    """A new model that starts from the averaged weights of `path`; its vocabulary; a message.

    `model(words)` makes the new model for a vocabulary. An array is copied where name and shape
    agree. The vocabulary joins that of `path` and `words`; words that are new keep random rows. For
    a model without captions `words` is empty, and so is the vocabulary. A model for several parts
    may start from a model for one, and the other way round. The message says what was copied.
    """
    old, about = load_model(path)
    vocabulary = sorted({*words, *about.words}) if words else []
    new_model, fresh = model(vocabulary), []
    arrays = {plain(name): leaf for name, leaf in named(old).items()}
    new_arrays = {plain(name): leaf for name, leaf in named(new_model).items()}
    table, rows = (found.get("text.embedding") for found in (new_arrays, arrays))
    if table is not None and rows is not None and table.shape[1:] == rows.shape[1:]:
        arrays["text.embedding"] = move_rows(rows, about.words, table, vocabulary)
        places = new_arrays["text.positions"]
        known = arrays["text.positions"][: len(places)]
        arrays["text.positions"] = places.at[: len(known)].set(known)

    def choose(leaf_path: tuple, leaf: object) -> object:
        name = plain(leaf_name(leaf_path))
        if is_named(leaf) and (name not in arrays or arrays[name].shape != leaf.shape):
            fresh.append(name)
        return leaf if name in fresh else arrays.get(name, leaf)

    new_model = jax.tree_util.tree_map_with_path(choose, new_model)
    total, new_words = len(named(new_model)), len(set(vocabulary) - set(about.words))
    kept = total - len(fresh)
    if kept < total // 2:
        raise TinygifError(
            f"{path} has only {kept} of {total} arrays of this model in the same shape: leave out "
            "flags such as --width, so that the checkpoint decides"
        )
    message = f"from {path} {kept} of {total} arrays; new: {new_words} words"
    return new_model, vocabulary, ", ".join([message, *fresh])
