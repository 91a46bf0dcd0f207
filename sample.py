"""Turn sentences into GIFs.

    python sample.py --prompt "a 7 moving left"
    python sample.py --prompt "a 3 going up" "an 8 standing still" --guidance 3 --out grid.gif
    python sample.py --prompt "a 7 moving left" --trajectory      # the denoising itself
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro


@dataclass(frozen=True)
class Options:
    """Turn sentences into GIFs with a trained model."""

    prompt: tuple[str, ...]
    """One or more sentences; several make a captioned grid. "" for a model without captions."""
    checkpoint: Path | None = None
    """A run folder or a model file; by default the newest run."""
    out: Path | None = None
    """x.gif, x.mp4, or x.png (a strip of frames); by default named after the prompt."""
    count: int = 1
    """Clips per prompt."""
    seed: int | None = None
    """The same seed gives the same clips; by default a new one, which is printed."""
    steps: int | None = None
    """Denoising steps; the checkpoint's default when left out, as for solver and guidance."""
    solver: Literal["ddpm", "ddim", "dpmpp"] | None = None
    eta: float | None = None
    """Fresh noise in each ddim step, 0 to 1."""
    guidance: float | None = None
    """0 ignores the prompt, 1 follows it, above 1 exaggerates it."""
    negative_prompt: str | None = None
    """Guide away from this sentence instead of from no sentence."""
    dynamic_threshold: float | None = None
    """Rescale guesses whose p-quantile leaves the range of pixels, for example 0.995."""
    frames: int | None = None
    """Another number of frames than trained on."""
    size: int | None = None
    """Another side than trained on, in pixels."""
    fps: int | None = None
    scale: int | None = None
    """Enlarge every pixel so many times; by default to about 128 pixels."""
    trajectory: bool = False
    """Show the denoising: a GIF that goes from noise to the clip, then plays it."""


def bar(steps: Iterable, total: int) -> Iterable:
    from tqdm import tqdm

    return tqdm(steps, total=total, desc="denoising", unit="step", disable=not sys.stderr.isatty())


def film(trajectory: Iterable, total: int) -> np.ndarray:
    """The denoising as clips: step i shows frame i (modulo frames) of x_i, then the clip plays."""
    from tinygif.gif import to_clip

    steps = [to_clip(np.asarray(x)) for x, _ in bar(trajectory, total)]
    frames = steps[-1].shape[1]
    noisy = [x[:, i % frames] for i, x in enumerate(steps)]
    return np.stack([*noisy, *steps[-1].swapaxes(0, 1)], axis=1)


def main(options: Options) -> None:
    began = time.time()
    import tinygif
    from tinygif import gif
    from tinygif.pipeline import keep_compiled

    keep_compiled()
    pipeline = tinygif.load(options.checkpoint)
    data, defaults = pipeline.config.data, pipeline.config.diffusion
    if options.scale is not None and options.scale < 1:
        raise ValueError(f"expected a scale of at least 1, got {options.scale}")
    prompts = [prompt for prompt in options.prompt for _ in range(options.count)]
    seed = options.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    steps = defaults.sample_steps if options.steps is None else options.steps
    choices = dict(
        seed=seed, steps=steps, guidance=options.guidance, negative_prompt=options.negative_prompt,
        solver=options.solver, eta=options.eta, dynamic_threshold=options.dynamic_threshold,
        frames=options.frames, size=options.size,
    )  # fmt: skip
    print(f"{pipeline.path}: {len(prompts)} clip(s) in {steps} steps", flush=True)
    if options.trajectory:
        clips = film(pipeline.denoising(prompts, **choices), steps)
    else:
        clips = pipeline(prompts, progress=bar, **choices).array
    scale = max(1, 128 // clips.shape[2]) if options.scale is None else options.scale
    if len(clips) == 1:
        picture = gif.enlarge(clips[0], scale)
    else:
        picture = gif.grid(clips, captions=prompts, scale=scale)
    out = options.out or Path(("_".join(options.prompt[0].split()[:8]) or "clip") + ".gif")
    gif.write(out, picture, data.fps if options.fps is None else options.fps)
    print(f"wrote {out} in {time.time() - began:.1f} s, seed {seed}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except (ValueError, OSError, ImportError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)
