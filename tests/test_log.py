"""log.py: what a run has spent and how far it is, so that a resumed run goes on. Lesson 15."""

import json
import os
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from tinygif.errors import TinygifError
from tinygif.log import CURVE, FILE, Log

FIELDS = [
    "step", "loss", "held_out_loss", "gradient_norm", "rate", "clips_per_second", "waiting",
    "tflop", "seconds",
]  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock.now` is moved."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("tinygif.log.time", clock)
    return clock


def logs(loss: float, norm: float = 1.0, rate: float = 0.5) -> dict:
    numbers = {"loss": loss, "gradient_norm": norm, "rate": rate}
    return {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_line_holds_means_rates_and_what_was_spent(tmp_path, clock):
    """Since the last line, but for tflop and seconds, which count from the start of the run."""
    log = Log(tmp_path, step=0, seconds=100.0, tflop=5.0)
    for i, (loss, norm, rate) in enumerate([(4.0, 1.0, 0.1), (2.0, 3.0, 0.2)]):
        with log.waiting():
            clock.now += 1
        log.begin_step(i, logs(loss, norm, rate), clips=8, tflop=0.25)
        clock.now += 4
    log.write_line(2, 0.5, None)
    log.begin_step(2, logs(7.0), clips=16, tflop=1.0)
    clock.now += 2
    log.write_line(3, 1.0, jnp.asarray(0.75))
    first, second = rows(tmp_path)
    assert list(first) == FIELDS == list(second)
    assert first == pytest.approx({
        "step": 2, "loss": 3.0, "held_out_loss": None, "gradient_norm": 2.0, "rate": 0.2,
        "clips_per_second": 1.6, "waiting": 0.2, "tflop": 5.5, "seconds": 110.0,
    })  # fmt: skip
    assert second == pytest.approx({
        "step": 3, "loss": 7.0, "held_out_loss": 0.75, "gradient_norm": 1.0, "rate": 0.5,
        "clips_per_second": 8.0, "waiting": 0.0, "tflop": 6.5, "seconds": 112.0,
    })  # fmt: skip


def test_a_step_is_read_while_the_next_one_runs(tmp_path):
    """And `finish_step` reads the last: NaN ends the run before it is saved."""
    log = Log(tmp_path, 0, 0.0, 0.0)
    log.begin_step(0, logs(1.0), 8, 0.0)
    log.begin_step(1, logs(np.nan), 8, 0.0)
    with pytest.raises(TinygifError, match="the loss of step 1 is nan"):
        log.finish_step()
    log = Log(tmp_path, 0, 0.0, 0.0)
    log.begin_step(0, logs(1.0, np.inf), 8, 0.0)
    with pytest.raises(TinygifError, match="step 0 .*inf"):
        log.begin_step(1, logs(1.0), 8, 0.0)


def test_the_state_takes_what_was_spent(tmp_path, clock):
    log = Log(tmp_path, 0, 100.0, 5.0)
    log.begin_step(0, logs(1.0), 8, 0.25)
    clock.now += 3
    state = log.write_into(tiny.state())
    assert float(state.seconds) == 103 and float(state.tflop) == 5.25
    assert state.seconds.dtype == state.tflop.dtype == np.float32


def test_lines_after_the_last_checkpoint_and_torn_ones_go(tmp_path):
    """What came after it is done again, and is logged again."""
    whole = [{"step": step, "loss": 1.0, "held_out_loss": None} for step in (10, 20, 30)]
    lines = "".join(json.dumps(row) + "\n" for row in whole)
    (tmp_path / FILE).write_text(lines + '{"step": 1')
    Log(tmp_path, 20, 0.0, 0.0)
    assert rows(tmp_path) == whole[:2]
    Log(tmp_path, 0, 0.0, 0.0)
    assert rows(tmp_path) == []


def test_opening_a_log_is_all_or_nothing(tmp_path, monkeypatch):
    """The old lines are not lost where the disk is full."""
    (tmp_path / FILE).write_text('{"step": 10}\n{"step": 2')
    before = (tmp_path / FILE).read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TinygifError, match="No space left"):
            Log(tmp_path, 10, 0.0, 0.0)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_curve_shows_both_losses(tmp_path):
    """Also where no clips are held out, and where there is no line yet."""
    log = Log(tmp_path, 0, 0.0, 0.0)
    pictures = []
    for step in range(0, 40, 10):
        if step:
            log.begin_step(step, logs(1 / step), 8, 0.0)
            log.write_line(step, step / 30, jnp.asarray(2 / step) if step > 10 else None)
        log.draw()
        with Image.open(tmp_path / CURVE) as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    blue, orange = ((31, 119, 180), (255, 127, 14))
    for picture, colors in zip(pictures[1:], [[], [blue], [blue, orange]], strict=True):
        for color in (blue, orange):
            assert (np.abs(picture - color).sum(axis=-1) < 9).any() or color not in colors


def test_the_progress_bar_says_step_loss_and_speed(tmp_path, clock, capsys):
    log = Log(tmp_path, 0, 0.0, 0.0)
    log.begin_step(0, logs(0.1234), 8, 0.0)
    clock.now += 2
    log.write_line(10, 0.5, None)
    log.begin_step(1, logs(0.1234), 8, 0.0)
    clock.now += 2
    log.write_line(20, 1.3, None)
    shown = capsys.readouterr().err
    assert "100%" in shown and "step 20, loss 0.123, 4 clips/s" in shown


def test_damaged_lines_are_left_out(tmp_path):
    """A flipped byte in the log ends neither a resumed run nor its curve."""
    whole = json.dumps({"step": 10, "loss": 1.0, "held_out_loss": None})
    damaged = [whole.replace("10", "1x"), whole.replace("held_out", "held_oot"), "3", '{"step": 1']
    (tmp_path / FILE).write_bytes("\n".join([*damaged, whole]).encode() + b"\n\xff\n")
    log = Log(tmp_path, step=10, seconds=0.0, tflop=0.0)
    assert rows(tmp_path) == [json.loads(whole)]
    log.draw()
    assert (tmp_path / CURVE).exists()


def test_a_folder_that_vanishes_is_a_sentence(tmp_path):
    log = Log(tmp_path, 0, 0.0, 0.0)
    (tmp_path / FILE).unlink()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    log.begin_step(0, logs(1.0), 8, 0.0)
    with pytest.raises(TinygifError, match="could not write .*log.jsonl"):
        log.write_line(1, 0.5, None)
