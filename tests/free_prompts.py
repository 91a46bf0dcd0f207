"""Prompts in words that training never used: does a pretrained tower know what they mean?

python tests/free_prompts.py runs/NAME           # of a run on moving digits with --text
"""

import sys

import tinygif
from tinygif.asked import judge
from tinygif.metrics import HEADER, line, shares
from tinygif.moving_mnist import NAMES

SENTENCES = (
    "{name} going to the {side}",
    "the number {name} drifting {ward}",
    "a handwritten {name} that travels {ward}",
    "{digit}, heading {ward}",
)
WAYS = {
    "left": ("left", "leftwards"),
    "right": ("right", "to the right hand side"),
    "up": ("top", "upwards"),
    "down": ("bottom", "downwards"),
}


def free_prompts() -> tuple[list[str], list[str]]:
    """Every digit, way and sentence; and how tinygif's own captions would say each."""
    prompts, captions = [], []
    for sentence in SENTENCES:
        for way, (side, ward) in WAYS.items():
            for digit, name in enumerate(NAMES):
                prompts.append(sentence.format(digit=digit, name=name, side=side, ward=ward))
                captions.append(f"a {digit} moving {way}")
    return prompts, captions


def main(checkpoint: str) -> None:
    pipeline, (prompts, captions) = tinygif.load(checkpoint), free_prompts()
    clips = pipeline(prompts, seed=0).array
    right, size = judge(clips, captions, pipeline.config.data).right, len(prompts)
    print(HEADER)
    for i, sentence in enumerate(SENTENCES):
        part = slice(i * size // len(SENTENCES), (i + 1) * size // len(SENTENCES))
        print(line(sentence[:29], shares(right[part])))
    print(line("all", shares(right)))


if __name__ == "__main__":
    main(*sys.argv[1:])
