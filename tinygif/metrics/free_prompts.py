"""Prompts as training never said it: in new words, for a pretrained tower, or in new sentences.

Lesson 18.
"""

from tinygif.config import Config
from tinygif.metrics.prompts import (
    COLUMNS,
    draw_clips,
    judge,
    list_clips,
    make_captions,
    unseen_data,
)
from tinygif.metrics.report import Evaluation, Sample
from tinygif.metrics.stats import evenly, shares
from tinygif.moving_mnist import NAMES

SENTENCES = (
    "{name} wandering to the {side}",
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
    """Every sentence about every digit and way; and captions of moving_mnist that mean the same."""
    prompts, captions = [], []
    for sentence in SENTENCES:
        for way, (side, ward) in WAYS.items():
            for digit, name in enumerate(NAMES):
                prompts.append(sentence.format(digit=digit, name=name, side=side, ward=ward))
                captions.append(f"a {digit} moving {way}")
    return prompts, captions


def evaluate_free_prompts(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """Percent right for each sentence, over at most `count` of the prompts.

    A model that was trained without a tower gets sentences of the words that it knows.
    """
    if config.text.text == "words":
        return evaluate_new_wordings(sample, config, count, seed)
    chosen = evenly(len(free_prompts()[0]), count)
    prompts, captions = ([texts[i] for i in chosen] for texts in free_prompts())
    test_digits = unseen_data(config.data)
    generated = judge(sample(prompts), captions, config.data)
    real = judge(draw_clips(test_digits, captions, seed)[0], captions, config.data)
    table, per_sentence = {}, len(WAYS) * len(NAMES)
    for k, sentence in enumerate(SENTENCES):
        right = generated.right[chosen // per_sentence == k]
        table[sentence] = {"generated": shares(right, COLUMNS)}
    rights = {"generated": generated.right, "real": real.right}
    result = {
        "table": table | {"all": {name: shares(x, COLUMNS) for name, x in rights.items()}},
        "real clips": f"test digits of {test_digits.source}",
        "clips": [dict(row, prompt=text) for row, text in zip(list_clips(generated), prompts)],
    }
    return Evaluation(prompts, generated.clips, real.clips, result)


def evaluate_new_wordings(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """Percent right for `count` prompts of one digit, which no training caption says like that."""
    data, test_digits = config.data, unseen_data(config.data)
    prompts = make_captions(count, 1, data, seed, reworded=True)
    clips = {"generated": sample(prompts), "real": draw_clips(test_digits, prompts, seed)[0]}
    judged = {name: judge(some, prompts, data) for name, some in clips.items()}
    rows = {name: shares(some.right, COLUMNS) for name, some in judged.items()}
    result = {
        "table": {"new wordings": rows},
        "real clips": f"test digits of {test_digits.source}",
        "clips": list_clips(judged["generated"]),
    }
    return Evaluation(prompts, clips["generated"], clips["real"], result)
