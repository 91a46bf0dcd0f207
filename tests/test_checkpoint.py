"""checkpoint.py: what was saved comes back to the bit, and no good file is lost. Lesson 15."""

import dataclasses
import errno
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from tiny import ABOUT, CONFIG, DATA, leaves

from tinygif import checkpoint, files, training
from tinygif.checkpoint import MODEL, STATE
from tinygif.config import named_keys
from tinygif.errors import TinygifError


@pytest.fixture(scope="module")
def start():
    return tiny.state()


@pytest.fixture(scope="module")
def saved(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    training.save_state(folder, start, ABOUT)
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
    back, about = training.load_state(saved)
    same(back, start)
    assert jax.tree.structure(back) == jax.tree.structure(start)
    assert about == ABOUT == checkpoint.read_about(saved / STATE)


def test_the_model_file_holds_the_average(start, tmp_path):
    state = replace(start, ema=tiny.model(seed=5), step=jnp.asarray(7, jnp.int32))
    training.save_state(tmp_path, state, ABOUT._replace(step=7))
    model, about = checkpoint.load_model(tmp_path / MODEL)
    same(model, state.ema)
    assert (about.config, about.words, about.step) == (CONFIG, DATA.words, 7)
    assert checkpoint.step_of(tmp_path / MODEL) == 7
    assert checkpoint.step_of(tmp_path / "none") is None


def test_the_same_state_gives_the_same_bytes(start, saved, tmp_path):
    """Were there several keys of metadata, safetensors would shuffle them."""
    for _ in range(8):
        training.save_state(tmp_path, start, ABOUT)
        for name in (MODEL, STATE):
            assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_an_exported_model_is_half_as_large_and_nearly_the_same(start, saved, tmp_path):
    checkpoint.export(saved, tmp_path / "small.safetensors")
    model, about = checkpoint.load_model(tmp_path / "small.safetensors")
    average = leaves(start.ema)
    for name, leaf in leaves(model).items():
        assert leaf.dtype == average[name].dtype
        np.testing.assert_allclose(leaf, average[name], rtol=1e-3, atol=1e-6)
    assert about.config == replace(CONFIG, data=replace(CONFIG.data, mnist_dir=None))
    assert (about.words, about.step) == (DATA.words, 0)
    sizes = [p.stat().st_size for p in (tmp_path / "small.safetensors", saved / MODEL)]
    assert sizes[0] < 0.65 * sizes[1]


def test_an_exported_model_names_its_folder_but_not_its_place(start, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, dataset="/home/me/pets-123"))
    checkpoint.write(tmp_path / MODEL, start.ema, ABOUT._replace(config=config))
    checkpoint.export(tmp_path, tmp_path / "small.safetensors")
    about = checkpoint.read_about(tmp_path / "small.safetensors")
    assert about.config.data.dataset == "pets-123"
    assert b"/home/me" not in (tmp_path / "small.safetensors").read_bytes()


def test_ten_steps_are_five_and_five(trained, start, tmp_path):
    """With long and short clips in turn; the program is that of a whole run."""
    mesh, key = training.make_mesh(), named_keys(0).train
    step = training.make_step(CONFIG, mesh)  # the programs of the trained run

    def go(state, steps):
        state = training.replicate(state, mesh)
        for i in steps:
            state, _ = step(state, tiny.batch(i, i / 10), key)
        return state

    with jax.numpy_dtype_promotion("standard"):  # Adam of optax 0.2.8 is not strict
        copy = lambda: training.copy_arrays(start)  # noqa: E731
        whole, half = go(copy(), range(10)), go(copy(), range(5))
        training.save_state(tmp_path, half, ABOUT._replace(step=5))
        loaded, _ = training.load_state(tmp_path)
        same(go(loaded, range(5, 10)), whole)


# ---- weights for another run -----------------------------------------------------------------


def random_model(words: list[str], config=CONFIG):
    init = lambda: config.init(len(words) + 2, key=jax.random.key(0))  # noqa: E731
    return tiny.random_arrays(eqx.filter_eval_shape(init), seed=3)


def transplanted(saved, words=DATA.words, config=CONFIG):
    """The new model before, with weights taken over, its vocabulary, and what is said."""
    before = random_model(sorted({*words, *DATA.words}), config)
    build = lambda words: random_model(words, config)  # noqa: E731
    return leaves(before), *checkpoint.transplant(saved / MODEL, build, list(words))


def test_the_same_model_is_taken_over_whole(start, saved):
    _, model, words, message = transplanted(saved)
    same(model, start.ema)
    assert words == DATA.words and message.endswith("new: 0 words")


def test_new_words_get_rows_and_old_ones_keep_theirs(start, saved):
    new = ["cat", "left", "zebra"]
    fresh, model, words, message = transplanted(saved, new)
    assert words == sorted({*DATA.words, *new}) and "new: 2 words" in message
    table, old = model.text.embedding, leaves(start.ema)["text.embedding"]
    for i, word in enumerate(["<pad>", "<null>", *words]):
        known = ["<pad>", "<null>", *DATA.words]
        row = old[known.index(word)] if word in known else fresh["text.embedding"][i]
        np.testing.assert_array_equal(table[i], row)


def test_other_colours_and_longer_prompts_leave_the_rest(start, saved):
    config = replace(
        CONFIG, data=replace(CONFIG.data, channels=3, size=32, frames=8),
        text=replace(CONFIG.text, max_tokens=20),
    )  # fmt: skip
    fresh, model, _, message = transplanted(saved, config=config)
    old = leaves(start.ema)
    new = [name for name, leaf in old.items() if leaf.shape != fresh[name].shape]
    assert set(new) == {"text.positions", "model.stem.weight", "model.head.weight",
                        "model.head.bias"}  # fmt: skip
    new.remove("text.positions")
    places = old.pop("text.positions")  # the first words keep theirs
    old["text.positions"] = places[:20]
    for name, leaf in leaves(model).items():
        np.testing.assert_array_equal(leaf, (fresh if name in new else old)[name])
        assert (name in message) == (name in new)


def test_a_model_with_little_in_common_is_refused(saved):
    config = replace(
        CONFIG, model=replace(CONFIG.model, width=32), text=replace(CONFIG.text, text_width=32)
    )
    with pytest.raises(TinygifError, match=r"has only \d+ of \d+ arrays .* leave out flags"):
        transplanted(saved, config=config)


def test_no_words_stay_none(saved):
    _, words, _ = checkpoint.transplant(saved / MODEL, random_model, [])
    assert words == []


# ---- what is stored --------------------------------------------------------------------------


def test_every_field_of_a_config_comes_back(tmp_path):
    config = replace(
        CONFIG, preset="small", data=replace(CONFIG.data, digits=2, hold_out=False, fps=3),
        text=replace(CONFIG.text, text="bert", text_dims=(24, 20)),
        diffusion=replace(CONFIG.diffusion, measure="x0", shift=2.5, logit_normal=(0.5, 1.0)),
        train=replace(CONFIG.train, minutes=1.5, steps=None, decay="linear"),
        sample=replace(CONFIG.sample, eta=0.5),
    )  # fmt: skip
    about = checkpoint.About(config, ["a", "é"], 12)
    checkpoint.write(tmp_path / MODEL, {"x": jnp.zeros(3)}, about)
    assert checkpoint.read_about(tmp_path / MODEL) == about


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


# ---- files that do not fit -------------------------------------------------------------------


def rewrite(path: Path, change) -> None:
    """Change a file in place: its arrays, what it says of them, or, if returned, all metadata.

    It gets no checksums, like those of older versions, and those of people who mean ill.
    """
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()[checkpoint.METADATA_KEY])
    del about["arrays"], about["json"]
    arrays = load_file(path)
    metadata = change(arrays, about) or {checkpoint.METADATA_KEY: json.dumps(about)}
    save_file(arrays, path, metadata)


def rename(arrays, about):
    arrays["model.stern.weight"] = arrays.pop("model.stem.weight")


def reshape(arrays, about):
    arrays["model.stem.bias"] = arrays["model.stem.bias"].reshape(-1, 1)


def wider(arrays, about):
    about["config"]["model"]["width"] = 32


def strange(arrays, about):
    about["config"]["colour"] = "blue"


def other_model(arrays, about):
    about["config"]["model"]["model"] = "mamba"


def not_ours(arrays, about):
    return {"other": "project"}


def no_config(arrays, about):
    del about["config"]


def no_words(arrays, about):
    del about["words"]


def no_step(arrays, about):
    del about["step"]


def no_json(arrays, about):
    return {checkpoint.METADATA_KEY: "{"}


def no_dict(arrays, about):
    about["config"] = "{"


@pytest.mark.parametrize(("change", "says"), [
    (rename, ["missing model.stem.weight", "not expected model.stern.weight"]),
    (reshape, ["model.stem.bias", "(16, 1)", "(16,)"]),
    (wider, ["does not fit its own config", "more"]),
    (strange, ["another version", "colour"]),
    (other_model, ["another version", "mamba"]),
    (not_ours, ["no tinygif config"]),
    (no_config, ["another version", "config"]),
    (no_words, ["another version", "words"]),
    (no_step, ["another version", "step"]),
    (no_json, ["another version"]),
    (no_dict, ["another version"]),
])  # fmt: skip
def test_what_does_not_fit_is_named(run, change, says):
    path = run / MODEL
    rewrite(path, change)
    with pytest.raises(TinygifError) as error:
        checkpoint.load_model(path)
    assert [part for part in [str(path), *says] if part not in str(error.value)] == []


def test_names_that_match_a_pattern_may_be_there():
    wanted = {"a.weight": (2, 3)}
    checkpoint.check_names({"a.weight": (2, 3), "extra.1": ()}, wanted, "x", others=r"extra\.\d")
    with pytest.raises(TinygifError, match="x does not fit its own config: not expected extra.1"):
        checkpoint.check_names({"a.weight": (2, 3), "extra.1": ()}, wanted, "x")


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: b"not ours", lambda data: data[:-1], lambda data: data[:100],
    lambda data: data[:5], lambda data: b"\xff" * len(data), lambda data: data + b"more",
    lambda data: data[:8] + b"#" + data[9:],
])  # fmt: skip
@pytest.mark.parametrize("load, name", [
    (checkpoint.load_model, MODEL), (lambda path: training.load_state(path.parent), STATE),
])  # fmt: skip
def test_a_damaged_file_is_an_error_that_names_it(run, damage, load, name):
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TinygifError, match=f"cannot read the checkpoint .*{name}"):
        load(path)


def test_a_missing_file_or_a_folder_is_an_error(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(TinygifError, match="cannot read the checkpoint"):
            checkpoint.load_model(path)
    with pytest.raises(TinygifError, match=f"cannot read the checkpoint .*{STATE}"):
        training.load_state(tmp_path)


def test_a_disk_that_is_full_leaves_the_last_good_files(start, run, monkeypatch):
    """test_files.py breaks it in more places."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    later = replace(start, step=jnp.asarray(99, jnp.int32))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TinygifError, match="No space left on device.*untouched"):
            training.save_state(run, later, ABOUT)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    training.save_state(run, later, ABOUT)
    assert int(training.load_state(run)[0].step) == 99


def test_room_is_checked_for_three_states(start, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tinygif.files.check_room", lambda *words: asked.append(words))
    training.check_room(tmp_path, start)
    size = sum(array.nbytes for array in leaves(start).values())
    assert asked == [(tmp_path / "samples", 3 * size, "its checkpoints")]


# ---- folders of runs -------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder of a project; `make(name, when)` makes a run that was written at a time."""
    monkeypatch.chdir(tmp_path)

    def make(name, when):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / STATE).write_bytes(b"")
        os.utime(folder / STATE, (when, when))
        return folder

    return make


def test_the_newest_is_that_which_was_written_last(runs):
    """Not the last by its name: model-10 is newer than model-9."""
    assert checkpoint.newest(STATE) is None
    nine, ten = runs("model-9", 1_000), runs("model-10", 2_000)
    Path("runs/empty").mkdir()
    assert checkpoint.newest(STATE) == ten / STATE
    os.utime(nine / STATE, (3_000, 3_000))
    assert checkpoint.newest(STATE) == nine / STATE and checkpoint.newest(MODEL) is None


def test_a_run_is_resumed_in_its_folder_and_begun_in_a_new_one(runs):
    with pytest.raises(TinygifError, match="nothing to resume"):
        checkpoint.run_folder(None, resume=True)
    folder, new = runs("model", 1_000), Path("runs/new")
    assert checkpoint.run_folder(None, resume=True) == folder
    assert checkpoint.run_folder(folder, resume=True) == folder
    assert checkpoint.run_folder(new, resume=False) == new
    assert checkpoint.run_folder(None, resume=False) is None
    with pytest.raises(TinygifError, match=f"nothing to resume: there is no runs/new/{STATE}"):
        checkpoint.run_folder(new, resume=True)
    with pytest.raises(TinygifError, match="runs/model already holds a run: add --resume"):
        checkpoint.run_folder(folder, resume=False)
    assert not new.exists()


def test_runs_that_are_begun_at_once_get_folders_of_their_own(tmp_path):
    """Making the folder decides, so two processes never choose the same."""
    folders, ready = [], threading.Barrier(16)

    def choose():
        ready.wait()
        folders.append(checkpoint.new_folder("x", tmp_path / "runs").name)

    threads = [threading.Thread(target=choose) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folders) == sorted(["x", *(f"x-{n}" for n in range(2, 17))])
    assert all((tmp_path / "runs" / name).is_dir() for name in folders)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(TinygifError, match="cannot make .*choose --out"):
        checkpoint.new_folder("x", tmp_path / "runs")


# ---- checksums -------------------------------------------------------------------------------


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def header_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_a_flipped_bit_in_the_arrays_is_noticed(run):
    """Also in a state, and at both ends."""
    for name, load in (
        (MODEL, checkpoint.load_model), (STATE, lambda path: training.load_state(path.parent))
    ):  # fmt: skip
        data = (run / name).read_bytes()
        for place in (header_size(data), header_size(data) + 999, len(data) - 1):
            (run / name).write_bytes(flipped(data, place))
            with pytest.raises(TinygifError, match=f"{name} is damaged"):
                load(run / name)


def test_a_flipped_bit_in_what_it_says_is_noticed_without_the_arrays(run):
    """Guidance of 7 for 3 is no error of its own."""
    data = (run / MODEL).read_bytes()
    place = data.index(b"guidance")
    place += data[place:].index(b"3.0")
    (run / MODEL).write_bytes(flipped(data, place, bit=2))
    assert b"7.0" in (run / MODEL).read_bytes()[place : place + 3]
    with pytest.raises(TinygifError, match="is damaged"):
        checkpoint.read_about(run / MODEL)


@pytest.mark.parametrize("name", ["arrays", "json"])
def test_a_checksum_that_lost_its_name_is_no_old_file(run, name):
    """Or one flip would switch it off, and another could follow."""
    path = run / MODEL
    data = path.read_bytes()
    place = data.rindex(f'\\"{name}\\": '.encode()) + 2
    path.write_bytes(flipped(data, place))
    with pytest.raises(TinygifError, match="is damaged"):
        checkpoint.load_model(path)


def test_other_types_of_the_same_size_are_noticed(run):
    """float32 read as int32 would be other numbers."""
    path = run / MODEL
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(TinygifError, match="model.bias.table in .* of a type of F32"):
        checkpoint.load_model(path)


def test_files_of_older_versions_have_no_checksums_and_load(start, run):
    for name in (MODEL, STATE):
        rewrite(run / name, lambda arrays, about: None)
    same(checkpoint.load_model(run / MODEL)[0], start.ema)
    same(training.load_state(run)[0], start)


def test_the_shipped_weights_have_checksums(tmp_path):
    from tinygif.pipeline import SHIPPED

    data = SHIPPED.read_bytes()
    checkpoint.load_model(SHIPPED)
    (tmp_path / MODEL).write_bytes(flipped(data, len(data) // 2))
    with pytest.raises(TinygifError, match="is damaged"):
        checkpoint.load_model(tmp_path / MODEL)


# ---- hostile headers -------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "name", "value"), [
    ("diffusion", "diffusion_steps", 10**12), ("model", "width", 10**9), ("model", "time_patch", 0),
    ("model", "multipliers", [1] * 3000), ("model", "middle", "conv"), ("data", "size", "16"),
    ("text", "text", "bert"), ("train", "batch_size", 0), ("sample", "eta", 5.0),
])  # fmt: skip
def test_a_hostile_config_is_refused_before_anything_is_built(
    run, monkeypatch, section, name, value
):
    def change(arrays, about):
        about["config"][section][name] = value

    rewrite(run / MODEL, change)
    monkeypatch.setattr("tinygif.config.Config.init", lambda *_, **__: pytest.fail("it built"))
    monkeypatch.setattr("tinygif.config.DiffusionConfig.build", pytest.fail)
    for read in (checkpoint.read_about, checkpoint.load_model):
        with pytest.raises(TinygifError, match=f"{MODEL} was written by .*{name}"):
            read(run / MODEL)


@pytest.mark.parametrize(("name", "value"), [
    ("words", "left"), ("words", [1]), ("words", None), ("step", "7"), ("step", -1), ("step", 1.5),
])  # fmt: skip
def test_words_and_step_have_their_types(run, name, value):
    def change(arrays, about):
        about[name] = value

    rewrite(run / MODEL, change)
    with pytest.raises(TinygifError, match=f"another version.*expected a .*{name}"):
        checkpoint.read_about(run / MODEL)


@pytest.mark.parametrize("text", ["[" * 10**5, "[]", "3", '{"colour": 1}'])
def test_json_that_is_no_description_is_refused(run, text):
    rewrite(run / MODEL, lambda arrays, about: {checkpoint.METADATA_KEY: text})
    with pytest.raises(TinygifError, match="another version"):
        checkpoint.load_model(run / MODEL)


@pytest.mark.parametrize("header", [
    {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
    {"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
    {"x": {"dtype": "F7", "shape": [4], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F8_E8M0", "shape": [16], "data_offsets": [0, 16]}},
    {"x": {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]}},
    {"x": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}},
])  # fmt: skip
def test_sizes_and_types_in_the_header_must_fit_the_file(tmp_path, header):
    header |= {"__metadata__": {checkpoint.METADATA_KEY: json.dumps(
        {"config": dataclasses.asdict(CONFIG), "words": [], "step": 0}
    )}}  # fmt: skip
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    template = {"x": jax.ShapeDtypeStruct(header["x"]["shape"], jnp.float32)}
    with pytest.raises(TinygifError, match="a.safetensors"):
        checkpoint.read(path, template)


def test_an_export_names_a_tower_but_not_its_place(start, tmp_path):
    """A name on the hub stays whole. The pooled vectors of a tower are no matter here."""
    for text, exported in (("/home/me/towers/small", "small"), ("me/tower", "me/tower")):
        about = ABOUT._replace(config=replace(CONFIG, text=replace(CONFIG.text, text=text)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "load_model", lambda path, about=about: (start.ema, about))
            checkpoint.export(tmp_path, tmp_path / "small.safetensors")
        data = (tmp_path / "small.safetensors").read_bytes()
        assert b"/home/me" not in data and f'\\"text\\": \\"{exported}\\"'.encode() in data


# ---- the cache folder ------------------------------------------------------------------------


def test_the_cache_is_in_the_home_directory_or_where_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen, folder in (("", ".cache/tinygif"), ("~", "."), ("~/here", "here")):
        monkeypatch.setenv("TINYGIF_CACHE", chosen)
        assert files.cache_dir() == tmp_path / folder


@pytest.mark.parametrize("chosen", ["", "~/here", "~nobody-of-this-name/here"])
def test_without_a_home_directory_there_is_a_sentence(monkeypatch, chosen):
    monkeypatch.setenv("TINYGIF_CACHE", chosen)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does without one
    with pytest.raises(TinygifError, match="no home directory .*: set TINYGIF_CACHE"):
        files.cache_dir()
