"""Figures of lesson 14."""

import tempfile
from pathlib import Path

import numpy as np

from tinygif.clips import Settings, prepare_clips, show_clips
from tinygif.config import DataConfig
from tinygif.data import COLORS
from tinygif.gif import grid, read_gif, resample, write_gif
from tinygif.shapes import MOTIONS, Shapes


def turn(frames: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, frames, endpoint=False)


ARC = 40 * (1 - np.linspace(-0.9, 0.9, 10) ** 2)
FILMS = {
    "jumps": (np.full(30, 32), 52 - np.append(np.zeros(20), ARC), [20] * 20 + [80] * 10),
    "rolls": (32 - 20 * np.cos(turn(24)), np.full(24, 52), [50] * 24),
    "circles": (32 + 18 * np.sin(turn(12)), 32 - 18 * np.cos(turn(12)), [100] * 12),
}


def ball(x: float, y: float, color: str) -> np.ndarray:
    """A frame of the lesson, uint8 (64, 64, 3)."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    inside = np.hypot(across - x, down - y) < 10
    return np.where(inside[..., None], COLORS[color], 255).astype(np.uint8)


def write_balls(folder: Path) -> None:
    """The folder of the lesson."""
    for color in ("red", "green", "blue"):
        for motion, (xs, ys, delays) in FILMS.items():
            path = folder / f"{color}_{motion}.gif"
            clip = np.stack([ball(x, y, color) for x, y in zip(xs, ys)])
            write_gif(path, clip, delays=delays)
            path.with_suffix(".txt").write_text(f"a {color} ball {motion}")


def draw(folder: Path) -> None:
    """14_shapes.gif, 14_balls.gif, 14_time.gif."""
    shapes, chosen = Shapes(DataConfig(dataset="shapes", channels=3)), {}
    for i in range(60):  # one of each motion
        clip, caption = shapes[i]
        for motion, phrases in MOTIONS.items():
            if " ".join(caption.split()[3:-4]) in phrases:
                chosen.setdefault(motion, (clip, caption))
    clips, captions = zip(*chosen.values())
    write_gif(folder / "14_shapes.gif", grid(clips, 3, captions, scale=4), fps=8)

    with tempfile.TemporaryDirectory() as name:
        balls, prepared = Path(name) / "balls", Path(name) / "prepared"
        balls.mkdir()
        write_balls(balls)
        prepare_clips(balls, prepared, Settings(32, 16), workers=1)
        show_clips(prepared, folder / "14_balls.gif", 9)
        clip, delays = read_gif(balls / "red_jumps.gif")
    ways = [clip[:16], clip[np.arange(16) * 30 // 16], resample(clip, delays, 16)]
    ways = [np.pad(way, [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=160) for way in ways]
    captions = ["the first 16 frames", "16 frames by number", "16 frames by time"]
    write_gif(folder / "14_time.gif", grid(ways, 3, captions, scale=2), fps=16 / 1.2)
