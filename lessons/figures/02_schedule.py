"""Figures of lesson 02."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from tinygif.codec import Pixels  # noqa: E402
from tinygif.gif import grid, write  # noqa: E402
from tinygif.schedule import cosine, linear, rectified, scaled_linear  # noqa: E402


def cut_alpha(T: int = 300) -> np.ndarray:
    """The linear betas of 1000 steps, 0.0001 to 0.02, in T steps: the mistake of the lesson."""
    return np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, T)))


def curves(path: Path) -> None:
    """log-SNR against t / T of the four schedules, and of the linear one cut to T = 300."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    styles = {linear: "C0-", scaled_linear: "C1--", cosine: "C2-.", rectified: "C4:"}
    for make, style in styles.items():
        axes.plot(np.arange(1, 1000) / 1000, make(1000).log_snr[1:-1], style, lw=2,
                  label=f"{make.__name__}(1000)")
    alpha_bar = cut_alpha() ** 2
    axes.plot(np.arange(1, 301) / 300, np.log(alpha_bar / (1 - alpha_bar)), color="C3", lw=2,
              label="linear, cut to 300 steps")
    axes.axhline(0, color="gray", lw=0.8)
    axes.text(0.02, 0.3, "SNR = 1", color="gray")
    axes.set(xlabel="t / T", ylabel="log-SNR", ylim=(-14, 10), xlim=(0, 1))
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """02_log_snr.png, 02_cut.png."""
    curves(folder / "02_log_snr.png")
    clip = np.zeros((1, 32, 32, 1), np.uint8)
    clip[:, 5:28, 5:28] = 255
    pixels = Pixels(1)
    x0 = np.asarray(pixels.encode(clip))
    eps = np.random.default_rng(0).standard_normal(x0.shape)
    rows = {
        "cut": np.append(1, cut_alpha()),
        "scaled": np.asarray(linear(300).alpha),
    }
    steps = (0, 60, 120, 180, 240, 300)
    cells = [pixels.decode((a[t] * x0 + np.sqrt(1 - a[t] ** 2) * eps) / 2)
             for a in rows.values() for t in steps]
    captions = [f"{name}, t = {t}" for name in rows for t in steps]
    write(folder / "02_cut.png", grid(cells, len(steps), captions, scale=3))
