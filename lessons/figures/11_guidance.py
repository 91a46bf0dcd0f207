"""Figures of lesson 11, drawn with what its own blocks define."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from lessons.conftest import run_lesson  # noqa: E402
from tinygif.codec import Pixels  # noqa: E402
from tinygif.gif import grid, write_gif  # noqa: E402

LESSON = Path(__file__).parent.parent / "11_guidance.md"
PIXELS = Pixels(1)
SCALES = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)


def tradeoff(path: Path, labels: np.ndarray, found: dict[str, dict[float, np.ndarray]]) -> None:
    """Sevens and different clips among 100, against w."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    sevens = {name: [100 * np.mean(labels[nearest] == 7) for nearest in by_scale.values()]
              for name, by_scale in found.items()}
    axes.plot(SCALES, sevens["trained"], "C0o-", lw=2, label="sevens")
    axes.plot(SCALES, sevens["untrained"], "C3^--", lw=2, label="sevens, null prompt untrained")
    different = [len(set(nearest.tolist())) for nearest in found["trained"].values()]
    axes.plot(SCALES, different, "C2s-", lw=2, label="different clips")
    axes.set(xlabel="guidance w", ylabel="of 100 samples", ylim=(0, 100), xticks=range(9))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.14))
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """11_sweep.gif, 11_tradeoff.png, 11_null.gif."""
    names = run_lesson(LESSON)
    nulls = {"trained": names["anything"], "untrained": names["whim"]}
    clips = {name: {w: names["draw"](w, null) for w in SCALES} for name, null in nulls.items()}
    found = {name: {w: names["which"](x) for w, x in by_scale.items()}
             for name, by_scale in clips.items()}
    tradeoff(folder / "11_tradeoff.png", names["labels"], found)

    cells = [PIXELS.decode(x[i]) for i in range(5) for x in clips["trained"].values()]
    captions = [f"w = {w:g}" for w in SCALES] * 5
    write_gif(folder / "11_sweep.gif", grid(cells, len(SCALES), captions, scale=4), fps=8)

    cells = [PIXELS.decode(x) for by_scale in clips.values() for x in by_scale[8.0][:8]]
    captions = [name for name in clips for _ in range(8)]
    write_gif(folder / "11_null.gif", grid(cells, 8, captions, scale=4), fps=8)
