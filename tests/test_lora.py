"""lora.py: an adapter changes nothing at first, learns alone, and is a small file. Lesson 19."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from quick import noise
from tiny import ABOUT, CONFIG, DATA, TOKENIZER, call, leaves

from tinygif import checkpoint, training
from tinygif.checkpoint import LORA, MODEL, STATE
from tinygif.errors import TinygifError
from tinygif.gif import write_gif
from tinygif.lora import (
    Adapted,
    adapt,
    load_adapter,
    matrices,
    merged,
    save_adapter,
    with_adapter,
    with_words,
)
from tinygif.pipeline import Pipeline, load
from tinygif.text import TextToGif

PROMPT = "a 7 moving left"
WORDS = sorted({*DATA.words, "pirate", "zebra"})


def config_of(rank=2, layers=(), words=()):
    train = replace(CONFIG.train, lora=rank, lora_layers=layers, lora_words=words)
    return replace(CONFIG, train=train)


def adapted(rank=2, layers=(), seed=0, scale=0.3):
    """The tiny model with an adapter none of whose numbers is zero."""
    new = adapt(tiny.model(), ABOUT._replace(config=config_of(rank, layers)), key=jax.random.key(0))
    rng = np.random.default_rng(seed)
    draw = lambda a: jnp.asarray(scale * rng.normal(size=a.shape), a.dtype)  # noqa: E731
    pairs = jax.tree.map(draw, new.adapter.pairs)
    return eqx.tree_at(lambda m: m.adapter.pairs, new, pairs)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(tiny.model(), CONFIG, DATA.words)


@pytest.fixture
def file(tmp_path):
    """A file with an adapter."""
    save_adapter(tmp_path, adapted().adapter, ABOUT._replace(config=config_of()))
    return tmp_path / LORA


# ---- the adapter -----------------------------------------------------------------------------


def test_a_new_adapter_changes_nothing():
    model = tiny.model()
    new = adapt(model, ABOUT._replace(config=config_of()), key=jax.random.key(1))
    old, changed = leaves(model), leaves(merged(new))
    for name in old:
        np.testing.assert_array_equal(changed[name], old[name], name)


def test_colours_of_the_data_come_along_and_no_array_is_held_twice():
    """A step of training takes the state's buffers over, each of them once."""
    data, codec = replace(CONFIG.data, channels=3), replace(CONFIG.codec, codec="palette")
    config = replace(config_of(), data=data, codec=codec)
    model = config.init(len(TOKENIZER), key=jax.random.key(0))
    new = adapt(model, ABOUT._replace(config=config), key=jax.random.key(0))
    np.testing.assert_array_equal(new.adapter.colors, model.codec.colors)
    arrays = jax.tree.leaves(eqx.filter(new, eqx.is_array))
    assert len({leaf.unsafe_buffer_pointer() for leaf in arrays if leaf.size}) == len(
        [leaf for leaf in arrays if leaf.size])  # fmt: skip


def test_a_merged_matrix_does_what_the_matrix_and_its_pair_do():
    """(W + s up down) x = W x + s up (down x): one weight of each shape."""
    new, scale = adapted(), 0.7
    old, whole = leaves(new.frozen), leaves(new.merged(scale))
    for name, pair in new.adapter.pairs.items():
        matrix = old[name].reshape(len(old[name]), -1)
        x = np.asarray(noise(matrix.shape[1]))
        wanted = matrix @ x + scale * np.asarray(pair.up) @ (np.asarray(pair.down) @ x)
        got = whole[name].reshape(matrix.shape) @ x
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_matrix_but_the_codecs_has_a_pair_and_nothing_else_changes():
    new = adapted()
    old, whole = leaves(new.frozen), leaves(merged(new))
    for name in old:
        changed = (old[name] != whole[name]).any()
        is_matrix = old[name].ndim > 1 and name.split(".")[-1] == "weight"
        assert changed == is_matrix == (name in new.adapter.pairs), name


def test_the_change_has_the_rank_that_was_asked_for():
    for rank in (1, 3):
        new = adapted(rank)
        old, whole = leaves(new.frozen), leaves(merged(new))
        for name, pair in new.adapter.pairs.items():
            change = (whole[name] - old[name]).reshape(len(old[name]), -1)
            size = min(rank, *change.shape)
            values = np.linalg.svd(change, compute_uv=False)
            assert (values > 1e-4 * values[0]).sum() == size == len(pair.down), name


def test_layers_are_chosen_by_their_names():
    names = matrices(tiny.model(), ("text",))
    assert names and all("text" in name for name in names)
    with pytest.raises(TinygifError, match="parts of names such as .*, got cellar"):
        matrices(tiny.model(), ("cellar",))


def test_only_the_adapter_has_gradients_to_train():
    new = adapted()
    arrays = leaves(training.trainable(new))
    assert arrays and all(name.startswith("adapter.") for name in arrays)
    assert training.count_weights(new) < training.count_weights(new.frozen) / 2


def test_a_step_trains_every_pair_and_leaves_the_model_alone():
    config = config_of()
    config = replace(config, train=replace(config.train, optimizer="adamw"))  # compiles sooner
    about = ABOUT._replace(config=config)
    new = adapt(tiny.model(), about, key=jax.random.key(0))
    state = training.init_state(config, new)
    before, ids = leaves(state.model), TOKENIZER.batch([PROMPT] * 8)
    clips = np.stack([DATA[i][0] for i in range(8)])
    step = training.make_step(config, training.make_mesh())
    with jax.numpy_dtype_promotion("standard"):  # Adam of optax 0.2.8 is not strict
        for _ in range(2):
            batch = training.Batch(clips, ids, np.float32(0.5))
            state, _ = step(state, batch, jax.random.key(0))
    after = leaves(state.model)
    for name in before:
        still = (before[name] == after[name]).all()
        assert still == (name.startswith("frozen.") or before[name].size == 0), name


# ---- the file --------------------------------------------------------------------------------


def test_an_adapter_comes_back_from_its_file(file):
    adapter, about = load_adapter(file.parent)
    before, after = leaves(adapted().adapter), leaves(adapter)
    assert before.keys() == after.keys() and about.config.train == config_of().train
    assert about.config.data.mnist_dir is None  # no folder of this machine
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-4)


def test_the_scale_is_how_much_of_it_is_added(file, pipeline):
    none, half, whole = (with_adapter(pipeline, file, s)([PROMPT]).array for s in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(none, pipeline([PROMPT]).array)
    assert (half != none).any() and (half != whole).any()


def test_of_two_adapters_the_order_does_not_matter(tmp_path, file, pipeline):
    (tmp_path / "other").mkdir()
    about = ABOUT._replace(config=config_of(1))
    save_adapter(tmp_path / "other", adapted(1, seed=5).adapter, about)
    one = with_adapter(with_adapter(pipeline, file), tmp_path / "other", 0.5)
    two = with_adapter(with_adapter(pipeline, tmp_path / "other", 0.5), file)
    first, second = leaves(one.model), leaves(two.model)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-5)
    assert (first["model.stem.weight"] != leaves(with_adapter(pipeline, file).model)[
        "model.stem.weight"]).any()  # fmt: skip


def test_taken_away_again_the_model_is_the_old_one(file, pipeline):
    back = with_adapter(with_adapter(pipeline, file, 1.0), file, -1.0)
    old, new = leaves(pipeline.model), leaves(back.model)
    for name in old:
        np.testing.assert_allclose(new[name], old[name], atol=1e-5)


def test_words_keep_their_rows_in_a_larger_vocabulary():
    old = tiny.model()
    new = with_words(old, DATA.words, WORDS)
    names = ["<pad>", "<null>", *WORDS]
    known = ["<pad>", "<null>", *DATA.words]
    for i, word in enumerate(names):
        row = old.text.embedding[known.index(word)] if word in known else 0
        np.testing.assert_array_equal(new.text.embedding[i], row)


def test_new_words_come_with_the_adapter(tmp_path, pipeline):
    """Also beside other new words, which shift their ids."""
    about = ABOUT._replace(config=config_of(words=("pirate", "zebra")), words=WORDS)
    model = with_words(tiny.model(), DATA.words, WORDS)
    new = adapt(model, about, key=jax.random.key(0))
    rows = noise(*new.adapter.rows.shape)
    new = eqx.tree_at(lambda m: m.adapter.rows, new, rows)
    save_adapter(tmp_path, new.adapter, about)
    wide = Pipeline(with_words(pipeline.model, DATA.words, [*DATA.words, "queen"]), CONFIG,
                    [*DATA.words, "queen"])  # fmt: skip
    for base in (pipeline, wide):
        got = with_adapter(base, tmp_path)
        place = got.reader.ids["zebra"]
        np.testing.assert_allclose(got.model.text.embedding[place], rows[1], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(got.model.text.embedding[got.reader.ids["left"]],
                                      pipeline.model.text.embedding[pipeline.reader.ids["left"]])
    assert got(["a pirate 7 moving left"]).shape == (1, 4, 16, 16, 1)


@pytest.mark.parametrize("part, change, says", [
    ("data", {"channels": 3}, "channels 3"), ("codec", {"codec": "autoencoder"}, "codec pixels"),
    ("text", {"parts": 2}, "parts 2"), ("model", {"width": 8}, "whose .* has another shape"),
])  # fmt: skip
def test_an_adapter_of_another_model_is_refused(file, part, change, says):
    other = replace(CONFIG, **{part: replace(getattr(CONFIG, part), **change)})
    model = eqx.filter_eval_shape(other.init, len(TOKENIZER), key=jax.random.key(0))
    if part == "model":
        model = tiny.model(other)
    with pytest.raises(TinygifError, match=says):
        with_adapter(Pipeline(model, other, DATA.words), file)


def test_what_is_no_adapter_is_refused(tmp_path, pipeline):
    with pytest.raises(TinygifError, match="or a run with --lora"):
        with_adapter(pipeline, tmp_path / "gone")
    checkpoint.write(tmp_path / LORA, tiny.model(), ABOUT)
    with pytest.raises(TinygifError, match="got a whole model"):
        with_adapter(pipeline, tmp_path)


# ---- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, a folder of captioned clips with a new word, and a run that adapts to them."""
    root = tmp_path_factory.mktemp("lora")
    (root / "base").mkdir()
    checkpoint.write(root / "base" / MODEL, tiny.model(), ABOUT)
    (root / "mine").mkdir()
    for i in range(8):
        clip, caption = DATA[i]
        write_gif(root / "mine" / f"{i}.gif", 255 - clip, 8)
        (root / "mine" / f"{i}.txt").write_text(f"zebra {caption}")
    words = ["--dataset", root / "mine", "--init", root / "base" / MODEL, "--lora", "2",
             "--batch-size", "8", "--sample-steps", "2", "--save-every", "2",
             "--short-frames", "None", "--optimizer", "adamw"]  # fmt: skip
    assert call(*words, "--steps", "4", "--out", root / "run") == 0
    return root


def test_a_run_leaves_a_small_file_and_a_merged_model(runs, pipeline):
    run = runs / "run"
    adapter, about = load_adapter(run)
    assert about.config.train.lora_words == ("zebra",) and len(adapter.rows) == 1
    assert (run / LORA).stat().st_size < (run / MODEL).stat().st_size
    whole, base = load(run), with_adapter(load(runs / "base"), run)
    old, new = leaves(whole.model), leaves(base.model)
    assert old.keys() == new.keys() and isinstance(whole.model, TextToGif)
    for name in old:
        np.testing.assert_allclose(old[name], new[name], rtol=2e-3, atol=2e-3, err_msg=name)
    state, _ = training.load_state(run)
    assert isinstance(state.model, Adapted)
    frozen = leaves(state.model.frozen)
    for name, leaf in leaves(tiny.model()).items():
        if not name.endswith("embedding"):
            np.testing.assert_array_equal(frozen[name], leaf)


@pytest.mark.slow
def test_a_run_with_an_adapter_goes_on(runs):
    run = runs / "run"
    before = leaves(training.load_state(run)[0].model.adapter)
    assert call("--resume", "--out", run, "--steps", "6") == 0
    assert checkpoint.step_of(run / STATE) == checkpoint.step_of(run / LORA) == 6
    after = leaves(training.load_state(run)[0].model.adapter)
    assert all((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("words, says", [
    (["--lora", "2", "--steps", "1"], "--init, a model to adapt"),
    (["--lora", "2", "--init", "moving_mnist", "--place-octaves", "2", "--steps", "1"],
     "place_octaves 0, as --init has it, with --lora"),
    (["--lora", "2", "--init", "moving_mnist", "--predict", "eps", "--steps", "1"], "predict x0"),
    (["--lora", "2", "--init", "moving_mnist", "--text-depth", "1", "--steps", "1"], "depth 2"),
    (["--lora", "2", "--init", "moving_mnist", "--max-tokens", "30", "--steps", "1"],
     "max_tokens 24"),
    (["--lora", "-1", "--steps", "1"], "lora from 0"),
])  # fmt: skip
def test_mistakes_are_sentences(tmp_path, capsys, words, says):
    assert call(*words, "--mnist-dir", "bundled", "--out", tmp_path / "x") == 2
    assert says in " ".join(capsys.readouterr().err.split())
