"""What a clip of sprites shows, found by comparing it with the sheets, part by part. Lesson 18."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from tinygif.codec import CLIP_COLORS, keep_commonest
from tinygif.config import Config
from tinygif.data import COLORS
from tinygif.metrics.report import Evaluation, Sample
from tinygif.metrics.stats import shares
from tinygif.sprites import (
    ACTIONS,
    BOTTOMS,
    HAIR,
    ORC,
    SHEETS,
    SIDES,
    SKINS,
    TOPS,
    Plan,
    Sheets,
    Sprites,
    draw_plan,
    fit,
)

COLUMNS = ("skin", "hair", "top", "trousers", "action", "facing", "all right")
PARTS = ("body", "hair", "topwear", "bottomwear")
"""The parts that a prompt of the evaluation names."""
CANDIDATES = 3  # of the actions and sides, those whose outline fits best are compared in full


class Reading(NamedTuple):
    """The plan that explains a clip best, and the difference that it leaves."""

    plan: Plan
    rms: float
    """Grey levels, root mean square."""


def evaluate_sprites(sample: Sample, config: Config, count: int, seed: int) -> Evaluation:
    """Percent of generated clips, and of real ones, that show what their prompt says.

    A quarter of the prompts are about characters that training never shows. The sheets are those of
    the checkpoint's `sprites_dir`; if that is a folder of another machine, those of the cache.
    """
    folder = config.data.sprites_dir
    folder = folder if folder is None or Path(folder).is_dir() else None
    dataset, data = Sprites(replace(config.data, sprites_dir=folder)), config.data
    rng = np.random.default_rng([seed, 6])
    held = np.arange(count) % 4 == 3
    plans = [draw_plan(rng, dataset.sheets, held_out=bool(h))._replace(background="white")
             for h in held]  # fmt: skip
    prompts = [full_caption(plan) for plan in plans]
    real = np.stack([dataset.sheets.draw(plan, data.frames, data.size) for plan in plans])
    clips, result = {"generated": sample(prompts), "real": real}, {}
    rows = ("sprites, seen", "sprites, held-out", "sprites, all")
    table = {row: {} for row in rows}
    for kind, some in clips.items():
        readings = [read_sprite(clip, dataset.sheets) for clip in some]
        right = np.array([compare(a, b.plan) for a, b in zip(plans, readings)])
        for row, chosen in zip(rows, (~held, held, held | True)):
            table[row][kind] = shares(right[chosen], COLUMNS)
        result[f"{kind} art"] = describe_art(some, readings, plans)
        if kind == "generated":
            result["clips"] = [
                dict(prompt=p, expected=describe(a), observed=describe(b.plan), right=bool(ok[-1]))
                for p, a, b, ok in zip(prompts, plans, readings, right)
            ]
    result |= {"table": table, "real clips": "drawn from the sheets for the same prompts"}
    return Evaluation(prompts, clips["generated"], real, result)


def full_caption(plan: Plan) -> str:
    """A caption that names all that the evaluation looks at, and only that."""
    who = "an orc" if plan.body == ORC else f"a {SKINS[plan.body]} person"
    wears = f"{TOPS[plan.topwear][0]} and {BOTTOMS[plan.bottomwear][0]}"
    does = f"{ACTIONS[plan.action].phrases[0]} {SIDES[plan.side][0]}"
    return f"{who} with {HAIR[plan.hair][0]} in {wears} {does}"


def compare(expected: Plan, observed: Plan) -> tuple[bool, ...]:
    """For each of COLUMNS whether it is right."""
    names = (*PARTS, "action", "side")
    right = [getattr(expected, name) == getattr(observed, name) for name in names]
    return (*right, all(right))


def describe(plan: Plan) -> str:
    """A plan in a few words."""
    parts = (SKINS[plan.body], HAIR[plan.hair][0], TOPS[plan.topwear][0])
    return ", ".join((*parts, BOTTOMS[plan.bottomwear][0], plan.action, plan.side))


def describe_art(
    clips: UInt8[np.ndarray, "b f h w 3"], readings: list[Reading], plans: list[Plan]
) -> dict[str, Any]:
    """Is it pixel art? Difference to what was read, colours, feet that stay, loops that close."""
    x = clips.astype(np.float32)
    steps = np.sqrt(((x - np.roll(x, 1, 1)) ** 2).mean((2, 3, 4)))  # the first is from the last
    walks = np.array([plan.action == "walk" for plan in plans])
    few = np.stack([keep_commonest(clip, CLIP_COLORS) for clip in clips]).astype(np.float32)
    feet = np.array([foot_drift(clip) for clip in clips])
    return {
        "RMS to what was read": float(np.mean([reading.rms for reading in readings])),
        "RMS to its 32 commonest colours": float(np.sqrt(((few - x) ** 2).mean())),
        "feet that drift by at most a pixel, %": percent(feet[~walks] <= 1),
        "walks that close their loop, %": percent(
            (steps[:, 0] <= 1.25 * steps[:, 1:].max(1, initial=0))[walks]
        ),
    }


def percent(right: np.ndarray) -> float:
    """Percent of true values; NaN of none."""
    return 100 * float(right.mean()) if right.size else float("nan")


def foot_drift(clip: UInt8[np.ndarray, "f h w 3"]) -> int:
    """By how many pixels the lowest drawn row moves between two frames, at most."""
    paper = paper_of(clip)
    drawn = (np.abs(clip.astype(int) - COLORS[paper]).max(-1) > 40).any(2)
    lowest = drawn.shape[1] - drawn[:, ::-1].argmax(1)
    return int(np.abs(np.diff(lowest)).max(initial=0))


def paper_of(clip: UInt8[np.ndarray, "f h w 3"]) -> str:
    """The colour of the background: the one nearest to the upper corners."""
    corner = np.median(clip[:, :4, [*range(4), *range(-4, 0)]].reshape(-1, 3), axis=0)
    return min(COLORS, key=lambda name: np.abs(np.array(COLORS[name]) - corner).sum())


def read_sprite(clip: UInt8[np.ndarray, "f h w 3"], sheets: Sheets) -> Reading:
    """The plan whose clip is nearest.

    Action and side are first judged by the outline. For the likeliest of them each part is chosen
    in turn, until no other sheet of any part comes nearer.
    """
    paper = paper_of(clip)
    drawn = np.abs(clip.astype(int) - COLORS[paper]).max(-1) > 40
    some = Plan(0, 0, 0, 0, 0, 0, "walk", "front", paper)
    starts = [some._replace(action=action, side=side) for action in ACTIONS for side in SIDES]
    starts.sort(key=lambda plan: outline_error(drawn, plan, sheets))
    return min((improve(clip, plan, sheets) for plan in starts[:CANDIDATES]),
               key=lambda reading: reading.rms)  # fmt: skip


def outline_error(drawn: Bool[np.ndarray, "f h w"], plan: Plan, sheets: Sheets) -> float:
    """Share of pixels that are drawn in the clip or in the body of this action, but not in both."""
    body = (sheets.layers(plan, len(drawn))[0, ..., None] > 0).astype(np.uint8)
    inside = fit(np.repeat(body, 3, -1), drawn.shape[1], (0, 0, 0))[..., 0] > 0
    return float((drawn ^ inside).mean())


def improve(clip: UInt8[np.ndarray, "f h w 3"], plan: Plan, sheets: Sheets) -> Reading:
    """The nearest plan of the same action, by changing one part at a time."""
    size, rms = clip.shape[1], np.inf
    while True:
        before = rms
        for part, digests in SHEETS.items():
            options = [plan._replace(**{part: n}) for n in range(len(digests))]
            errors = [difference(clip, sheets.draw(option, len(clip), size)) for option in options]
            plan, rms = options[int(np.argmin(errors))], min(errors)
        if rms >= before:
            return Reading(plan, rms)


def difference(a: UInt8[np.ndarray, "*x"], b: UInt8[np.ndarray, "*x"]) -> float:
    """Root mean square difference in grey levels."""
    return float(np.sqrt(np.mean(np.square(a.astype(np.float32) - b))))
