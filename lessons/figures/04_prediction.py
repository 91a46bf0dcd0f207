"""Figures of lesson 04, drawn by the networks that its own blocks train."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from lessons.conftest import run_lesson  # noqa: E402
from tinygif.codec import Pixels  # noqa: E402
from tinygif.gif import grid, write_gif  # noqa: E402

LESSON = Path(__file__).parent.parent / "04_prediction.md"


def rows(path: Path, generated: dict[str, np.ndarray]) -> None:
    """The first eight clips of each row, (b, 216), under the row's name."""
    clips = [Pixels(1).decode(x[:8].reshape(8, 6, 1, 6, 6)) for x in generated.values()]
    captions = [name for name in generated for _ in range(8)]
    write_gif(path, grid(np.concatenate(clips), 8, captions, scale=8), fps=6)


def weights(path: Path, snr: np.ndarray) -> None:
    """How much a squared error of x0 counts at t, by what the loss is measured on."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    t, snr = np.arange(1, 1001), snr.ravel()[1:]
    curves = {"x0: 1": (np.ones(1000), "C0-"), "eps: SNR": (snr, "C1-"),
              "v: 1 + SNR": (1 + snr, "C2--"), "min-SNR: min(SNR, 5)": (np.minimum(snr, 5), "C3:")}
    for name, (curve, style) in curves.items():
        axes.semilogy(t, curve, style, lw=2, label=name)
    axes.set(xlabel="t", ylabel="weight of a squared error of x0", xlim=(0, 1000), ylim=(1e-5, 1e5))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """04_trained.gif, 04_weights.png, 04_weighed.gif."""
    names = run_lesson(LESSON)
    rows(folder / "04_trained.gif", names["generated"])
    rows(folder / "04_weighed.gif", {"SNR": names["heavy"], "min-SNR": names["capped"],
                                     "x0 as v": names["mixed"]})
    weights(folder / "04_weights.png", names["snr"])
