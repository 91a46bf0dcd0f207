"""What an evaluation found, and how people see it: text, a GIF of failures, a plot. Lesson 18."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from tinygif import gif
from tinygif.log import plot

Sample = Callable[[Sequence[str]], UInt8[np.ndarray, "b f h w c"]]
"""A function that generates a clip for each prompt."""


class Evaluation(NamedTuple):
    """Prompts, generated clips, real clips of the same captions, and what was found.

    `result` holds plain values for JSON. `format_report` and `write_failures` show the parts that
    it has.
    """

    prompts: Sequence[str]
    generated: UInt8[np.ndarray, "b f h w c"]
    real: UInt8[np.ndarray, "b f h w c"]
    result: dict[str, Any]


def format_report(result: dict[str, Any]) -> str:
    """The result of `evaluate` for people."""
    lines = format_table(result["table"]) if "table" in result else []
    if mistakes := result.get("mistakes"):
        told = ", ".join(f"{name} {percent:.1f}" for name, percent in mistakes.items())
        lines += [f"mistakes with two digits, percent of clips: {told}"]
    if steady := result.get("consistency"):
        lines += [f"frames that show their clip's digit: {steady['generated']:.1f}%, real "
                  f"{steady['real']:.1f}%"]  # fmt: skip
    if constant := result.get("constancy"):
        lines += [f"constancy of shape: {constant['generated']:.3f}, real {constant['real']:.3f}"]
    if frechet := result.get("frechet"):
        lines += [
            f"Frechet distance to {frechet['n']} real clips (the oracle's features and tracks, no "
            f"FVD): {frechet['generated']:.2f}, of as many other real clips {frechet['real']:.2f}"
        ]
    elif "frechet" in result:
        lines += ["Frechet distance: does not apply, too few clips show a digit"]
    if nearest := result.get("nearest"):
        ours, theirs, ratio = nearest["generated"], nearest["real"], nearest["ratio"]
        lines += [
            f"nearest of {nearest['training digits']} training digits, RMS: median "
            f"{ours['median']:.3f}, 1% {ours['1%']:.3f}; real {theirs['median']:.3f}, "
            f"{theirs['1%']:.3f}; ratio {ratio['median']:.2f}, {ratio['1%']:.2f}"
        ]
    elif "nearest" in result:
        lines += ["nearest training digit: does not apply, the digits that it was trained on are "
                  "not known or not here, or too few clips show a digit"]  # fmt: skip
    if left_out := (frechet or nearest or {}).get("without a digit"):
        lines += [f"clips without a digit, left out of the Frechet distance and of the nearest "
                  f"digit: {left_out}"]  # fmt: skip
    lines += [f"{name}: {value:.1f}" for name, value in result.get("training clips", {}).items()]
    for name in result.get("generated art", {}):
        ours, theirs = result["generated art"][name], result["real art"][name]
        lines += [f"{name}: {ours:.1f}, real {theirs:.1f}"]
    if cosines := result.get("clip score"):
        lines += [f"CLIP score, mean cosine of frames and prompt: {cosines['generated']:.4f}, real "
                  f"{cosines['real']:.4f}"]  # fmt: skip
    return "\n".join([*lines, f"real clips: {result['real clips']}"])


def format_table(table: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of a table {row: {"generated": shares, "real": shares}}, headings first."""
    filled = next(row for rows in table.values() for row in rows.values() if row)
    columns = [name for name in filled if name != "n"]
    width = max(30, *map(len, table))
    heads = "   ".join(f"{name:>20}" for name in columns)
    lines = [f"{'percent right [95%]':{width + 4}}n  {heads}"]
    for name, rows in table.items():
        if "generated" in rows:
            lines.append(format_row(f"{name:{width}}", rows["generated"]))
        if rows.get("real"):
            label = "   real clips" if "generated" in rows else f"   {name}"
            lines.append(format_row(f"{label:{width}}", rows["real"]))
    return [*lines, ""]


def format_row(label: str, row: dict[str, Any] | None) -> str:
    """One line: a label and `shares`."""
    if row is None:
        return f"{label} does not apply"
    cells = [cell for column, cell in row.items() if column != "n"]
    texts = (f"{c['percent']:5.1f} [{c['low']:5.1f}, {c['high']:5.1f}]" for c in cells)
    return f"{label}{row['n']:5}  " + "   ".join(texts)


def write_failures(path: Path, evaluation: Evaluation, fps: int) -> None:
    """A GIF of up to 36 clips that are not all right, with what was expected and observed."""
    rows = evaluation.result.get("clips", [])
    wrong = [i for i, row in enumerate(rows) if not row["right"]][:36]
    path.unlink(missing_ok=True)
    if wrong:
        texts = [f"{rows[i]['expected']} / {rows[i]['observed']}" for i in wrong]
        clips = evaluation.generated[wrong]
        scale = max(1, 96 // clips.shape[2])
        gif.write_gif(path, gif.grid(clips, captions=texts, scale=scale), fps)


def draw_sweep(path: Path, name: str, rows: dict[str, Any]) -> None:
    """Percent right over the values of a setting, with intervals; real clips are the last."""
    positions, columns = np.arange(len(rows)), [column for column in rows["real"] if column != "n"]
    options = dict(xticks=positions, xticklabels=list(rows), xlabel=name, ylabel="percent right")
    with plot(path, **options) as axis:
        for k, column in enumerate(columns):
            cells = [row[column] for row in rows.values()]
            middle, *ends = np.array([[c[i] for c in cells] for i in ("percent", "low", "high")])
            bars = np.abs(ends - middle)
            axis.errorbar(positions + 0.05 * k, middle, bars, label=column, marker="o", capsize=2)
