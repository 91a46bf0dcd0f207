"""What is asked of a model and of the oracle: captions in turn, real clips for them, and what of
them is right. Lesson 18."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tinygif import moving_mnist, oracle
from tinygif.config import DataConfig
from tinygif.moving_mnist import COLORS, DIRECTIONS, NAMES, SPEEDS, MovingMNIST, caption
from tinygif.oracle import Reading

COLUMNS = ("digit", "direction", "speed", "all right")

Wanted = tuple[int, str, str]
"""Digit, direction, speed."""


# ---- what is asked for -----------------------------------------------------------------------


def wanted(sentence: str) -> tuple[Wanted, ...]:
    """What a caption of `moving_mnist` says of each of its digits."""
    found = []
    for part in sentence.lower().split(" and "):
        words = part.split()
        digits = [i for i, name in enumerate(NAMES) if {str(i), name} & set(words)]
        direction = " ".join(word for word in words if word in DIRECTIONS)
        direction = "still" if "not" in words else direction
        if len(digits) != 1 or direction not in DIRECTIONS:
            raise ValueError(
                f"expected one digit and one direction in {part!r}, as in 'a 7 moving up left "
                f"slowly', got digits {digits} and direction {direction!r}"
            )
        speed = "quickly" if "fast" in words else "".join(w for w in words if w in SPEEDS)
        found.append((digits[0], direction, speed))
    return tuple(found)


def ask(count: int, digits: int, data: DataConfig, seed: int = 0, avoid: tuple = ()) -> list[str]:
    """Captions of one digit, all digit-direction pairs in turn; or of two drawn at random.

    Speeds, and for colour clips colours, take turns. Two digits `avoid` the pairs held out.
    """
    rng, directions, speeds = np.random.default_rng([seed, 3]), list(DIRECTIONS), list(SPEEDS)
    pairs = [(d, name) for d in range(10) for name in directions if (d, name) not in avoid]
    sentences = []
    for i in range(count):
        some = [(i % 10, directions[i % 9])]
        if digits == 2:
            some = [pairs[j] for j in rng.integers(len(pairs), size=2)]
        parts = []
        for k, (digit, direction) in enumerate(some):
            speed = "" if direction == "still" else speeds[(i // 9 + i + k) % 3]
            color = list(COLORS)[(i + k) % len(COLORS)] if data.channels == 3 else ""
            parts.append(caption(rng, digit, direction, speed, color))
        sentences.append(" and ".join(parts))
    return sentences


def stage(
    data: MovingMNIST, captions: Sequence[str], seed: int = 0
) -> tuple[UInt8[np.ndarray, "b f h w c"], Float[np.ndarray, " b"]]:
    """Real clips for captions, and the share of frames in which strokes of two digits meet."""
    config, rng = data.config, np.random.default_rng([seed, 4])
    clips, meets = [], []
    for sentence in captions:
        layers = []
        for part, (digit, direction, speed) in zip(sentence.split(" and "), wanted(sentence)):
            layer = np.zeros((config.frames, config.size, config.size, config.channels), np.uint8)
            i = int(rng.choice(np.flatnonzero(data.labels == digit)))
            color = next((word for word in part.split() if word in COLORS), "white")
            data.draw(layer, rng, i, direction, speed, color)
            layers.append(layer)
        ink = np.stack(layers).max(-1) > 80
        clips.append(np.max(layers, 0))
        meets.append((ink.sum(0) > 1).any((1, 2)).mean())
    return np.stack(clips), np.array(meets)


def unseen_data(config: DataConfig) -> MovingMNIST:
    """Test digits for clips of a checkpoint; its `mnist_dir` may be a folder of another machine."""
    folder = config.mnist_dir
    if folder not in (None, moving_mnist.BUNDLED) and not Path(folder).is_dir():
        config = replace(config, mnist_dir=None)
    return MovingMNIST(config, test=True)


# ---- what was seen ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Clips, what was asked for, what the oracle saw, and which of COLUMNS are right."""

    clips: UInt8[np.ndarray, "b f h w c"]
    captions: tuple[str, ...]
    reading: Reading
    right: Bool[np.ndarray, "b 4"]


def judge(
    clips: UInt8[np.ndarray, "b f h w c"], captions: Sequence[str], data: DataConfig
) -> Judged:
    """Read clips and compare with their captions."""
    reading = oracle.read(clips, side=data.digit_size, digits=data.digits)
    right = [compare(wanted(text), seen(reading, i)) for i, text in enumerate(captions)]
    return Judged(clips, tuple(captions), reading, np.array(right, bool).reshape(-1, 4))


def seen(reading: Reading, i: int) -> tuple[Wanted, ...]:
    """The digits found in clip i, as a caption would say them."""
    rows = zip(reading.digits[i], reading.directions[i], reading.speeds[i])
    return tuple((int(d), str(way), str(speed)) for d, way, speed in rows if d >= 0)


def compare(asked: Sequence[Wanted], found: Sequence[Wanted]) -> tuple[bool, ...]:
    """Which of COLUMNS are right for every digit asked for, in the pairing that agrees best.

    Nothing may be found beyond what was asked for, where all is to be right.
    """
    padded = [*found, *[(-1, "none", "none")] * len(asked)]
    pairings = itertools.permutations(padded, len(asked))
    table = lambda some: [[a == b for a, b in zip(*pair)] for pair in zip(asked, some)]  # noqa: E731
    best = max(map(table, pairings), key=lambda rows: (sum(map(sum, rows)), [r[0] for r in rows]))
    right = [all(column) for column in zip(*best)]
    return (*right, all(right) and len(found) == len(asked))


def say(digits: Sequence[Wanted]) -> str:
    """A short caption of what was asked for or seen."""
    return " and ".join(" ".join([str(d), way, speed]).strip() for d, way, speed in digits) or "-"
