"""pipeline.py: sentences in, clips out; the same seed gives the same clips. Lesson 08."""

import base64
import io
import os
import re
from dataclasses import replace

import equinox as eqx
import jax
import jaxtyping
import numpy as np
import pytest
from PIL import Image
from tiny import ABOUT, CONFIG, DATA, model

import tinygif
from tinygif import checkpoint
from tinygif.codec import CLIP_COLORS
from tinygif.errors import TinygifError
from tinygif.pipeline import SHIPPED, GeneratedClips, Pipeline, find_checkpoint

TWO = ("a 7 moving left", "an 8 standing still")


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(model(), CONFIG, DATA.words)


@pytest.fixture(scope="module")
def two(pipeline):
    return pipeline(TWO, seed=3)


def near(a, b):
    """Equal but for rounding: a batch of another size is another program."""
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


# ---- prompts to clips ------------------------------------------------------------------------


def test_clips_have_the_shape_of_the_data(two):
    assert two.shape == (2, 4, 16, 16, 1) and two.dtype == np.uint8
    assert two.captions == list(TWO) and two.fps == CONFIG.data.fps
    assert all(clip.min() < 100 and clip.max() > 150 for clip in two)


def test_the_seed_decides(pipeline, two):
    np.testing.assert_array_equal(pipeline(TWO, seed=3), two)
    assert not near(pipeline(TWO, seed=4), two)
    assert not near(two[0], two[1])


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_clip_does_not_depend_on_how_many_are_asked_for(pipeline, solver):
    """Neither its noise nor the noise that is added on the way."""
    both = pipeline(TWO, seed=3, solver=solver)
    one = pipeline(TWO[0], seed=3, solver=solver)
    assert one.shape[0] == 1 and one.captions == [TWO[0]]
    assert near(one[0], both[0])


def test_a_model_without_words_takes_no_prompt(pipeline, two):
    mute = Pipeline(pipeline.model, CONFIG, [])
    clips = mute(["", ""], seed=3)
    assert near(clips, mute(["", ""], seed=3, guidance=7.0)) and not near(clips[0], clips[1])
    assert near(clips, pipeline(TWO, seed=3, guidance=0.0))
    with pytest.raises(TinygifError, match="trained without captions: leave 'a cat' out"):
        mute("a cat")
    with pytest.raises(TinygifError, match="has no words; try"):
        pipeline("")


def test_guidance_0_ignores_the_prompt(pipeline, two):
    other = ("a 1 moving up", "a 2 moving down")
    assert near(pipeline(TWO, guidance=0.0), pipeline(other, guidance=0.0))
    assert not near(pipeline(TWO, seed=3, guidance=0.0), two)


def test_guidance_1_follows_the_prompt_alone(pipeline):
    plain = pipeline(TWO, guidance=1.0)
    assert near(plain, pipeline(TWO, guidance=1.0000001, negative_prompt="a 1 moving up"))
    assert not near(plain, pipeline(TWO, guidance=0.0))


def test_a_negative_prompt_stands_where_the_null_prompt_stood(pipeline, two):
    assert not near(pipeline(TWO, seed=3, negative_prompt="a 1 moving up"), two)
    same = [TWO[0]] * 2  # away from itself is nowhere, however far
    near_and_far = [pipeline(same, guidance=w, negative_prompt=TWO[0]) for w in (0.0, 7.0)]
    assert near(*near_and_far)


def test_the_default_guidance_and_steps_are_the_configs(pipeline, two):
    assert near(pipeline(TWO, seed=3, guidance=CONFIG.sample.guidance, steps=2), two)
    assert not near(pipeline(TWO, seed=3, steps=3), two)


def test_the_default_solver_is_the_configs(pipeline):
    config = replace(CONFIG, sample=replace(CONFIG.sample, solver="ddpm"))
    other = Pipeline(pipeline.model, config, DATA.words)
    wanted = pipeline(TWO, seed=3, steps=3, solver="ddpm")
    np.testing.assert_array_equal(other(TWO, seed=3, steps=3), wanted)
    np.testing.assert_array_equal(other(TWO, seed=3, steps=3, eta=1.0), wanted)


def test_eta_1_is_ddpm(pipeline, two):
    ddpm = pipeline(TWO, seed=3, solver="ddpm", steps=3)
    np.testing.assert_array_equal(pipeline(TWO, seed=3, eta=1.0, steps=3), ddpm)
    np.testing.assert_array_equal(pipeline(TWO, seed=3, eta=0.0), two)
    assert not near(ddpm, pipeline(TWO, seed=3, steps=3))


def test_dpmpp_goes_another_way(pipeline):
    """Its second step of three is of second order."""
    got, other = (pipeline(TWO, seed=3, steps=3, solver=name) for name in ("dpmpp", "ddim"))
    assert got.shape == other.shape and not near(got, other)


def test_a_dynamic_threshold_changes_what_leaves_the_range(pipeline, two):
    assert not near(pipeline(TWO, seed=3, dynamic_threshold=0.8), two)


def test_another_size_and_length(pipeline):
    assert pipeline(TWO[0], frames=6, size=24).shape == (1, 6, 24, 24, 1)


def test_the_trajectory_ends_in_the_clips(pipeline, two):
    steps = list(pipeline.denoising(TWO, seed=3))
    assert len(steps) == 2 and steps[0][0].shape == (2, 4, 1, 16, 16)
    np.testing.assert_array_equal(pipeline.model.codec.decode(steps[-1][0]), two)


def test_progress_wraps_the_steps(pipeline, two):
    seen = []

    def progress(steps, total):
        for i, step in enumerate(steps, 1):
            seen.append((i, total))
            yield step

    np.testing.assert_array_equal(pipeline(TWO, seed=3, progress=progress), two)
    assert seen == [(1, 2), (2, 2)]


def test_text_may_stand_for_sentences(pipeline, two):
    """The same noise and the same vectors give the same clips; other vectors give others."""
    text = pipeline.encode_prompts(TWO)
    np.testing.assert_array_equal(pipeline(text, seed=3), two)
    other = eqx.tree_at(lambda t: t.pooled, text, text.pooled[::-1])
    assert not near(pipeline(other, seed=3), two)


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "says"), [
    (dict(solver="dpmpp", eta=0.5), "the ddim solver for eta, got 'dpmpp'"),
    (dict(eta=1.5), "eta from 0 to 1, got 1.5"),
    (dict(eta=-0.1), "eta from 0 to 1"),
    (dict(steps=51), "between 1 and T=50 .*got 51"),
    (dict(steps=0), "between 1 and T=50 .*got 0"),
    (dict(frames=5), "multiple of 2.*got 5"),
    (dict(frames=0), "frames from 1 to .*, got 0"),
    (dict(size=18), "multiple of 4.*got 18"),
    (dict(size=0), "size from 1 to .*, got 0"),
    (dict(guidance=-1.0), "guidance from 0 to"),
    (dict(guidance=float("nan")), "guidance from 0 to .*, got nan"),
    (dict(seed=-1), "seed from 0 to"),
    (dict(dynamic_threshold=99.5), "dynamic_threshold from 0 to 1, got 99.5"),
])  # fmt: skip
def test_wrong_options_are_refused_with_a_sentence(pipeline, monkeypatch, options, says):
    """At once, not when the first step is asked for."""
    monkeypatch.setattr("tinygif.sampler.trajectory", None)
    with pytest.raises(TinygifError, match=says):
        pipeline.denoising(TWO, **options)


def test_a_wrong_solver_is_refused_with_a_sentence(pipeline, monkeypatch):
    """Tests check types, others do not."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(TinygifError, match="a solver of ddim, ddpm, dpmpp, got 'euler'"):
        pipeline(TWO, solver="euler")


@pytest.mark.parametrize(("prompts", "says"), [
    ("a 7 moving leftt", "does not know the word 'leftt'.*left"), ("", "no words"),
    (" ".join(["a"] * 25), "at most 24"), ([], "at least one prompt"),
])  # fmt: skip
def test_wrong_prompts_are_refused_with_a_sentence(pipeline, prompts, says):
    with pytest.raises(TinygifError, match=says):
        pipeline(prompts)


def test_a_wrong_negative_prompt_is_refused(pipeline):
    with pytest.raises(TinygifError, match="'blurry'"):
        pipeline(TWO, negative_prompt="blurry")


# ---- Clips -----------------------------------------------------------------------------------


def test_clips_are_an_array(two):
    np.testing.assert_array_equal(np.asarray(two), two.array)
    assert np.asarray(two).shape == two.shape and len(two) == 2
    assert np.asarray(two, float).dtype == float
    assert (np.array(two, copy=True) is not two.array) and np.mean(two) == np.mean(two.array)
    np.testing.assert_array_equal(two[1, 0], two.array[1, 0])
    np.testing.assert_array_equal(two[:, ::2], two.array[:, ::2])
    assert [clip.shape for clip in two] == [two.shape[1:]] * 2
    assert "(2, 4, 16, 16, 1)" in repr(two) and TWO[0] in repr(two)


def test_a_notebook_shows_moving_pictures():
    array = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 1), np.uint8)
    html = GeneratedClips(array, ["a <b>", "two"], fps=5)._repr_html_()
    assert "<figcaption>a &lt;b&gt;</figcaption>" in html and ">two<" in html
    pictures = re.findall(r'src="data:image/gif;base64,([^"]+)"', html)
    assert len(pictures) == 2
    for picture, clip in zip(pictures, array, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.n_frames == 3 and image.size == (128, 128)
            for i, frame in enumerate(clip):
                image.seek(i)
                assert image.info["duration"] == 200
                got = np.asarray(image.convert("L"))[::8, ::8]
                np.testing.assert_array_equal(got, frame[..., 0])


# ---- checkpoints -----------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs; the one with the lesser name is newer."""
    monkeypatch.chdir(tmp_path)
    for name, when in (("model-9", 1_000), ("model-10", 2_000), ("empty", 0)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        if when:
            (folder / checkpoint.MODEL).write_bytes(b"")
            os.utime(folder / checkpoint.MODEL, (when, when))
    return tmp_path / "runs"


def test_the_newest_run_is_found(runs):
    assert find_checkpoint().resolve() == runs / "model-10" / checkpoint.MODEL
    os.utime(runs / "model-9" / checkpoint.MODEL, (3_000, 3_000))
    assert find_checkpoint().resolve() == runs / "model-9" / checkpoint.MODEL


def test_a_run_is_found_by_folder_or_by_file(runs):
    file = runs / "model-9" / checkpoint.MODEL
    assert find_checkpoint(runs / "model-9") == find_checkpoint(str(file)) == file


def test_without_a_model_nothing_is_made_up(runs, tmp_path, monkeypatch):
    with pytest.raises(TinygifError, match="no checkpoint at .*empty"):
        find_checkpoint(runs / "empty")
    with pytest.raises(TinygifError, match="no checkpoint at .*nowhere"):
        tinygif.load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setattr("tinygif.pipeline.SHIPPED", tmp_path / "not there")
    with pytest.raises(TinygifError, match="no checkpoint at .*train.py"):
        tinygif.load()


def test_without_a_run_the_shipped_model_is_used_and_said_so(runs, tmp_path, monkeypatch, capsys):
    checkpoint.write(tmp_path / checkpoint.MODEL, model(), ABOUT)
    shipped = tmp_path / checkpoint.MODEL
    monkeypatch.setattr("tinygif.pipeline.SHIPPED", shipped)
    assert find_checkpoint() != shipped  # one's own comes first
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert tinygif.load().path == shipped
    assert "weights that come with tinygif" in capsys.readouterr().err
    tinygif.load(shipped)
    assert capsys.readouterr().err == ""


def test_the_shipped_model_goes_by_its_name(runs, tmp_path, monkeypatch):
    shipped = tmp_path / "moving_mnist.safetensors"
    monkeypatch.setattr("tinygif.pipeline.SHIPPED", shipped)
    with pytest.raises(TinygifError, match="no checkpoint at .*moving_mnist.safetensors"):
        find_checkpoint("moving_mnist")
    shipped.write_bytes(b"")
    assert find_checkpoint("moving_mnist") == shipped


def test_the_shipped_model_is_small_and_whole():
    assert SHIPPED.stat().st_size <= 16e6
    shipped = tinygif.load(SHIPPED)
    assert shipped.config.data.digits == 1 and shipped.config.data.mnist_dir is None
    assert shipped.config.model.known_frames
    assert shipped.config.data.frames >= 16 and shipped.config.data.size >= 32
    leaves = jax.tree.leaves(eqx.filter(shipped.model, eqx.is_array))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_the_shipped_sprites_are_small_and_pixel_art():
    file = find_checkpoint("sprites")
    assert file.stat().st_size <= 16e6
    sprites = tinygif.load("sprites")
    config = sprites.config
    assert config.data.sprites_dir is None and (config.data.size, config.data.frames) == (64, 8)
    clips = sprites(["an orc with purple hair walking left"], seed=0, steps=2).array
    assert clips.shape == (1, 8, 64, 64, 3)
    assert len(np.unique(clips.reshape(-1, 3), axis=0)) <= CLIP_COLORS


def test_load_gives_the_pipeline_that_was_saved(two, tmp_path):
    checkpoint.write(tmp_path / checkpoint.MODEL, model(), ABOUT)
    loaded = tinygif.load(tmp_path)
    assert loaded.path == tmp_path / checkpoint.MODEL and loaded.config == CONFIG
    np.testing.assert_array_equal(loaded(TWO, seed=3), two)


# ---- looking inside --------------------------------------------------------------------------


@pytest.mark.parametrize("parts, prompt, words", [
    (1, "a 7 moving left", ["a", "7", "moving", "left"]),
    (2, "a 7 moving left and an 8 standing still",
     ["a", "7", "moving", "left", "an", "8", "standing", "still"]),
])  # fmt: skip
def test_attention_shows_each_word_and_leaves_the_clip_alone(parts, prompt, words):
    config = replace(CONFIG, text=replace(CONFIG.text, parts=parts))
    pipeline = Pipeline(model(config), config, DATA.words)
    clip, names, maps = pipeline.attention(prompt, seed=3)
    assert names == words and maps.shape == (len(words), *clip.shape[:3])
    assert (maps.min((1, 2, 3)) == 0).all() and (maps.max((1, 2, 3)) == 1).all()
    np.testing.assert_array_equal(clip, pipeline([prompt], seed=3).array[0])


def test_a_model_that_hears_no_words_shows_none():
    config = replace(CONFIG, model=replace(CONFIG.model, middle=("space",)))
    with pytest.raises(TinygifError, match="no attention to words"):
        Pipeline(model(config), config, DATA.words).attention("a 7 moving left")
