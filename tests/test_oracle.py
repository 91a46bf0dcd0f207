"""metrics/oracle.py: it reads what clips show, and what cannot matter does not. Lesson 18."""

import runpy
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygif.config import DataConfig
from tinygif.gif import enlarge
from tinygif.metrics import oracle
from tinygif.metrics.oracle import read_digits
from tinygif.metrics.prompts import draw_clips, judge, make_captions
from tinygif.metrics.tracker import canvas_and_box, guesses, track
from tinygif.moving_mnist import (
    DIRECTIONS,
    SPEEDS,
    MovingMNIST,
    bundled_digits,
    draw_digit,
    read_mnist,
    resize,
)  # fmt: skip

CONFIG = DataConfig(mnist_dir="bundled", hold_out=False)
DATA = MovingMNIST(CONFIG, held_out=True)
LIGHT = {vector: name for name, vector in DIRECTIONS.items()}


@pytest.fixture(scope="module")
def clips():
    """27 clips of one bundled test digit: every direction at every speed."""
    return draw_clips(DATA, make_captions(27, 1, CONFIG), seed=5)[0]


@pytest.fixture(scope="module")
def reading(clips):
    return read_digits(clips)


def same_motion(a, b):
    np.testing.assert_array_equal(a.directions, b.directions)
    np.testing.assert_array_equal(a.speeds, b.speeds)


def turned(directions, turn):
    """The names of directions whose (columns, rows) are changed by a function."""
    return np.vectorize(lambda name: LIGHT[tuple(turn(*DIRECTIONS[name]))])(directions)


# ---- the clip is changed in a way that is known ----------------------------------------------


def test_a_mirrored_clip_moves_the_other_way(clips, reading):
    other = read_digits(clips[:, :, :, ::-1])
    np.testing.assert_array_equal(
        other.directions, turned(reading.directions, lambda x, y: (-x, y))
    )
    np.testing.assert_array_equal(other.speeds, reading.speeds)


def test_a_transposed_clip_swaps_its_axes(clips, reading):
    other = read_digits(clips.swapaxes(2, 3))
    np.testing.assert_array_equal(other.directions, turned(reading.directions, lambda x, y: (y, x)))
    np.testing.assert_array_equal(other.speeds, reading.speeds)


@pytest.mark.parametrize("speed, start", [("slowly", 12), ("", 15)])
def test_backwards_in_time_a_clip_without_bounce_moves_the_other_way(speed, start):
    clip = np.zeros((1, 16, 32, 32, 1), np.uint8)
    pace = SPEEDS[speed] * 32
    x = np.round(start - pace * np.arange(16)).astype(int)
    draw_digit(clip[0], DATA.images[0][..., None], np.stack([x, np.full(16, 3)], 1))
    both = read_digits(np.concatenate([clip, clip[:, ::-1]]))
    assert both.directions.tolist() == [["left"], ["right"]]
    assert both.speeds.tolist() == [[speed], [speed]]


def test_a_clip_is_read_for_itself(clips, reading):
    """In any order, and in any company."""
    order = np.random.default_rng(0).permutation(len(clips))
    other, some = read_digits(clips[order]), read_digits(clips[3:5])
    for a, b in ((other, reading[order]), (some, reading[3:5])):
        same_motion(a, b)
        np.testing.assert_array_equal(a.digits, b.digits)
        np.testing.assert_array_equal(a.frame_digits, b.frame_digits)
        np.testing.assert_allclose(a.features, b.features, atol=1e-4)


def test_colour_does_not_matter(clips, reading):
    red = (clips / 255 * np.array([255, 60, 60])).astype(np.uint8)
    other = read_digits(red)
    same_motion(other, reading)
    np.testing.assert_array_equal(other.digits, reading.digits)


@pytest.mark.parametrize("scale", [2, 3])
def test_size_does_not_matter(clips, reading, scale):
    other = read_digits(enlarge(clips, scale))
    same_motion(other, reading)
    np.testing.assert_allclose(other.centres, reading.centres, atol=0.02)
    assert (other.digits == reading.digits).mean() > 0.9


def test_half_the_light_and_some_noise_do_not_matter(clips, reading):
    noise = np.random.default_rng(0).normal(0, 12, clips.shape)
    same_motion(read_digits(np.clip(clips * 0.6 + noise, 0, 255).astype(np.uint8)), reading)


def test_frames_that_are_a_pixel_off_or_missing_do_not_matter(clips, reading):
    rng, shaken = np.random.default_rng(0), clips.copy()
    for clip in shaken:
        for i in rng.choice(16, 6, replace=False):
            clip[i] = np.roll(clip[i], rng.integers(-1, 2, 2), (0, 1))
        clip[rng.integers(16)] = 0
    same_motion(read_digits(shaken), reading)


def test_a_black_clip_shows_no_digit():
    nothing = read_digits(np.zeros((2, 16, 32, 32, 1), np.uint8), digits=2)
    assert (nothing.digits == -1).all() and (nothing.frame_digits == -1).all()
    assert (nothing.directions == "none").all()


def test_one_digit_is_not_taken_for_two(clips, reading):
    both = read_digits(clips, digits=2)
    assert ((both.digits >= 0).sum(1) == 1).all()
    np.testing.assert_array_equal(both.digits.max(1), reading.digits[:, 0])


def test_two_digits_are_read_as_each_alone():
    """Where they are never near each other; a speck is not a third one."""
    clip = np.zeros((1, 16, 40, 40, 1), np.uint8)
    small, path = DATA.images[3:5, ..., None], np.zeros((16, 2), int)
    path[:, 0] = np.round(1 + 1.25 * np.arange(16))  # 1/32 of the side in a frame
    draw_digit(clip[0], small[0], path)
    one = read_digits(clip, side=16)
    draw_digit(clip[0], small[1], path * 0 + [4, 23])
    two = read_digits(clip, side=16, digits=2)
    assert sorted(two.directions[0]) == ["right", "still"]
    assert one.digits[0, 0] == two.digits[0][two.directions[0] == "right"][0]
    assert set(two.digits[0]) == set(DATA.labels[3:5])


@pytest.mark.parametrize(
    "clips, digits",
    [
        (np.zeros((1, 4, 32, 16, 1), np.uint8), 1),
        (np.zeros((1, 4, 32, 32, 1), np.uint8), 3),
    ],
)
def test_what_cannot_be_read_is_refused(clips, digits):
    with pytest.raises(ValueError, match="^expected"):
        read_digits(clips, digits=digits)


# ---- its parts -------------------------------------------------------------------------------


@given(st.sampled_from([name for name in DIRECTIONS if name != "still"]),
       st.sampled_from(list(SPEEDS)), st.integers(0, 2**20))  # fmt: skip
def test_every_path_of_the_data_is_within_a_pixel_of_a_guess(direction, speed, seed):
    path = DATA._path(np.random.default_rng(seed), direction, speed, 16)
    corners, directions, speeds, _ = guesses(16, 32, 16)
    some = corners[(directions == direction) & (speeds == speed)]
    assert np.abs(some - path).max((1, 2)).min() <= 1


@pytest.mark.parametrize("size, side, canvas, box", [
    (32, 16, 32, 16), (48, 16, 48, 16), (64, 32, 32, 16), (32, 28, 32, 28), (64, 8, 48, 6),
])  # fmt: skip
def test_clips_are_tracked_where_their_digits_have_sixteen_pixels(size, side, canvas, box):
    assert canvas_and_box(size, side) == (canvas, box)


@pytest.mark.parametrize("frames, canvas, box", [(16, 32, 16), (4, 32, 28), (24, 48, 5)])
def test_guesses_are_of_all_motions_and_inside_the_canvas(frames, canvas, box):
    corners, directions, speeds, motions = guesses(frames, canvas, box)
    assert corners.min() == 0 and corners.max() == canvas - box
    assert len(set(zip(directions, speeds))) == len(set(motions)) == 25
    assert np.abs(np.diff(corners, axis=1)).max() <= canvas / 16
    for name, path in zip(directions, corners):  # within the quarter that is sure to have no wall
        moved = path[frames // 4] - path[0]
        signs = DIRECTIONS[str(name)]
        assert frames < 8 or (np.sign(moved) == signs).all()


def test_a_digit_covers_its_ink_and_little_else(clips):
    light = clips.max(-1) / np.float32(255)
    best, covers = track(light, 16, 1)
    assert best.min() >= 0 and covers[:, 0][light > 0.5].mean() > 0.999
    assert covers[:, 0][light == 0].mean() < 0.01


@given(st.integers(0, 2**20))
def test_what_another_digit_hides_is_filled_from_other_frames(seed):
    rng = np.random.default_rng(seed)
    image = rng.random((6, 6)).astype(np.float32)
    light, corners = np.tile(image, (1, 5, 1, 1)), rng.integers(0, 2, (1, 1, 2)).repeat(5, 1)
    hidden = np.zeros(light.shape, bool)
    hidden[0, rng.integers(5)] = True
    light = np.where(hidden, 1, light)
    x, y = corners[0, 0]
    part = image[y : y + 4, x : x + 4]
    filled = oracle.cut_out(light, hidden, corners, 4)
    np.testing.assert_allclose(filled[0], np.tile(part, (5, 1, 1)), rtol=1e-5)
    always = oracle.cut_out(light, np.ones_like(hidden), corners, 4)
    np.testing.assert_array_equal(always[0, 0], part)


@given(st.integers(-4, 4), st.integers(-4, 4))
def test_a_view_has_the_digit_in_its_middle(x, y):
    light, hidden = np.zeros((1, 2, 40, 40), np.float32), np.zeros((1, 2, 40, 40), bool)
    light[:, :, 15:25, 17:23] = 1
    view, centres = oracle.view_along(light, hidden, np.full((1, 2, 2), 20.0) + [x, y], 16)
    np.testing.assert_allclose(centres, 20, atol=1e-4)
    assert view[0, 0, 5:15, 7:13].min() == 1 and view.sum() == light.sum()


def test_the_weights_that_ship_are_small_and_half_precision():
    assert oracle.WEIGHTS.stat().st_size < 1e6
    with np.load(oracle.WEIGHTS) as file:
        assert all(file[name].dtype == np.float16 for name in file.files)
        assert all(np.isfinite(file[name]).all() for name in file.files)


@pytest.mark.slow
def test_training_learns(monkeypatch):
    """A few steps on the bundled digits, at one size: each size is a compilation."""
    monkeypatch.setattr(oracle, "resize", lambda digits, side: resize(digits, 16))
    (digits, labels), test = bundled_digits(test=False), bundled_digits(test=True)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        reader = oracle.train_net([(digits, labels)], steps=30)
    scores, _ = oracle.classify(oracle.views_of(resize(test[0], 16)), reader)
    assert (scores.argmax(-1) == test[1]).mean() > 0.4  # by chance 0.1


def test_the_command_wants_mnist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["oracle", "--mnist-dir", "bundled", "--train"])
    with pytest.raises(SystemExit) as stop, pytest.warns(RuntimeWarning, match="oracle"):
        runpy.run_module("tinygif.metrics.oracle", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("oracle: expected MNIST's digits")


# ---- how often it is right -------------------------------------------------------------------


def accuracy(folder: str, count: int, digits: int, **options: object) -> np.ndarray:
    """Shares right, of `COLUMNS`, of real clips of test digits."""
    config = DataConfig(mnist_dir=folder, digits=digits, hold_out=False, **options)
    captions = make_captions(count, digits, config, seed=1)
    clips, _ = draw_clips(MovingMNIST(config, held_out=True), captions)
    return judge(clips, captions, config).right.mean(0)


@pytest.mark.parametrize(
    "options", [{}, dict(size=64), dict(size=48, digit_size=20), dict(frames=8), dict(size=16)]
)
def test_clips_of_the_bundled_digits(options):
    digit, direction, speed, _ = accuracy("bundled", 50, 1, **options)
    assert digit >= 0.94 and direction == speed == 1


def test_two_bundled_digits():
    digit, direction, speed, _ = accuracy("bundled", 30, 2)
    assert digit >= 0.85 and direction >= 0.95 and speed >= 0.95


def test_digits_of_mnist(real_data):
    images, labels = (part[:1000] for part in read_mnist(real_data / "mnist", test=True))
    for side in (14, 24):
        scores, _ = oracle.classify(oracle.views_of(resize(images, side)))
        assert (scores.argmax(-1) == labels).mean() > 0.98


def test_clips_of_mnist(real_data):
    digit, direction, speed, _ = accuracy(str(real_data / "mnist"), 60, 1)
    assert digit >= 0.97 and direction >= 0.99 and speed >= 0.99
    digit, direction, speed, right = accuracy(str(real_data / "mnist"), 30, 2)
    assert digit >= 0.85 and direction >= 0.95 and speed >= 0.95 and right >= 0.85
