"""sample.py, the command: sentences become files, and mistakes become sentences. Lesson 08."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import ABOUT, model

import tinygif
from tinygif import checkpoint
from tinygif.gif import read_gif
from tinygif.morph import morph, there_and_back
from tinygif.palette import PALETTES
from tinygif.sheet import cut_out

SCRIPT = Path(__file__).parents[1] / "sample.py"
ONE, OTHER = "a 7 moving left", "an 8 standing still"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "runs" / "tiny"
    folder.mkdir(parents=True)
    checkpoint.write(folder / checkpoint.MODEL, model(), ABOUT)
    return folder


@pytest.fixture(autouse=True)
def here(run, tmp_path, monkeypatch):
    """The current folder of every test: empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: object) -> object:
    """The command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def fails(capsys: pytest.CaptureFixture, *words: object) -> str:
    """The sentence with which the command refuses."""
    capsys.readouterr()
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return re.sub(r"\s+", " ", error)


# ---- files -----------------------------------------------------------------------------------


def test_a_prompt_becomes_a_gif_named_after_it(run, here, capsys):
    assert call("--prompt", ONE, "--checkpoint", run, "--seed", 3) == 0
    clip, delays = read_gif(here / "a_7_moving_left.gif")
    assert clip.shape == (4, 128, 128, 3)
    wanted = tinygif.load(run)([ONE], seed=3)[0]
    np.testing.assert_array_equal(clip[:, ::8, ::8, :1], wanted)
    assert delays.sum() == 500 and set(delays) == {120, 130}  # 8 frames a second
    said = capsys.readouterr().out
    assert "seed 3" in said and "a_7_moving_left.gif" in said and "in 2 steps" in said


def test_a_clip_in_few_colours_and_large_pixels(run, here):
    words = ("--palette", "gameboy", "--dither", "--pixelate", 8, "--scale", 2)
    assert call("--prompt", ONE, "--checkpoint", run, "--seed", 3, *words, "--out", "x.gif") == 0
    clip, _ = read_gif(here / "x.gif")
    assert clip.shape == (4, 16, 16, 3)
    found = {bytes(color).hex() for color in clip.reshape(-1, 3)}
    assert 1 < len(found) and found <= set(PALETTES["gameboy"].split())


@pytest.mark.parametrize("prompts", [(ONE,), (ONE, OTHER)])
def test_a_game_gets_a_sheet_without_background(run, here, prompts):
    words = ("--checkpoint", run, "--seed", 3, "--transparent", "--sheet", "s.png")
    assert call("--prompt", *prompts, *words, "--out", "x.gif") == 0
    sheet, whole = np.asarray(Image.open(here / "s.png")), json.loads(Path("s.json").read_text())
    clips = tinygif.load(run)(prompts, seed=3).array
    for i, clip in enumerate(clips):
        for k, frame in enumerate(cut_out(clip)):
            box = whole["frames"][str(i * len(clip) + k)]["frame"]
            x, y, w, h = (box[name] for name in "xywh")
            np.testing.assert_array_equal(sheet[y : y + h, x : x + w], frame)
    assert [tag["name"] for tag in whole["meta"]["frameTags"]] == list(prompts)
    with Image.open("x.gif") as image:
        assert ("transparency" in image.info) == (len(prompts) == 1)


def test_a_model_without_captions_takes_an_empty_prompt(here):
    folder = here / "mute"
    folder.mkdir()
    mute = eqx.tree_at(lambda m: m.text.embedding, model(), replace_fn=lambda rows: rows[:2])
    checkpoint.write(folder / checkpoint.MODEL, mute, ABOUT._replace(words=[]))
    assert call("--prompt", "", "--checkpoint", folder, "--seed", 3) == 0
    assert (here / "clip.gif").exists()


def test_a_prompt_with_a_slash_becomes_a_file_here(run, here):
    assert call("--prompt", "a /7 moving/left", "--checkpoint", run) == 0
    assert [path.name for path in here.iterdir()] == ["a_7_moving_left.gif"]


def test_the_newest_run_is_taken(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    out = Path("x.gif").absolute()
    assert call("--prompt", ONE, "--out", out) == 0 and out.exists()
    out.unlink()


def test_without_a_seed_every_call_differs_and_says_how_to_repeat(run, here, capsys):
    """The seed that is printed gives the same bytes."""
    for out in ("a.gif", "b.gif"):
        assert call("--prompt", ONE, "--checkpoint", run, "--out", out) == 0
    seeds = re.findall(r"seed (\d+)", capsys.readouterr().out)
    assert seeds[0] != seeds[1]
    assert (here / "a.gif").read_bytes() != (here / "b.gif").read_bytes()
    assert call("--prompt", ONE, "--checkpoint", run, "--out", "c.gif", "--seed", seeds[0]) == 0
    assert (here / "a.gif").read_bytes() == (here / "c.gif").read_bytes()


def test_a_png_is_a_strip_of_frames(run, here):
    assert call("--prompt", ONE, "--checkpoint", run, "--out", "x.png", "--scale", 3) == 0
    with Image.open(here / "x.png") as picture:
        assert picture.size == (4 * 16 * 3, 16 * 3)


def test_an_mp4_plays(run, here):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v3 as iio

    assert call("--prompt", ONE, "--checkpoint", run, "--out", "x.mp4") == 0
    assert iio.imread(here / "x.mp4", plugin="FFMPEG").shape == (4, 128, 128, 3)


def test_an_mp4_without_ffmpeg_is_a_sentence(run, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    says = fails(capsys, "--prompt", ONE, "--checkpoint", run, "--out", "x.mp4")
    assert "pip install" in says and list(here.iterdir()) == []


def test_several_prompts_make_a_grid(run, here):
    options = ("--checkpoint", run, "--seed", 3, "--scale", 4)
    assert call("--prompt", ONE, OTHER, *options, "--out", "grid.gif") == 0
    grid, _ = read_gif(here / "grid.gif")
    assert len(grid) == 4 and grid.shape[2] >= 2 * 64 and grid.shape[1] > 64
    wanted = tinygif.load(run)([ONE, OTHER], seed=3)
    rows = [r for r in range(grid.shape[1] - 64) for c in range(grid.shape[2] - 64)
            if (grid[:, r : r + 64 : 4, c : c + 64 : 4, :1] == wanted[0]).all()]  # fmt: skip
    assert rows, "the first clip is in the grid"


def test_count_makes_several_of_each(run, here, capsys):
    options = ("--checkpoint", run, "--seed", 3, "--count", 2, "--scale", 1)
    assert call("--prompt", ONE, *options, "--out", "two.gif") == 0
    assert "2 clip(s) in" in capsys.readouterr().out
    two, _ = read_gif(here / "two.gif")
    clips = tinygif.load(run)([ONE, ONE], seed=3)
    assert two.shape[2] >= 32 and not np.array_equal(clips[0], clips[1])


def test_the_trajectory_goes_from_noise_to_the_clip_and_plays_it(run, here):
    options = ("--checkpoint", run, "--seed", 3, "--steps", 7, "--scale", 1)
    assert call("--prompt", ONE, *options, "--trajectory", "--out", "film.gif") == 0
    assert call("--prompt", ONE, *options, "--out", "clip.gif") == 0
    film, clip = read_gif(here / "film.gif")[0], read_gif(here / "clip.gif")[0]
    assert len(film) == 7 + 4
    np.testing.assert_array_equal(film[-4:], clip)
    np.testing.assert_array_equal(film[6], clip[6 % 4])
    assert np.abs(film[0].astype(int) - clip[0]).mean() > 10


def test_a_morph_goes_there_and_back(run, here):
    words = ("--checkpoint", run, "--seed", 3)
    assert call("--morph", ONE, OTHER, *words, "--count", 4) == 0
    clip, _ = read_gif(here / "a_7_moving_left_an_8_standing_still.gif")
    wanted = there_and_back(morph(tinygif.load(run), ONE, OTHER, count=4, seed=3))
    np.testing.assert_array_equal(clip[:, ::8, ::8, :1], wanted)
    assert call("--morph", ONE, OTHER, *words, "--morph-grid", "--count", 2, "--out", "g.gif") == 0
    assert len(read_gif(here / "g.gif")[0]) == 4


def test_frames_a_second_set_the_delays(run, here):
    assert call("--prompt", ONE, "--checkpoint", run, "--fps", 20, "--out", "x.gif") == 0
    assert (read_gif(here / "x.gif")[1] == 50).all()


def test_options_reach_the_model(run, here):
    """Each of them changes the clip."""
    alone = ("--prompt", ONE, "--checkpoint", run, "--seed", 3, "--scale", 1, "--steps", 3)
    assert call(*alone, "--out", "plain.gif") == 0
    plain = (here / "plain.gif").read_bytes()
    for words in (["--guidance", 5], ["--solver", "ddpm"], ["--eta", 0.5], ["--solver", "dpmpp"],
                  ["--negative-prompt", OTHER], ["--dynamic-threshold", 0.8]):  # fmt: skip
        assert call(*alone, *words, "--out", "other.gif") == 0
        assert (here / "other.gif").read_bytes() != plain, words


# ---- mistakes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_unknown_word_is_exit_code_2_with_words_near_it(run, here):
    """In a process of its own, as a user sees it."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--prompt", "a 7 moving leftt", "--checkpoint", run],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "'leftt'" in done.stderr and "near it: left" in done.stderr
    assert list(here.iterdir()) == []


def test_pictures_are_the_first_and_the_last_frame(run, here):
    first, last = (np.full((16, 16, 3), level, np.uint8) for level in (40, 200))
    Image.fromarray(first).save(here / "first.png")
    Image.fromarray(last).save(here / "last.png")
    words = ("--checkpoint", run, "--seed", 3, "--scale", 1, "--out", "x.gif")
    for flags, places in [
        (("--first-frame", "first.png"), {0: first}),
        (("--last-frame", "last.png", "--prompt", ONE), {-1: last}),
        (("--between", "first.png", "last.png"), {0: first, -1: last}),
    ]:
        assert call(*words, *flags) == 0
        clip, _ = read_gif(here / "x.gif")
        assert clip.shape == (4, 16, 16, 3)
        for number, picture in places.items():
            np.testing.assert_array_equal(clip[number], picture)


def test_a_gif_goes_on(run, here):
    words = ("--checkpoint", run, "--seed", 3, "--scale", 1)
    assert call(*words, "--prompt", ONE, "--out", "a.gif") == 0
    assert call(*words, "--continue", "a.gif", "--frames", 9, "--out", "b.gif") == 0
    (start, _), (longer, _) = (read_gif(here / f"{name}.gif") for name in "ab")
    assert longer.shape == (9, 16, 16, 3)
    np.testing.assert_array_equal(longer[:4], start)
    assert call(*words, "--prompt", ONE, "--frames", 9, "--out", "c.gif") == 0
    np.testing.assert_array_equal(read_gif(here / "c.gif")[0][:4], start)


def test_what_is_given_is_not_written_over(run, here, capsys):
    words = ("--checkpoint", run, "--seed", 3)
    assert call(*words, "--prompt", ONE) == 0
    file = here / "a_7_moving_left.gif"
    before = file.read_bytes()
    said = fails(capsys, *words, "--prompt", ONE, "--continue", file.name)
    assert "not to write over a_7_moving_left.gif" in said and "another --out" in said
    assert call(*words, "--continue", file.name) == 0
    assert file.read_bytes() == before and (here / "a_7_moving_left_clip.gif").exists()


def test_attention_may_take_one_step(run, here):
    words = ("--checkpoint", run, "--prompt", ONE, "--attention", "--steps", 1)
    assert call(*words) == call(*words, "--loop") == 0


def test_a_strange_picture_is_told(run, here, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(noise).save(here / "noise.png")
    assert call("--checkpoint", run, "--first-frame", "noise.png", "--seed", 3) == 0
    assert "noise.png is unlike the training data" in capsys.readouterr().err


def test_a_loop_is_another_clip(run, here):
    words = ("--checkpoint", run, "--seed", 3, "--prompt", ONE)
    assert call(*words, "--out", "a.gif") == call(*words, "--loop", "--out", "b.gif") == 0
    assert (read_gif(here / "a.gif")[0] != read_gif(here / "b.gif")[0]).any()


def test_attention_is_a_clip_for_each_word(run, here):
    assert call("--checkpoint", run, "--seed", 3, "--prompt", ONE, "--attention", "--out",
                "a.gif") == 0  # fmt: skip
    frames = read_gif(here / "a.gif")[0].astype(int)
    assert len(frames) == 4 and (frames[..., 0] > frames[..., 2] + 100).any()


@pytest.mark.parametrize(("words", "says"), [
    (["--first-frame", "gone.png"], "could not read gone.png (not found)"),
    (["--between", "a.png", "b.png", "--first-frame", "c.png"], "--between or --first-frame or"),
    (["--continue", "a.gif", "--last-frame", "b.png"], "--continue or a picture"),
    (["--continue", "a.gif", "--loop"], "--loop or known frames"),
    (["--first-frame", "a.png", "--loop"], "--loop or known frames"),
    (["--first-frame", "a.png", "--trajectory"], "--trajectory or known frames"),
    (["--first-frame", "a.png", "--resample", 0], "resample from 1"),
    (["--prompt", ONE, "--frames", 8, "--loop"], "a loop within one clip, got 8 frames"),
    (["--morph", ONE, OTHER, "--first-frame", "a.png"], "--morph or known frames"),
    (["--morph", ONE, OTHER, "--loop"], "--morph or --loop"),
    (["--morph", ONE, OTHER, "--attention"], "--morph or --attention"),
    (["--prompt", ONE, "--trajectory", "--resample", 2], "--trajectory or --resample"),
    (["--prompt", ONE, OTHER, "--attention"], "one clip for --attention, got 2 sentences"),
    (["--prompt", ONE, "--palette", "nintendo"], "pico8, sweetie16, gameboy, cga, 1bit, or a file"),
    (["--prompt", ONE, "--dither"], "--palette with --dither"),
    (["--prompt", ONE, "--pixelate", 17], "pixelate from 1 to 16"),
    (["--attention"], "at least one sentence"),
    (["--prompt", ONE, "--attention", "--trajectory"], "--attention or --trajectory"),
    (["--prompt", "a " * 25], "at most 24"),
    (["--prompt", ""], "no words"),
    (["--prompt", ONE, "--negative-prompt", "blurry"], "'blurry'"),
    (["--prompt", ONE, "--steps", 51], "between 1 and T=50"),
    (["--prompt", ONE, "--steps", 0], "between 1 and T=50"),
    (["--prompt", ONE, "--solver", "dpmpp", "--eta", 0.5], "the ddim solver for eta"),
    (["--prompt", ONE, "--frames", 3], "multiple of 2"),
    (["--prompt", ONE, "--size", 18], "multiple of 4"),
    (["--prompt", ONE, "--fps", 60], "fps <= 50"),
    (["--prompt", ONE, "--fps", 0], "<= fps <= 50"),
    (["--prompt", ONE, "--count", 0], "count from 1 to"),
    (["--prompt", ONE, "--scale", 0], "scale"),
    (["--prompt", ONE, "--sheet", "x.gif"], "expected a --sheet that ends in .png, got 'x.gif'"),
    (["--prompt", ONE, "--sheet", "x.png", "--out", "x.png"], "two files for --sheet and --out"),
    (["--prompt", ONE, "--transparent", "--trajectory"], "without --trajectory"),
    (["--prompt", ONE, "--sheet", "s.png", "--out", "x.png", "--fps", 60], "0.002 <= fps <= 50"),
    (["--prompt", ONE, OTHER, "--transparent"], "one clip for --transparent, or --sheet, got 2"),
    (["--prompt", ONE, "--transparent", "--out", "x.mp4"], ".gif, .apng or .png for --transparent"),
    (["--prompt", ONE, "--out", "x.jpg"], ".gif, .apng, .png or .mp4"),
    (["--prompt", ONE, "--out", "x.webm"], ".gif, .apng, .png or .mp4"),
    (["--prompt", ONE, "--out", "none/x.gif"], "none"),
    (["--prompt", ONE, "--solver", "euler"], "--solver"),
    (["--prompt", ONE, "--colour", "blue"], "--colour"),
    (["--prompt", ONE, "--seed", -1], "seed from 0 to"),
    (["--prompt", ONE, "--fps", 60, "--out", "x.gif"], "fps <= 50"),
    (["--prompt", ONE, "--out", "no/such/folder/x.gif"], "no/such/folder"),
    (["--prompt", ONE, "--morph", ONE, OTHER], "expected --prompt or --morph, got both"),
    (["--morph", ONE, OTHER, "--trajectory"], "expected --morph or --trajectory, got both"),
    (["--morph", ONE, OTHER, "--count", 1], "count from 2 to"),
    (["--morph", ONE, OTHER, "--count", 0], "count from 2 to"),
    (["--morph", ONE, "a 7 moving leftt"], "leftt"),
    (["--morph", ONE, OTHER, "--morph-grid", "--transparent"], "one clip for --transparent"),
    (["--prompt", ONE, "--morph-grid"], "two sentences after --morph"),
    (["--prompt"], "at least one sentence after --prompt"),
    ([], "--prompt"),
])  # fmt: skip
def test_mistakes_are_exit_code_2_and_a_sentence(run, here, capsys, monkeypatch, words, says):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("tinygif.sampler.sample_step", None)  # all is said before sampling
    assert says in fails(capsys, "--checkpoint", run, *words)
    assert list(here.iterdir()) == []


def test_a_wrong_shape_in_a_model_keeps_its_traceback(run, monkeypatch):
    """One line would not help those who edit the network."""
    product = lambda *_: jnp.einsum("ij,jk->ik", np.ones((2, 3)), np.ones((4, 5)))  # noqa: E731
    monkeypatch.setattr("tinygif.pipeline.run_text_encoder", product)
    with pytest.raises(ValueError, match="Size of label") as error:
        call("--prompt", ONE, "--checkpoint", run)
    assert not isinstance(error.value, tinygif.TinygifError)


def test_without_a_checkpoint_nothing_is_made_up(here, capsys, monkeypatch):
    monkeypatch.setattr("tinygif.pipeline.SHIPPED", here / "none")
    assert "Train a model" in fails(capsys, "--prompt", ONE)
    assert "no checkpoint at" in fails(capsys, "--prompt", ONE, "--checkpoint", here / "none")
    (here / "x.safetensors").write_bytes(b"not ours")
    says = fails(capsys, "--prompt", ONE, "--checkpoint", here / "x.safetensors")
    assert "cannot read the checkpoint" in says


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call("--help") == 0
    text = capsys.readouterr().out
    names = ("prompt checkpoint out count seed steps solver eta guidance negative-prompt "
             "dynamic-threshold frames size fps scale trajectory").split()  # fmt: skip
    assert [name for name in names if f"--{name}" not in text] == []


@pytest.mark.slow
def test_a_second_start_finds_its_programs_compiled(run, here):
    environment = {**os.environ, "TINYGIF_CACHE": str(here / "cache"), "XLA_FLAGS": ""}
    del environment["JAX_COMPILATION_CACHE_DIR"]  # else it is kept there
    words = [sys.executable, str(SCRIPT), "--checkpoint", str(run), "--prompt", ONE]

    def kept(switch: str) -> int:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = switch
        subprocess.run(words, env=environment, check=True, capture_output=True)
        return len([path for path in (here / "cache").rglob("*") if path.suffix != ".gif"])

    assert kept("false") == 0
    assert kept("true") > 0
