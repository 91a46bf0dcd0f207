"""Captions as pictures, to be put below clips. Lesson 00."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from unicodedata import bidirectional

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

NOT_DRAWN = "(a caption in a script that cannot be drawn here)"
MAX_LETTERS = 300  # a picture of a caption as long as a book would not fit into memory


def draw_labels(captions: Sequence[str], width: int) -> UInt8[np.ndarray, "b h w"]:
    """Captions in black on white, without gray, which fills palettes; `width` pixels wide or more.

    They are broken into lines, and cut after MAX_LETTERS letters. In place of one that cannot be
    drawn stands NOT_DRAWN.
    """
    captions = [
        text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..." for text in captions
    ]
    font, captions = choose_font(captions)
    wrapper = textwrap.TextWrapper(max(1, width // 5), break_long_words=False)
    texts = ["\n".join(wrapper.wrap(caption)).replace(" ", "  ") for caption in captions]
    lines = [line for text in texts for line in text.split("\n")]
    width = max(width, *(math.ceil(font.getlength(line, "1")) + 2 for line in lines))
    height = 13 * max(text.count("\n") + 1 for text in texts) + 2
    images = [Image.new("L", (width, height), 255) for _ in texts]
    for image, text in zip(images, texts, strict=True):
        draw = ImageDraw.Draw(image)
        draw.fontmode = "1"
        draw.multiline_text((width // 2, 0), text, 0, font, "ma", 2, "center")
    return np.stack([np.asarray(image) for image in images])


def choose_font(captions: Sequence[str]) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """A font for all captions; those in a script that it lacks are replaced by a sentence.

    Pillow's own font has little more than ASCII, the DejaVu of matplotlib also accents, Cyrillic
    and Greek.
    """
    font = ImageFont.load_default(11)
    if all(can_draw(font, caption) for caption in captions):
        return font, list(captions)
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 10)
    return font, [text if can_draw(font, text) else NOT_DRAWN for text in captions]


def can_draw(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether the font has every letter, and none is written from right to left."""
    missing = bytes(font.getmask("\uffff", "1"))
    return not any(
        bytes(font.getmask(letter, "1")) == missing or bidirectional(letter) in ("R", "AL")
        for letter in set(text)
        if not letter.isspace()
    )
