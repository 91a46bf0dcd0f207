"""Everything on this machine, in the browser: draw, watch, keep, download. Lesson 13.

    python -m pip install -e ".[app]" && python -m tinygif.app

The page is Gradio's. It listens on this machine only, unless --host says otherwise; nothing is sent
elsewhere. `/gif` is its API: a prompt and settings in, a GIF and the command that makes it out.
"""

import base64
import contextlib
import dataclasses
import importlib.util
import math
import os
import queue
import shlex
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from tinygif.errors import TinygifError, check_range, expect, run_command
from tinygif.gif import encode_gif, fps_delays, write
from tinygif.known import animate, read_picture
from tinygif.lora import with_adapter
from tinygif.morph import morph, there_and_back
from tinygif.palette import PALETTES, pixel_art, read_palette
from tinygif.pipeline import NAMES, GeneratedClips, Pipeline, keep_compiled, load, unwatched
from tinygif.sampler import SOLVERS

PROMPT, COUNT, STEPS, WAITING, KEPT = 400, 6, 100, 16, 12
"""At most so many letters in a prompt, clips, denoising steps, requests that wait, and clips that a
visitor's gallery keeps."""
PICTURE_MB = 5
"""The largest picture that may be uploaded."""


@dataclass(frozen=True)
class Wish:
    """What is to be drawn."""

    prompt: str = ""
    seed: int = 0
    checkpoint: str = "moving_mnist"
    negative_prompt: str = ""
    steps: int = 10
    guidance: float = 3.0
    solver: str = "dpmpp"
    count: int = 1
    loop: bool = False
    morph_to: str = ""
    palette: str = ""
    lora: str = ""
    lora_scale: float = 1.0

    def check(self, checkpoints: list[str], adapters: list[str]) -> None:
        """Raises TinygifError for what is too large, or not there."""
        for name in ("prompt", "negative_prompt", "morph_to"):
            length = len(getattr(self, name))
            expect(length <= PROMPT, f"at most {PROMPT} letters in {name}", length)
        check_range("seed", self.seed, 0, 2**32 - 1)
        check_range("steps", self.steps, 1, STEPS)
        check_range("count", self.count, 1, COUNT)
        for name, most in (("guidance", 100), ("lora_scale", 10)):
            value = getattr(self, name)
            expect(math.isfinite(value) and abs(value) <= most, f"{name} up to {most}", value)
        for name, known in (("checkpoint", checkpoints), ("lora", ["", *adapters]),
                            ("palette", ["", *PALETTES]), ("solver", list(SOLVERS))):  # fmt: skip
            value = getattr(self, name)
            expect(value in known, f"{name} of {', '.join(known)}", value[:80])

    def command(self, picture: str = "") -> str:
        """The command that draws the same; picture: the name of the first frame's file."""
        words = ["python", "sample.py", "--checkpoint", self.checkpoint]
        words += ["--first-frame", picture] * (picture != "")
        if self.morph_to:
            words += ["--morph", self.prompt, self.morph_to]
        else:
            words += ["--prompt", self.prompt] * (self.prompt != "" or not picture)
            words += ["--count", str(self.count)]
        for name in ("seed", "steps", "guidance", "solver", "negative_prompt", "palette", "lora"):
            if (value := getattr(self, name)) != "":
                words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--lora-scale", str(self.lora_scale)] * bool(self.lora)
        return shlex.join([*words, *["--loop"] * self.loop])


def read_wish(values: dict[str, Any]) -> Wish:
    """A wish from anybody's values. Raises TinygifError for one of the wrong kind."""
    for field in dataclasses.fields(Wish):
        value, kind = values.get(field.name, field.default), field.type
        kinds = (int, float) if kind is float else kind
        fits = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
        expect(fits, f"{field.name} as {kind.__name__}", str(value)[:80])
    return Wish(**values)


@lru_cache(maxsize=4)
def open_model(checkpoint: str, lora: str, scale: float) -> Pipeline:
    """A checkpoint with an adapter, kept for the next request."""
    pipeline = load(checkpoint)
    return with_adapter(pipeline, Path(lora), scale) if lora else pipeline


def model_of(wish: Wish) -> Pipeline:
    """The model that a wish names."""
    return open_model(wish.checkpoint, wish.lora, wish.lora_scale if wish.lora else 1.0)


class Left(Exception):
    """Nobody waits for the clips any more."""


def draw(wish: Wish, picture: Path | None = None) -> Iterator[tuple[np.ndarray, str]]:
    """Clips (b, f, h, w, c): the guess after every denoising step, with a note; then the result.

    picture: the first frame. The work is done in a thread, whose steps are passed on as they come;
    it ends when nobody takes them any more.
    """
    pipeline, results, left = model_of(wish), queue.Queue(), threading.Event()

    def watch(trajectory: Iterable, total: int) -> Iterator:
        for step, (x, guess) in enumerate(trajectory, 1):
            if left.is_set():
                raise Left
            results.put((pipeline.model.codec.decode(guess), f"step {step} of {total}"))
            yield x, guess

    def work() -> None:
        try:
            results.put((finish(wish, pipeline, picture, watch), ""))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            clips, note = results.get()
            if clips is None:
                raise note
            yield clips, note
            if note == "":
                return
    finally:  # also if the visitor closes the page
        left.set()
        thread.join()


def finish(wish: Wish, pipeline: Pipeline, picture: Path | None, watch: Any) -> np.ndarray:
    """The clips of a wish, in the colours of its palette."""
    options = dict(seed=wish.seed, steps=wish.steps, guidance=wish.guidance, solver=wish.solver,
                   negative_prompt=wish.negative_prompt or None, progress=watch)  # fmt: skip
    if wish.morph_to:
        expect(picture is None and not wish.loop, "a morph without first frame and loop", "both")
        stages = morph(pipeline, wish.prompt, wish.morph_to, count=12, **options)
        clips = there_and_back(stages)[None]
    else:
        expect(picture is None or not wish.loop, "a first frame or a loop", "both")
        known = {} if picture is None else {0: read_picture(picture, pipeline.config.data)}
        prompt = wish.prompt or (None if known else "")
        clips = animate(pipeline, [prompt] * wish.count, pictures=known, loop=wish.loop or None,
                        **options)  # fmt: skip
    return pixel_art(clips, read_palette(wish.palette) if wish.palette else None)


def gif_of(clips: np.ndarray, wish: Wish) -> tuple[np.ndarray, bytes]:
    """All clips as one picture, and its GIF."""
    fps = model_of(wish).config.data.fps
    picture = GeneratedClips(clips, [wish.prompt] * len(clips), fps).picture()
    return picture, encode_gif(picture, fps_delays(len(picture), fps))


def figure(
    clips: np.ndarray, wish: Wish, note: str, done: bool = True, shown: str = ""
) -> str:  # fmt: skip
    """The clips as HTML, with what may be downloaded and the command that makes them again.

    shown: the name of the picture that they begin with.
    """
    picture, data = gif_of(clips, wish)
    image = f"data:image/gif;base64,{base64.b64encode(data).decode()}"
    style = "image-rendering: pixelated; min-width: 160px"
    html = f'<figure><img style="{style}" src="{image}" alt="{escape(wish.prompt)}">'
    links = [f'<a download="clip.gif" href="{image}">GIF</a>']
    if done and importlib.util.find_spec("imageio_ffmpeg"):
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "clip.mp4"
            write(film, picture, model_of(wish).config.data.fps)
            coded = base64.b64encode(film.read_bytes()).decode()
        links.append(f'<a download="clip.mp4" href="data:video/mp4;base64,{coded}">MP4</a>')
    rest = f"{' '.join(links)}<br><code>{escape(wish.command(shown))}</code>" if done else ""
    return f"{html}<figcaption>{escape(note)} {rest}</figcaption></figure>"


# ---- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Where the page is, and what can be chosen on it."""

    checkpoints: tuple[str, ...] = ()
    """Further run folders; by default all in runs/."""
    host: str = "127.0.0.1"
    """0.0.0.0 lets other machines in."""
    port: int = 7860


def choices(options: Options) -> tuple[list[str], list[str]]:
    """The checkpoints and the adapters that can be chosen."""
    runs = options.checkpoints or sorted(str(path) for path in Path("runs").glob("*/"))
    models = [run for run in runs if (Path(run) / "model.safetensors").is_file()]
    adapters = [run for run in runs if (Path(run) / "lora.safetensors").is_file()]
    return [*NAMES, *models], ["gameboy", *adapters]


def build(options: Options) -> Any:
    """The Gradio page and its API."""
    import gradio as gr

    checkpoints, adapters = choices(options)

    @contextlib.contextmanager
    def safely() -> Iterator[None]:
        """Errors as sentences. What nobody foresaw is printed here, and not told there."""
        try:
            yield
        except TinygifError as error:
            raise gr.Error(str(error)) from None
        except Exception:
            traceback.print_exc()
            raise gr.Error("this did not work: expected values as the page sends them") from None

    def show(gallery: list[str], picture: str | None, *values: Any) -> Iterator:
        with safely():
            wish, began = read_wish(dict(zip(vars(Wish()), values))), time.time()
            wish.check(checkpoints, adapters)
            path = None if picture is None else Path(picture)
            for clips, note in draw(wish, path):
                if note:
                    yield figure(clips, wish, note, done=False), gallery, "".join(gallery)
            name = "" if path is None else path.name
            html = figure(clips, wish, f"{time.time() - began:.1f} s", shown=name)
            kept = [html, *gallery][:KEPT]
            yield html, kept, "".join(kept)

    def gif(
        prompt: str, seed: int = 0, checkpoint: str = "moving_mnist", negative_prompt: str = "",
        steps: int = 10, guidance: float = 3.0, solver: str = "dpmpp", count: int = 1,
        loop: bool = False, morph_to: str = "", palette: str = "", lora: str = "",
        lora_scale: float = 1.0,
    ) -> dict[str, str]:  # fmt: skip
        """The GIF of a prompt, in base64, and the command that makes it."""
        given = locals()
        values = {name: given[name] for name in vars(Wish())}
        with safely():
            wish = read_wish(values)
            wish.check(checkpoints, adapters)
            clips = finish(wish, model_of(wish), None, unwatched)
            data = base64.b64encode(gif_of(clips, wish)[1]).decode()
            return {"gif": data, "command": wish.command()}

    with gr.Blocks(title="tinygif", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gallery = gr.State([], time_to_live=3600)
        gr.Markdown("# Text to GIF\nDiffusion models that draw small moving pictures.")
        with gr.Row():
            with gr.Column():
                prompt = gr.Textbox("a 7 moving left", label="What should move?", max_length=PROMPT)
                checkpoint = gr.Dropdown(checkpoints, label="Model")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0)
                    count = gr.Slider(1, COUNT, 1, step=1, label="Clips")
                with gr.Accordion("More", open=False):
                    negative = gr.Textbox("", label="Away from", max_length=PROMPT)
                    steps = gr.Slider(1, STEPS, 10, step=1, label="Steps")
                    guidance = gr.Slider(0, 10, 3, label="Guidance")
                    solver = gr.Dropdown(list(SOLVERS), value="dpmpp", label="Solver")
                    loop = gr.Checkbox(False, label="Loop")
                    to = gr.Textbox("", label="Morph to", max_length=PROMPT)
                    palette = gr.Dropdown(["", *PALETTES], value="", label="Palette")
                    lora = gr.Dropdown(["", *adapters], value="", label="Adapter")
                    scale = gr.Slider(-1, 2, 1, label="Its scale")
                    picture = gr.File(label="First frame", file_types=["image"])
                button = gr.Button("Draw", variant="primary")
            with gr.Column():
                result = gr.HTML()
        kept = gr.HTML(label="Drawn before")
        inputs = [gallery, picture, prompt, seed, checkpoint, negative, steps, guidance, solver,
                  count, loop, to, palette, lora, scale]  # fmt: skip
        gr.on([button.click, prompt.submit], show, inputs, [result, gallery, kept],
              api_visibility="private", concurrency_id="draw", concurrency_limit=1)  # fmt: skip
        gr.api(gif, api_name="gif", concurrency_id="draw", concurrency_limit=1)
    return page.queue(max_size=WAITING)


def main(options: Options) -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "tinygif-app"))
    if importlib.util.find_spec("gradio") is None:
        raise TinygifError('gradio is missing: python -m pip install "tinygif[app]"')
    keep_compiled()
    build(options).launch(server_name=options.host, server_port=options.port, share=False,
                          max_file_size=f"{PICTURE_MB}mb", show_error=True)  # fmt: skip


if __name__ == "__main__":
    run_command("tinygif.app", lambda: main(tyro.cli(Options, description=__doc__)))
