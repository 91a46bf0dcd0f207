"""clips/codes.py: codes of a folder's clips, computed once; the same training as from clips.

Lesson 16.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import tiny

from tinygif import training
from tinygif.autoencoder import CodecConfig
from tinygif.clips import ClipFolder, Settings, codes, prepare_clips
from tinygif.config import DataConfig
from tinygif.data import Slice, read_batch
from tinygif.datasets import in_codes
from tinygif.errors import TinygifError
from tinygif.gif import write_gif

DATA = DataConfig(dataset="x", size=16, frames=4, channels=3)
LEARNED = CodecConfig("autoencoder", codec_steps=0, codec_width=8)
CODEC = LEARNED.build(3, key=jax.random.key(0))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three clips in colour, each pixel different."""
    source, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for i in range(3):
        write_gif(source / f"{i}.gif", rng.integers(0, 256, (4, 16, 16, 3), np.uint8))
        (source / f"{i}.txt").write_text("a cat moving left")
    return prepare_clips(source, tmp_path_factory.mktemp("made") / "x", Settings(16, 4), workers=1)


@pytest.fixture
def folder(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "x"))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("frames", [4, 2])
def test_codes_are_those_of_the_clips_with_their_captions(folder, channels, flip, frames):
    codec = LEARNED.build(channels, key=jax.random.key(0))
    clips = ClipFolder(folder, replace(DATA, channels=channels, flip=flip), 8)
    coded = in_codes(clips, codec)
    encode = eqx.filter_jit(lambda clip: codec.encode(clip))
    for index in range(12):
        clip, caption = clips.example(index, frames)
        code, same = coded.example(index, frames)
        assert same == caption and code.dtype == np.float16
        np.testing.assert_allclose(code, encode(clip), atol=2e-3)
    assert (coded.size, coded.words, coded.prompts) == (clips.size, clips.words, clips.prompts)


def test_a_step_on_codes_is_the_step_on_clips(folder):
    """Up to the rounding of codes to 16 bits; and the codec's encoder is not in its program."""
    config = replace(tiny.CONFIG, data=DATA, codec=LEARNED,
                     model=replace(tiny.CONFIG.model, patch=1))  # fmt: skip
    clips, prompts = ClipFolder(folder, DATA, 8), tiny.batch(config=config).prompts
    sources = clips, in_codes(clips, tiny.state(config).model.codec)
    losses, tflop = [], []
    for source in sources:
        batch = training.Batch(read_batch(source, 0, Slice(0, 8, 4))[0], prompts, np.float32(0.5))
        step = training.make_step(config, training.make_mesh())
        with jax.numpy_dtype_promotion("standard"):
            tflop.append(training.count_tflop(step, tiny.state(config), batch, jax.random.key(0)))
            _, logs = step(tiny.state(config), batch, jax.random.key(0))
        losses.append(float(logs["loss"]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
    assert tflop[1] < tflop[0]


def test_codes_are_computed_once_for_a_codec(folder, monkeypatch):
    made, write = [], codes.write_codes
    monkeypatch.setattr(codes, "write_codes", lambda *a: made.append(a[0].name) or write(*a))
    first = codes.map_codes(folder, CODEC)
    again = codes.map_codes(folder, CODEC)
    assert len(made) == 1 and isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, again)
    other = LEARNED.build(3, key=jax.random.key(1))
    assert (np.asarray(codes.map_codes(folder, other)) != first).any()
    codes.map_codes(folder, other, mirrored=True)
    kept = {path.name for path in folder.glob("codes-*.npy")}
    assert len(made) == 3 and kept == set(made[1:])  # the codes of the codec before are gone


def test_a_kill_leaves_no_half_of_a_file(folder, monkeypatch):
    real = codes.in_chunks
    count = iter(range(10))

    def stop(*arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(codes, "in_chunks", stop)
    with pytest.raises(KeyboardInterrupt):
        codes.map_codes(folder, CODEC)
    assert not list(folder.glob("codes-*.npy"))
    monkeypatch.setattr(codes, "in_chunks", real)
    assert codes.map_codes(folder, CODEC).shape == (3, 4, 4, 4, 4)


def test_a_damaged_file_is_told(folder):
    codes.map_codes(folder, CODEC)
    (path,) = folder.glob("codes-*.npy")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TinygifError, match="is damaged .* delete it, and the clips are encoded"):
        codes.map_codes(folder, CODEC)


def test_a_folder_that_cannot_be_written_to_is_used_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    clip, _ = in_codes(ClipFolder(folder, DATA, 8), CODEC).example(0, 4)
    assert clip.dtype == np.uint8


def test_drawn_clips_and_pixels_stay_clips(folder):
    assert in_codes(tiny.DATA, CODEC) is tiny.DATA
    clips = ClipFolder(folder, DATA, 8)
    assert in_codes(clips, CodecConfig("pixels").build(3, key=jax.random.key(0))) is clips
