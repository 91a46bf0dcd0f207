"""What a clip of shapes shows, measured in its pixels; made for drawn clips, and for generated.

python tests/shape_reader.py runs/shapes-tiny     # how much of what is asked for is there
"""

import sys
from itertools import permutations

import numpy as np

import tinygif
from tinygif.shapes import COLORS, MOTIONS, Plan, draw, draw_plan, sentence

# Area^2 / (2 pi J), J the second moment about the centroid, of clips of 32 pixels: a disc has 1.
ROUNDNESS = {"circle": 0.99, "square": 0.94, "triangle": 0.81, "star": 0.74}


def read(clip: np.ndarray) -> Plan:
    """Shape, colours and motion of a clip uint8 (f, h, w, 3)."""
    color, background, cover = paint(clip)
    area, centre, moment = moments(cover)
    return Plan(shape_of(area, moment), color, background, motion_of(area, centre, clip.shape[1]))


def paint(clip: np.ndarray) -> tuple[str, str, np.ndarray]:
    """The two named colours whose mixes come nearest to all pixels; the share of the first."""
    x, names = clip.astype(float), {name: np.array(rgb, float) for name, rgb in COLORS.items()}
    most = np.median(x.reshape(-1, 3), axis=0)
    paper = min(names, key=lambda name: np.abs(names[name] - most).sum())
    best = None
    for ink, other in permutations(names, 2):
        if other == paper:
            axis = names[ink] - names[paper]
            cover = ((x - names[paper]) @ axis / (axis @ axis)).clip(0, 1)
            error = np.abs(x - names[paper] - cover[..., None] * axis).mean()
            if best is None or error < best[0]:
                best = error, ink, cover
    return best[1], paper, best[2]


def moments(cover: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Area, centroid (x, y) and second moment about it, for every frame."""
    y, x = np.mgrid[: cover.shape[1], : cover.shape[2]]
    cover = np.where(cover > 0.1, cover, 0)
    area = cover.sum((1, 2)) + 1e-6
    centre = np.stack([(cover * axis).sum((1, 2)) / area for axis in (x, y)], 1)
    gaps = (x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2
    return area, centre, (cover * gaps).sum((1, 2)) + area / 6  # and that of a pixel


def shape_of(area: np.ndarray, moment: np.ndarray) -> str:
    """By the larger half of the frames."""
    large = area >= np.median(area)
    value = np.median((area**2 / (2 * np.pi * moment))[large])
    return min(ROUNDNESS, key=lambda name: abs(ROUNDNESS[name] - value))


def motion_of(area: np.ndarray, centre: np.ndarray, side: int) -> str:
    """By what changes: the size, one coordinate, both, or neither."""
    if area.std() > 0.15 * area.mean():
        return "grow"
    across, down = np.ptp(centre, axis=0) > side / 8
    if across and down:
        away = np.linalg.norm(centre - (centre.max(0) + centre.min(0)) / 2, axis=1)
        return "circle" if away.std() < 0.12 * away.mean() else "bounce"
    return "left-right" if across else "up-down" if down else "spin"


def main(checkpoint: str, count: int = 120) -> None:
    """Percent of generated clips, and of real ones, that show what was asked for."""
    pipeline, rng = tinygif.load(checkpoint), np.random.default_rng(0)
    asked, real = [draw_plan(rng) for _ in range(count)], []
    prompts = [
        sentence(plan.color, plan.shape, MOTIONS[plan.motion][0], plan.background) for plan in asked
    ]
    for plan in asked:
        real.append(draw(plan, rng, pipeline.config.data.frames, pipeline.config.data.size))
    made = pipeline(prompts, seed=0).array
    for name, clips in {"generated": made, "real": real}.items():
        right = np.array([np.equal(read(clip), plan) for clip, plan in zip(clips, asked)])
        cells = zip([*Plan._fields, "all"], [*right.T, right.all(1)])
        shown = ", ".join(f"{field} {100 * column.mean():.1f}" for field, column in cells)
        print(f"{name}, percent of {count} right: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
