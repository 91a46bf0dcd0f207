"""Encode prompts with a frozen tower, each prompt once: the cache folder keeps the results.

The training step never runs the tower. Its batches carry the tower's states instead of word ids.
A prompt is stored without padding, so short prompts take little room. Lesson 10.
"""

import dataclasses
import hashlib
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from tinygif.config import TextConfig
from tinygif.errors import TinygifError, check_range, expect
from tinygif.files import cache_dir, write_whole
from tinygif.hub import find_model
from tinygif.text import Text
from tinygif.towers.pretrained import (
    LARGEST,
    POOLS,
    Bert,
    ClipText,
    load_tower,
    read_config,
    text_sizes,
)

BATCH = 16
"""Prompts that are encoded at once."""
PAD_MULTIPLE = 8
"""Prompts are padded to a multiple of this many tokens: few lengths, so few compiled programs."""
MIN_VOCABULARY = 256
"""No real tokenizer has fewer tokens. Without its files, transformers makes up one of 2 to 5."""
MAX_CACHE_BYTES = 4 * 2**30
"""The size on disk up to which a process fills the cache of one tower. Prompts that come later are
encoded each time they are needed."""
MAX_KNOWN_PROMPTS = 10**6
"""Prompts whose token ids are kept in memory."""

Ids = tuple[int, ...]
"""The token ids of a prompt, with the marks of start and end: the key to its row in the cache."""
Row = Float[np.ndarray, " _"]
"""The states of a prompt's tokens, one after another, then its pooled vector."""


def resolve_tower(config: TextConfig) -> TextConfig:
    """The config with the name, revision, pooling and widths of its tower filled in.

    Raises TinygifError like `Embeddings`.
    """
    if config.text == "words":
        return config
    return Embeddings(dataclasses.replace(config, text_dims=None)).config


class Embeddings:
    """Encodes prompts with a tower, through the cache.

    Its `config` is the given one, with everything that was left open filled in. Raises TinygifError
    if the tower is not found, is of an unknown kind, has no such pooling, or gives vectors of other
    widths than the config says, and if `max_tokens` leaves no room for a word.
    """

    def __init__(self, config: TextConfig):
        self.folder, name, revision, self.digest = find_model(config.text, config.text_revision)
        model_config = read_config(self.folder)
        sizes, pools = text_sizes(model_config, self.folder), POOLS[model_config["model_type"]]
        pool = config.text_pool or pools[0]
        expect(pool in pools, f"a text_pool of {' or '.join(pools)} for {name}", repr(pool))
        self.tokenizer = load_tokenizer(self.folder, sizes["vocab_size"])
        marks = self.tokenizer.num_special_tokens_to_add(False)  # tokens for start and end
        most = LARGEST["max_position_embeddings"]
        check_range(f"max_tokens for {name}", config.max_tokens, marks + 1, most)
        self.max_positions = sizes["max_position_embeddings"]
        what = f"{name} to have more than {marks} positions, as start and end take those"
        expect(self.max_positions > marks, what, self.max_positions)
        self.tokenizer.enable_truncation(min(config.max_tokens, self.max_positions))
        d = sizes["hidden_size"]
        dims = (d, sizes["projection_dim"] if pool == "last" else d)
        what = (
            f"{name} to give vectors of widths {config.text_dims}, as the text-to-GIF model was "
            "trained with"
        )
        expect(config.text_dims in (None, dims), what, dims)
        self.config = dataclasses.replace(
            config, text=name, text_revision=revision, text_pool=pool, text_dims=dims
        )
        self.known_ids: dict[str, Ids] = {}

    @cached_property
    def store(self) -> "Store":
        """The cache of this tower, opened for the first prompt."""
        name = f"{Path(self.config.text).name}-{self.digest[:16]}-{self.config.text_pool}"
        return Store(cache_dir() / "text" / name)

    @cached_property
    def tower(self) -> ClipText | Bert:
        """The tower, loaded for the first prompt that is not cached, if its files are unchanged."""
        find_model(self.config.text, self.config.text_revision)
        return load_tower(self.folder)

    def batch(self, prompts: Sequence[str | None]) -> Text:
        """Prompts as arrays, padded to `max_tokens`; None, the null prompt, has no tokens.

        Raises TinygifError for a prompt without words. A prompt that is too long is cut, and the
        part that is lost is printed.
        """
        keys = self.token_ids(prompts)
        rows = {key: row for key in keys if (row := self.store.get(key)) is not None}
        for batch in self.encode_missing(keys):
            self.store.add(batch)
            rows |= batch
        (d, d_pooled), shape = self.config.text_dims, (len(prompts), self.config.max_tokens)
        states, pooled = np.zeros((*shape, d), "f4"), np.zeros((len(prompts), d_pooled), "f4")
        mask = np.zeros(shape, bool)
        for i, key in enumerate(keys):
            if key:
                n, row = len(key), rows[key]
                states[i, :n], pooled[i], mask[i, :n] = row[: n * d].reshape(n, d), row[n * d :], 1
        return Text(states, pooled, mask)

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of a prompt that the tower reads, start and end included."""
        return self.tokenizer.encode(prompt).tokens

    def learn(self, captions: Iterable[str]) -> None:
        """Put captions into the cache, as long as there is room. A kill loses at most one batch."""
        for batch in self.encode_missing(self.token_ids(captions)):
            if not self.store.add(batch):
                return

    def encode_missing(self, keys: Iterable[Ids]) -> Iterator[dict[Ids, Row]]:
        """Encode the prompts that are not in the cache, a batch at a time."""
        from tqdm import tqdm

        groups: dict[int, list[Ids]] = {}
        for key in dict.fromkeys(keys):
            if key and key not in self.store:
                length = min(-(-len(key) // PAD_MULTIPLE) * PAD_MULTIPLE, self.max_positions)
                groups.setdefault(length, []).append(key)
        batches = [
            (group[i : i + BATCH], length)
            for length, group in groups.items() for i in range(0, len(group), BATCH)
        ]  # fmt: skip
        title = f"{Path(self.config.text).name} reads captions"
        for batch, length in tqdm(batches, title, unit="batch", disable=len(batches) <= 4):
            rows = encode_prompts(self.tower, self.config.text_pool, batch, length)
            yield dict(zip(batch, rows))

    def token_ids(self, prompts: Iterable[str | None]) -> list[Ids]:
        """The token ids of prompts; the null prompt has none. Prints what had to be cut."""
        cuts, keys = [], []
        if len(self.known_ids) > MAX_KNOWN_PROMPTS:
            self.known_ids.clear()
        for prompt in prompts:
            if prompt is not None and prompt not in self.known_ids:
                if not prompt.strip():
                    raise TinygifError(f"the prompt {prompt!r} has no words; write a sentence")
                encoding = self.tokenizer.encode(prompt)
                if encoding.overflowing:
                    end = max(stop for _, stop in encoding.offsets)
                    cuts.append(f"{prompt[:end]!r}, without {prompt[end:]!r}")
                self.known_ids[prompt] = tuple(encoding.ids)
            keys.append(() if prompt is None else self.known_ids[prompt])
        if cuts:
            limit = self.tokenizer.truncation["max_length"]
            print(f"{len(cuts)} prompt(s) were cut to {limit} tokens (--max-tokens of train.py may "
                  f"raise that): {'; '.join(cuts[:3])}", file=sys.stderr)  # fmt: skip
        return keys


def load_tokenizer(folder: Path, vocabulary: int):
    """The tokenizer of a folder, for a tower with a `vocabulary` of this many tokens.

    Raises TinygifError if there is none, or if it cannot be the one of this tower.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        example, ids = tokenizer.encode("a ☃"), tokenizer.get_vocab().values()
    except Exception as error:  # the library raises no narrower class
        raise TinygifError(f"expected a tokenizer in {path}, got: {error}") from error
    largest = max([*ids, *example.ids], default=0)
    fits = MIN_VOCABULARY <= len(ids) <= vocabulary and largest < vocabulary
    got = f"{len(ids)}, the last with number {largest}: it is not the tokenizer of this model"
    expect(fits, f"{MIN_VOCABULARY} to {vocabulary} tokens in {path}", got)
    has_end = any(example.special_tokens_mask[-1:])
    expect(has_end, f"a tokenizer that marks the end of a prompt in {path}", "one that does not")
    return tokenizer


def encode_prompts(
    tower: ClipText | Bert, pool: str, keys: Sequence[Ids], length: int
) -> list[Row]:
    """The rows of at most BATCH prompts, of at most `length` tokens each.

    The tower always runs on BATCH sequences of `length` tokens, some of them empty. So one compiled
    program serves every batch, and a prompt's row does not depend on the others, to the bit.
    """
    ids, mask = np.zeros((BATCH, length), np.int32), np.zeros((BATCH, length), bool)
    for i, key in enumerate(keys):
        ids[i, : len(key)], mask[i, : len(key)] = key, True
    text = jax.tree.map(np.asarray, run_tower(tower, pool, ids, mask))
    return [np.concatenate([text.states[i, : len(key)].ravel(), text.pooled[i]])
            for i, key in enumerate(keys)]  # fmt: skip


@eqx.filter_jit
def run_tower(
    tower: ClipText | Bert, pool: str, ids: Int[Array | np.ndarray, "b n"],
    mask: Bool[Array | np.ndarray, "b n"],
) -> Text:  # fmt: skip
    """A batch through a tower, in full precision on every kind of device."""
    with jax.default_matmul_precision("highest"):
        return jax.vmap(lambda *prompt: tower(*prompt, pool))(ids, mask)


class Store:
    """Rows of floats by the token ids of their prompts, in a folder of safetensors files.

    Each `add` writes one new file, whole or not at all, so a kill damages none. Several processes
    may add at once, and the folder may be deleted at any time. A store knows the rows that were in
    the folder when it was made, and those that it added since. Files are memory-mapped: rows stay
    on disk until they are used. `row_name` names the row of a prompt; the file's metadata holds a
    checksum under the same name.
    """

    def __init__(self, folder: Path):
        self.folder, self.files, self.size = folder, {}, 0
        for path in folder.glob("*.safetensors"):
            self.open_file(path)

    def open_file(self, path: Path) -> None:
        """Index the rows of a file. A damaged file is ignored: its prompts are encoded again."""
        from safetensors import SafetensorError, safe_open

        try:
            self.size += path.stat().st_size
            file = safe_open(path, "numpy")
            checksums = dict(json.loads((file.metadata() or {})["crc32"]))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            return
        self.files |= {name: (file, checksums.get(name)) for name in file.keys()}

    def __contains__(self, key: Ids) -> bool:
        return row_name(key) in self.files

    def get(self, key: Ids) -> Row | None:
        """The row of a prompt. None if there is none, or if it is damaged: then it is dropped."""
        name = row_name(key)
        if name not in self.files:
            return None
        file, wanted = self.files[name]
        row = file.get_tensor(name)
        if checksum(row) == wanted:
            return row
        del self.files[name]
        return None

    def add(self, rows: dict[Ids, Row]) -> bool:
        """Write rows to the folder. Writes nothing and returns False if there is no room for them.

        Raises TinygifError if the folder cannot be written to.
        """
        from safetensors.numpy import save

        named = {row_name(key): row for key, row in rows.items()}
        checksums = {name: checksum(row) for name, row in named.items()}
        data = save(named, {"crc32": json.dumps(checksums)})
        if self.size + len(data) > MAX_CACHE_BYTES:
            return False
        name = hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except (OSError, TinygifError) as error:
            raise TinygifError(
                f"cannot write to the cache of captions, which TINYGIF_CACHE can move: {error}"
            ) from error
        self.open_file(path)
        return True


def row_name(key: Ids) -> str:
    """The name of a prompt's row in its file."""
    return " ".join(map(str, key))


def checksum(row: Shaped[np.ndarray, "..."]) -> int:
    """CRC-32 of a row's type and values."""
    return zlib.crc32(row.tobytes(), zlib.crc32(str(row.dtype).encode()))
