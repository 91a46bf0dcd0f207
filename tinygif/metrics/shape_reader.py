"""What a clip of shapes shows, measured in its pixels, without anything trained. Lesson 18."""

import numpy as np
from jaxtyping import Float, UInt8

from tinygif.config import Config
from tinygif.data import COLORS
from tinygif.metrics.report import Evaluation, Sample
from tinygif.metrics.stats import shares
from tinygif.shapes import MOTIONS, Plan, draw_plan, draw_shape, sentence

COLUMNS = (*Plan._fields, "all right")
# Area^2 / (2 pi J), where J is the second moment about the centroid: 1 for a disc. At 32 pixels.
ROUNDNESS = {"circle": 0.99, "square": 0.94, "triangle": 0.81, "star": 0.74}


def evaluate_shapes(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """Percent of generated clips, and of real ones, that show what their prompt says."""
    rng, data = np.random.default_rng(seed), config.data
    plans = [draw_plan(rng) for _ in range(count)]
    prompts = [sentence(p.color, p.shape, MOTIONS[p.motion][0], p.background) for p in plans]
    real = np.stack([draw_shape(plan, rng, data.frames, data.size) for plan in plans])
    generated, table, rows = sample(prompts), {}, []
    for name, clips in {"real": real, "generated": generated}.items():
        observed = [read_shapes(clip) for clip in clips]
        right = np.array([np.equal(a, b) for a, b in zip(plans, observed)])
        right = np.concatenate([right, right.all(1, keepdims=True)], 1)
        table[name] = shares(right, COLUMNS)
        rows = [
            dict(prompt=p, expected=" ".join(a), observed=" ".join(b), right=bool(ok))
            for p, a, b, ok in zip(prompts, plans, observed, right[:, -1])
        ]
    result = {"table": {"shapes": table}, "real clips": "drawn for the same prompts", "clips": rows}
    return Evaluation(prompts, generated, real, result)


def read_shapes(clip: UInt8[np.ndarray, "f h w 3"]) -> Plan:
    """The shape, colours and motion that a clip shows."""
    color, background, cover = separate_colors(clip)
    area, centre, moment = moments(cover)
    return Plan(shape_of(area, moment), color, background, motion_of(area, centre, clip.shape[1]))


def separate_colors(
    clip: UInt8[np.ndarray, "f h w 3"],
) -> tuple[str, str, Float[np.ndarray, "f h w"]]:
    """Colour and background whose mixes fit all pixels best; the colour's share of each pixel."""
    x, names = clip.astype(float), {name: np.array(rgb, float) for name, rgb in COLORS.items()}
    median = np.median(x.reshape(-1, 3), axis=0)
    paper = min(names, key=lambda name: np.abs(names[name] - median).sum())
    errors, covers = {}, {}
    for ink in (name for name in names if name != paper):
        axis = names[ink] - names[paper]
        covers[ink] = ((x - names[paper]) @ axis / (axis @ axis)).clip(0, 1)
        errors[ink] = np.abs(x - names[paper] - covers[ink][..., None] * axis).mean()
    color = min(errors, key=errors.get)
    return color, paper, covers[color]


def moments(
    cover: Float[np.ndarray, "f h w"],
) -> tuple[Float[np.ndarray, " f"], Float[np.ndarray, "f 2"], Float[np.ndarray, " f"]]:
    """Area, centroid (x, y) and second moment about it, in pixels, for every frame."""
    y, x = np.mgrid[: cover.shape[1], : cover.shape[2]]
    cover = np.where(cover > 0.1, cover, 0)
    area = cover.sum((1, 2)) + 1e-6
    centre = np.stack([(cover * axis).sum((1, 2)) / area for axis in (x, y)], 1)
    squares = (x - centre[:, :1, None]) ** 2 + (y - centre[:, 1:, None]) ** 2
    return area, centre, (cover * squares).sum((1, 2)) + area / 6  # a pixel has a moment of 1/6


def shape_of(area: Float[np.ndarray, " f"], moment: Float[np.ndarray, " f"]) -> str:
    """The shape of the nearest roundness, by the half of the frames where it is largest."""
    large = area >= np.median(area)
    value = np.median((area**2 / (2 * np.pi * moment))[large])
    return min(ROUNDNESS, key=lambda name: abs(ROUNDNESS[name] - value))


def motion_of(area: Float[np.ndarray, " f"], centre: Float[np.ndarray, "f 2"], side: int) -> str:
    """The motion, by what changes: the size, one coordinate, both, or neither."""
    if area.std() > 0.15 * area.mean():
        return "grow"
    across, down = np.ptp(centre, axis=0) > side / 8
    if across and down:
        radius = np.linalg.norm(centre - (centre.max(0) + centre.min(0)) / 2, axis=1)
        return "circle" if radius.std() < 0.12 * radius.mean() else "bounce"
    return "left-right" if across else "up-down" if down else "spin"
