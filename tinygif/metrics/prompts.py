"""Prompts for moving digits, real clips of them, and whether clips show them. Lesson 18."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tinygif.config import DataConfig
from tinygif.errors import expect
from tinygif.metrics import stats
from tinygif.metrics.oracle import Reading, read_digits
from tinygif.moving_mnist import (
    BUNDLED,
    DIGIT_COLORS,
    DIRECTIONS,
    NAMES,
    SPEEDS,
    SYNONYMS,
    MovingMNIST,
    sentences,
    wordings,
)
from tinygif.text import split

COLUMNS = ("digit", "direction", "speed", "all right")
FRAMES_RIGHT = 7 / 8
"""Share of the frames that must show the digit, read alone, in a clip of one digit."""
STEADY = 0.95
"""Constancy that such a clip needs to be all right. Real clips have 1."""

MovingDigit = tuple[int, str, str]
"""Digit, direction, speed."""


# ---- what is expected ------------------------------------------------------------------------


def parse_caption(sentence: str) -> tuple[MovingDigit, ...]:
    """What a caption of `moving_mnist` says of each of its digits."""
    digits = []
    for part in sentence.lower().split(" and "):
        words = [SYNONYMS.get(word, word) for word in split(part)]
        named = [i for i, name in enumerate(NAMES) if {str(i), name} & set(words)]
        direction = " ".join(word for word in words if word in DIRECTIONS)
        direction = "still" if "not" in words else direction
        what = f"one digit and one direction in {part!r}, as in 'a 7 moving up left slowly'"
        got = f"digits {named} and direction {direction!r}"
        expect(len(named) == 1 and direction in DIRECTIONS, what, got)
        speed = "".join(word for word in words if word in SPEEDS)
        digits.append((named[0], direction, speed))
    return tuple(digits)


def make_captions(
    count: int, digits: int, data: DataConfig, seed: int = 0, avoid: tuple = (),
    *, first: tuple = (), reworded: bool = False,
) -> list[str]:  # fmt: skip
    """Captions of one digit, which go through all pairs of digit and direction; or of two digits.

    Two digits and their directions are drawn at random, but never a pair in `avoid`; with `first`
    one of the two is a pair of those. Speeds take turns, and so do colours if clips have them.
    Captions are in usual words; with `reworded` they are sentences of known words that no training
    caption uses for what they say.
    """
    rng, directions, speeds = np.random.default_rng([seed, 3]), list(DIRECTIONS), list(SPEEDS)
    pairs = [(d, name) for d in range(10) for name in directions if (d, name) not in avoid]
    found = []
    for i in range(count):
        chosen = [(i % 10, directions[i % 9])]
        if digits == 2:
            chosen = [pairs[j] for j in rng.integers(len(pairs), size=2)]
            chosen[0] = first[rng.integers(len(first))] if first else chosen[0]
        parts = []
        for k, (digit, direction) in enumerate(chosen):
            speed = "" if direction == "still" else speeds[(i // 9 + i + k) % 3]
            color = DIGIT_COLORS[(i + k) % len(DIGIT_COLORS)] if data.channels == 3 else ""
            known = wordings(digit, direction, speed, color)
            usual, others = sentences(digit, direction, speed, color)
            new = [text for text in usual + others if text not in known]
            parts.append(str(rng.choice(new if reworded else usual)))
        found.append(" and ".join(parts))
    return found


def draw_clips(
    data: MovingMNIST, captions: Sequence[str], seed: int = 0
) -> tuple[UInt8[np.ndarray, "b f h w c"], Float[np.ndarray, " b"]]:
    """Real clips for captions, and the share of frames in which strokes of two digits overlap."""
    config, rng = data.config, np.random.default_rng([seed, 4])
    clips, overlaps = [], []
    for sentence in captions:
        layers = []
        for part, moving in zip(sentence.split(" and "), parse_caption(sentence)):
            digit, direction, speed = moving
            layer = np.zeros((config.frames, config.size, config.size, config.channels), np.uint8)
            i = int(rng.choice(np.flatnonzero(data.labels == digit)))
            color = next((word for word in part.split() if word in DIGIT_COLORS), "white")
            data.draw(layer, rng, i, direction, speed, color)
            layers.append(layer)
        ink = np.stack(layers).max(-1) > 80
        clips.append(np.max(layers, 0))
        overlaps.append((ink.sum(0) > 1).any((1, 2)).mean())
    return np.stack(clips), np.array(overlaps)


def unseen_data(config: DataConfig) -> MovingMNIST:
    """Test digits for the clips of a checkpoint.

    Its `mnist_dir` may be a folder of another machine: then it is ignored.
    """
    folder = config.mnist_dir
    if folder not in (None, BUNDLED) and not Path(folder).is_dir():
        folder = None
    return MovingMNIST(replace(config, mnist_dir=folder, digits_hash=None), held_out=True)


def are_trained_on(config: DataConfig, checkpoint: DataConfig) -> bool:
    """Whether the training digits that `config` finds on this machine are those of a checkpoint.

    False if the checkpoint does not say which digits it was trained on.
    """
    if checkpoint.digits_hash is None:
        return False
    found = MovingMNIST(replace(config, digits_hash=None)).config.digits_hash
    return found == checkpoint.digits_hash


# ---- what is observed ------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Clips, their captions, the oracle's reading, and which of COLUMNS are right."""

    clips: UInt8[np.ndarray, "b f h w c"]
    captions: tuple[str, ...]
    reading: Reading
    right: Bool[np.ndarray, "b 4"]


def judge(
    clips: UInt8[np.ndarray, "b f h w c"], captions: Sequence[str], data: DataConfig
) -> Judged:
    """Read clips and compare them with their captions.

    Clips of one digit are read strictly: the digit is right if nearly all frames show it, and the
    clip can be all right only if the digit keeps its shape.
    """
    reading = read_digits(clips, side=data.digit_size, digits=data.digits)
    expected = [parse_caption(text) for text in captions]
    pairs = ((digits, observed_digits(reading, i)) for i, digits in enumerate(expected))
    right = np.array([compare(*pair) for pair in pairs], bool).reshape(-1, len(COLUMNS))
    ones = np.array([len(digits) == 1 for digits in expected], bool)
    first = np.array([digits[0][0] for digits in expected]).reshape(-1, 1, 1)
    shown = (reading.frame_digits == first).mean(2).max(1)
    right[ones, 0] &= shown[ones] >= FRAMES_RIGHT
    right[ones, -1] &= right[ones, 0] & (stats.constancy(clips[ones]) > STEADY)
    return Judged(clips, tuple(captions), reading, right)


def observed_digits(reading: Reading, i: int) -> tuple[MovingDigit, ...]:
    """The digits found in clip i."""
    rows = zip(reading.digits[i], reading.directions[i], reading.speeds[i])
    return tuple((int(d), str(way), str(speed)) for d, way, speed in rows if d >= 0)


def compare(expected: Sequence[MovingDigit], observed: Sequence[MovingDigit]) -> tuple[bool, ...]:
    """For each of COLUMNS whether it is right for all expected digits, in their best pairing.

    "All right" also requires that no further digit was observed.
    """
    candidates = [*observed, *[(-1, "none", "none")] * len(expected)]
    agreements = [
        [[a == b for a, b in zip(*pair)] for pair in zip(expected, chosen)]
        for chosen in itertools.permutations(candidates, len(expected))
    ]
    best = max(agreements, key=lambda rows: (sum(map(sum, rows)), [row[0] for row in rows]))
    right = [all(column) for column in zip(*best)]
    return (*right, all(right) and len(observed) == len(expected))


MISTAKES = ("exchanged", "same digit twice", "one missing", "wrong digit", "wrong motion", "both")


def tell_mistake(expected: Sequence[MovingDigit], observed: Sequence[MovingDigit]) -> str | None:
    """What is wrong with a clip of two digits, as one of MISTAKES; None if nothing is."""
    if len(observed) < len(expected):
        return "one missing"
    (digits, motions), (seen, moved) = (
        (sorted(d for d, *_ in found), sorted(tuple(motion) for _, *motion in found))
        for found in (expected, observed)
    )
    if sorted(expected) == sorted(observed):
        return None
    if digits == seen:
        return "exchanged" if motions == moved else "wrong motion"
    if seen[0] == seen[1] and digits[0] != digits[1]:
        return "same digit twice"
    return "wrong digit" if motions == moved else "both"


def list_clips(judged: Judged) -> list[dict[str, Any]]:
    """For each clip its prompt, what was expected and observed, and whether it is all right."""
    rows = []
    for i, text in enumerate(judged.captions):
        expected, seen = describe(parse_caption(text)), describe(observed_digits(judged.reading, i))
        right = bool(judged.right[i, -1])
        rows.append(dict(prompt=text, expected=expected, observed=seen, right=right))
    return rows


def describe(digits: Sequence[MovingDigit]) -> str:
    """Expected or observed digits in a few words; "-" for none."""
    return " and ".join(" ".join([str(d), way, speed]).strip() for d, way, speed in digits) or "-"
