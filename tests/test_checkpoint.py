"""checkpoint.py: what was saved comes back to the bit, and no good file is lost. Lesson 15."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from tiny import CONFIG, DATA, examples, inputs, leaves, state

from tinygif import checkpoint, gif, training
from tinygif.checkpoint import CheckpointError

ABOUT = checkpoint.metadata(CONFIG, DATA.words, 0)


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Adam of optax 0.2.8 raises a float to an int32: not strict."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def start():
    return state()


@pytest.fixture(scope="module")
def saved(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder, start, CONFIG, DATA.words)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "run")


def same(a, b):
    a, b = leaves(a), leaves(b)
    assert set(a) == set(b)
    different = [name for name in a if a[name].dtype != b[name].dtype or not
                 np.array_equal(a[name], b[name])]  # fmt: skip
    assert different == []


def template(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


# ---- there and back --------------------------------------------------------------------------


def test_a_state_comes_back_to_the_bit(start, saved):
    back, config, words = checkpoint.load_state(saved)
    same(back, start)
    assert jax.tree.structure(back) == jax.tree.structure(start)
    assert config == CONFIG and words == DATA.words


def test_the_model_file_holds_the_average(start, saved):
    now = training.TrainState(start.model, state(seed=5).ema, start.optimizer, jnp.int32(7))
    checkpoint.save(saved.parent, now, CONFIG, DATA.words)
    model, config, words, step = checkpoint.load_model(saved.parent / checkpoint.MODEL)
    same(model, now.ema)
    assert (config, words, step) == (CONFIG, DATA.words, 7)


def test_the_same_state_gives_the_same_bytes(start, saved, tmp_path):
    """Were there several keys of metadata, safetensors would shuffle them."""
    for _ in range(8):
        checkpoint.save(tmp_path, start, CONFIG, DATA.words)
        for name in (checkpoint.MODEL, checkpoint.STATE):
            assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_an_exported_model_is_half_as_large_and_nearly_the_same(start, saved, tmp_path):
    checkpoint.export(saved, tmp_path / "small.safetensors")
    model, config, words, step = checkpoint.load_model(tmp_path / "small.safetensors")
    for name, leaf in leaves(model).items():
        assert leaf.dtype == leaves(start.ema)[name].dtype
        np.testing.assert_allclose(leaf, leaves(start.ema)[name], rtol=1e-3, atol=1e-6)
    assert config == replace(CONFIG, data=replace(CONFIG.data, mnist_dir=None))
    assert (words, step) == (DATA.words, 0)
    sizes = [p.stat().st_size for p in (tmp_path / "small.safetensors", saved / checkpoint.MODEL)]
    assert sizes[0] < 0.65 * sizes[1]


def test_an_exported_model_names_its_folder_but_not_its_place(start, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, dataset="/home/me/pets-123"))
    checkpoint.save(tmp_path, start, config, DATA.words)
    checkpoint.export(tmp_path, tmp_path / "small.safetensors")
    assert checkpoint.load_model(tmp_path / "small.safetensors")[1].data.dataset == "pets-123"


# ---- weights for another run -----------------------------------------------------------------


def transplanted(saved, config=CONFIG, words=DATA.words):
    before = training.init_state(config, len({*words, *DATA.words}) + 2, key=jax.random.key(3))
    now, every, said = checkpoint.transplant(
        saved / checkpoint.MODEL, config, list(words), key=jax.random.key(3)
    )
    return leaves(before.model), now, every, said


def test_the_same_model_is_taken_over_whole_at_step_0(start, saved):
    _, now, words, said = transplanted(saved)
    for tree in (now.model, now.ema):
        for name, leaf in leaves(tree).items():
            np.testing.assert_array_equal(leaf, leaves(start.ema)[name])
    assert int(now.step) == 0 and words == DATA.words and said.endswith("new: 0 words")
    some = zip(jax.tree.leaves(now.model), jax.tree.leaves(now.ema))
    assert all(a is not b for a, b in some if hasattr(a, "shape"))  # both will be donated


def test_new_words_get_rows_and_old_ones_keep_theirs(start, saved):
    new = ["cat", "left", "zebra"]
    fresh, now, words, said = transplanted(saved, words=new)
    assert words == sorted({*DATA.words, *new}) and "new: 2 words" in said
    table, old = now.model.text.embedding, leaves(start.ema)["text.embedding"]
    for i, word in enumerate(["<pad>", "<null>", *words]):
        known = ["<pad>", "<null>", *DATA.words]
        row = old[known.index(word)] if word in known else fresh["text.embedding"][i]
        np.testing.assert_array_equal(table[i], row)


def test_other_colours_and_longer_prompts_leave_the_rest(start, saved):
    config = replace(
        CONFIG, data=replace(CONFIG.data, channels=3, size=32, frames=8),
        model=replace(CONFIG.model, max_tokens=20),
    )  # fmt: skip
    fresh, now, _, said = transplanted(saved, config)
    new = [name for name, leaf in leaves(start.ema).items() if leaf.shape != fresh[name].shape]
    assert set(new) == {"text.places", "unet.stem.weight", "unet.head.weight", "unet.head.bias"}
    for name, leaf in leaves(now.model).items():
        wanted = fresh if name in new else leaves(start.ema)
        np.testing.assert_array_equal(leaf, wanted[name])
        assert (name in said) == (name in new)


def test_a_model_with_little_in_common_is_refused(saved):
    config = replace(CONFIG, model=replace(CONFIG.model, width=32, text_width=32))
    with pytest.raises(CheckpointError, match=r"has only \d+ of \d+ arrays .* leave out flags"):
        transplanted(saved, config)


def test_no_words_stay_none(saved):
    words = checkpoint.transplant(saved / checkpoint.MODEL, CONFIG, [], key=jax.random.key(0))[1]
    assert words == []


# ---- what is stored --------------------------------------------------------------------------


def test_every_field_of_a_config_comes_back(start, tmp_path):
    config = replace(
        CONFIG, preset="small", data=replace(CONFIG.data, digits=2, hold_out=False, fps=3),
        diffusion=replace(CONFIG.diffusion, measure="x0", shift=2.5),
        train=replace(CONFIG.train, minutes=1.5, steps=None, decay="linear"),
    )  # fmt: skip
    checkpoint.save(tmp_path, start, config, DATA.words)
    assert checkpoint.load_state(tmp_path)[1] == config


@given(
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (2, 0, 3)]),
    dtype=st.sampled_from(["float32", "bfloat16", "int32", "uint8", "bool"]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_array_comes_back(tmp_path_factory, shape, dtype, seed):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    x = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32) * np.float32(np.pi)
    tree = {"a": jnp.asarray(x).astype(dtype), "b": [jnp.float32(seed)]}
    checkpoint.write(path, tree, ABOUT)
    same(checkpoint.read(path, template(tree)), tree)


def test_arrays_that_lie_otherwise_in_memory_survive(tmp_path):
    """safetensors 0.8 writes the memory as it lies, and says nothing."""
    x = jnp.arange(12.0).reshape(3, 4)
    columns = Format(Layout(major_to_minor=(1, 0)), SingleDeviceSharding(jax.devices()[0]))
    tree = {"x": jax.device_put(x, columns)}
    assert not np.asarray(tree["x"]).flags.c_contiguous
    checkpoint.write(tmp_path / "a.safetensors", tree, ABOUT)
    same(checkpoint.read(tmp_path / "a.safetensors", template(tree)), {"x": x})


def test_ten_steps_are_five_and_five(start, tmp_path):
    def go(now, steps):
        for step in steps:
            made = map(jnp.asarray, examples(step))
            now, _ = training.train_step(inputs(CONFIG, step, made), now)
        return now

    whole = go(jax.tree.map(training.copy, start), range(10))
    half = go(jax.tree.map(training.copy, start), range(5))
    checkpoint.save(tmp_path, half, CONFIG, DATA.words)
    loaded, *_ = checkpoint.load_state(tmp_path)
    same(go(loaded, range(5, 10)), whole)


# ---- files that do not fit -------------------------------------------------------------------


def rewrite(path: Path, change) -> None:
    """Change a file in place: its arrays, what is said of them, or, if returned, all metadata."""
    from safetensors.numpy import load_file, save_file

    arrays, stored = load_file(path), checkpoint.read_metadata(path)
    about = json.loads(stored[checkpoint.ABOUT])
    metadata = change(arrays, about) or {checkpoint.ABOUT: json.dumps(about)}
    save_file(arrays, path, metadata)


def rename(arrays, about):
    arrays["unet.stern.weight"] = arrays.pop("unet.stem.weight")


def reshape(arrays, about):
    arrays["unet.stem.bias"] = arrays["unet.stem.bias"].reshape(-1)


def wider(arrays, about):
    about["config"]["model"]["width"] = 32


def strange(arrays, about):
    about["config"]["colour"] = "blue"


def not_ours(arrays, about):
    return {"other": "project"}


def no_config(arrays, about):
    del about["config"]


def no_words(arrays, about):
    del about["words"]


def no_step(arrays, about):
    del about["step"]


def no_json(arrays, about):
    return {checkpoint.ABOUT: "{"}


def no_dict(arrays, about):
    about["config"] = "{"


@pytest.mark.parametrize(("change", "says"), [
    (rename, ["missing unet.stem.weight", "not expected unet.stern.weight"]),
    (reshape, ["unet.stem.bias", "(16,)", "(16, 1, 1)"]),
    (wider, ["does not fit its own config", "more"]),
    (strange, ["another version", "colour"]),
    (not_ours, ["no tinygif config"]),
    (no_config, ["another version", "config"]),
    (no_words, ["words"]),
    (no_step, ["step"]),
    (no_json, ["another version"]),
    (no_dict, ["another version"]),
])  # fmt: skip
def test_what_does_not_fit_is_named(run, change, says):
    path = run / checkpoint.MODEL
    rewrite(path, change)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_model(path)
    assert [part for part in says if part not in str(error.value)] == []


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: b"not ours", lambda data: data[:-1], lambda data: data[:100],
    lambda data: data[:5], lambda data: b"\xff" * len(data), lambda data: data + b"more",
    lambda data: data[:8] + b"#" + data[9:],
])  # fmt: skip
@pytest.mark.parametrize("load, name", [
    (checkpoint.load_model, checkpoint.MODEL),
    (lambda path: checkpoint.load_state(path.parent), checkpoint.STATE),
])  # fmt: skip
def test_a_damaged_file_is_an_error_that_names_it(run, damage, load, name):
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=name):
        load(path)


def test_a_missing_file_or_a_folder_is_an_error(run, tmp_path):
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.load_model(tmp_path)
    with pytest.raises(CheckpointError, match="without --resume"):
        checkpoint.load_state(tmp_path)


# ---- writing ---------------------------------------------------------------------------------


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(path, mode):
    file = open(path, mode)

    def write(data):
        file.write(data[: len(data) // 2])
        full()

    close = lambda *_: file.close()  # noqa: E731
    return type("Half", (), dict(
        __enter__=lambda self: SimpleNamespace(write=write), __exit__=close))()  # fmt: skip


@pytest.mark.parametrize("break_it", [
    lambda patch: patch.setattr(os, "fsync", full),
    lambda patch: patch.setattr(gif, "open", half_written, raising=False),
    lambda patch: patch.setattr(gif, "open", full, raising=False),
    lambda patch: patch.setattr(os, "replace", full),
])  # fmt: skip
def test_a_write_that_fails_leaves_the_last_good_one(start, run, monkeypatch, break_it):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    later = training.TrainState(start.model, start.ema, start.optimizer, jnp.int32(99))
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(CheckpointError, match="No space left on device.*untouched"):
            checkpoint.save(run, later, CONFIG, DATA.words)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    checkpoint.save(run, later, CONFIG, DATA.words)
    assert int(checkpoint.load_state(run)[0].step) == 99


def test_a_folder_that_vanished_is_an_error(start, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "gone", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="could not write"):
            checkpoint.write(folder / checkpoint.MODEL, start.ema, ABOUT)


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from tinygif import checkpoint
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    checkpoint.write(path, {"a": jnp.full(4_000_000, float(number))}, {"config": "{}"})
    print(number, flush=True)
"""


def test_a_kill_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.safetensors"
    child = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    numbers = [int(child.stdout.readline()) for _ in range(3)]
    time.sleep(0.005)  # long enough to be in the middle of the next
    child.send_signal(signal.SIGKILL)
    numbers += [int(line) for line in child.stdout]
    assert child.wait() == -signal.SIGKILL
    array = checkpoint.read(path, {"a": jax.ShapeDtypeStruct((4_000_000,), np.float32)})["a"]
    assert len(set(np.asarray(array).tolist())) == 1 and array[0] in (numbers[-1], numbers[-1] + 1)


# ---- before training -------------------------------------------------------------------------


def test_room_is_checked_before_training(start, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "run"
    checkpoint.check_room(folder, start)
    assert list(folder.iterdir()) == []
    size = sum(a.nbytes for a in leaves(start).values())
    for free, enough in ((3 * size, True), (size, False), (0, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            checkpoint.check_room(folder, start)
        else:
            with pytest.raises(CheckpointError, match="MB free, this run needs"):
                checkpoint.check_room(folder, start)


def test_a_folder_that_cannot_be_written_is_found_before_training(start, tmp_path):
    """Below a file: permissions do not stop root."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="cannot write to .*choose another --out"):
            checkpoint.check_room(folder, start)
