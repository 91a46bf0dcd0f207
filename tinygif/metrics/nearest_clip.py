"""Did a model learn its clips by heart? How near generated clips come to training clips.

Lesson 18.
"""

import numpy as np
from jaxtyping import Int, UInt8

from tinygif.config import Config
from tinygif.datasets import open_dataset
from tinygif.metrics.report import Evaluation, Sample
from tinygif.metrics.stats import evenly, rms_distances


def evaluate_folder(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """Generate clips for captions of `count` training clips; compare with all training clips."""
    dataset, _, _ = open_dataset(config)
    clips, captions = zip(*(dataset[i] for i in range(dataset.size)))
    unconditional, training = config.data.unconditional, np.stack(clips)
    usable = np.array([i for i, text in enumerate(captions) if text or unconditional])
    chosen = usable[evenly(len(usable), count)]
    prompts = [captions[i] or "" for i in chosen]
    generated = sample(prompts)
    result = {
        "training clips": compare_clips(generated, training, None if unconditional else chosen),
        "real clips": f"the {len(training)} training clips",
    }
    return Evaluation(prompts, generated, training[chosen], result)


def compare_clips(
    generated: UInt8[np.ndarray, "n f h w c"],
    training: UInt8[np.ndarray, "m f h w c"],
    sources: Int[np.ndarray, " n"] | None,
) -> dict[str, float]:
    """Root mean square distances, in grey levels from 0 to 255, and the percentage of copies.

    A generated clip is a copy if its distance to the nearest training clip is less than half of the
    distance from that training clip to its own nearest neighbour. sources: for each generated clip
    the number of the training clip that its prompt comes from.
    """
    x, y = (clips.reshape(len(clips), -1).astype(np.float32) for clips in (generated, training))
    between = rms_distances(y, y)
    np.fill_diagonal(between, np.inf)
    to_training = rms_distances(x, y)
    nearest = to_training.argmin(1)
    copies = to_training.min(1) < between.min(1)[nearest] / 2
    result = {
        "generated to nearest training clip, median": float(np.median(to_training.min(1))),
        "training clip to its nearest other one, median": float(np.median(between.min(1))),
        "copies, %": 100 * float(np.mean(copies)),
    }
    if sources is not None:
        same = float(np.mean(nearest == sources))
        result["nearest is the one with the same caption, %"] = 100 * same
    return result
