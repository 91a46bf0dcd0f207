"""codec.py: 256 values there and back, and nothing wraps. Lesson 00."""

import inspect

import equinox as eqx
import jax
import numpy as np
import pytest

from tinygif.codec import (
    CLIP_COLORS,
    COMPONENTS,
    Palette,
    Pixels,
    cut_tiles,
    find_palette,
    fit_tiles,
    keep_commonest,
)
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


# ---- the palette -----------------------------------------------------------------------------


def art(colors: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A palette of colours far apart, and a clip in it."""
    palette = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), -1).reshape(-1, 3)
    palette = rng.permutation(palette)[:colors].astype(np.uint8)
    return palette, palette[rng.integers(0, colors, (4, 16, 16))]


@pytest.mark.parametrize("noise", [0.0, 0.06])
def test_a_palette_rounds_small_errors_away(noise):
    rng = np.random.default_rng(0)
    palette, clip = art(CLIP_COLORS, rng)
    codec = Palette(palette)
    x0 = codec.encode(clip) + noise * rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(codec.decode(x0), clip)
    np.testing.assert_array_equal(codec.decode(np.stack([x0, x0])), np.stack([clip, clip]))


def test_a_clip_keeps_its_commonest_colours():
    palette, clip = art(100, np.random.default_rng(1))
    clip[:2] = palette[7]
    decoded = Palette(palette).decode(Palette(palette).encode(clip))
    colors = np.unique(decoded.reshape(-1, 3), axis=0)
    assert len(colors) == CLIP_COLORS and (decoded[:2] == palette[7]).all()
    np.testing.assert_array_equal(keep_commonest(decoded, CLIP_COLORS), decoded)


def test_a_colour_near_a_commoner_one_goes():
    clip = np.full((1, 8, 8, 3), 255, np.uint8)
    clip[0, 0, :4], clip[0, 1, :3], clip[0, 2, :2] = (250, 240, 255), (230, 255, 255), (5, 0, 0)
    flat = keep_commonest(clip, CLIP_COLORS)
    assert (flat[0, 0] == 255).all() and (flat[0, 1, :3] == clip[0, 1, :3]).all()
    assert (flat[0, 2, :2] == clip[0, 2, :2]).all() and (flat[0, 3:] == 255).all()


def test_a_palette_travels_as_one_array_of_a_fixed_size():
    few, many = (Palette(find_palette(art(n, np.random.default_rng(0))[1][None])) for n in (5, 80))
    assert few.colors.shape == many.colors.shape == (1024, 3)
    assert jax.tree.structure(few) == jax.tree.structure(many)


def test_too_many_colours_are_refused():
    clips = np.random.default_rng(0).integers(0, 256, (1, 2, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(TinygifError, match="at most 1024 colours for a palette"):
        find_palette(clips)


def test_a_palette_refuses_nan():
    with pytest.raises(TinygifError, match="got NaN"):
        Palette(art(4, np.random.default_rng(0))[0]).decode(np.full((1, 3, 4, 4), np.nan))


# ---- tiles -----------------------------------------------------------------------------------


def blocks(colors: int, side: int = 4) -> np.ndarray:
    """Clips of plain squares of a few colours, (8, 2, 16, 16, 3)."""
    rng = np.random.default_rng(2)
    palette, _ = art(colors, rng)
    clips = palette[rng.integers(0, colors, (8, 2, 16 // side, 16 // side))]
    return clips.repeat(side, 2).repeat(side, 3)


def test_art_of_few_components_comes_back_exactly():
    clips = blocks(9)
    codec = fit_tiles(clips)
    x0 = eqx.filter_jit(codec.encode)(clips)
    assert x0.shape == (8, *codec.shape(2, 16)) == (8, 2, COMPONENTS, 4, 4)
    np.testing.assert_array_equal(codec.decode(x0), clips)
    np.testing.assert_array_equal(codec.decode(x0[3]), clips[3])


def test_components_are_uncorrelated_and_their_deviations_are_near_each_other():
    clips = blocks(60, side=1)
    codec, tiles = fit_tiles(clips), cut_tiles(np.asarray(Pixels(3).encode(clips)))
    np.testing.assert_allclose(codec.basis.T @ codec.basis, np.eye(COMPONENTS), atol=1e-5)
    x0 = np.moveaxis(np.asarray(codec.encode(clips)), -3, -1).reshape(-1, COMPONENTS)
    spread = np.cov(x0.T)
    np.testing.assert_allclose(spread - np.diag(np.diag(spread)), 0, atol=0.02)
    plain = np.sort(np.linalg.eigvalsh(np.cov(tiles.reshape(-1, 48).T)))[::-1][:COMPONENTS]
    np.testing.assert_allclose(np.diag(spread), plain**0.25, rtol=1e-3)  # deviation^(1 - 3/4)


def test_a_tile_is_four_by_four_pixels_of_all_channels():
    x = np.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12).astype(np.float32)
    tiles = cut_tiles(x)
    assert tiles.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(tiles[1, 1, 2].reshape(3, 4, 4), x[1, :, 4:8, 8:12])


def test_tiles_refuse_nan():
    codec = fit_tiles(blocks(9))
    with pytest.raises(TinygifError, match="got NaN"):
        codec.decode(np.full(codec.shape(2, 16), np.nan, np.float32))
