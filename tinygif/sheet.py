"""For games: clips without their background, and all frames in one sheet. Lesson 14.

A sheet is a PNG and a JSON file beside it, as Aseprite writes them; Godot, Phaser and Unity read
them. Every clip is a row of frames, and a tag of its own.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Bool, UInt8
from PIL import Image

from tinygif.errors import expect
from tinygif.files import write_whole
from tinygif.gif import fps_delays

NEAR = 24
"""A pixel is background if no channel differs by more than this from the background's colour."""
SHARE = 0.02
"""A group of pixels that makes up less of a figure than this is a speck."""


def cut_out(clip: UInt8[np.ndarray, "f h w c"]) -> UInt8[np.ndarray, "f h w 4"]:
    """The clip as RGBA, its plain background transparent.

    The background is what has the border's commonest colour and is connected with the frame's
    border; the same colour within the figure stays. Small specks go, too. Pixels are opaque or
    transparent.
    """
    rgb = np.broadcast_to(clip, (*clip.shape[:3], 3))
    edge = np.concatenate([rgb[:, [0, -1]].reshape(-1, 3), rgb[:, :, [0, -1]].reshape(-1, 3)])
    colors, counts = np.unique(edge, axis=0, return_counts=True)
    paper = np.abs(rgb.astype(int) - colors[counts.argmax()]).max(-1) <= NEAR
    drawn = ~flood(paper)
    drawn &= ~specks(drawn)
    alpha = np.where(drawn, 255, 0).astype(np.uint8)
    return np.concatenate([rgb * drawn[..., None], alpha[..., None]], axis=-1)


def flood(mask: Bool[np.ndarray, "f h w"]) -> Bool[np.ndarray, "f h w"]:
    """The part of a mask from which a path within it leads to the border, side by side."""
    reached = mask.copy()
    reached[:, 1:-1, 1:-1] = False
    count = 0
    while count != (count := int(reached.sum())):
        for axis in (1, 2):
            for shift in (1, -1):
                # wraps round, but pixels of the mask at the border are reached already
                reached |= np.roll(reached, shift, axis) & mask
    return reached


def specks(mask: Bool[np.ndarray, "f h w"]) -> Bool[np.ndarray, "f h w"]:
    """The groups of pixels that are a small SHARE of the mask of their frame.

    Pixels that touch at a side or a corner are of one group, which is named after its last pixel.
    """
    f, h, w = mask.shape
    names = np.zeros((f, h + 2, w + 2), int)
    names[:, 1:-1, 1:-1] = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    before = None
    while not np.array_equal(before, names):
        before = names.copy()
        near = np.lib.stride_tricks.sliding_window_view(names, (3, 3), axis=(1, 2)).max((-2, -1))
        names[:, 1:-1, 1:-1] = np.where(mask, near, 0)
    sizes = np.bincount(names.ravel())[names[:, 1:-1, 1:-1]]
    return mask & (sizes < SHARE * mask.sum((1, 2), keepdims=True))


def write_sheet(
    path: Path, clips: UInt8[np.ndarray, "b f h w c"], names: Sequence[str], fps: int | float
) -> None:
    """Write `x.png` and `x.json`: a row of frames for each clip, and where each frame is."""
    expect(path.suffix.lower() == ".png", "a sheet that ends in .png", repr(str(path)))
    b, f, h, w, c = clips.shape
    image = rearrange(clips, "b f h w c -> (b h) (f w) c")
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if c == 1 else image).convert("RGBA").save(file, "PNG")
    delays, size = fps_delays(f, fps).tolist(), {"w": w, "h": h}
    frames = {
        str(i * f + k): {
            "frame": {"x": k * w, "y": i * h, **size}, "rotated": False, "trimmed": False,
            "spriteSourceSize": {"x": 0, "y": 0, **size}, "sourceSize": size,
            "duration": delays[k],
        }
        for i in range(b) for k in range(f)
    }  # fmt: skip
    tags = [{"name": name, "from": i * f, "to": i * f + f - 1, "direction": "forward"}
            for i, name in enumerate(names)]  # fmt: skip
    meta = {"app": "tinygif", "version": "1.0", "image": path.name, "format": "RGBA8888",
            "size": {"w": f * w, "h": b * h}, "scale": "1", "frameTags": tags}  # fmt: skip
    write_whole(path, file.getvalue())
    whole = {"frames": frames, "meta": meta}
    write_whole(path.with_suffix(".json"), json.dumps(whole, indent=1).encode())
