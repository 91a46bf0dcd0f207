"""Turn sentences into GIFs.

    python sample.py --prompt "a 7 moving left"
    python sample.py --prompt "a 3 going up" "an 8 standing still" --guidance 3 --out grid.gif
    python sample.py --prompt "a 7 moving left" --trajectory      # the denoising itself
    python sample.py --checkpoint sprites --prompt "an orc walking left" --sheet orc.png
    python sample.py --checkpoint two_digits --prompt "a 3 moving up and a 5 going left"
    python sample.py --checkpoint two_digits --first-frame x.png --prompt "a 3 moving left"
    python sample.py --prompt "a 7 moving left" --frames 64 --then "a 7"
    python sample.py --checkpoint sprites --prompt "an orc walking left" --palette pico8
    python sample.py --morph "a 3 moving left" "an 8 moving left" --count 12
"""

import secrets
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import tinygif
from tinygif import gif
from tinygif.errors import check_range, expect, run_command
from tinygif.guidance import GUIDANCE_HELP
from tinygif.known import animate, familiar, read_clip, read_picture
from tinygif.morph import morph, there_and_back
from tinygif.palette import pixel_art, read_palette
from tinygif.pipeline import GeneratedClips, Pipeline, keep_compiled, spotlights
from tinygif.sampler import SolverName
from tinygif.sheet import cut_out, write_sheet
from tinygif.text import split

EXCLUSIVE = (
    ("--prompt", "--morph"), ("--between", "--first-frame or --last-frame"),
    ("--continue", "a picture"), ("--loop", "known frames"), ("--trajectory", "known frames"),
    ("--morph", "known frames"), ("--attention", "known frames"), ("--morph", "--loop"),
    ("--morph", "--trajectory"), ("--attention", "--trajectory"), ("--trajectory", "--resample"),
    ("--morph", "--resample"), ("--attention", "--resample"), ("--morph", "--attention"),
    ("--morph", "--then"), ("--attention", "--then"), ("--trajectory", "--then"),
)  # fmt: skip
"""Options of which only one makes sense."""


@dataclass(frozen=True)
class Options:
    """Options that are left out take the checkpoint's own values."""

    prompt: tuple[str, ...] = ()
    """One or more sentences; several make a captioned grid. "" for a model without captions."""
    first_frame: Path | None = None
    """A picture that clips begin with; the prompt may be left out."""
    last_frame: Path | None = None
    """A picture that clips end with."""
    between: tuple[Path, Path] | None = None
    """Two pictures: the first and the last frame."""
    go_on: Annotated[Path | None, tyro.conf.arg(name="continue")] = None
    """A GIF that clips begin with."""
    loop: bool = False
    """The last frame leads to the first; digits get half a clip more, which leads back."""
    resample: int | None = None
    """Take every denoising step this many times, going back by fresh noise in between: known
    frames and the others then agree better. 4 by default for a model not trained with them."""
    morph: tuple[str, str] | None = None
    """Two sentences instead: a GIF that goes from one to the other and back."""
    morph_grid: bool = False
    """All stages of the morph beside each other: the sentence changes from left to right, the
    noise from top to bottom."""
    checkpoint: Path | None = None
    """A run folder or a model file; by default the newest run."""
    lora: tuple[Path, ...] = ()
    """What runs with --lora have learned is added: their folders, lora.safetensors, or gameboy."""
    lora_scale: tuple[float, ...] = ()
    """How strongly each is added; 1 by default. Negative numbers take it away."""
    out: Path | None = None
    """x.gif, x.apng, x.mp4, or x.png (a strip of frames); by default named after the prompt."""
    count: int | None = None
    """Clips per prompt, 1 by default; or stages of a morph, 12, or of each side of its grid, 6."""
    seed: int | None = None
    """The same seed gives the same clips; by default a new one, which is printed."""
    steps: int | None = None
    """Denoising steps."""
    solver: SolverName | None = None
    eta: float | None = None
    """Fresh noise in each ddim step, 0 to 1."""
    guidance: Annotated[float | None, tyro.conf.arg(help=GUIDANCE_HELP)] = None
    negative_prompt: str | None = None
    """Guide away from this sentence instead of from no sentence."""
    temperature: float | None = None
    """Deviation of the first noise: below 1 clips are clearer, and more like each other."""
    dynamic_threshold: float | None = None
    """Rescale a guess of the clip if this quantile of it leaves the range of pixels; for example
    0.995."""
    frames: int | None = None
    """Number of frames, if it should differ from training. More are drawn window by window."""
    then: tuple[str, ...] = ()
    """Sentences for the later windows of a long clip, such as "a 7": its direction may change."""
    size: int | None = None
    """Side in pixels, if it should differ from training."""
    fps: int | None = None
    palette: str | None = None
    """Draw in few colours, the same in all frames: how many (16); pico8, sweetie16, gameboy, cga or
    1bit; or the colours of a file (.hex, .gpl, .gif, .png)."""
    dither: bool = False
    """Mix the pixels of two colours of the palette in a pattern, where one lies between them."""
    pixelate: int | None = None
    """Large pixels: this many in a row."""
    scale: int | None = None
    """Enlarge every pixel this many times; by default until a clip is about 128 pixels wide."""
    transparent: bool = False
    """Make the plain background of a clip and of a sheet transparent; a grid of clips keeps it."""
    sheet: Path | None = None
    """Also write all frames into one x.png, and x.json beside it, as games read them."""
    trajectory: bool = False
    """Show the denoising: a GIF that goes from noise to the clip, then plays it."""
    attention: bool = False
    """One copy of the clip for each word of the prompt, red where that word is looked at."""

    @property
    def is_film(self) -> bool:
        """Whether all clips become one GIF, there and back."""
        return self.morph is not None and not self.morph_grid

    @property
    def pictures(self) -> dict[int, Path]:
        """The pictures that are known frames, by their place: 0 for the first, -1 for the last."""
        first, last = self.between or (self.first_frame, self.last_frame)
        return {place: path for place, path in ((0, first), (-1, last)) if path is not None}

    @property
    def clips(self) -> int:
        """How many clips are sampled, once the count is known."""
        if self.morph is None:
            return len(self.prompt or (None,)) * self.count
        return self.count**2 if self.morph_grid else self.count


def progress_bar(steps: Iterable, total: int) -> Iterable:
    from tqdm import tqdm

    return tqdm(steps, total=total, desc="denoising", unit="step", disable=not sys.stderr.isatty())


def film(clips_of_steps: Iterable[np.ndarray]) -> np.ndarray:
    """The denoising as clips: step i shows frame i (modulo frames) of x_i, then the clip plays."""
    clips = list(clips_of_steps)
    frames = clips[-1].shape[1]
    noisy = [clip[:, i % frames] for i, clip in enumerate(clips)]
    return np.stack([*noisy, *clips[-1].swapaxes(0, 1)], axis=1)


def check_outputs(options: Options, out: Path, fps: int | float, frames: int) -> None:
    """Refuse, before anything is sampled, files that could not be written."""
    opaque = options.transparent and out.suffix.lower() == ".mp4"
    expect(not opaque, ".gif, .apng or .png for --transparent", out.name)
    gif.check_output(out, fps, frames)
    count = 1 if options.is_film else options.clips
    if options.sheet is not None:
        got = f"{str(options.sheet)!r}: change the extension"
        expect(options.sheet.suffix.lower() == ".png", "a --sheet that ends in .png", got)
        expect(options.sheet != out, "two files for --sheet and --out", str(out))
        gif.check_output(options.sheet, fps, frames)
        gif.fps_delays(frames, fps)
    if options.transparent:
        expect(not options.trajectory, "--transparent without --trajectory, which is noise", "both")
        one = count == 1 or options.sheet is not None
        expect(one, "one clip for --transparent, or --sheet", f"{count} clips")


def check_prompts(options: Options) -> Options:
    """The options with a count. Refuse contradictions between them."""
    prompts, pair, pictures = len(options.prompt), options.morph, bool(options.pictures)
    given = pictures or options.go_on is not None
    asked = {
        "--prompt": prompts > 0, "--morph": pair is not None, "--loop": options.loop,
        "--between": options.between is not None, "--continue": options.go_on is not None,
        "--first-frame or --last-frame": bool(options.first_frame or options.last_frame),
        "a picture": pictures, "known frames": given, "--trajectory": options.trajectory,
        "--attention": options.attention, "--resample": options.resample is not None,
        "--then": len(options.then) > 0,
    }  # fmt: skip
    for one, other in EXCLUSIVE:
        expect(not (asked[one] and asked[other]), f"{one} or {other}", "both: leave one out")
    check_range("resample", options.resample, 1)
    if pair is None:
        what = "at least one sentence after --prompt, or two after --morph"
        expect(prompts > 0 or given, what, "none")
        expect(not options.morph_grid, "two sentences after --morph for --morph-grid", "none")
        default = 1
    else:
        default = 6 if options.morph_grid else 12
    count = default if options.count is None else options.count
    if options.attention:
        expect(prompts == count == 1, "one sentence and one clip for --attention",
               f"{prompts} sentences, {count} clips")  # fmt: skip
    check_range("count", count, 1 if pair is None else 2)
    check_range("scale", options.scale, 1)
    colored = options.palette is not None or not options.dither
    expect(colored, "--palette with --dither", "--dither alone")
    return replace(options, count=count)


def main(options: Options) -> None:
    began = time.time()
    options = check_prompts(options)
    keep_compiled()
    pipeline = load_pipeline(options)
    data = pipeline.config.data
    check_range("pixelate", options.pixelate, 1, options.size or data.size)
    fps = data.fps if options.fps is None else options.fps
    out = choose_out(options)
    frames = 2 * options.count - 2 if options.is_film else options.frames or data.frames
    check_outputs(options, out, fps, frames)
    colors = None if options.palette is None else read_palette(options.palette)
    given = read_given(options, pipeline, fps)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    captions, clips = draw(options, pipeline, seed, given)
    if options.is_film:
        captions, clips = [" / ".join(options.morph)], there_and_back(clips)[None]
    clips = pixel_art(clips, colors, side=options.pixelate, dither=options.dither)
    if options.transparent:
        cut = np.stack([cut_out(clip) for clip in clips])
        clips = cut if len(clips) == 1 else clips  # a grid has captions on white
    if options.sheet is not None:
        write_sheet(options.sheet, cut if options.transparent else clips, captions, fps)
    gif.write(out, GeneratedClips(clips, captions, fps).picture(options.scale), fps)
    print(f"wrote {out} in {time.time() - began:.1f} s, seed {seed}")


def load_pipeline(options: Options) -> Pipeline:
    """The pipeline of --checkpoint, with what every --lora has learned."""
    alone = not options.lora and options.lora_scale
    expect(not alone, "--lora with --lora-scale", "--lora-scale alone")
    pipeline, scales = tinygif.load(options.checkpoint), options.lora_scale or (1.0,)
    scales = scales * len(options.lora) if len(scales) == 1 else scales
    got = f"{len(options.lora_scale)} for {len(options.lora)} --lora"
    expect(len(scales) == len(options.lora), "one --lora-scale, or one for each --lora", got)
    for path, scale in zip(options.lora, scales):
        from tinygif.lora import with_adapter  # needs the optimizer's packages, so not at the top

        pipeline = with_adapter(pipeline, path, scale)
    return pipeline


def choose_out(options: Options) -> Path:
    """The file to write: --out, or one named after the sentences or the files that are given."""
    inputs = [*options.pictures.values(), *([options.go_on] if options.go_on else [])]
    words = "_".join(split(" ".join(options.morph or options.prompt))[:8])
    name = words or "_".join([*(path.stem for path in inputs), "clip"])
    out = options.out or Path(f"{name}.gif")
    for path in inputs:
        same = out.resolve() == path.resolve()
        expect(not same, f"not to write over {path}", f"{out}: choose another --out")
    return out


def read_given(options: Options, pipeline: Pipeline, fps: int | float) -> dict[str, Any]:
    """The pictures or the GIF that are known, as `animate` takes them."""
    config = pipeline.config
    data = replace(config.data, size=options.size or config.data.size)
    if options.go_on:
        return {"start": read_clip(options.go_on, data, fps)}
    pictures = {place: read_picture(path, data) for place, path in options.pictures.items()}
    for picture, path in zip(pictures.values(), options.pictures.values()):
        far, usual = familiar(picture, replace(config, data=data)) or (0.0, 0.0)
        if far > usual:
            print(f"{path} is unlike the training data: {far:.0f} grey levels from the nearest, "
                  f"where up to {usual:.0f} are usual. Do not expect much.", file=sys.stderr)
    return {"pictures": pictures} if pictures else {}


def draw(
    options: Options, pipeline: Pipeline, seed: int, given: dict[str, Any]
) -> tuple[list[str], np.ndarray]:
    """Captions and clips (b, f, h, w, c); with --trajectory, the films of their denoising."""
    names = ("steps", "solver", "eta", "guidance", "negative_prompt", "temperature",
             "dynamic_threshold", "frames", "size")  # fmt: skip
    choices = {name: getattr(options, name) for name in names}
    steps = options.steps or pipeline.config.sample.sample_steps
    print(f"{pipeline.path}: {options.clips} clip(s) in {steps} steps", flush=True)
    if options.morph:
        clips = morph(pipeline, *options.morph, count=options.count, grid=options.morph_grid,
                      seed=seed, progress=progress_bar, **choices)  # fmt: skip
        return [""] * options.clips, clips
    prompts = [prompt for prompt in options.prompt or (None,) for _ in range(options.count)]
    choices |= dict(seed=seed, loop=options.loop or None)
    if options.attention:
        clip, words, maps = pipeline.attention(prompts[0], progress=progress_bar, **choices)
        return words, spotlights(clip, maps)
    if not options.trajectory:
        clips = animate(pipeline, prompts, resample=options.resample, then=options.then,
                        progress=progress_bar, **given, **choices)  # fmt: skip
        return [prompt or "" for prompt in prompts], clips
    noisy = (x for x, _ in progress_bar(pipeline.denoising(prompts, **choices), steps))
    return prompts, film(map(pipeline.model.codec.decode, noisy))


if __name__ == "__main__":
    run_command("sample.py", lambda: main(tyro.cli(Options, description=__doc__)))
