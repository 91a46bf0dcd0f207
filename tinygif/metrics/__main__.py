"""Does the GIF show what the prompt says? Measure the clips of a trained model. Lesson 18.

    python -m tinygif.metrics                                    # of the newest run
    python -m tinygif.metrics --checkpoint runs/NAME --count 400 --guidance 2
    python -m tinygif.metrics --sweep guidance                   # a table and a plot
    python -m tinygif.metrics --checkpoint runs/NAME --free-prompts      # of a run with --text

Moving digits are read by the oracle; shapes are measured in their pixels; sprites are compared with
their sheets; clips of a model that was trained on a folder are compared with the training clips.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from tinygif.errors import TinygifError, expect, run_command
from tinygif.guidance import GUIDANCE_HELP
from tinygif.metrics.evaluation import SweepName, evaluate, sweep
from tinygif.metrics.report import format_report, format_table
from tinygif.pipeline import SHIPPED, keep_compiled, load
from tinygif.sampler import SolverName


@dataclass(frozen=True)
class Options:
    """Does the GIF show what the prompt says?"""

    checkpoint: Path | None = None
    """A run folder or a model file; by default the newest run."""
    count: int = 200
    """Clips to sample; if the model was trained on two digits, half of the clips show two."""
    seed: int = 0
    """The same seed gives the same prompts and the same clips."""
    steps: int | None = None
    """Denoising steps; the checkpoint's default when left out, as for solver and guidance."""
    solver: SolverName | None = None
    guidance: Annotated[float | None, tyro.conf.arg(help=GUIDANCE_HELP)] = None
    temperature: float | None = None
    """Deviation of the first noise."""
    no_time: bool = False
    """Switch off the layers that mix frames, to see how much they help."""
    free_prompts: bool = False
    """Measure other prompts about digits: in words that training never used, for a run with --text;
    else in known words, as no training caption says it."""
    sweep: SweepName | None = None
    """Measure several values of a setting instead, on prompts of one digit: a table and a plot."""
    clip_score: str | None = None
    """A CLIP model (clip, a hub id, a folder), to measure how well frames match their prompt."""
    sprites_dir: Path | None = None
    """The folder with the sheets of sprites, if it is another than in training."""
    out: Path | None = None
    """The folder for JSON and pictures; by default metrics/ beside the checkpoint of a run."""


def main(options: Options) -> None:
    if options.sweep and (options.clip_score or options.free_prompts):
        raise TinygifError(
            "--sweep measures one thing only: leave --clip-score and --free-prompts out"
        )
    keep_compiled()
    pipeline = load(options.checkpoint)
    if options.sprites_dir is not None:
        dataset, found = pipeline.config.data.dataset, options.sprites_dir.is_dir()
        expect(dataset == "sprites", "a checkpoint of sprites for --sprites-dir", dataset)
        expect(found, "a folder with the sheets as --sprites-dir", str(options.sprites_dir))
        data = replace(pipeline.config.data, sprites_dir=str(options.sprites_dir))
        pipeline.config = replace(pipeline.config, data=data)
    beside = Path() if pipeline.path.parent == SHIPPED.parent else pipeline.path.parent
    out = options.out or beside / "metrics"
    choices = dict(steps=options.steps, solver=options.solver, guidance=options.guidance,
                   temperature=options.temperature, count=options.count, seed=options.seed,
                   no_time=options.no_time)  # fmt: skip
    print(f"clips of {pipeline.path}:", flush=True)
    if options.sweep:
        rows = sweep(pipeline, options.sweep, out, **choices)
        table = {name: {"generated": row} for name, row in rows.items()}
        print(*format_table(table), sep="\n")
    else:
        result = evaluate(
            pipeline, out=out, free_prompts=options.free_prompts, clip_score=options.clip_score,
            **choices,
        )  # fmt: skip
        print(format_report(result))
    print(f"wrote {out}")


if __name__ == "__main__":
    run_command("metrics", lambda: main(tyro.cli(Options, description=__doc__)))
