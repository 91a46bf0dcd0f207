"""Prompts as a frozen tower reads them: each once, then from a memory-mapped file in the cache.

The step of training never runs the tower: batches carry its states in place of word ids. What one
token says takes a row of floats, so that short prompts take little room. Lesson 10.
"""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tinygif.config import ModelConfig
from tinygif.hub import find
from tinygif.moving_mnist import cache_dir
from tinygif.pretrained import (
    POOLS,
    Bert,
    ClipText,
    TowerError,
    load_tower,
    read_config,
    text_sizes,
)
from tinygif.text import PromptError, Text, Tokenizer

BATCH, GRAIN = 16, 8
"""Prompts encoded at once; their lengths are rounded up to a multiple of GRAIN tokens."""
ROOM = 4 * 2**30
"""Bytes that the cache of one tower may take; what comes later is encoded whenever it is asked."""
MOST = 10**6
"""Prompts whose ids are kept in memory."""
FEWEST = 256
"""A vocabulary below this is no tokenizer, but what is made up where its files are missing."""

Ids = tuple[int, ...]
"""A prompt's tokens: the key to what the tower says of them."""
Row = Float[np.ndarray, " _"]
"""The states of a prompt's tokens, one after another, then its pooled vector."""


def settle(config: ModelConfig) -> ModelConfig:
    """The config with what it leaves open about its tower: name, revision, pooling, widths."""
    if config.text == "words":
        return config
    folder, name, revision = find(config.text, config.text_revision)
    about = read_config(folder)
    sizes, pools = text_sizes(about, folder), POOLS[about["model_type"]]
    pool = config.text_pool or pools[0]
    if pool not in pools:
        raise TowerError(f"expected a text_pool of {' or '.join(pools)} for {name}, got {pool!r}")
    load_tokenizer(folder, sizes["vocab_size"])
    d = sizes["hidden_size"]
    widths = (d, sizes["projection_dim"] if pool == "last" else d)
    return dataclasses.replace(
        config, text=name, text_revision=revision, text_pool=pool, text_dims=widths
    )


class Embeddings:
    """The tower of a config that `settle` made, and all that it has read."""

    def __init__(self, config: ModelConfig):
        self.folder, self.name, revision = find(config.text, config.text_revision)
        sizes = text_sizes(read_config(self.folder), self.folder)
        self.config, self.places = config, sizes["max_position_embeddings"]
        self.tokenizer = load_tokenizer(self.folder, sizes["vocab_size"])
        self.tokenizer.enable_truncation(min(config.max_tokens, self.places))
        name = f"{Path(self.name).name}-{revision[:16]}-{config.text_pool}"
        self.store = Store(cache_dir() / "text" / name)
        self.known: dict[str, Ids] = {}

    @cached_property
    def tower(self) -> ClipText | Bert:
        """Loaded when a prompt comes that is not in the cache."""
        return load_tower(self.folder)

    def batch(self, prompts: Sequence[str | None]) -> Text:
        """Prompts as arrays, padded to `max_tokens`; None, the null prompt, has no token at all."""
        ids, fresh = self.ids(prompts), {}
        for some, rows in self.encoded(ids):
            self.store.add(some, rows)
            fresh.update(zip(some, rows))
        (d, d_pooled), shape = self.config.text_dims, (len(prompts), self.config.max_tokens)
        states, pooled = np.zeros((*shape, d), "f4"), np.zeros((len(prompts), d_pooled), "f4")
        mask = np.zeros(shape, bool)
        for i, key in enumerate(ids):
            if key:
                n, row = len(key), fresh[key] if key in fresh else self.store[key]
                states[i, :n], pooled[i], mask[i, :n] = row[: n * d].reshape(n, d), row[n * d :], 1
        return Text(states, pooled, mask)

    def learn(self, prompts: Iterable[str]) -> None:
        """Put prompts into the cache, as far as there is room. A kill loses one batch."""
        for some, rows in self.encoded(self.ids(prompts)):
            if not self.store.add(some, rows):
                return

    def encoded(self, ids: Iterable[Ids]) -> Iterator[tuple[list[Ids], list[Row]]]:
        """The rows of prompts that are not in the cache, a batch at a time."""
        from tqdm import tqdm

        groups: dict[int, list[Ids]] = {}
        for key in dict.fromkeys(ids):
            if key and key not in self.store:
                n = min(-(-len(key) // GRAIN) * GRAIN, self.places)
                groups.setdefault(n, []).append(key)
        total = sum(map(len, groups.values()))
        with tqdm(total=total, desc=f"{Path(self.name).name} reads captions", unit="caption",
                  disable=total <= 4 * BATCH) as bar:  # fmt: skip
            for n, group in groups.items():
                for i in range(0, len(group), BATCH):
                    some = group[i : i + BATCH]
                    yield some, encode(self.tower, self.config.text_pool, some, n)
                    bar.update(len(some))

    def ids(self, prompts: Iterable[str | None]) -> list[Ids]:
        """Token ids of prompts, none for the null prompt; says what it had to cut."""
        cut, found = [], []
        if len(self.known) > MOST:
            self.known.clear()
        for prompt in prompts:
            if prompt is not None and prompt not in self.known:
                if not prompt.strip():
                    raise PromptError(f"the prompt {prompt!r} has no words; write a sentence")
                read = self.tokenizer.encode(prompt)
                if read.overflowing:
                    end = max(stop for _, stop in read.offsets)
                    cut.append(f"{prompt[:end]!r}, without {prompt[end:]!r}")
                self.known[prompt] = tuple(read.ids)
            found.append(() if prompt is None else self.known[prompt])
        if cut:
            most = self.tokenizer.truncation["max_length"]
            print(f"{len(cut)} prompt(s) were cut to {most} tokens (--max-tokens of train.py may "
                  f"raise that): {'; '.join(cut[:3])}", file=sys.stderr)  # fmt: skip
        return found


def reader(
    config: ModelConfig, words: list[str], captions: Iterable[str] = ()
) -> Tokenizer | Embeddings:
    """What turns prompts into what `TextToGif` takes, by `batch(prompts)`.

    A tower reads `captions` at once, so that training need not wait for it later.
    """
    if config.text == "words":
        return Tokenizer(words, config.max_tokens)
    texts = Embeddings(config)
    texts.learn(captions)
    return texts


def load_tokenizer(folder: Path, words: int):
    """The tokenizer of a folder, for a tower that knows `words` tokens."""
    from tokenizers import Tokenizer as Fast

    path = folder / "tokenizer.json"
    try:
        tokenizer = Fast.from_file(str(path))
    except Exception as error:  # it raises nothing more exact
        raise TowerError(f"expected a tokenizer in {path}, got: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size, marks = tokenizer.get_vocab_size(), tokenizer.encode("a").special_tokens_mask
    if not FEWEST <= size <= words:
        raise TowerError(
            f"expected {FEWEST} to {words} tokens in {path}, got {size}: it is not the tokenizer "
            "of this model"
        )
    if not marks or not marks[-1]:
        raise TowerError(
            f"expected the tokenizer of {path} to mark the end of a prompt, it doesn't"
        )
    return tokenizer


def encode(tower: ClipText | Bert, pool: str, keys: Sequence[Ids], n: int) -> list[Row]:
    """What a tower says of at most BATCH prompts of at most n tokens.

    Always BATCH sequences of n tokens, some of them empty: one program, so that a prompt is read
    to the same bits in any company.
    """
    ids, mask = np.zeros((BATCH, n), np.int32), np.zeros((BATCH, n), bool)
    for i, key in enumerate(keys):
        ids[i, : len(key)], mask[i, : len(key)] = key, True
    text = jax.tree.map(np.asarray, read(tower, pool, ids, mask))
    return [np.concatenate([text.states[i, : len(key)].ravel(), text.pooled[i]])
            for i, key in enumerate(keys)]  # fmt: skip


@eqx.filter_jit
def read(
    tower: ClipText | Bert, pool: str, ids: Int[Array | np.ndarray, "b n"],
    mask: Bool[Array | np.ndarray, "b n"],
) -> Text:  # fmt: skip
    """A batch through a tower, in full precision on every kind of device."""
    with jax.default_matmul_precision("highest"):
        return jax.vmap(lambda *prompt: tower(*prompt, pool))(ids, mask)


class Store:
    """Rows of floats by key, in a memory-mapped file that only grows.

    An index says where each row starts, a line of JSON for each, written when the row is on disk:
    what a kill leaves half written is never found. Several processes may add at once.
    """

    def __init__(self, folder: Path):
        self.data, self.index = folder / "rows.f32", folder / "index.jsonl"
        self.places: dict[Ids, tuple[int, int]] = {}
        self.rows = self._map()
        for line in self.index.read_text().splitlines() if self.index.exists() else []:
            try:
                key, start, size = json.loads(line)
            except ValueError:
                continue
            if start + size <= len(self.rows):
                self.places[tuple(key)] = start, size

    def _map(self) -> Row:
        count = self.data.stat().st_size // 4 if self.data.exists() else 0
        return np.memmap(self.data, np.float32, "r", shape=count) if count else np.zeros(0, "f4")

    def __contains__(self, key: Ids) -> bool:
        return key in self.places

    def __getitem__(self, key: Ids) -> Row:
        start, size = self.places[key]
        if start + size > len(self.rows):
            self.rows = self._map()
        return self.rows[start : start + size]

    def add(self, keys: Sequence[Ids], rows: Sequence[Row]) -> bool:
        """Append rows, if there is room for them."""
        try:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            end = append(self.data, np.concatenate(rows).tobytes(), room=ROOM)
            if end is None:
                return False
            ends = end // 4 - sum(map(len, rows)) + np.cumsum([len(row) for row in rows])
            new = {key: (int(end) - len(row), len(row)) for key, row, end in zip(keys, rows, ends)}
            lines = [json.dumps([key, *place]) for key, place in new.items()]
            append(self.index, "\n".join(["", *lines, ""]).encode())
        except OSError as error:
            raise TowerError(
                f"could not write to the cache {self.data.parent} ({error.strerror}): free some "
                "space, or set TINYGIF_CACHE to a folder with some"
            ) from error
        self.places |= new
        return True


def append(path: Path, data: bytes, room: int | None = None) -> int | None:
    """Write at the end of a file in one go, whoever else does; gives the place after it.

    None where it would take more than `room` bytes.
    """
    with open(path, "ab", buffering=0) as file:
        torn = -file.tell() % 4 if room else 0  # left by a kill in the midst of a row
        if room and file.tell() + len(data) > room:
            return None
        if file.write(bytes(torn) + data) < torn + len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end = file.tell()
        os.fsync(file.fileno())
        return end
