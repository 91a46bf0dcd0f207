"""Where digits go in a clip: their direction, speed and path, by trying all of them. Lesson 18.

A guess is a direction, a speed and a start. Boxes are cut out of the frames along its path and laid
on top of each other. If the guess is right, the digit is at the same place in all of them;
otherwise it smears. The guess with the most pixels that are strokes in most frames wins. To find a
second digit, the pixels of the first are hidden, and the search begins again.
"""

import functools
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int, Int16, Shaped

from tinygif.moving_mnist import DIRECTIONS, SPEEDS, bounce

BOX = 16  # pixels: clips are tracked at a size that makes their digits so large,
CANVAS = 32, 48  # pixels: but at these sides at least and at most
UNIT = 20  # the vote of a stroke in one frame; sums over 800 frames fit in 16 bits
FAINT = 5  # pixels of stroke per frame, in a box of BOX x BOX: fewer are no digit
TRIES = 3  # how many motions of a first digit are tried

Light = Float[np.ndarray, "b f h w"]
"""Brightest channel of clips, in [0, 1]."""
Mask = Bool[np.ndarray, "b f h w"]
"""Pixels of clips: those that are hidden, or those that a digit covers."""


class Guesses(NamedTuple):
    """All paths of a box in the canvas."""

    corners: Int[np.ndarray, "p f 2"]
    """Column and row of the box's upper left pixel in every frame."""
    directions: Shaped[np.ndarray, " p"]
    speeds: Shaped[np.ndarray, " p"]
    motions: Int[np.ndarray, " p"]
    """A number for each pair of direction and speed."""


def canvas_and_box(size: int, side: int) -> tuple[int, int]:
    """The side at which clips of `size` pixels with digits of `side` are tracked, and the box's."""
    canvas = int(np.clip(round(BOX * size / side), *CANVAS))
    return canvas, max(2, round(canvas * side / size))


@functools.cache
def guesses(frames: int, canvas: int, box: int) -> Guesses:
    """Every direction, speed and start in whole pixels, of a box in a canvas of these sides.

    In `MovingMNIST` half of a clip passes before a digit meets a wall, if there is room. Here it is
    a quarter, because generated digits may meet it early. It cannot be less: a digit that bounced
    at once would look like one that goes the other way.
    """
    room, paths = canvas - box, []
    for direction, signs in DIRECTIONS.items():
        for speed in SPEEDS if any(signs) else ("",):
            pace, axes = SPEEDS[speed] * canvas, []
            ahead = int(min(room, pace * frames / 4))
            for sign in signs:
                low, high = (ahead if sign < 0 else 0), room - (ahead if sign > 0 else 0)
                # 0.25 pixels off the grid: no path lands on halves, which round to even numbers
                starts, moved = np.arange(low, high + 1) + 0.25, sign * pace * np.arange(frames)
                axes.append([bounce(start + moved, room) for start in starts])
            paths += [(np.stack([x, y], 1), direction, speed) for x in axes[0] for y in axes[1]]
    corners, directions, speeds = (np.array(part) for part in zip(*paths))
    _, motions = np.unique(np.char.add(directions, speeds), return_inverse=True)
    return Guesses(corners, directions, speeds, motions)


def track(
    light: Light, box: int, digits: int
) -> tuple[Int[np.ndarray, "b k"], Bool[np.ndarray, "b k f h w"]]:
    """The number of the best guess for each digit, -1 where there is none; the pixels it covers.

    With two digits, the guess of the highest score may lie between them. So the best guesses of
    several motions are tried as the first digit, each with the best second beside it. The pair with
    the highest sum wins.
    """
    clips, nothing = np.arange(len(light)), np.zeros(light.shape, bool)
    firsts, scores = search(light, nothing, box)
    if digits == 1:
        return firsts[0][:, None], cover(light, nothing, firsts[0], box)[:, None]
    seconds, sums = [], []
    for first, score in zip(firsts[:TRIES], scores[:TRIES]):
        guesses_beside, scores_beside = search(light, cover(light, nothing, first, box), box)
        seconds.append(guesses_beside[0])
        sums.append(score + scores_beside[0])
    second = np.stack(seconds)[np.argmax(sums, axis=0), clips]
    hidden = cover(light, nothing, second, box)
    first = search(light, hidden, box)[0][0]
    return np.stack([first, second], 1), np.stack([cover(light, hidden, first, box), hidden], 1)


def search(
    light: Light, hidden: Mask, box: int
) -> tuple[Int[np.ndarray, "m b"], Int[np.ndarray, "m b"]]:
    """The best guess of each motion and its score, best first; -1 and 0 where that is too low."""
    corners, _, _, motions = guesses(*light.shape[1:3], box)
    votes = rearrange(strokes(light, hidden), "b f h w -> f h w b").copy()
    best = np.full((motions.max() + 1, len(light)), -1)
    highest = np.full(best.shape, UNIT * light.shape[1] * FAINT * box**2 // BOX**2)
    total = np.empty((box, box, len(light)), np.int16)
    for number, (path, motion) in enumerate(zip(corners.tolist(), motions)):
        total[:] = 0
        for frame, (x, y) in zip(votes, path):
            total += frame[y : y + box, x : x + box]
        score = np.maximum(total, 0, out=total).sum((0, 1), dtype=np.int32)
        best[motion, score > highest[motion]] = number
        highest[motion] = np.maximum(highest[motion], score)
    highest[best < 0] = 0
    order = np.argsort(-highest, axis=0, kind="stable")
    return np.take_along_axis(best, order, 0), np.take_along_axis(highest, order, 0)


def strokes(light: Light, hidden: Mask) -> Int16[np.ndarray, "b f h w"]:
    """Votes, in UNITs: 1 on a stroke, 0 one pixel beside it or where hidden, -2 where it is dark.

    Summed over frames, a pixel stays positive if a digit covers it in more than two thirds of them.
    A frame in which the digit is one pixel off costs little.
    """
    light = np.minimum(2 * light, 1)
    near = np.pad(light, ((0, 0), (0, 0), (1, 1), (1, 1)))
    near = np.maximum(np.maximum(near[:, :, :-2], near[:, :, 1:-1]), near[:, :, 2:])
    near = np.maximum(np.maximum(near[..., :-2], near[..., 1:-1]), near[..., 2:])
    seen = np.minimum((light + near) / 1.5, 1)
    return np.where(hidden, 0, np.round(UNIT * (3 * seen - 2))).astype(np.int16)


def cover(light: Light, hidden: Mask, guess: Int[np.ndarray, " b"], box: int) -> Mask:
    """The pixels that are strokes of a guessed digit."""
    at = along(guesses(*light.shape[1:3], box).corners[guess], box)
    out = np.zeros(light.shape, bool)
    out[at] = strokes(light, hidden)[at].sum(1, keepdims=True) > 0
    return out & (guess >= 0)[:, None, None, None]


def along(corners: Int[np.ndarray, "b f 2"], side: int) -> tuple[Int[np.ndarray, "..."], ...]:
    """An index into arrays (b f h w): the squares at (column, row) of every frame."""
    clip, frame = np.ogrid[: corners.shape[0], : corners.shape[1]]
    x, y = corners[..., 0, None, None], corners[..., 1, None, None]
    clip, frame, steps = clip[..., None, None], frame[..., None, None], np.arange(side)
    return clip, frame, y + steps[:, None], x + steps
