"""app.py: wishes that may come from anybody; clips, their commands, and an API. Lesson 13."""

import base64
import io
import shlex
import threading
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import tinygif
from tinygif import app
from tinygif.app import COUNT, Options, Wish, build, choices, draw, figure, finish, read_wish
from tinygif.errors import TinygifError
from tinygif.pipeline import Pipeline

MODELS = ["moving_mnist", "tiny"]


@pytest.fixture
def pipeline(monkeypatch) -> Pipeline:
    """A tiny model, which is what every checkpoint's name means here."""
    small = Pipeline(tiny.state().ema, tiny.CONFIG, tiny.ABOUT.words)
    monkeypatch.setattr(app, "open_model", lambda *names: small)
    return small


WISH = Wish("a 7 moving left", 3, steps=2, solver="ddim")


@pytest.mark.parametrize(("field", "value", "says"), [
    ("prompt", 7, "prompt as str, got 7"), ("prompt", "x" * 401, "at most 400 letters in prompt"),
    ("prompt", None, "prompt as str"), ("seed", 1.5, "seed as int, got 1.5"),
    ("seed", True, "seed as int, got True"), ("seed", -1, "seed from 0"),
    ("seed", 2**32, "seed from 0"), ("count", COUNT + 1, "count from 1 to 6"),
    ("steps", 10**9, "steps from 1 to 100"), ("guidance", float("nan"), "guidance up to 100"),
    ("guidance", 1e9, "guidance up to 100"), ("lora_scale", float("inf"), "lora_scale up to 10"),
    ("checkpoint", "/etc/passwd", "checkpoint of moving_mnist, tiny, got /etc/passwd"),
    ("lora", "../x", "lora of , mine"), ("palette", "x.gif", "palette of"),
    ("solver", "euler", "solver of ddim"), ("loop", 1, "loop as bool"),
])  # fmt: skip
def test_a_wish_that_cannot_be_is_refused(field, value, says):
    read_wish(vars(WISH)).check(MODELS, ["mine"])
    with pytest.raises(TinygifError, match=says):
        read_wish(vars(WISH) | {field: value}).check(MODELS, ["mine"])


def test_a_guess_after_every_step_then_the_clip_that_sample_py_draws(pipeline):
    *guesses, (last, note) = draw(WISH)
    assert [note for _, note in guesses] == ["step 1 of 2", "step 2 of 2"] and note == ""
    assert all(guess.shape == last.shape for guess, _ in guesses)
    options = dict(seed=3, steps=2, guidance=3.0, solver="ddim")
    np.testing.assert_array_equal(last, pipeline([WISH.prompt], **options).array)


def test_work_ends_when_nobody_waits(pipeline):
    steps = draw(replace(WISH, steps=40))
    next(steps)
    steps.close()  # joins the thread
    assert not [thread for thread in threading.enumerate() if "work" in thread.name]


def test_a_first_frame_stands_in_the_command():
    wish = replace(WISH, prompt="")
    assert "--first-frame x.png --count" in wish.command("x.png")
    assert "--prompt ''" in wish.command()


def test_errors_in_the_thread_are_raised_here(pipeline):
    with pytest.raises(TinygifError, match="does not know the word 'qqq'"):
        list(draw(replace(WISH, prompt="qqq")))


def test_first_frames_morphs_palettes(pipeline, tmp_path):
    shown = tmp_path / "x.png"
    Image.fromarray(np.full((16, 16), 200, np.uint8)).save(shown)
    watch = lambda steps, total: steps  # noqa: E731
    clip = finish(WISH, pipeline, shown, watch)
    np.testing.assert_array_equal(clip[0, 0], 200)
    film = finish(replace(WISH, morph_to="a 3 moving up"), pipeline, None, watch)
    assert film.shape == (1, 22, 16, 16, 1)
    assert len(np.unique(finish(replace(WISH, palette="1bit"), pipeline, None, watch))) <= 2
    for wish, path in ((replace(WISH, loop=True), shown), (replace(WISH, morph_to="a 3"), shown)):
        with pytest.raises(TinygifError, match="got both"):
            finish(wish, pipeline, path, watch)


def test_a_figure_has_its_gif_and_its_command_and_no_markup_of_others(pipeline):
    wish = replace(WISH, prompt='<script>alert("x")</script>')
    html = figure(np.zeros((1, 4, 16, 16, 1), np.uint8), wish, "<b>")
    assert "<script" not in html and "<b>" not in html and "download" in html
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    assert Image.open(io.BytesIO(data)).size == (128, 128)


@pytest.mark.parametrize("wish", [
    WISH, replace(WISH, prompt="it's \"7\"", negative_prompt="a 3", loop=True),
    replace(WISH, morph_to="a 3", palette="pico8", lora="gameboy", lora_scale=0.5),
])  # fmt: skip
def test_the_command_is_read_by_sample_py_as_it_was_meant(wish, monkeypatch):
    tyro = pytest.importorskip("tyro")
    script = tiny.load_script(monkeypatch, Path(tiny.TRAIN).with_name("sample.py"))
    options = tyro.cli(script.Options, args=shlex.split(wish.command())[2:])
    assert (options.seed, options.steps, options.guidance) == (wish.seed, wish.steps, wish.guidance)
    asked = options.morph or options.prompt
    assert asked == ((wish.prompt, wish.morph_to) if wish.morph_to else (wish.prompt,))
    assert (options.loop, options.palette or "") == (wish.loop, wish.palette)
    assert (options.negative_prompt or "") == wish.negative_prompt


def test_runs_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run, file in (("a", "model.safetensors"), ("b", "lora.safetensors"), ("c", "log.jsonl")):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / file).touch()
    models, adapters = choices(Options())
    assert models[-1] == "runs/a" and adapters == ["gameboy", "runs/b"] and len(models) == 4


# ---- the API -----------------------------------------------------------------------------------


@pytest.fixture
def client(pipeline, monkeypatch):
    """A client of a page that runs here, in a thread."""
    pytest.importorskip("gradio")
    from gradio_client import Client

    page = build(Options())
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield Client(address, verbose=False)
    page.close()


def test_five_lines_make_a_gif(client, tmp_path):
    with jax.numpy_dtype_promotion("standard"):
        answer = client.predict("a 7 moving left", 3, steps=2, solver="ddim", api_name="/gif")
    (tmp_path / "x.gif").write_bytes(base64.b64decode(answer["gif"]))
    clip, _ = tinygif.read_gif(tmp_path / "x.gif")
    assert clip.shape == (4, 128, 128, 3) and answer["command"] == WISH.command()


@pytest.mark.slow
def test_what_is_malformed_gets_a_sentence_and_hurts_nobody(client):
    """500 wrong requests from four threads; none ends the process, a right one is answered."""
    values = ("", "qqq", 7, None, [1], {"a": 1}, "x" * 10**4, -1, 10**12, True, "\0", "../../x")
    rng, told = np.random.default_rng(0), []

    def ask(number: int) -> None:
        for _ in range(125):
            arguments = ["a 7 moving left", 1, "moving_mnist", "", 2, 3.0, "ddim", 1, False]
            arguments[rng.integers(len(arguments))] = values[rng.integers(len(values))]
            try:
                client.predict(*arguments, api_name="/gif")
            except Exception as error:
                told.append(str(error))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) > 200
    assert not [text for text in told if "Traceback" in text or str(Path.cwd()) in text]
    assert client.predict("a 7", 3, steps=1, api_name="/gif")["gif"]
