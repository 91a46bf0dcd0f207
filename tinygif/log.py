"""The log of a run: a line of JSON every few steps, and the curve drawn from it. Lesson 15."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tinygif.errors import TinygifError
from tinygif.files import whole_file, write_whole
from tinygif.training import TrainState, check_finite

FILE, CURVE = "log.jsonl", "loss.png"
NUMBERS = {"step", "loss", "held_out_loss"}
"""What every line has, whatever else it holds."""
BAR = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def read_lines(folder: Path) -> list[dict]:
    """The lines of a run's log. Damaged ones, or ones that a kill cut short, are left out."""
    try:
        texts = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and NUMBERS <= line.keys() and is_number(line["step"]):
                lines.append(line)
    return lines


def is_number(value: object) -> bool:
    return isinstance(value, int | float)


class Log:
    """What a run has spent so far, and the numbers of its steps since the last line.

    `seconds` and `tflop` begin with what earlier processes spent on the run. Lines beyond `step`
    are deleted: the steps after the last checkpoint are done again.
    """

    def __init__(self, folder: Path, step: int, seconds: float, tflop: float):
        self.folder, self.tflop = folder, tflop
        kept = [line for line in read_lines(folder) if line["step"] <= step]
        write_whole(folder / FILE, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._began = time.monotonic() - seconds
        self._line_began, self._clips, self._waited, self._steps = time.monotonic(), 0, 0.0, []
        self._running, self._bar = None, None

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier processes included."""
        return time.monotonic() - self._began

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time that the block takes as time spent waiting for a batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def begin_step(self, step: int, logs: dict[str, jax.Array], clips: int, tflop: float) -> None:
        """Count a step that has just begun; while it runs, take the numbers of the one before."""
        self.finish_step()
        self._running = logs, step
        self._clips += clips
        self.tflop += tflop

    def finish_step(self) -> None:
        """Wait for the running step to end, and take its numbers. Raises TinygifError for NaN."""
        if self._running:
            self._steps.append(check_finite(*self._running))
        self._running = None

    def write_line(self, step: int, progress: float, held_out_loss: jax.Array | None) -> None:
        """Append a line with the means over the steps since the last one; move the progress bar."""
        self.finish_step()
        elapsed = time.monotonic() - self._line_began
        mean = lambda name: float(np.mean([numbers[name] for numbers in self._steps]))  # noqa: E731
        line = {
            "step": step, "loss": mean("loss"),
            "held_out_loss": None if held_out_loss is None else float(held_out_loss),
            "gradient_norm": mean("gradient_norm"), "rate": self._steps[-1]["rate"],
            "clips_per_second": self._clips / elapsed, "waiting": self._waited / elapsed,
            "tflop": self.tflop, "seconds": self.seconds,
        }  # fmt: skip
        try:
            with open(self.folder / FILE, "a") as file:
                print(json.dumps(line), file=file)
        except OSError as error:
            raise TinygifError(f"could not write {self.folder / FILE} ({error.strerror}): what is "
                               "saved is untouched; free some space, or look where the folder is "
                               "now, and --resume") from error  # fmt: skip
        self._line_began, self._clips, self._waited, self._steps = time.monotonic(), 0, 0.0, []
        speed = f"{line['clips_per_second']:.0f} clips/s"
        self.show(progress, f"step {step}, loss {line['loss']:.3f}, {speed}")

    def show(self, progress: float, text: str) -> None:
        """Draw the progress bar, from 0 to 1, with a text after it."""
        from tqdm import tqdm

        progress = min(progress, 1.0)
        self._bar = self._bar or tqdm(total=1.0, initial=progress, bar_format=BAR)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(progress - self._bar.n)
        self._bar.refresh()
        if progress == 1:
            self._bar.close()

    def write_into(self, state: TrainState) -> TrainState:
        """The state with what the run has spent so far."""
        return replace(state, seconds=jnp.asarray(self.seconds), tflop=jnp.asarray(self.tflop))

    def draw(self) -> None:
        """Plot the loss, and the loss of held-out clips, over the steps."""
        lines = read_lines(self.folder)
        with plot(self.folder / CURVE, xlabel="step", ylabel="loss", yscale="log") as axis:
            for name in ("loss", "held_out_loss"):
                points = [(line["step"], line[name]) for line in lines if is_number(line[name])]
                if points:
                    axis.plot(*zip(*points), linewidth=1, label=name.replace("_", " "))


@contextlib.contextmanager
def plot(path: Path, **options: Any) -> Iterator[Any]:
    """The axis of an empty plot, to draw into; it is then written as a PNG.

    options: those of matplotlib's `Axes.set`, such as xlabel.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    yield axis
    axis.set(**options)
    axis.grid(alpha=0.3, which="both")
    if axis.lines:
        axis.legend()
    with whole_file(path) as file:
        figure.savefig(file, dpi=120, format="png")
