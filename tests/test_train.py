"""train.py, the command: a run is a folder, a killed run goes on to the same bytes. Lesson 15."""

import dataclasses
import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import towers
from PIL import Image
from tiny import CONFIG

from tinygif import checkpoint, moving_mnist, training
from tinygif.checkpoint import MODEL, STATE
from tinygif.config import Config
from tinygif.datasets import defaults
from tinygif.gif import read_gif, write_gif
from tinygif.pipeline import load

SCRIPT = Path(__file__).parents[1] / "train.py"
ADAMW = replace(CONFIG, train=replace(CONFIG.train, optimizer="adamw"))
PARTS = ("data", "model", "diffusion", "train")
PROMPTS = ("a 7 moving left", "an 8 standing still")


def flags(config: Config) -> list[str]:
    """Every field of a config as a flag."""
    words = ["--preset", config.preset]
    for part in PARTS:
        for name, value in vars(getattr(config, part)).items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words += [f"--{flag}" if value else f"--no-{flag}"]
            elif isinstance(value, tuple):
                words += [f"--{flag}", *map(str, value)]
            else:
                words += [f"--{flag}", str(value)]
    return words


def call(*words: str | Path) -> object:
    """The command in this process: its exit code, or what it said to `sys.exit`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        patch.setattr(moving_mnist.MovingMNIST, "prompts", PROMPTS)
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def fails(capsys: pytest.CaptureFixture, *words: str | Path) -> str:
    """The sentence with which the command refuses."""
    capsys.readouterr()
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return re.sub(r"\s+", " ", error)


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Adam of optax 0.2.8 raises a float to an int32: not strict."""
    import jax

    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """20 steps, saved every 10."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call(*flags(ADAMW), "--out", folder) == 0
    return folder


@pytest.fixture
def no_training(monkeypatch):
    """What is refused is refused before any work."""

    def never(*_, **__):
        raise AssertionError("it began to train")

    monkeypatch.setattr(training, "train_step", never)
    monkeypatch.setattr(training, "init_state", never)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# ---- a run -----------------------------------------------------------------------------------


def test_a_run_leaves_what_it_names(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names == {
        MODEL, STATE, "log.jsonl", "loss.png", "samples/000015.gif", "samples/000020.gif",
    }  # fmt: skip
    for path in (finished / "samples").iterdir():
        clip, delays = read_gif(path)
        assert len(clip) == 4 and len(np.unique(clip)) > 20 and delays.sum() == 500
    with Image.open(finished / "loss.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 1


def test_the_log_is_json_with_a_falling_rate(finished):
    logged = rows(finished)
    assert [row["step"] for row in logged] == [10, 20]
    assert all(0 < row["loss"] < 10 and row["seconds"] > 0 for row in logged)
    wanted = [training.learning_rate_at(ADAMW.train, step) for step in (9, 19)]
    assert [row["rate"] for row in logged] == pytest.approx(wanted)


def test_every_field_of_the_config_is_a_flag(finished):
    model, config, words, step = checkpoint.load_model(finished / MODEL)
    assert config == ADAMW and step == 20
    assert words == moving_mnist.MovingMNIST.words
    state, config, _ = checkpoint.load_state(finished)
    assert config == ADAMW and int(state.step) == 20


def test_a_run_on_top_of_a_tower_keeps_its_name_and_reads_any_words(tmp_path, monkeypatch):
    """And samples without reading a caption again."""
    tower = towers.write(tmp_path / "bert", towers.BERT)
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
    words = [*flags(ADAMW), "--text", tower, "--steps", "4", "--save-every", "2"]
    assert call(*words, "--sample-every", "4", "--out", tmp_path / "run") == 0
    _, config, _, step = checkpoint.load_model(tmp_path / "run" / MODEL)
    assert step == 4 and config.model.text == str(tower.resolve())
    assert (config.model.text_pool, config.model.text_dims) == ("mean", (24, 24))
    monkeypatch.setattr("tinygif.embeddings.load_tower", None)
    assert load(tmp_path / "run")(PROMPTS[0], seed=0, steps=1).shape == (1, 4, 16, 16, 1)


KILLED = """
import os, runpy, signal, sys
from tinygif import checkpoint, moving_mnist
write = checkpoint.write
def kill(path, tree, about):
    write(path, tree, about)
    if path.name == "state.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)  # after the first of the two files of step 10
checkpoint.write = kill
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_a_killed_run_goes_on_to_the_same_bytes(finished, tmp_path):
    folder = tmp_path / "killed"
    child = subprocess.run(
        [sys.executable, "-c", KILLED.replace("sys.argv[1]", repr(str(SCRIPT))), *flags(ADAMW),
         "--out", folder],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (folder / STATE).exists() and not (folder / MODEL).exists()
    with open(folder / "log.jsonl", "a") as log:  # as if it had got a little further
        log.write('{"step": 11, "loss": 0.5}\n{"step": 1')
    assert call("--resume", "--out", folder) == 0
    for name in (MODEL, STATE):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    assert [row["step"] for row in rows(folder)] == [10, 20]
    assert rows(folder)[0]["loss"] == rows(finished)[0]["loss"]


@pytest.mark.parametrize("named", [True, False])
def test_resuming_a_finished_run_changes_nothing(finished, tmp_path, monkeypatch, named):
    folder = shutil.copytree(finished, tmp_path / "runs" / "again")
    monkeypatch.chdir(tmp_path)
    assert call("--resume", *(["--out", folder] if named else [])) == 0
    assert (folder / MODEL).read_bytes() == (finished / MODEL).read_bytes()
    assert rows(folder) == rows(finished)


def load_script(monkeypatch, *words):
    spec = importlib.util.spec_from_file_location("train_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_script", module)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
    monkeypatch.setattr(moving_mnist.MovingMNIST, "prompts", PROMPTS)
    spec.loader.exec_module(module)
    return module


def test_minutes_fix_the_steps_and_measuring_trains_nothing(finished, tmp_path, monkeypatch):
    """A clock that moves 10 s whenever it is read: 17 readings until 8 steps of 10 s are measured.

    20 steps are what fits in the rest, and make the same bytes as --steps 20.
    """
    minutes = replace(ADAMW, train=replace(ADAMW.train, steps=None))
    script = load_script(monkeypatch, *flags(minutes), "--out", tmp_path / "run")
    ticks = iter(range(0, 10**6, 10))
    for module in (script, training):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(ticks)))
    rest = 20.5 * 10 / 0.93
    spent, real = 60 * ADAMW.train.minutes - 170 - rest, training.fit_steps
    monkeypatch.setattr(training, "fit_steps", lambda c, i, s, began: real(c, i, s, began - spent))
    script.main()
    _, config, _, step = checkpoint.load_model(tmp_path / "run" / MODEL)
    assert config == ADAMW and step == 20
    assert (tmp_path / "run" / MODEL).read_bytes() == (finished / MODEL).read_bytes()


def test_runs_without_a_name_get_new_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = load_script(monkeypatch)
    names = []
    for _ in range(3):
        names.append(str(script.choose_folder(script.parse())))
        Path(names[-1]).mkdir(parents=True)
    first = "runs/moving_mnist-tiny"
    assert names == [first, f"{first}-2", f"{first}-3"]


# ---- other data ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of five captioned clips."""
    folder = tmp_path_factory.mktemp("data") / "pets"
    folder.mkdir()
    for i in range(5):
        write_gif(folder / f"{i}.gif", np.full((3, 20, 16, 3), 40 * i, np.uint8))
        (folder / f"{i}.txt").write_text(f"a cat moving left\na cat number {i}\nthe cat")
    return folder


def test_a_folder_trains_and_goes_on_to_the_same_bytes_when_it_has_changed(pets, tmp_path):
    """Several captions a clip, flips, short clips: all are functions of the step."""
    config = replace(ADAMW, data=replace(ADAMW.data, dataset=str(pets), channels=3, flip=True),
                     train=replace(ADAMW.train, steps=6, save_every=2))  # fmt: skip
    assert call(*flags(config), "--out", tmp_path / "whole") == 0

    def stop(metrics):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        step_that(patch, 3, stop)
        assert "--resume" in call(*flags(config), "--out", tmp_path / "stopped")
    (pets / "0.gif").unlink()
    (pets / "1.txt").write_text("something else")
    assert call("--resume", "--out", tmp_path / "stopped") == 0
    for name in (MODEL, STATE):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "stopped"))
        assert one == other
    _, made, words, _ = checkpoint.load_model(tmp_path / "whole" / MODEL)
    assert words == ["a", "cat", "left", "moving", "number", "right", "the"]
    assert Path(made.data.dataset).name.startswith("pets-")


def test_flags_start_from_what_the_data_and_the_checkpoint_are(finished, pets, monkeypatch, capsys):
    script = load_script(monkeypatch, "--dataset", "shapes", "--init", finished, "--seed", "3")
    run = script.parse()
    assert run.model == CONFIG.model and run.diffusion == CONFIG.diffusion
    assert run.data == defaults("shapes") and run.train.seed == 3
    state, _, dataset, words = script.start(run, Path("runs/x"))
    assert set(words) == {*moving_mnist.WORDS, *dataset.words} and int(state.step) == 0
    assert len(state.model.text.embedding) == len(words) + 2
    said = capsys.readouterr().out
    assert f"from {finished / MODEL}" in said and "new: 16 words, unet.stem" in said


def test_a_folder_gives_its_run_its_name(pets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (pets, f"{pets}/", "../" * 20 + str(pets)[1:]):
        script = load_script(monkeypatch, "--dataset", name)
        assert str(script.choose_folder(script.parse())) == "runs/pets-tiny"


# ---- what stops it ---------------------------------------------------------------------------


def step_that(monkeypatch, step, act):
    """`act` on the metrics of a step."""
    real = training.train_step

    def fake(inputs, state):
        now = int(state.step)
        state, metrics = real(inputs, state)
        return state, act(metrics) if now == step else metrics

    monkeypatch.setattr(training, "train_step", fake)


@pytest.mark.parametrize(("step", "name"), [(10, "loss"), (11, "gradient_norm")])
def test_no_number_stops_the_run_and_keeps_the_last_good(
    finished, tmp_path, monkeypatch, capsys, step, name
):
    step_that(monkeypatch, step, lambda metrics: {**metrics, name: metrics[name] * np.nan})
    says = fails(capsys, *flags(ADAMW), "--steps", "12", "--out", tmp_path / "run")
    assert f"step {step}" in says and "last good checkpoint" in says and "--learning-rate" in says
    assert int(checkpoint.load_state(tmp_path / "run")[0].step) == 10


def test_ctrl_c_says_how_to_go_on(finished, tmp_path, monkeypatch):
    def stop(metrics):
        raise KeyboardInterrupt

    step_that(monkeypatch, 3, stop)
    said = call(*flags(ADAMW), "--out", tmp_path / "run")
    assert "--resume" in said


def test_an_existing_run_is_not_overwritten(finished, capsys, no_training):
    before = (finished / STATE).stat()
    says = fails(capsys, *flags(ADAMW), "--out", finished)
    assert "already holds a run" in says and "--resume" in says
    assert (finished / STATE).stat() == before


def test_there_must_be_a_run_to_resume(tmp_path, capsys, no_training, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nothing to resume" in fails(capsys, "--resume", "--out", tmp_path / "none")
    assert STATE in fails(capsys, "--resume")
    (tmp_path / STATE).write_bytes(b"broken")
    assert STATE in fails(capsys, "--resume", "--out", tmp_path)


def test_no_room_and_no_folder_are_found_before_training(tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("it began to train")

    monkeypatch.setattr(training, "train_step", never)
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(capsys, *flags(ADAMW), "--out", tmp_path / "file" / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "MB free" in fails(capsys, *flags(ADAMW), "--out", tmp_path / "run")


@pytest.mark.parametrize(("words", "says"), [
    (["--size", "18"], "multiple of 4"),
    (["--frames", "5"], "multiple of 2"),
    (["--batch-size", "8", "--accumulate", "3"], "multiple of accumulate 3"),
    (["--digit-size", "16"], "digit_size from 4 to 14"),
    (["--digit-size", "3"], "digit_size from 4"),
    (["--mnist-dir", "/nowhere"], "expected the MNIST files"),
    (["--dataset", "/nowhere"], "which is not there"),
    (["--flip"], "expected a folder of clips for --flip"),
    (["--dataset", "shapes", "--size", "16"], "expected 3 channels"),
    (["--init", "/nowhere"], "no checkpoint at /nowhere"),
    (["--steps", "0"], "at least 1"),
    (["--save-every", "0"], "at least 1"),
    (["--sample-every", "-1"], "at least 1"),
    (["--fps", "60"], "fps <= 50"),
    (["--predict", "eps", "--schedule", "rectified"], "cannot start from pure noise"),
    (["--preset", "huge"], "--preset"),
    (["--optimizer", "sgd"], "--optimizer"),
    (["--width", "wide"], "--width"),
    (["--colour", "blue"], "--colour"),
    (["--short-frames", "3"], "multiple of 2"),
    (["--short-frames", "8"], "short_frames of at most 4"),
    (["--logit-normal", "0", "0"], "positive deviation"),
    (["--text", "/nowhere"], "expected words, clip, bert, a folder or a hub id"),
    (["--text", "clip"], "hf download openai/clip-vit-base-patch32"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_once(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(training, "train_step", None)
    if "--size" not in words and "--frames" not in words:
        monkeypatch.setattr(training, "init_state", None)
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, *flags(ADAMW), *words)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call("--help") == 0
    text = capsys.readouterr().out
    fields = [field.name for part in PARTS
              for field in dataclasses.fields(type(getattr(CONFIG, part)))]  # fmt: skip
    missing = [name for name in [*fields, "preset", "out", "resume", "init"]
               if f"--{name.replace('_', '-')}" not in text]  # fmt: skip
    assert missing == []
