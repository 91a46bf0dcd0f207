"""Moving MNIST with captions: handwritten digits that drift and bounce, as a function of an index.

After Srivastava et al. 2015 ("Unsupervised Learning of Video Representations using LSTMs", section
4), with a caption for every clip. Digits come from MNIST; without a network, from the 1,797 digits
of UCI optdigits that come with the package. Lesson 14.
"""

import gzip
import hashlib
import itertools
import sys
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int, UInt8

from tinygif.config import DataConfig
from tinygif.data import COLORS
from tinygif.errors import TinygifError, expect
from tinygif.files import cache_dir, download_folder

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",  # noqa: E501
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

BUNDLED = "bundled"

# direction -> its sign along columns and along rows; rows count downwards
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
    "still": (0, 0),
}
SPEEDS = {"slowly": 1 / 64, "": 1 / 32, "quickly": 1 / 16}  # clip sides per frame
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VERBS = ("moving", "going", "moves", "goes", "is moving", "is going", "sliding", "slides")
STILL = ("standing still", "stands still", "not moving", "is not moving", "staying still")
ADVERBS = {"slowly": ("slowly",), "": ("",), "quickly": ("quickly", "fast")}
SYNONYMS = {"upwards": "up", "downwards": "down", "upper": "up", "lower": "down", "fast": "quickly"}
ARTICLES = ("the {}", "{}", "a {}", "an {}")
NOUNS = ("the {} digit {}", "a {} digit {}", "the {} number {}", "{} number {}")
"""How else than "a red 7" a digit may be named, with a wrong article, too, or with none."""
DIGIT_COLORS = tuple(color for color in COLORS if color != "black")
"""The colours of digits; the background is black."""
HELD_OUT = (
    (0, "right"), (1, "up left"), (2, "down"), (3, "up right"), (4, "left"), (5, "down left"),
    (6, "up"), (7, "down right"), (8, "still"),
)  # fmt: skip
"""Pairs of digit and direction that training never shows, unless `hold_out` is off."""

WORDS = sorted(
    {"a", "an", "the", "and", "digit", "number", "to", "fast", *"0123456789", *NAMES}
    | {word for phrase in (*VERBS, *DIRECTIONS, *STILL, *SPEEDS) for word in phrase.split()}
    | {*DIGIT_COLORS, *SYNONYMS}
)
TWO_SHARE = 0.5
"""Share of the clips that show two digits, where `digits` allows it."""
UNSAID = 0.15
"""Share of the digits of whose motion the caption says nothing: "a 7"."""
PLAIN, VARIED = 8, 8
"""Of how many wordings of one meaning a caption is drawn: in usual words, and in any."""


class MovingMNIST:
    """An endless data set of captioned clips; the same index gives the same clip.

    A caption names the direction in which the digit starts. The digit turns round only at a wall.
    It starts far enough from the wall ahead to move for half of the clip before it gets there, if
    the clip has room for that. Some captions name the digit alone; it may then start anywhere, so
    that a clip may also be the later part of a longer one.

    With `held_out` the digits are the test digits, and the same index gives a different clip.
    """

    size = None
    words = WORDS
    prompts = (
        "a 7 moving left", "a 3 moving up right", "an 8 moving down", "a 5 moving right quickly",
        "a 2 standing still", "a 9 moving up", "a 4 moving down left", "a 6 moving up left slowly",
        "a 1 moving right", "a 0 moving down right",
    )  # fmt: skip
    """Prompts for the sample GIFs that are written during training."""

    def __init__(self, config: DataConfig, *, held_out: bool = False):
        images, labels, source = load_digits(config.mnist_dir, test=held_out)
        side, largest = config.digit_size or config.size // 2, config.size * 7 // 8
        room = f"which leaves room to move in a clip of {config.size} pixels"
        expect(4 <= side <= largest, f"a digit_size from 4 to {largest}, {room}", side)
        self.images, self.labels, self.source = resize(images, side), labels, source
        digest = config.digits_hash if held_out else hash_digits(images, labels)
        got = f"others in {source}: restore the old ones, or start a new run"
        expect(config.digits_hash in (None, digest), "the digits that the run was trained on", got)
        self.config = replace(config, mnist_dir=source, digits_hash=digest)
        self.seed = 1 if held_out else 0
        self.about = f"{len(images)} digits of {source}"

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str]:
        return self.example(index, self.config.frames)

    def example(self, index: int, frames: int) -> tuple[UInt8[np.ndarray, "{frames} h w c"], str]:
        """A clip of `frames` frames, and its caption.

        Whatever its length, the clip of an index shows the same digits under the same caption; but
        the digits may start at another place.
        """
        config, rng = self.config, np.random.default_rng([self.seed, index])
        whether = np.random.default_rng([self.seed, index, 1])
        clip = np.zeros((frames, config.size, config.size, config.channels), np.uint8)
        sentences = []
        for _ in range(2 if config.digits == 2 and rng.random() < TWO_SHARE else 1):
            i = int(rng.integers(len(self.images)))
            digit, color = int(self.labels[i]), str(rng.choice(DIGIT_COLORS))
            direction = str(rng.choice(self.directions_of(digit)))
            speed = "" if direction == "still" else str(rng.choice(list(SPEEDS)))
            color_word = color if config.channels == 3 else ""
            said = whether.random() >= UNSAID
            self.draw(clip, rng, i, direction, speed, color, anywhere=not said)
            words = wordings(digit, direction, speed, color_word) if said else names_of(
                digit, color_word)  # fmt: skip
            sentences.append(str(rng.choice(words)))
        return clip, " and ".join(sentences)

    @property
    def captions(self) -> list[str]:
        """Every caption of a clip with one digit; for two digits there are millions."""
        color_words = DIGIT_COLORS if self.config.channels == 3 else ("",)
        found = []
        for digit in range(10):
            for direction, color in itertools.product(self.directions_of(digit), color_words):
                for speed in SPEEDS if direction != "still" else ("",):
                    found += wordings(digit, direction, speed, color)
            found += [name for color in color_words for name in names_of(digit, color)]
        return found

    def directions_of(self, digit: int) -> list[str]:
        """The directions in which a digit may move."""
        avoided = HELD_OUT if self.config.hold_out else ()
        return [name for name in DIRECTIONS if (digit, name) not in avoided]

    def draw(
        self, clip: UInt8[np.ndarray, "f h w c"], rng: np.random.Generator, i: int,
        direction: str, speed: str, color: str, *, anywhere: bool = False,
    ) -> None:  # fmt: skip
        """Draw digit number i into every frame of a clip, moving from a random start.

        anywhere: the start may be so near to the wall ahead that the digit soon turns round.
        """
        paint = np.array(COLORS[color] if self.config.channels == 3 else [255]) / 255
        stroke = (self.images[i][..., None] * paint).astype(np.uint8)
        draw_digit(clip, stroke, self._path(rng, direction, speed, len(clip), anywhere))

    def _path(
        self, rng: np.random.Generator, direction: str, speed: str, frames: int,
        anywhere: bool = False,
    ) -> Int[np.ndarray, "{frames} 2"]:
        """The (column, row) of a digit's upper left corner in every frame."""
        room, pace = self.config.size - self.images.shape[1], SPEEDS[speed] * self.config.size
        ahead = 0 if anywhere else min(room, pace * frames / 2)
        axes = []
        for sign in DIRECTIONS[direction]:
            low, high = (ahead if sign < 0 else 0), room - (ahead if sign > 0 else 0)
            axes.append(bounce(rng.uniform(low, high) + sign * pace * np.arange(frames), room))
        return np.stack(axes, axis=1)


def bounce(path: np.ndarray, room: int) -> Int[np.ndarray, " f"]:
    """Fold a straight path back into [0, room], like a ball between two walls, in whole pixels."""
    folded = np.abs((path + room) % (2 * room) - room) if room else np.zeros_like(path)
    return np.round(folded).astype(int)


def draw_digit(
    clip: UInt8[np.ndarray, "f h w c"],
    stroke: UInt8[np.ndarray, "s s c"],
    path: Int[np.ndarray, "f 2"],
) -> None:
    """Draw a digit into every frame at its (column, row); where two overlap, keep the brighter."""
    side = len(stroke)
    for frame, (x, y) in zip(clip, path, strict=True):
        window = frame[y : y + side, x : x + side]
        np.maximum(window, stroke, out=window)


# ---- captions --------------------------------------------------------------------------------


@cache
def wordings(digit: int, direction: str, speed: str, color: str = "") -> tuple[str, ...]:
    """The sentences by which captions describe a moving digit: always the same few of all.

    The others are never trained on, so they can test whether a model knows more than it was told.
    """
    usual, others = sentences(digit, direction, speed, color)
    meaning = f"{digit} {direction} {speed} {color}".encode()
    rng = np.random.default_rng(list(meaning))
    parts = ((usual, PLAIN), (others, VARIED))
    return tuple(str(text) for words, n in parts
                 for text in rng.choice(words, min(n, len(words)), replace=False))  # fmt: skip


def sentences(
    digit: int, direction: str, speed: str, color: str = ""
) -> tuple[list[str], list[str]]:
    """Every sentence that says the same: those in usual words, and all the others."""
    verbs, ways = VERBS, ways_of(direction)
    moves = [f"{verb} {way} {adverb}".strip()
             for way in ways for verb in verbs for adverb in ADVERBS[speed]]  # fmt: skip
    predicates = STILL if direction == "still" else moves
    plain = 3 if direction == "still" else 4 * len(ADVERBS[speed])
    usual, others = [], []
    for name in (str(digit), NAMES[digit]):
        right, *subjects = subjects_of(name, color)
        for subject in sorted({right, *subjects}):
            for i, predicate in enumerate(predicates):
                texts = usual if subject == right and i < plain else others
                texts.append(f"{subject} {predicate}")
    return usual, others


def subjects_of(name: str, color: str = "") -> list[str]:
    """Every way to name a digit in a sentence; the first one has the right article."""
    words = f"{color} {name}".strip()
    right = f"an {words}" if words[0] in "8e" else f"a {words}"
    forms = [form.format(words) for form in ARTICLES]
    return [right, *forms, *(" ".join(form.format(color, name).split()) for form in NOUNS)]


def names_of(digit: int, color: str = "") -> tuple[str, ...]:
    """The captions that say nothing of a digit's motion."""
    return tuple(text for name in (str(digit), NAMES[digit]) for text in subjects_of(name, color))


def ways_of(direction: str) -> tuple[str, ...]:
    """How a direction may be said: up or upwards, left or to the left, or to the upper left."""
    vertical, _, side = direction.rpartition(" ")
    if vertical:
        return direction, f"to the {'upper' if vertical == 'up' else 'lower'} {side}"
    return direction, f"{side}wards" if side in ("up", "down") else f"to the {side}"


# ---- digits ----------------------------------------------------------------------------------


def hash_digits(images: UInt8[np.ndarray, "n h w"], labels: Int[np.ndarray, " n"]) -> str:
    """SHA-256 of digits and labels; a checkpoint stores that of the digits it was trained on."""
    return hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()


def resize(images: UInt8[np.ndarray, "n h w"], side: int) -> UInt8[np.ndarray, "n s s"]:
    """All digits, scaled to `side` pixels with antialiasing."""
    x = jax.image.resize(images.astype(np.float32), (len(images), side, side), "linear")
    return np.clip(np.round(np.asarray(x)), 0, 255).astype(np.uint8)


def load_digits(
    mnist_dir: str | None, *, test: bool = False
) -> tuple[UInt8[np.ndarray, "n h w"], Int[np.ndarray, " n"], str]:
    """Digits, white on black and cropped, their labels, and a `mnist_dir` that loads the same ones.

    `mnist_dir` is a folder with the MNIST files, or "bundled" for the digits that come with the
    package. None means the cache folder; if the files are not in it they are downloaded, and if
    that fails the bundled digits are used. No digit is in both training and test: MNIST has a test
    set of its own, and of the bundled digits every fifth is for tests. Raises TinygifError for
    damaged or missing files in `mnist_dir`.
    """
    if mnist_dir is None:
        try:
            folder = cache_dir() / "mnist"
            mnist_dir = str(download_folder(folder, MIRRORS, SHA256, "MNIST"))
        except (OSError, TinygifError) as error:
            print(f"MNIST: no download ({error}); using the 1,797 bundled digits (UCI optdigits).",
                  file=sys.stderr)  # fmt: skip
            mnist_dir = BUNDLED
    digits = bundled_digits(test) if mnist_dir == BUNDLED else read_mnist(Path(mnist_dir), test)
    return *digits, mnist_dir


def read_mnist(
    folder: Path, test: bool
) -> tuple[UInt8[np.ndarray, "n 20 20"], Int[np.ndarray, " n"]]:
    """MNIST's images without their border of 4 pixels, and labels."""
    part = "t10k" if test else "train"
    names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    try:
        image_bytes, label_bytes = (gzip.decompress((folder / name).read_bytes()) for name in names)
        images = np.frombuffer(image_bytes, np.uint8, offset=16).reshape(-1, 28, 28)[:, 4:24, 4:24]
        labels = np.frombuffer(label_bytes, np.uint8, offset=8).astype(int)
        if not 0 < len(images) == len(labels) or labels.max() > 9:
            raise ValueError(f"{len(images)} images, {len(labels)} labels, not all from 0 to 9")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TinygifError(
            f"expected the MNIST files {names} in {folder}, got: {error}. Point --mnist-dir at a "
            "folder with undamaged files; or delete these and leave --mnist-dir out: then they are "
            "downloaded."
        ) from error
    return images, labels


def bundled_digits(test: bool) -> tuple[UInt8[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """The UCI optdigits that come with the package, of 8x8 pixels."""
    with np.load(Path(__file__).parent / "optdigits.npz") as file:
        images, labels = file["images"], file["labels"].astype(int)
    chosen = (np.arange(len(labels)) % 5 == 0) == test
    return images[chosen], labels[chosen]
