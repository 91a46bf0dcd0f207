"""Figure of lesson 09: a clip, its boxes, and the row of tokens."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinygif.config import DataConfig
from tinygif.moving_mnist import MovingMNIST

K, P = 4, 8


def cut(clip: np.ndarray, gap: int) -> np.ndarray:
    """Frames side by side, with a white gap around every box of P x P pixels."""
    frames = [np.pad(frame.reshape(32 // P, P, 32 // P, P), ((0, 0), (0, gap), (0, 0), (0, gap)),
                     constant_values=255).reshape(32 // P * (P + gap), -1)
              for frame in clip]  # fmt: skip
    return np.concatenate([np.pad(f, ((0, 0), (0, 6)), constant_values=255) for f in frames], 1)


def draw(folder: Path) -> None:
    """09_boxes.png."""
    data = MovingMNIST(DataConfig(mnist_dir="bundled", frames=2 * K))
    clip = data[3][0][..., 0]
    boxes = clip.reshape(2, K, 32 // P, P, 32 // P, P).transpose(0, 2, 4, 1, 3, 5)
    rows = boxes.reshape(-1, K * P, P)  # the frames of a box, one below the other
    row = np.concatenate([np.pad(b, ((0, 0), (0, 3)), constant_values=255) for b in rows], 1)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots(3, 1, height_ratios=[1, 1.1, 1.2])
    pictures = {
        "a clip of 8 frames": cut(clip, 0), "boxes of 8 x 8 pixels": cut(clip, 2),
        "32 tokens, each 4 frames of a box: first all boxes of frames 0 to 3, row by row": row,
    }  # fmt: skip
    for axis, (title, picture) in zip(axes, pictures.items()):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig(folder / "09_boxes.png", dpi=90)
