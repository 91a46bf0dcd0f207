"""train.py, the command: a run is a folder, a killed run goes on to the same bytes. Lesson 15."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import towers
from PIL import Image
from tiny import CONFIG, PROMPTS, TRAIN, call, flags, load_script

from tinygif import checkpoint, moving_mnist, optimizer, training
from tinygif.checkpoint import MODEL, STATE
from tinygif.datasets import defaults
from tinygif.files import lock
from tinygif.gif import read_gif, write_gif
from tinygif.moving_mnist import MovingMNIST
from tinygif.pipeline import GeneratedClips, load

PARTS = ("data", "text", "model", "diffusion", "train", "sample")


def fails(capsys: pytest.CaptureFixture, *words: str | Path) -> str:
    """The sentence with which the command refuses."""
    capsys.readouterr()
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return re.sub(r"\s+", " ", error)


@pytest.fixture
def no_training(monkeypatch):
    """What is refused is refused before any work."""

    def never(*_, **__):
        raise AssertionError("it began to train")

    monkeypatch.setattr(training, "make_step", never)
    monkeypatch.setattr(training, "init_state", never)


def changed(**fields):
    return replace(CONFIG, train=replace(CONFIG.train, **fields))


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a state, but for the seconds it took."""
    from safetensors.numpy import load_file

    return {name: x for name, x in load_file(folder / STATE).items() if name != "seconds"}


def same_run(one: Path, other: Path) -> None:
    assert (one / MODEL).read_bytes() == (other / MODEL).read_bytes()
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys() and "step" in first
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# ---- a run -----------------------------------------------------------------------------------


def test_a_run_leaves_what_it_names(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert names - {".lock"} == {
        MODEL, STATE, "log.jsonl", "loss.png", "samples/000015.gif", "samples/000020.gif",
    }  # fmt: skip
    for path in (trained / "samples").iterdir():
        clip, delays = read_gif(path)
        assert len(clip) == 4 and len(np.unique(clip)) > 20 and delays.sum() == 500
    with Image.open(trained / "loss.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 1


def test_the_log_has_a_line_every_ten_steps(trained):
    """The last line also has the loss of clips that are not trained on."""
    lines = rows(trained)
    assert [line["step"] for line in lines] == [10, 20]
    assert all(0 < line["loss"] < 10 and line["seconds"] > 0 for line in lines)
    assert all(line["gradient_norm"] > 0 and line["clips_per_second"] > 0 for line in lines)
    assert all(0 <= line["waiting"] <= 1 for line in lines)
    wanted = [float(optimizer.learning_rate_at(CONFIG.train, step, step / 20)) for step in (9, 19)]
    assert [line["rate"] for line in lines] == pytest.approx(wanted)
    assert lines[0]["held_out_loss"] is None and 0 < lines[1]["held_out_loss"] < 2


def test_the_log_counts_the_flops_of_the_compiled_programs(trained):
    """Half of the steps are short ones: ten steps cost what ten others do."""
    first, second = (line["tflop"] for line in rows(trained))
    assert second == pytest.approx(2 * first, rel=1e-3) and first > 0
    assert float(arrays(trained)["tflop"]) == pytest.approx(second, rel=1e-6)


def test_every_field_of_the_config_is_a_flag(trained):
    state, about = training.load_state(trained)
    assert about.config == CONFIG and about.step == int(state.step) == 20
    assert about.words == moving_mnist.MovingMNIST.words and float(state.seconds) > 0
    assert checkpoint.read_about(trained / MODEL) == about


@pytest.mark.slow
def test_a_run_on_top_of_a_tower_keeps_its_name_and_reads_any_words(
    tmp_path, monkeypatch, fake_steps
):
    """And samples without reading a caption again."""
    tower = towers.write(tmp_path / "bert", towers.BERT)
    monkeypatch.setenv("TINYGIF_CACHE", str(tmp_path / "cache"))
    assert call(*flags(changed(steps=2)), "--text", tower, "--out", tmp_path / "run") == 0
    about = checkpoint.read_about(tmp_path / "run" / MODEL)
    assert about.step == 2 and about.config.text.text == str(tower.resolve())
    assert (about.config.text.text_pool, about.config.text.text_dims) == ("mean", (24, 24))
    longest, batch = CONFIG.text.max_tokens, fake_steps.batches[0]
    assert batch.prompts.states.shape == (8, longest, 24) and batch.prompts.pooled.shape == (8, 24)
    monkeypatch.setattr("tinygif.towers.embeddings.load_tower", None)
    text = load(tmp_path / "run").encode_prompts(["a 7 moving left"] * 2)
    assert text.states.shape == (2, longest, CONFIG.text.text_width)


# ---- going on --------------------------------------------------------------------------------

KILLED = """
import os, runpy, signal
from tinygif import moving_mnist, training
write = training.write
def kill(path, tree, about):
    write(path, tree, about)
    if path.name == "state.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)  # after the first of the two files of step 10
training.write = kill
moving_mnist.MovingMNIST.prompts = PROMPTS
runpy.run_path(SCRIPT, run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(trained, tmp_path):
    folder = tmp_path / "killed"
    code = KILLED.replace("SCRIPT", repr(str(TRAIN))).replace("PROMPTS", repr(PROMPTS))
    child = subprocess.run(
        [sys.executable, "-c", code, *flags(CONFIG), "--out", folder],
        env={**os.environ, "PYTHONPATH": str(TRAIN.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (folder / STATE).exists() and not (folder / MODEL).exists()
    with open(folder / "log.jsonl", "a") as log:  # as if it had got a little further
        log.write('{"step": 11, "loss": 0.5}\n{"step": 1')
    assert call("--resume", "--out", folder) == 0
    same_run(folder, trained)
    assert [line["step"] for line in rows(folder)] == [10, 20]
    assert [line["loss"] for line in rows(folder)] == [line["loss"] for line in rows(trained)]


@pytest.mark.parametrize("named", [True, False])
def test_resuming_a_finished_run_changes_nothing(
    trained, tmp_path, monkeypatch, named, no_steps
):
    """No file is written again."""
    folder = shutil.copytree(trained, tmp_path / "runs" / "again")
    before = {path: path.stat() for path in folder.rglob("*.*") if path.suffix != ".jsonl"}
    monkeypatch.chdir(tmp_path)
    assert call("--resume", *(["--out", folder] if named else [])) == 0
    after = {path: path.stat() for path in before}
    assert [path for path in before if before[path].st_mtime != after[path].st_mtime] == []
    assert rows(folder) == rows(trained)


@pytest.mark.parametrize("stale", [True, False])
def test_a_model_file_that_a_kill_left_out_is_written(trained, tmp_path, no_steps, stale):
    """It is missing, or that of an earlier step."""
    folder = shutil.copytree(trained, tmp_path / "again")
    (folder / MODEL).unlink()
    if stale:
        model, about = checkpoint.load_model(trained / MODEL)
        checkpoint.write(folder / MODEL, model, about._replace(step=10))
    assert call("--resume", "--out", folder) == 0
    same_run(folder, trained)


@pytest.fixture
def no_steps(monkeypatch):
    """Neither a step nor a sample is made."""

    def make_step(config, mesh):
        return lambda *_: pytest.fail("it trained")

    monkeypatch.setattr(training, "make_step", make_step)
    monkeypatch.setattr("tinygif.pipeline.Pipeline.denoising", None)


@pytest.fixture
def fake_steps(monkeypatch):
    """Steps that only count, with a list of the progress that each was given.

    Nothing is compiled. `fake_steps.now` is the clock of the log, which `after(number)` may move;
    `loss(number)` is what a step gives.
    """
    fake = SimpleNamespace(
        now=0.0, progress=[], batches=[], after=lambda number: None, loss=lambda number: 1.0
    )

    def make_step(config, mesh):
        def step(state, batch, key):
            fake.batches.append(batch)
            fake.progress.append(float(batch.progress))
            fake.now += 10
            fake.after(len(fake.progress))
            loss = jnp.asarray(fake.loss(len(fake.progress)), jnp.float32)
            logs = {"loss": loss, "gradient_norm": jnp.ones(()), "rate": jnp.ones(())}
            return replace(state, step=state.step + 1), logs

        return step

    monkeypatch.setattr(training, "make_step", make_step)
    monkeypatch.setattr(training, "count_tflop", lambda *_: 0.5)
    monkeypatch.setattr(training, "held_out_loss", lambda *_: jnp.ones(()))
    monkeypatch.setattr("tinygif.pipeline.Pipeline.__call__", lambda *_, **__: SAMPLES)
    monkeypatch.setattr("tinygif.log.time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


SAMPLES = GeneratedClips(np.zeros((2, 4, 16, 16, 1), np.uint8), PROMPTS, 8)


def test_a_finished_run_can_be_made_longer(trained, tmp_path, capsys, fake_steps):
    """And says how the learning rate goes on."""
    folder = shutil.copytree(trained, tmp_path / "longer")
    assert call("--resume", "--out", folder, "--steps", "30") == 0
    output = capsys.readouterr().out
    assert "67% of the run is done; the learning rate goes on at 0.25 of its peak" in output
    assert fake_steps.progress == pytest.approx([step / 30 for step in range(20, 30)])
    about = checkpoint.read_about(folder / MODEL)
    assert about.step == 30 and about.config == changed(steps=30, minutes=None)
    assert [line["step"] for line in rows(folder)] == [10, 20, 30]
    assert rows(folder)[2]["tflop"] == pytest.approx(rows(trained)[1]["tflop"] + 10 * 0.5)


def test_minutes_end_on_time_with_a_rate_of_zero(tmp_path, fake_steps):
    """Also on a machine that slows down: 4 steps of 10 s, then steps of 30 s, in 3 minutes."""

    def slow_down(number):
        fake_steps.now += 20 if number > 4 else 0

    fake_steps.after = slow_down
    assert call(*flags(changed(steps=None, minutes=3.0)), "--out", tmp_path / "run") == 0
    wanted = [seconds / 180 for seconds in (0, 10, 20, 30, 40, 70, 100, 130, 160)]
    assert fake_steps.progress == pytest.approx(wanted)
    state, about = training.load_state(tmp_path / "run")
    assert about.step == 9 and float(state.seconds) == 190  # the last step began at 160
    rate = optimizer.learning_rate_at(about.config.train, 8, fake_steps.progress[-1])
    assert 0 < float(rate) < 0.05
    assert [line["step"] for line in rows(tmp_path / "run")] == [9]
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["000009.gif"]


def test_a_resumed_run_goes_on_with_the_seconds_it_has_spent(tmp_path, fake_steps):
    """Not with those of a clock that began anew; --minutes makes it longer."""

    fake_steps.after = lambda number: stop() if number == 12 else None
    run = changed(steps=None, minutes=3.0)
    assert "--resume" in call(*flags(run), "--out", tmp_path / "run")
    assert float(training.load_state(tmp_path / "run")[0].seconds) == 100  # saved after 10 steps
    fake_steps.now, fake_steps.progress[:] = 5000.0, []
    assert call("--resume", "--out", tmp_path / "run") == 0
    assert fake_steps.progress == pytest.approx([seconds / 180 for seconds in range(100, 180, 10)])
    fake_steps.progress.clear()
    assert call("--resume", "--out", tmp_path / "run", "--minutes", "4") == 0
    assert fake_steps.progress == pytest.approx([seconds / 240 for seconds in range(180, 240, 10)])


@pytest.mark.parametrize("words", [
    ["--width", "8", "--seed=3"], ["--preset", "small"], ["--no-flip"], ["--batch-size", "16"],
])  # fmt: skip
def test_a_flag_that_resuming_would_ignore_is_refused(trained, capsys, no_training, words):
    says = fails(capsys, "--resume", "--out", trained, *words)
    assert "expected only --out, --steps, --minutes with --resume, got" in says
    assert all(word.partition("=")[0] in says for word in words if word.startswith("--"))


def test_a_length_that_cannot_be_is_refused(trained, capsys, no_steps):
    says = fails(capsys, "--resume", "--out", trained, "--steps", "0")
    assert "steps from 1 to" in says


def test_a_run_that_goes_on_elsewhere_is_refused(trained, tmp_path, capsys, no_training):
    """Before its state is read, which is not the last."""
    folder = shutil.copytree(trained, tmp_path / "busy")
    with lock(folder / ".lock"):
        (folder / STATE).write_bytes(b"being written")
        assert "another process works in" in fails(capsys, "--resume", "--out", folder)


# ---- other data ------------------------------------------------------------------------------

NAMES = [f"name{i}" for i in range(len(moving_mnist.WORDS) - 7)]
"""So many that the vocabulary is as large as that of digits: the same programs serve both."""


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of five captioned clips."""
    folder = tmp_path_factory.mktemp("data") / "pets"
    folder.mkdir()
    for i in range(5):
        write_gif(folder / f"{i}.gif", np.full((3, 20, 16, 3), 40 * i, np.uint8))
        first, names = ("a cat moving left", "the cat moving left")[i % 2], " ".join(NAMES)
        (folder / f"{i}.txt").write_text(f"{first}\na cat number {i}\nthe cat {names}")
    return folder


@pytest.mark.slow
def test_a_folder_trains_and_goes_on_to_the_same_bytes_when_it_has_changed(
    trained, pets, tmp_path, monkeypatch
):
    """Several captions a clip, flips, short clips: all are functions of the step."""
    data = replace(CONFIG.data, dataset=str(pets), flip=True, mnist_dir=None)
    words = flags(replace(changed(steps=6, save_every=2), data=data))
    assert call(*words, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        watch_steps(patch, lambda number, logs: stop() if number == 3 else logs)
        assert "--resume" in call(*words, "--out", tmp_path / "stopped")
    (pets / "0.gif").unlink()
    (pets / "1.txt").write_text("something else")
    assert call("--resume", "--out", tmp_path / "stopped") == 0
    same_run(tmp_path / "whole", tmp_path / "stopped")
    about = checkpoint.read_about(tmp_path / "whole" / MODEL)
    assert set(about.words) == {"a", "cat", "left", "moving", "number", "right", "the", *NAMES}
    assert Path(about.config.data.dataset).name.startswith("pets-")


def stop():
    raise KeyboardInterrupt


def watch_steps(monkeypatch, watch):
    """Steps whose logs go through `watch(number, logs)`."""
    real = training.make_step

    def make_step(config, mesh):
        step = real(config, mesh)

        def watched(state, batch, key):
            number = int(state.step)
            state, logs = step(state, batch, key)
            return state, watch(number, logs)

        watched.lower = step.lower
        return watched

    monkeypatch.setattr(training, "make_step", make_step)


def test_flags_start_from_what_the_data_and_the_checkpoint_are(trained, monkeypatch, capsys):
    script = load_script(monkeypatch)
    run = script.parse(["--dataset", "shapes", "--init", str(trained), "--seed", "3"])
    assert run.model == CONFIG.model and run.diffusion == CONFIG.diffusion
    assert run.data == defaults("shapes") and run.train.seed == 3
    state, about, dataset, _ = script.new_run(run)
    assert set(about.words) == {*moving_mnist.WORDS, *dataset.words} and int(state.step) == 0
    assert len(state.model.text.embedding) == len(about.words) + 2
    output = capsys.readouterr().out
    assert f"from {trained / MODEL}" in output and "new: 15 words, model.stem" in output


def test_a_folder_gives_its_run_its_name(pets, tmp_path, monkeypatch):
    """However its path is written; a second run gets a second folder."""
    monkeypatch.chdir(tmp_path)
    script = load_script(monkeypatch)
    monkeypatch.setattr(script, "new_run", lambda run: ("state", "about", "dataset", "held out"))
    monkeypatch.setattr(script, "train_both", lambda folder, *start: folders.append(str(folder)))
    folders = []
    names = (pets, f"{pets}/", os.path.relpath(pets), "moving_mnist", "moving_mnist")
    for name in names:
        monkeypatch.setattr(sys, "argv", ["train.py", "--dataset", str(name)])
        script.main()
    first = ["runs/pets-tiny", "runs/pets-tiny-2", "runs/pets-tiny-3"]
    assert folders == [*first, "runs/moving_mnist-tiny", "runs/moving_mnist-tiny-2"]


# ---- what stops it ---------------------------------------------------------------------------


def test_no_number_stops_the_run_and_keeps_the_last_good(tmp_path, capsys, fake_steps):
    """The last step before a checkpoint is read before it is saved."""
    fake_steps.loss = lambda number: np.nan if number == 15 else 1.0
    says = fails(capsys, *flags(changed(save_every=5)), "--out", tmp_path / "run")
    assert "the loss of step 14 is nan" in says and "last good checkpoint" in says
    assert checkpoint.read_about(tmp_path / "run" / STATE).step == 10
    assert checkpoint.read_about(tmp_path / "run" / MODEL).step == 10


def test_what_was_trained_before_a_batch_failed_is_saved(
    tmp_path, capsys, monkeypatch, fake_steps
):
    """Such as a caption with too many words, far from the last checkpoint."""
    read, asked = MovingMNIST.example, []

    def example(self, index, frames):
        asked.append(index)
        clip, caption = read(self, index, frames)
        return clip, caption if len(asked) < 100 else 30 * "a "

    monkeypatch.setattr(MovingMNIST, "example", example)
    says = fails(capsys, *flags(changed(steps=400)), "--out", tmp_path / "run")
    assert "the prompt has 30 words" in says
    saved = checkpoint.read_about(tmp_path / "run" / STATE).step
    assert saved == checkpoint.read_about(tmp_path / "run" / MODEL).step == len(fake_steps.progress)
    assert saved > 2


def test_an_existing_run_is_not_overwritten(trained, capsys, no_training):
    before = (trained / STATE).stat()
    says = fails(capsys, *flags(CONFIG), "--out", trained)
    assert "already holds a run" in says and "--resume" in says
    assert (trained / STATE).stat() == before


def test_there_must_be_a_run_to_resume(tmp_path, capsys, no_training, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nothing to resume" in fails(capsys, "--resume", "--out", tmp_path / "none")
    assert STATE in fails(capsys, "--resume") and list(tmp_path.iterdir()) == []
    (tmp_path / STATE).write_bytes(b"broken")
    assert STATE in fails(capsys, "--resume", "--out", tmp_path)


def test_no_room_and_no_folder_are_found_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "make_step", None)
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(capsys, *flags(CONFIG), "--out", tmp_path / "file" / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "MB free" in fails(capsys, *flags(CONFIG), "--out", tmp_path / "run")


@pytest.mark.parametrize(("words", "says"), [
    (["--size", "18"], "multiple of 4"),
    (["--frames", "5"], "multiple of 2"),
    (["--batch-size", "8", "--accumulate", "3"], "multiple of accumulate, 3"),
    (["--accumulate", "0"], "accumulate from 1 to"),
    (["--heads", "0"], "heads from 1 to"),
    (["--ema", "1"], "an ema below 1"),
    (["--drop-text", "2"], "drop_text from 0 to 1, got 2.0"),
    (["--short-share", "3"], "short_share from 0 to 1, got 3.0"),
    (["--sample-steps", "51"], "between 1 and T=50"),
    (["--digit-size", "16"], "digit_size from 4 to 14"),
    (["--digit-size", "3"], "digit_size from 4"),
    (["--mnist-dir", "/nowhere"], "expected the MNIST files"),
    (["--dataset", "/nowhere", "--mnist-dir", "None"], "which is not there"),
    (["--flip"], "expected flip only for a folder of clips"),
    (["--dataset", "shapes", "--channels", "3", "--digits", "2", "--mnist-dir", "None"],
     "expected digits only for moving_mnist"),
    (["--multipliers", "1", "2", "4"], "levels"),
    (["--dataset", "shapes", "--size", "16", "--mnist-dir", "None"], "expected 3 channels"),
    (["--init", "/nowhere"], "no checkpoint at /nowhere"),
    (["--steps", "None", "--minutes", "None"], "expected --steps or --minutes, got neither"),
    (["--steps", "0"], "from 1 to"),
    (["--save-every", "0"], "from 1 to"),
    (["--sample-every", "-1"], "from 1 to"),
    (["--fps", "60"], "fps <= 50"),
    (["--predict", "eps", "--schedule", "rectified"], "cannot start from pure noise"),
    (["--preset", "huge"], "--preset"),
    (["--model", "huge"], "--model"),
    (["--optimizer", "sgd"], "--optimizer"),
    (["--width", "wide"], "--width"),
    (["--colour", "blue"], "--colour"),
    (["--short-frames", "3"], "multiple of 2"),
    (["--short-frames", "8"], "short_frames from 1 to 4, got 8"),
    (["--logit-normal", "0", "0"], "positive deviation"),
    (["--text", "/nowhere"], "expected words, clip, bert, a folder or a hub id"),
    (["--text", "clip"], "hf download openai/clip-vit-base-patch32"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_once(
    tmp_path, monkeypatch, capsys, no_training, words, says
):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, *flags(CONFIG), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path, capsys, monkeypatch):
    """Only when the run begins: how many devices there are is not the config's to know."""
    monkeypatch.setattr(training, "replicate", None)
    says = fails(capsys, *flags(changed(batch_size=12)), "--out", tmp_path / "run")
    assert "a batch_size that 8 devices can share, got 12" in says


def test_help_names_every_field(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call("--help") == 0
    text = capsys.readouterr().out
    fields = [field.name for part in PARTS
              for field in dataclasses.fields(type(getattr(CONFIG, part)))]  # fmt: skip
    missing = [name for name in [*fields, "preset", "out", "resume", "init"]
               if f"--{name.replace('_', '-')}" not in text]  # fmt: skip
    assert missing == []
