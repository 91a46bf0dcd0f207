"""The data set that a config names: digits, shapes, or the clips of a folder. Lesson 14."""

import copy
import itertools
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tinygif.clips import CLIPS, REPORT, Settings, prepare, read_report, read_rows
from tinygif.config import Config, DataConfig
from tinygif.moving_mnist import MovingMNIST
from tinygif.shapes import Shapes
from tinygif.sources import SourceError
from tinygif.text import split

MIRROR = {"left": "right", "right": "left"}
DRAWN = {"moving_mnist": MovingMNIST, "shapes": Shapes}


class Clips:
    """The clips of a prepared folder, each with one of its captions; None where it has no words.

    An index beyond `size` is a clip in a later epoch: another of its captions, until all had their
    turn, and with `flip` perhaps its mirror image. `words` are those that captions hold at least
    twice; others are left out of captions, and so is what goes beyond `max_tokens`. Where that is
    None, for a pretrained tower, captions stay as they are.
    """

    def __init__(self, folder: Path, config: DataConfig, max_tokens: int | None):
        settings = read_report(folder)["settings"]
        made, asked = [(s["size"], s["frames"]) for s in (settings, asdict(config))]
        if made != asked:
            raise SourceError(
                f"{folder} holds clips of (size, frames) {made}, asked for are {asked}: leave "
                "--size and --frames out, or prepare it again with them"
            )
        self.config, self.folder, self.frames = config, folder, config.frames
        self.array = np.load(folder / CLIPS, mmap_mode="r")
        self.rows = read_rows(folder)
        self.size = len(self.rows)
        lacking = [row["name"] for row in self.rows if not row["captions"]]
        if lacking and not config.unconditional:
            raise SourceError(
                f"{len(lacking)} of {self.size} clips have no caption ({', '.join(lacking[:3])}): "
                "write NAME.txt beside NAME.gif, or a captions.tsv; or train without words: "
                "--unconditional"
            )
        self._choose_words([] if config.unconditional else [row["captions"] for row in self.rows],
                           max_tokens)  # fmt: skip

    def _choose_words(self, every: list[list[str]], max_tokens: int | None) -> None:
        """The vocabulary, and the captions in it."""
        counts = Counter(itertools.chain(*(split(text) for texts in every for text in texts)))
        known = {word for word, count in counts.items() if count > 1}
        if self.config.flip and known & set(MIRROR):
            known |= set(MIRROR)
        self.words, self.dropped, self.cut, self.texts = sorted(known), [], 0, every
        if max_tokens is None:
            return
        self.dropped, self.texts = sorted(set(counts) - known), []
        for texts in every:
            lists = [[word for word in split(text) if word in known] for text in texts]
            self.cut += sum(len(words) > max_tokens for words in lists)
            self.texts.append([" ".join(words[:max_tokens]) or None for words in lists])

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str | None]:
        epoch, i = divmod(index, self.size)
        rng = np.random.default_rng([i, epoch])
        start = rng.integers(self.config.frames - self.frames + 1)
        clip, caption = self.array[i, start : start + self.frames], None
        if self.texts:
            texts = self.texts[i]
            turns = np.random.default_rng([i, epoch // len(texts)]).permutation(len(texts))
            caption = texts[turns[epoch % len(texts)]]
        if self.config.channels == 1:
            clip = np.round(clip @ [0.299, 0.587, 0.114])[..., None].astype(np.uint8)
        if self.config.flip and rng.random() < 0.5:
            clip, caption = clip[:, :, ::-1], mirrored(caption)
        return np.ascontiguousarray(clip), caption

    def with_frames(self, frames: int) -> "Clips":
        """The same clips, of each a piece of so many frames."""
        other = copy.copy(self)
        other.frames = frames
        return other

    @property
    def captions(self) -> list[str]:
        """All that the clips are called."""
        return [text for text in itertools.chain(*self.texts) if text]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Up to eight captions to show while training, such as have no unknown word if any are."""
        whole, rest = [], []
        for row, texts in zip(self.rows, self.texts):
            same = texts[0] in (row["captions"][0], " ".join(split(row["captions"][0])))
            (whole if same else rest).append(texts[0])
        some = [text for text in dict.fromkeys(whole or rest) if text]
        return tuple(some[:: max(1, len(some) // 8)][:8]) or ("",) * 8

    @property
    def about(self) -> str:
        """What is trained on, and what of the captions is not."""
        some = ", ".join(self.dropped[:8]) + (", ..." if len(self.dropped) > 8 else "")
        mute = sum(texts == [None] * len(texts) for texts in self.texts)
        notes = [
            (self.words, f"{len(self.words)} words"),
            (self.dropped, f"{len(self.dropped)} words seen once are dropped ({some})"),
            (mute, f"{mute} clips are left without a word"),
            (self.cut, f"{self.cut} captions are cut (--max-tokens)"),
            (self.config.unconditional, "no captions"),
        ]
        told = ", ".join(note for told, note in notes if told)
        return f"{self.size} clips of {self.folder}: {told}"


def mirrored(caption: str | None) -> str | None:
    """A caption of the mirror image."""
    return caption and re.sub(
        r"\b(left|right)\b", lambda word: MIRROR[word[0].lower()], caption, flags=re.IGNORECASE
    )


def defaults(name: str) -> DataConfig:
    """What flags start from: all but digits is in colour; a prepared folder has its own shape."""
    data = DataConfig(dataset=name, channels=1 if name == "moving_mnist" else 3)
    if name in DRAWN or not (Path(name) / REPORT).is_file():
        return data
    settings = read_report(Path(name))["settings"]
    fps = data.fps if settings["fps"] is None else settings["fps"]
    return replace(data, size=settings["size"], frames=settings["frames"], fps=fps)


def open_dataset(config: Config) -> tuple[MovingMNIST | Shapes | Clips, Config]:
    """The data set, and the config that opens the very same again, whatever changes meanwhile.

    A folder that is not yet prepared is, into the cache.
    """
    data = config.data
    if data.dataset in DRAWN:
        if data.flip or data.unconditional:
            raise ValueError("expected a folder of clips for --flip and --unconditional, got "
                             f"{data.dataset}: leave them out")  # fmt: skip
        dataset = DRAWN[data.dataset](data)
        if isinstance(dataset, MovingMNIST):
            data = replace(data, mnist_dir=dataset.source)
        return dataset, replace(config, data=data)
    folder = Path(data.dataset)
    if not folder.is_dir():
        raise SourceError(
            f"expected {', '.join(DRAWN)}, a folder of clips, or what `python -m tinygif.clips "
            f"prepare` made of other sources, got {data.dataset!r}"
            + (", which is a file" if folder.exists() else ", which is not there")
        )
    if not (folder / REPORT).is_file():
        folder = prepare(folder, settings=Settings(data.size, data.frames))
    reads_words = config.model.text == "words"
    dataset = Clips(folder, data, config.model.max_tokens if reads_words else None)
    return dataset, replace(config, data=replace(data, dataset=str(folder.resolve())))
