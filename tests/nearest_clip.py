"""Did a model learn its clips by heart? How near generated clips come to those it was trained on.

python tests/nearest_clip.py runs/NAME            # of a run on a folder of clips
"""

import json
import sys

import numpy as np
from jaxtyping import Float, UInt8

import tinygif
from tinygif.config import Config
from tinygif.datasets import open_dataset


def gaps(
    a: UInt8[np.ndarray, "n f h w c"], b: UInt8[np.ndarray, "m f h w c"]
) -> Float[np.ndarray, "n m"]:
    """Root mean square distance of each clip to each, in grey levels of 255."""
    x, y = (clips.reshape(len(clips), -1).astype(np.float32) for clips in (a, b))
    squares = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)
    return np.sqrt(squares.clip(0) / x.shape[1])


def report(made: np.ndarray, of: np.ndarray, clips: np.ndarray) -> dict[str, float]:
    """Of clips made for the captions of the training clips numbered `of`.

    `copies`: percent nearer to a training clip than half of the way from that one to its own
    nearest neighbour. `asked`: percent whose nearest training clip is the one of their caption.
    """
    apart = gaps(clips, clips)
    np.fill_diagonal(apart, np.inf)
    far = gaps(made, clips)
    nearest = far.argmin(1)
    return {
        "generated to nearest training clip, median": float(np.median(far.min(1))),
        "training clip to its nearest other one, median": float(np.median(apart.min(1))),
        "copies, %": 100 * float(np.mean(far.min(1) < apart.min(1)[nearest] / 2)),
        "nearest is the one asked for, %": 100 * float(np.mean(nearest == of)),
    }


def captioned(
    config: Config, count: int
) -> tuple[UInt8[np.ndarray, "m f h w c"], list[str], np.ndarray]:
    """The clips that a run was trained on, captions of some, and which these are."""
    folder, _ = open_dataset(config)
    told = [i for i, texts in enumerate(folder.texts) if any(texts)]
    some = np.array(told)[np.linspace(0, len(told) - 1, min(count, len(told))).astype(int)]
    captions = [next(text for text in folder.texts[i] if text) for i in some]
    return np.stack([folder[i][0] for i in range(folder.size)]), captions, some


def main(checkpoint: str, count: int = 64) -> None:
    pipeline = tinygif.load(checkpoint)
    clips, captions, some = captioned(pipeline.config, count)
    print(json.dumps(report(pipeline(captions, seed=0).array, some, clips), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
