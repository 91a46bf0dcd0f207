"""Captioned shapes: a circle, square, triangle or star in one of six motions, by an index.

Nothing is downloaded. The colours, and all else that a caption says, can be measured in the pixels.
Every motion ends where it began, so the GIF loops without a jump. Lesson 14.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from tinygif.config import DataConfig
from tinygif.data import COLORS
from tinygif.errors import expect

CORNERS = {"circle": 90, "square": 4, "triangle": 3, "star": 10}
MOTIONS = {
    "left-right": ("moving left and right", "going left and right"),
    "up-down": ("moving up and down", "going up and down"),
    "circle": ("moving in a circle", "going in a circle"),
    "spin": ("spinning", "turning"),
    "grow": ("growing and shrinking",),
    "bounce": ("bouncing", "bouncing off the walls"),
}
SMALLEST = 16  # side of a clip in pixels; in smaller ones the shapes look alike
SUBPIXELS = 8  # along each side of a pixel

WORDS = sorted(
    {"a", "on", "background", *COLORS, *CORNERS}
    | {word for phrases in MOTIONS.values() for phrase in phrases for word in phrase.split()}
)


class Plan(NamedTuple):
    """What a clip shows."""

    shape: str
    color: str
    background: str
    motion: str


class Shapes:
    """An endless data set of captioned clips; the same index gives the same clip.

    With `held_out` the same index gives another clip, one that training never shows: sizes and
    places are real numbers, so no two clips are the same.
    """

    size = None
    words = WORDS
    prompts = (
        "a red circle moving left and right on a white background",
        "a blue square spinning on a yellow background",
        "a yellow star moving in a circle on a blue background",
        "a green triangle growing and shrinking on a black background",
        "a white square bouncing on a purple background",
        "a purple star moving up and down on a green background",
        "a black triangle spinning on a red background",
        "a red circle growing and shrinking on a blue background",
    )
    """Examples to draw while training."""
    about = f"{len(CORNERS)} shapes in {len(COLORS)} colours and {len(MOTIONS)} motions"

    def __init__(self, config: DataConfig, *, held_out: bool = False):
        what = f"3 channels, for the colours, and a size of at least {SMALLEST}"
        got = f"{config.channels} and {config.size}: change --channels or --size"
        expect(config.channels == 3 and config.size >= SMALLEST, what, got)
        self.config, self.seed = config, 1 if held_out else 0

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w 3"], str]:
        return self.example(index, self.config.frames)

    def example(self, index: int, frames: int) -> tuple[UInt8[np.ndarray, "{frames} h w 3"], str]:
        """So many frames of a clip, from a random one on, and its caption."""
        rng = np.random.default_rng([self.seed, index])
        plan = draw_plan(rng)
        shape, color, background, motion = plan
        clip = draw_shape(plan, rng, self.config.frames, self.config.size)
        words = sentence(color, shape, str(rng.choice(MOTIONS[motion])), background)
        start = rng.integers(self.config.frames - frames + 1)
        return clip[start : start + frames], words

    @property
    def captions(self) -> list[str]:
        """Every caption that a clip can have."""
        return [
            sentence(color, shape, phrase, background)
            for color, background in itertools.permutations(COLORS, 2)
            for shape in CORNERS
            for motion in motions_of(shape)
            for phrase in MOTIONS[motion]
        ]


def sentence(color: str, shape: str, phrase: str, background: str) -> str:
    """The caption of a clip."""
    return f"a {color} {shape} {phrase} on a {background} background"


def motions_of(shape: str) -> list[str]:
    """The motions of a shape: all of them, but a circle does not spin, for nobody would see it."""
    return [motion for motion in MOTIONS if (shape, motion) != ("circle", "spin")]


def draw_plan(rng: np.random.Generator) -> Plan:
    """A random shape, its colour, a background of another colour, and a motion."""
    shape = str(rng.choice(list(CORNERS)))
    color, background = map(str, rng.choice(list(COLORS), 2, replace=False))
    return Plan(shape, color, background, str(rng.choice(motions_of(shape))))


# ---- pixels ----------------------------------------------------------------------------------


def draw_shape(
    plan: Plan, rng: np.random.Generator, frames: int, side: int
) -> UInt8[np.ndarray, "{frames} {side} {side} 3"]:
    """A clip of `side` pixels; where an edge crosses a pixel, the two colours mix."""
    corners = rng.uniform(0.2, 0.28) * outline(plan.shape)
    path, scale, angle = move(plan.motion, rng, frames, corners)
    outlines = path[:, None] + scale[:, None, None] * rotate(corners, angle)
    ink, paper = (np.array(COLORS[name], float) for name in (plan.color, plan.background))
    cover = np.stack([coverage(points, side) for points in outlines])[..., None] / 255
    return np.round(paper + cover * (ink - paper)).astype(np.uint8)


def move(
    motion: str, rng: np.random.Generator, frames: int, corners: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "f 2"], Float[np.ndarray, " f"], Float[np.ndarray, " f"]]:
    """One round of a motion: centres (x, y) in clip sides, scales, and angles, frame by frame.

    It begins at a random point of the round, and the shape stays within the clip. A shape that
    bounces goes in straight lines from wall to wall: once there and back along one side of the
    clip, twice along the other.
    """
    turn = (np.arange(frames) / frames + rng.random()) * 2 * np.pi
    still, sign = np.zeros(frames), rng.choice([-1, 1])
    room = 0.5 - np.abs(corners).max()
    reach = rng.uniform(0.6, 1.0) * room
    rest = np.tile(rng.uniform(-1, 1, 2) * (room - reach), (frames, 1))
    path, scale, angle = 0.5 + rest, still + 1, still
    match motion:
        case "left-right":
            path = path + np.stack([reach * np.sin(turn), still], 1)
        case "up-down":
            path = path + np.stack([still, reach * np.sin(turn)], 1)
        case "circle":
            path = path + reach * np.stack([np.cos(turn), sign * np.sin(turn)], 1)
        case "spin":
            angle = sign * turn
        case "grow":
            scale = 0.85 + 0.35 * np.sin(turn)
        case "bounce":
            rounds = rng.permutation([1, 2])
            wave = np.arcsin(np.sin(turn[:, None] * rounds + rng.uniform(0, 2 * np.pi, 2)))
            low, high = -corners.min(0), 1 - corners.max(0)
            path = low + (high - low) * (0.5 + wave / np.pi)
    return path, scale, angle


def outline(shape: str) -> Float[np.ndarray, "corners 2"]:
    """Corners (x, y) on the unit circle, one pointing up (a square stands on its side)."""
    corners = CORNERS[shape]
    turn = (np.arange(corners) + (0.5 if shape == "square" else 0)) / corners * 2 * np.pi
    radius = np.where(np.arange(corners) % 2, 0.4, 1.0) if shape == "star" else np.ones(corners)
    return radius[:, None] * np.stack([np.sin(turn), -np.cos(turn)], 1)


def rotate(
    points: Float[np.ndarray, "n 2"], angle: Float[np.ndarray, " f"]
) -> Float[np.ndarray, "f n 2"]:
    """Points turned about the origin by each angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.einsum("nj,jkf->fnk", points, np.array([[cos, sin], [-sin, cos]]))


def coverage(corners: Float[np.ndarray, "n 2"], side: int) -> UInt8[np.ndarray, "{side} {side}"]:
    """How much of each pixel lies within a polygon, 0 to 255. Corners are (x, y) in clip sides."""
    image = Image.new("L", (side * SUBPIXELS, side * SUBPIXELS))
    points = corners * side * SUBPIXELS - 0.5
    ImageDraw.Draw(image).polygon(list(map(tuple, points)), fill=255)
    return np.asarray(image.reduce(SUBPIXELS))
