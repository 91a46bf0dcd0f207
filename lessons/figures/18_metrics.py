"""Figures of lesson 18."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from tinygif.config import DataConfig  # noqa: E402
from tinygif.gif import enlarge, grid, write, write_gif  # noqa: E402
from tinygif.metrics import draw_clips, frechet, judge, make_captions  # noqa: E402
from tinygif.metrics.prompts import list_clips  # noqa: E402
from tinygif.metrics.tracker import guesses, strokes  # noqa: E402
from tinygif.moving_mnist import MovingMNIST  # noqa: E402

CONFIG = DataConfig(mnist_dir="bundled")
WRONG = (("still", ""), ("right", "slowly"), ("down", ""))


def boxes(frames: np.ndarray, path: np.ndarray) -> list[np.ndarray]:
    """The box at (column, row) of every frame."""
    return [frame[y : y + 16, x : x + 16] for frame, (x, y) in zip(frames, path)]


def aligned(path: Path) -> None:
    """Frames of the lesson's clip, and the mean of its boxes along the best path of a motion."""
    clip, _ = MovingMNIST(CONFIG)[7]
    light = clip[None, ..., 0] / 255
    proof = strokes(light, np.zeros(light.shape, bool))[0]
    paths, directions, speeds, _ = guesses(16, 32, 16)
    cells, captions = [clip[i : i + 1] for i in (0, 4, 8, 12)], []
    captions += [f"frame {i}" for i in (0, 4, 8, 12)]
    for motion in (("right", "quickly"), *WRONG):
        candidates = paths[(directions == motion[0]) & (speeds == motion[1])]
        best = max(candidates, key=lambda path: np.maximum(sum(boxes(proof, path)), 0).sum())
        mean = np.mean(boxes(clip, best), axis=0).round().astype(np.uint8)
        cells.append(enlarge(mean[None], 2))
        captions.append(" ".join(motion).strip())
    write(path, grid(cells, 4, captions, scale=3))


def bias(path: Path, d: int = 39) -> None:
    """Frechet distance of two sets from one Gaussian against their size."""
    rng, sizes = np.random.default_rng(0), np.array([100, 200, 400, 800, 1600, 3200, 6400])
    found = [frechet(*rng.normal(size=(2, n, d))) for n in sizes]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.loglog(sizes, found, "o", label=f"measured, d = {d}")
    axes.loglog(sizes, (2 * d + d * (d + 1) / 2) / sizes, "-", label="858 / n")
    axes.set(xlabel="n, clips in each set", ylabel="Frechet distance")
    axes.set_xticks(sizes, [str(n) for n in sizes], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def damage(path: Path) -> None:
    """Real clips, mirrored, backwards: what was asked for, and what the oracle saw."""
    captions = [make_captions(90, 1, CONFIG)[i] for i in (36, 63)]
    clips, _ = draw_clips(MovingMNIST(CONFIG, held_out=True), captions, seed=1)
    cells, texts = [], []
    for i in range(len(captions)):
        for x in (clips, clips[:, :, :, ::-1], clips[:, ::-1]):
            row = list_clips(judge(x, captions, CONFIG))[i]
            cells.append(x[i])
            texts.append(f"{row['expected']} / {row['observed']}")
    write_gif(path, grid(cells, 3, texts, scale=4), fps=8)


def draw(folder: Path) -> None:
    """18_aligned.png, 18_frechet.png, 18_damage.gif."""
    aligned(folder / "18_aligned.png")
    bias(folder / "18_frechet.png")
    damage(folder / "18_damage.gif")
