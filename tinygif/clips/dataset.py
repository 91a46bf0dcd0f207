"""The clips of a prepared folder as a data set, and what it looks like. Lesson 14."""

import copy
import itertools
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, UInt8

from tinygif import gif
from tinygif.clips.codes import map_codes
from tinygif.clips.prepare import map_clips, read_report, read_rows
from tinygif.config import DataConfig
from tinygif.data import in_channels
from tinygif.errors import TinygifError, expect
from tinygif.latents import FrameCodec
from tinygif.text import split

MIRROR = {"left": "right", "right": "left"}
# words beside "left" and "right" that tell a side from a verb: see `is_side`
NO_SIDE_AFTER = {"he", "she", "they", "we", "who", "has", "have", "had", "having"}
NO_SIDE_BEFORE = {"a", "an", "the", "his", "her", "its", "their", "him", "them", "alone", "behind"}
SIDE_AFTER = {"the", "to", "on", "from", "her", "their", "up", "down"}


class ClipFolder:
    """The clips of a prepared folder, each with one of its captions.

    If the folder has at least 40 clips, every 20th is held out of training: `held_out` gives these,
    without it you get the others. Indices from `size` on are the same clips in a later epoch. In
    each epoch a clip has another of its captions, until all had their turn; with `flip` it is
    mirrored or not at random.

    `words` are the words that occur at least twice in the captions of the whole folder. Other words
    are left out of captions, and so are those beyond the first `max_tokens`; if nothing is left,
    the caption is None. If `max_tokens` is None, for a pretrained tower, captions stay as they are.
    Raises TinygifError if the clips have another shape than `config`, or if some have no caption.
    """

    def __init__(
        self, folder: Path, config: DataConfig, max_tokens: int | None, held_out: bool = False
    ):
        settings = read_report(folder)["settings"]
        prepared, wanted = [(s["size"], s["frames"]) for s in (settings, asdict(config))]
        if prepared != wanted:
            raise TinygifError(
                f"{folder} holds clips of (size, frames) {prepared}, asked for are {wanted}: leave "
                "--size and --frames out, or prepare it again with them"
            )
        self.folder, self.config = folder, replace(config, dataset=str(folder.resolve()))
        self.array, self.rows, self.codes = map_clips(folder), read_rows(folder), ()
        names = [row["name"] for row in self.rows if not row["captions"]]
        if names and not config.unconditional:
            raise TinygifError(
                f"{len(names)} of {len(self.rows)} clips have no caption ({', '.join(names[:3])}): "
                "write NAME.txt beside NAME.gif, or a captions.tsv; or train without captions: "
                "--unconditional"
            )
        self.numbers = np.flatnonzero(is_held_out(len(self.rows)) == held_out)
        self.size = len(self.numbers)
        self._choose_words(max_tokens)

    def _choose_words(self, max_tokens: int | None) -> None:
        """Find the vocabulary, and leave other words out of captions."""
        self.dropped_words, self.cut_captions = [], 0
        self.texts = [] if self.config.unconditional else [row["captions"] for row in self.rows]
        counts = Counter(word for text in itertools.chain(*self.texts) for word in split(text))
        known = {word for word, count in counts.items() if count > 1}
        if self.config.flip and known & set(MIRROR):
            known |= set(MIRROR)
        self.words = sorted(known)
        if max_tokens is None:
            return
        self.dropped_words = sorted(set(counts) - known)
        for i, captions in enumerate(self.texts):
            lists = [[word for word in split(text) if word in known] for text in captions]
            self.cut_captions += sum(len(words) > max_tokens for words in lists)
            self.texts[i] = [" ".join(words[:max_tokens]) or None for words in lists]

    def in_codes(self, codec: FrameCodec) -> "ClipFolder":
        """The same data set, whose clips are codes, computed once and kept in the folder.

        A folder that cannot be written to stays as it is: the training step then encodes its clips.
        """
        sides = (False, True) if self.config.flip else (False,)
        coded, codes = copy.copy(self), [map_codes(self.folder, codec, side) for side in sides]
        coded.codes = () if any(array is None for array in codes) else tuple(codes)
        return coded

    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "f h w c"], str | None]:
        return self.example(index, self.config.frames)

    def example(
        self, index: int, frames: int
    ) -> tuple[
        UInt8[np.ndarray, "{frames} h w c"] | Float16[np.ndarray, "{frames} z y x"], str | None
    ]:
        """`frames` frames of a clip, from a random start, and one of its captions."""
        epoch, place = divmod(index, self.size)
        number = int(self.numbers[place])
        rng = np.random.default_rng([number, epoch])
        start = rng.integers(self.config.frames - frames + 1)
        caption, is_mirrored = None, self.config.flip and rng.random() < 0.5
        if self.texts:
            texts = self.texts[number]
            turns = np.random.default_rng([number, epoch // len(texts)]).permutation(len(texts))
            caption = texts[turns[epoch % len(texts)]]
        if is_mirrored:
            caption = mirrored(caption)
        shown = slice(start, start + frames)
        if self.codes:
            return np.array(self.codes[int(is_mirrored)][number, shown]), caption
        clip = in_channels(self.array[number, shown], self.config.channels)
        return np.ascontiguousarray(clip[:, :, ::-1] if is_mirrored else clip), caption

    @property
    def captions(self) -> list[str]:
        """Every caption of every clip in the folder, held out or not; with `flip` also mirrored."""
        texts = [text for text in itertools.chain(*self.texts) if text]
        turned = [mirrored(text) for text in texts] if self.config.flip else []
        return [*texts, *(new for new, text in zip(turned, texts) if new != text)]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Up to eight captions, as prompts for the sample GIFs that are written during training.

        Each is the first caption of a clip. Captions that lost a word are used only if all did.
        """
        whole, shortened = [], []
        for number in self.numbers if self.texts else ():
            original, text = self.rows[number]["captions"][0], self.texts[number][0]
            is_whole = text in (original, " ".join(split(original)))
            (whole if is_whole else shortened).append(text)
        prompts = [text for text in dict.fromkeys(whole or shortened) if text]
        return tuple(prompts[:: max(1, len(prompts) // 8)][:8]) or ("",) * 8

    @property
    def about(self) -> str:
        """One line: how many clips and words there are, and what was left out."""
        others, dropped = len(self.rows) - self.size, self.dropped_words
        without_words = sum(texts == [None] * len(texts) for texts in self.texts)
        examples = ", ".join(dropped[:8]) + (", ..." if len(dropped) > 8 else "")
        notes = [
            (self.words, f"{len(self.words)} words"),
            (dropped, f"{len(dropped)} words seen once are dropped ({examples})"),
            (without_words, f"{without_words} clips are left without a word"),
            (self.cut_captions, f"{self.cut_captions} captions are cut (--max-tokens)"),
            (self.config.unconditional, "no captions"),
            (others, f"{others} more clips are held out of training"),
        ]
        return f"{self.size} clips of {self.folder}: {', '.join(text for on, text in notes if on)}"


def is_held_out(count: int) -> Bool[np.ndarray, " {count}"]:
    """Which clips of a folder are not trained on: every 20th, if there are at least 40."""
    return (np.arange(count) % 20 == 19) & (count >= 40)


def mirrored(caption: str | None) -> str | None:
    """The caption of the mirror image: left becomes right.

    The verb "left" stays as it is. `is_side` tells it from the side, by the words beside it.
    """
    parts = re.split(r"(\W+)", caption or "")  # words, and at odd places what is between them
    near = ["", " ", *(part.lower() for part in parts), " ", ""]
    for i in range(0, len(parts), 2):
        before, gap, word, next_gap, after = near[i : i + 5]
        if word in MIRROR and is_side(before * gap.isspace(), after * next_gap.isspace()):
            parts[i] = MIRROR[word]
    return caption and "".join(parts)


def is_side(before: str, after: str) -> bool:
    """Whether "left", between these words, is a side rather than a verb.

    After a pronoun or a form of "have" it is a verb ("he left"). Otherwise it is a side, unless an
    article or a pronoun follows ("a man left the room"). Even then it is a side if the word before
    it is an article, a possessive, one of some prepositions ("to the left a dog"), or ends in -s or
    -ing ("turns left the wheel"), except "is" and "was". What this gets wrong, such as "a man left"
    and "right now", is rare in captions of clips.
    """
    if before in NO_SIDE_AFTER:
        return False
    moves = before.endswith(("s", "ing")) and before not in ("is", "was")
    return after not in NO_SIDE_BEFORE or before in SIDE_AFTER or moves


# ---- what a prepared folder looks like -------------------------------------------------------


def statistics(folder: Path) -> str:
    """One line about a prepared folder."""
    report, rows = read_report(folder), read_rows(folder)
    texts = [split(text) for row in rows for text in row["captions"]]
    median = lambda values: f"{np.median(values):.0f}" if values else "-"  # noqa: E731
    delays = [row["duration"] / row["frames"] for row in rows]
    return (
        f"{len(rows)} clips, {report['skipped']} skipped {report['reasons']}; medians: "
        f"{median([row['frames'] for row in rows])} frames of {median(delays)} ms in a file, "
        f"{median(list(map(len, texts)))} words in a caption; {len(texts)} captions of "
        f"{len(set(itertools.chain(*texts)))} different words; "
        f"{sum(not row['captions'] for row in rows)} clips without a caption, "
        f"{sum(row['static'] for row in rows)} that do not move"
    )


def show_clips(folder: Path, out: Path, count: int) -> None:
    """Write a captioned grid GIF of clips from all over a prepared folder."""
    expect(count >= 1, "count of at least 1", count)
    rows, settings, array = read_rows(folder), read_report(folder)["settings"], map_clips(folder)
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    captions = [next(iter(rows[i]["captions"]), "") for i in chosen]
    seconds = np.median([row["duration"] for row in rows]) / 1000
    fps = settings["fps"] or float(np.clip(settings["frames"] / seconds, 1, 50))
    picture = gif.grid(array[chosen], captions=captions, scale=max(1, 96 // array.shape[2]))
    gif.write_gif(out, picture, fps)
