"""autoencoder.py: clips there and nearly back, by frames; trained first, then left alone.

Lesson 16.
"""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_train import fails, same_run
from tiny import CONFIG, DATA, call, flags

from tinygif import checkpoint, codec_training, training
from tinygif.autoencoder import (
    Autoencoder,
    CodecConfig,
    center,
    reconstruction_loss,
)
from tinygif.checkpoint import CODEC, MODEL, STATE
from tinygif.codec import Pixels
from tinygif.config import Config, from_dict
from tinygif.data import Slice, read_batch
from tinygif.errors import TinygifError
from tinygif.gif import read_gif
from tinygif.latents import normalize

LEARNED = replace(
    CONFIG, codec=CodecConfig("autoencoder", codec_steps=12, codec_width=8, latent_channels=3),
    model=replace(CONFIG.model, patch=1),
)  # fmt: skip


def clips(start: int = 0, size: int = 8) -> np.ndarray:
    return read_batch(DATA, 0, Slice(start, size, 4))[0]


@pytest.fixture(scope="module")
def trained() -> Autoencoder:
    """150 steps of training on digits at 16 x 16 pixels."""
    config = codec_training.codec_config(LEARNED)
    config = replace(config, train=replace(config.train, steps=150, warmup=10))
    codec = LEARNED.codec.build(1, key=jax.random.key(0))
    mesh = training.make_mesh()
    state = training.replicate(training.init_state(config, center(codec, clips())), mesh)
    step = training.make_step(config, mesh, codec_training.codec_loss)
    with jax.numpy_dtype_promotion("standard"):  # Adam of optax 0.2.8 is not strict
        for n in range(150):
            batch = training.Batch(clips(8 * n), None, np.float32(n / 150))
            state, _ = step(state, batch, jax.random.key(1))
    return normalize(state.ema, clips(5000, 64))


# ---- the code --------------------------------------------------------------------------------


def test_a_decoded_code_is_near_the_clip_and_noise_on_it_does_little(trained):
    unseen = clips(9000, 16)
    codes = jax.vmap(trained.encode)(unseen)
    noisy = codes + 0.2 * np.random.default_rng(0).standard_normal(codes.shape).astype(np.float32)
    errors = [np.sqrt(np.mean((trained.decode(x) / 255.0 - unseen / 255.0) ** 2))
              for x in (codes, noisy, jnp.zeros_like(codes))]  # fmt: skip
    assert errors[0] < 0.13 and errors[1] < 1.3 * errors[0] and errors[2] > 2 * errors[0]


def test_codes_of_other_clips_have_mean_0_and_deviation_1(trained):
    codes = np.asarray(jax.vmap(trained.encode)(clips(9000, 64)))
    np.testing.assert_allclose(codes.mean((0, 1, 3, 4)), 0, atol=0.05)
    np.testing.assert_allclose(codes.std((0, 1, 3, 4)), 1, atol=0.05)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_shapes(trained, lead):
    assert trained.encode(clips()[0]).shape == trained.shape(4, 16) == (4, 3, 4, 4)
    decoded = trained.decode(np.zeros((*lead, 4, 3, 4, 4), np.float32))
    assert decoded.dtype == np.uint8 and decoded.shape == (*lead, 4, 16, 16, 1)


def test_each_frame_is_coded_and_decoded_by_itself(trained):
    clip, other = clips()[:2]
    mixed = np.concatenate([clip[:2], other[2:]])
    codes = [np.asarray(trained.encode(x)) for x in (clip, other, mixed)]
    np.testing.assert_array_equal(codes[2][:2], codes[0][:2])
    np.testing.assert_array_equal(codes[2][2:], codes[1][2:])
    changed = codes[0].copy()
    changed[1] += 1
    before, after = trained.decode(codes[0]), trained.decode(changed)
    assert (before != after).any((1, 2, 3)).tolist() == [False, True, False, False]


def test_a_code_that_is_not_a_number_is_refused(trained):
    with pytest.raises(TinygifError, match="got NaN"):
        trained.decode(np.full((1, 3, 4, 4), np.nan, np.float32))


def test_large_codes_are_penalised():
    """Weights times 100 make the same network's codes large; the mean square of noise does not."""
    codec = LEARNED.codec.build(1, key=jax.random.key(0))
    large = eqx.tree_at(lambda c: c.encoder[-1].weight, codec, 100 * codec.encoder[-1].weight)
    loss = eqx.filter_jit(reconstruction_loss)
    clip = jnp.asarray(clips()[0])
    assert loss(large, clip, jax.random.key(0)) > 2 * loss(codec, clip, jax.random.key(0))


# ---- in a run --------------------------------------------------------------------------------


def test_training_the_model_leaves_the_codec_alone():
    state = tiny.state(LEARNED)
    before = tiny.leaves(state.model.codec)
    step = training.make_step(LEARNED, training.make_mesh())
    with jax.numpy_dtype_promotion("standard"):
        state, _ = step(state, tiny.batch(config=LEARNED), jax.random.key(0))
    for codec in (state.model.codec, state.ema.codec):
        after = tiny.leaves(codec)
        assert before.keys() == after.keys() and len(before) > 20
        for name in before:
            np.testing.assert_array_equal(after[name], before[name], name)
    names = checkpoint.named(training.trainable(state.model))
    assert not {name for name in names if name.startswith("codec.")} and len(names) > 20


def test_training_the_codec_leaves_alone_what_it_measured():
    names = checkpoint.named(training.trainable(LEARNED.codec.build(1, key=jax.random.key(0))))
    assert not {name for name in names if name.startswith(("data_", "latent_"))} and len(names) > 15


def test_old_configs_mean_pixels():
    config = from_dict(Config, {"data": {"size": 64}})
    assert config.codec.codec == "pixels" and config.codec.fold == 1
    assert isinstance(config.codec.build(3, key=jax.random.key(0)), Pixels)


def test_a_clip_that_the_code_cannot_fold_is_refused():
    with pytest.raises(TinygifError, match="a multiple of 8 .codec 4, patch 1, halved 1 times"):
        replace(LEARNED, data=replace(LEARNED.data, size=20)).check()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    assert call(*flags(LEARNED), "--out", folder) == 0
    return folder


def test_a_run_trains_its_codec_first_and_shows_it(run):
    assert {CODEC, STATE, MODEL} <= {path.name for path in run.iterdir()}
    codec = codec_training.load_codec_state(run)
    state, about = training.load_state(run)
    assert int(codec.step) == 12 and about.config == LEARNED
    assert float(state.tflop) > float(codec.tflop) > 0 and state.seconds > codec.seconds > 0
    names = ("encoder.0.conv.linear.weight", "decoder.4.conv.linear.weight")
    for name in names:
        np.testing.assert_array_equal(
            checkpoint.named(state.model)[f"codec.{name}"], checkpoint.named(codec.ema)[name]
        )
    picture, _ = read_gif(run / "samples" / "codec.gif")
    assert len(picture) == 4 and picture.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize("kept", [12, 10])
def test_a_run_killed_in_either_stage_ends_with_the_same_bytes(run, tmp_path, kept, monkeypatch):
    """10: killed while the codec is trained. 12: killed before the first save of the model."""
    folder = tmp_path / "run"
    real, files = checkpoint.write, []

    def write(path, tree, about):
        real(path, tree, about)
        files.append((path.name, int(tree.step) if path.name == CODEC else None))
        if files[-1] == (CODEC, kept):
            raise KeyboardInterrupt

    monkeypatch.setattr(codec_training, "write", write)
    assert "--resume" in str(call(*flags(LEARNED), "--out", folder))
    assert files[-1] == (CODEC, kept) and not (folder / STATE).exists()
    monkeypatch.setattr(codec_training, "write", real)
    assert call("--resume", "--out", folder) == 0
    same_run(run, folder)


@pytest.mark.slow
def test_another_run_takes_the_codec_and_measures_its_own_clips(run, tmp_path):
    words = flags(LEARNED)
    words[words.index("--codec") + 1] = str(run)
    assert call(*words, "--seed", 1, "--out", tmp_path / "second") == 0
    assert not (tmp_path / "second" / CODEC).exists()
    first, second = training.load_state(run), training.load_state(tmp_path / "second")
    assert second[1].config.codec == replace(LEARNED.codec, codec_steps=0)
    ours, theirs = (tiny.leaves(state.model.codec) for state, _ in (first, second))
    measured = {"latent_mean", "latent_std"}
    assert measured < theirs.keys()
    for name in theirs:
        if name in measured:
            np.testing.assert_allclose(ours[name], theirs[name], atol=0.05)
        else:
            np.testing.assert_array_equal(ours[name], theirs[name], name)


@pytest.mark.parametrize(("words", "says"), [
    (["--codec", "autoencoder", "--codec-steps", 0], "--codec-steps of at least 1 for a new"),
    (["--codec", "/none/such"], "no checkpoint at /none/such"),
    (["--init", "moving_mnist", "--codec", "autoencoder"], "the codec of moving_mnist, pixels"),
])  # fmt: skip
def test_a_codec_that_would_not_be_trained_is_refused(words, says, tmp_path, capsys):
    data = ["--mnist-dir", "bundled", "--patch", 1, "--digits", 1]
    assert says in fails(capsys, *data, *words, "--steps", 1, "--out", tmp_path / "run")


def test_a_codec_for_other_channels_is_refused(run, tmp_path, capsys):
    words = [*flags(LEARNED), "--channels", 3, "--out", tmp_path / "colour"]
    words[words.index("--codec") + 1] = str(run)
    assert "a codec for 3 channels" in fails(capsys, *words)
