"""`tinygif.load(path)(prompts, seed=0)`: from sentences to clips, for all who sample. Lesson 08."""

import base64
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from tinygif import sampler
from tinygif.checkpoint import MODEL, CheckpointError, load_model, newest
from tinygif.config import Config
from tinygif.embeddings import reader
from tinygif.gif import encode_gif, enlarge, fps_delays, to_clip
from tinygif.guidance import Denoiser, Thresholded, guide
from tinygif.moving_mnist import HELD_OUT, cache_dir
from tinygif.text import Text, TextAdapter, TextEncoder
from tinygif.unet import TextToGif

SHIPPED = Path(__file__).parent / "weights" / "moving_mnist.safetensors"
"""A trained model that comes with the package; weights/README.md is its card."""


class Clips:
    """Clips as an array, `uint8 (b, f, h, w, c)`, that moves when a notebook shows it."""

    def __init__(
        self, array: UInt8[np.ndarray, "b f h w c"], captions: Sequence[str], fps: int | float
    ):
        self.array, self.captions, self.fps = array, list(captions), fps
        self.shape, self.dtype = array.shape, array.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __getitem__(self, index) -> np.ndarray:
        return self.array[index]

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        return f"Clips(uint8 {self.shape}, {self.captions})"

    def _repr_html_(self) -> str:
        def figure(clip: np.ndarray, text: str) -> str:
            clip = enlarge(clip, max(1, 128 // clip.shape[1]))
            data = base64.b64encode(encode_gif(clip, fps_delays(len(clip), self.fps))).decode()
            image = f'<img src="data:image/gif;base64,{data}">'
            return f"<figure>{image}<figcaption>{text}</figcaption></figure>"

        from html import escape

        figures = (figure(c, escape(t)) for c, t in zip(self.array, self.captions, strict=True))
        return f'<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>'


class Pipeline:
    """A trained model with all that sampling needs. Call it with prompts."""

    def __init__(
        self, model: TextToGif, config: Config, words: list[str], path: Path | None = None
    ):
        self.model, self.config, self.path = model, config, path
        self.reader = reader(config.model, words)
        self.schedule = config.diffusion.build()
        digits = config.data.dataset == "moving_mnist"
        self.held_out = HELD_OUT if digits and config.data.hold_out else ()

    def __call__(
        self,
        prompts: Sequence[str] | str,
        *,
        seed: int = 0,
        steps: int | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda steps, total: steps,
        **options,
    ) -> Clips:
        """Clips for the prompts; the same seed gives the same clips, however many are asked for.

        `progress(iterable, total)` may wrap the loop over steps; other options as in `denoising`.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        steps = self.config.diffusion.sample_steps if steps is None else steps
        trajectory = self.denoising(prompts, seed=seed, steps=steps, **options)
        x, _ = deque(progress(trajectory, steps), maxlen=1).pop()
        return Clips(to_clip(np.asarray(x)), prompts, self.config.data.fps)

    def denoising(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = None,
        solver: str | None = None,
        eta: float | None = None,
        dynamic_threshold: float | None = None,
        frames: int | None = None,
        size: int | None = None,
    ) -> Iterable[tuple[Float[Array, "b f c h w"], Float[Array, "b f c h w"]]]:
        """The trajectory: (x_s, guess of x0) after every step, in the model's range [-1, 1].

        guidance: 0 ignores the prompt, 1 follows it, above 1 exaggerates it away from the null
        prompt, or from `negative_prompt`. eta: fresh noise of DDIM, 0 to 1. dynamic_threshold: a
        quantile such as 0.995. frames, size: other than trained on; multiples of what the stem and
        the levels fold.
        """
        data, defaults = self.config.data, self.config.diffusion
        steps = defaults.sample_steps if steps is None else steps
        frames = data.frames if frames is None else frames
        size = data.size if size is None else size
        self.config.model.check(frames=frames, size=size)
        solver = solver or ("ddim" if eta is not None else defaults.solver)
        if solver not in sampler.SOLVERS:
            raise ValueError(f"expected a solver of {sorted(sampler.SOLVERS)}, got {solver!r}")
        if eta is not None and solver != "ddim":
            raise ValueError(f"--eta is for the ddim solver, got {solver!r}: leave one of them out")
        for name, value in (("eta", eta), ("dynamic_threshold", dynamic_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} from 0 to 1, got {value}")
        if len(prompts) == 0:
            raise ValueError("expected at least one prompt, got none")
        solve = sampler.SOLVERS[solver]() if eta is None else sampler.DDIM(eta)
        noise_key, step_key = jax.random.split(jax.random.key(seed))
        shape = (frames, data.channels, size, size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, np.arange(len(prompts)))
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        scale = defaults.guidance if guidance is None else guidance
        denoiser = self.denoiser(prompts, scale, negative_prompt, dynamic_threshold)
        return sampler.trajectory(
            denoiser, self.schedule, noise, key=step_key, solver=solve, steps=steps
        )

    def denoiser(
        self, prompts: Sequence[str], scale: float, negative: str | None, percentile: float | None
    ) -> Thresholded:
        """The guided, thresholded denoiser for a batch of prompts."""
        to, away = self.encode(prompts), self.encode([negative] * len(prompts))
        denoiser = Denoiser(self.model.unet, self.schedule, to, self.config.diffusion.predict)
        same = scale == 1 or self.config.data.unconditional
        guided = denoiser if same else guide(denoiser, away, scale)
        return Thresholded(guided, None if percentile is None else jax.numpy.asarray(percentile))

    def encode(self, prompts: Sequence[str | None]) -> Text:
        """A batch of prompts as the U-Net reads them; None is the null prompt."""
        return encode(self.model.text, self.reader.batch(prompts))


@eqx.filter_jit
def encode(encoder: TextEncoder | TextAdapter, prompts: PyTree) -> Text:
    return jax.vmap(encoder)(prompts)


def find(path: str | Path | None = None) -> Path:
    """The model file of a run, of the newest run below `runs/`, or the file itself.

    The model that comes with the package goes by its name, moving_mnist; without a path and without
    a run it is taken, too.
    """
    if path is None:
        try:
            return newest(MODEL)
        except CheckpointError:
            if SHIPPED.exists():
                return SHIPPED
            raise
    path = Path(path)
    if str(path) == SHIPPED.stem and not path.exists():
        path = SHIPPED
    file = path / MODEL if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"no checkpoint at {file}: expected a run folder or a {MODEL} file")
    return file


def load(path: str | Path | None = None) -> Pipeline:
    """A pipeline from a run folder or a model file; by default from the newest run."""
    file = find(path)
    if path is None and file == SHIPPED:
        print("no run in runs/: using the weights that come with tinygif", file=sys.stderr)
    model, config, words, _ = load_model(file)
    return Pipeline(model, config, words, file)


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that the next start is quick.

    The environment variable JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
