"""codec.py: 256 values there and back, and nothing wraps. Lesson 00."""

import inspect

import jax
import numpy as np
import pytest

from tinygif.codec import Pixels
from tinygif.errors import TinygifError


def ramp(f=4, h=6, w=5, c=1):
    return np.random.default_rng(0).integers(0, 256, (f, h, w, c), dtype=np.uint8)


def test_all_256_values_survive_the_codec():
    clip = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x0 = Pixels(1).encode(clip)
    assert x0.dtype == np.float32 and x0.min() == -1 and x0.max() == 1 == Pixels(1).limit
    np.testing.assert_array_equal(Pixels(1).decode(x0), clip)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_channels_move_and_leading_axes_stay(lead):
    clip = np.random.default_rng(0).integers(0, 256, (*lead, 4, 6, 6, 3), dtype=np.uint8)
    codec = Pixels(3)
    x0 = codec.encode(clip)
    assert x0.shape == (*lead, *codec.shape(4, 6)) == (*lead, 4, 3, 6, 6)
    np.testing.assert_allclose(x0[..., 1, :, :], clip[..., 1] / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(codec.decode(x0), clip)


def test_the_codec_runs_in_jit_and_has_no_arrays():
    clip, codec = ramp(c=3), Pixels(3)
    np.testing.assert_array_equal(codec.decode(jax.jit(codec.encode)(clip)), clip)
    assert jax.tree.leaves(codec) == []


def test_values_are_clipped_before_the_cast_and_rounded():
    x0 = np.array([-9, -1.01, 0.9999, 1.01, 9, np.inf], np.float32).reshape(1, 1, 1, -1)
    assert Pixels(1).decode(x0).ravel().tolist() == [0, 0, 255, 255, 255, 255]


def test_what_is_no_clip_is_refused():
    with pytest.raises(TinygifError, match="NaN: lower the learning rate"):
        Pixels(1).decode(np.full((1, 1, 1, 1), np.nan, np.float32))
    for clip in (ramp()[0], ramp() / 255, ramp(c=3)):
        with pytest.raises(ValueError, match="expected a clip uint8 .* 1\\), got"):
            inspect.unwrap(Pixels.encode)(Pixels(1), clip)
