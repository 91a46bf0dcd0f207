"""`tinygif.load(path)(prompts, seed=0)`: from sentences to clips. Lesson 08."""

import base64
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from tinygif import sampler
from tinygif.checkpoint import MODEL, load_model, newest
from tinygif.config import Config, TextConfig, named_keys
from tinygif.errors import TinygifError, expect
from tinygif.files import cache_dir
from tinygif.gif import encode_gif, enlarge, fps_delays, grid
from tinygif.guidance import Denoiser, Pinned, Rolled, Thresholded, guide
from tinygif.hub import fetch_model
from tinygif.parts import PartReader, part_count
from tinygif.text import Condition, KnownFrames, Text, TextToGif, Tokenizer

SHIPPED = Path(__file__).parent / "weights" / "moving_mnist.safetensors"
"""The trained model that draws if there is no run. weights/README.md is the models' card."""
NAMES = ("moving_mnist", "two_digits", "sprites")
"""The trained models that come with the package."""


Progress = Callable[[Iterable, int], Iterable]
"""Wraps a loop over so many steps, to show how far it is."""


def unwatched(steps: Iterable, total: int) -> Iterable:
    """No progress is shown."""
    return steps


class GeneratedClips:
    """Clips as an array, `uint8 (b, f, h, w, c)`, which a notebook shows as moving GIFs."""

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
        return f"GeneratedClips(uint8 {self.shape}, {self.captions})"

    def picture(self, scale: int | None = None) -> UInt8[np.ndarray, "f h2 w2 c"]:
        """All clips as one picture: a single clip enlarged, several in a grid with their captions.

        scale: how many times every pixel is enlarged; by default until a clip is about 128 wide.
        """
        scale = scale or max(1, 128 // self.shape[2])
        if len(self) == 1:
            return enlarge(self.array[0], scale)
        return grid(self.array, captions=self.captions, scale=scale)

    def _repr_html_(self) -> str:
        def figure(clip: np.ndarray, caption: str) -> str:
            clip = enlarge(clip, max(1, 128 // clip.shape[1]))
            data = base64.b64encode(encode_gif(clip, fps_delays(len(clip), self.fps))).decode()
            image = f'<img src="data:image/gif;base64,{data}">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"

        figures = map(figure, self.array, self.captions)
        return f'<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>'


class Pipeline:
    """A trained model with everything that sampling needs. Call it with prompts."""

    def __init__(
        self, model: TextToGif, config: Config, words: list[str], path: Path | None = None
    ):
        self.model, self.config, self.words, self.path = model, config, words, path
        self.reader = prompt_reader(config.text, words)
        self.schedule = config.diffusion.build()

    def __call__(
        self,
        prompts: Sequence[str | None] | str | Text,
        *,
        seed: int = 0,
        progress: Progress = unwatched,
        **options,
    ) -> GeneratedClips:
        """Clips for the prompts; the same seed gives the same clips, however many are asked for.

        prompts: sentences, with None for no prompt; or a batch of `Text` from `encode_prompts`.
        `progress(iterable, total)` may wrap the loop over steps; other options as in `denoising`.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        steps = options.get("steps") or self.config.sample.sample_steps
        trajectory = self.denoising(prompts, seed=seed, **options)
        x, _ = deque(progress(trajectory, steps), maxlen=1).pop()
        captions = [""] * len(x)
        if not isinstance(prompts, Text):
            captions = [prompt or "" for prompt in prompts]
        return GeneratedClips(self.model.codec.decode(x), captions, self.config.data.fps)

    def denoising(
        self,
        prompts: Sequence[str | None] | Text,
        *,
        seed: int = 0,
        negative_prompt: str | None = None,
        noise: Float[Array, "b f c h w"] | None = None,
        known: KnownFrames | None = None,
        resample: int = 1,
        loop: bool | None = None,
        **options,
    ) -> Iterable[tuple[Float[Array, "b f c h w"], Float[Array, "b f c h w"]]]:
        """The trajectory: (x_t, guess of x0) after every step, in the codec's range.

        negative_prompt: guide away from this sentence instead of the null prompt. noise: what the
        clips are made of, instead of the noise that the seed gives. known: frames of each clip, as
        `tinygif.known.know` makes them. resample: as in `sampler.trajectory`. loop: the last
        frame leads to the first; so it is by default if the training clips loop. Options that are
        None, or left out, are the checkpoint's own: steps, guidance, solver, eta, temperature,
        dynamic_threshold (`SampleConfig` says what they do), frames and size (which may differ from
        training, in multiples of what the model folds). Raises TinygifError for what cannot work.
        """
        config = self.with_options(**options)
        options = config.sample
        text = prompts if isinstance(prompts, Text) else self.encode_prompts(prompts)
        away = self.encode_prompts([negative_prompt] * len(text.mask), part_count(text))
        what = f"a negative prompt of at most {part_count(text)} parts, as the prompts have"
        expect(part_count(away) == part_count(text), what, part_count(away))
        noise = self.draw_noise(len(text.mask), seed, config) if noise is None else noise
        noise = options.temperature * noise
        loop = config.data.loops if loop is None else loop
        eta, solver = options.eta, sampler.SOLVERS[options.solver]
        return sampler.trajectory(
            self.denoiser(text, away, options.guidance, options.dynamic_threshold, known, loop),
            self.schedule, noise, key=jax.random.split(named_keys(seed).sample)[1],
            solver=solver() if eta is None else solver(eta), steps=options.sample_steps,
            resample=resample,
        )  # fmt: skip

    def attention(
        self, prompt: str, *, seed: int = 0, progress: Progress = unwatched, **options
    ) -> tuple[UInt8[np.ndarray, "f h w c"], list[str], Float[np.ndarray, "words f h w"]]:
        """A clip, the words of its prompt, and which pixels look at each word, in [0, 1].

        The mean over all denoising steps; each word's map is scaled to go from 0 to 1. Raises
        TinygifError for a model without attention to words.
        """
        text, T = self.encode_prompts([prompt]), self.schedule.T
        choices = {name: value for name, value in options.items() if name != "loop"}
        config, loop = self.with_options(**choices), options.get("loop")
        condition = Condition(
            jax.tree.map(lambda a: a[0], text),
            circle=config.data.loops if loop is None else loop,
        )
        look, maps = eqx.filter_jit(self.model.model.words_seen), []
        steps, noise = config.sample.sample_steps, self.draw_noise(1, seed, config)
        x = config.sample.temperature * noise
        trajectory = progress(self.denoising(text, seed=seed, noise=noise, **options), steps)
        for t, (x_next, _) in zip(sampler.timesteps(T, steps), trajectory):
            maps.append(look(x[0], jax.numpy.float32(t / T), condition))
            x = x_next
        words = np.mean(maps, axis=0)
        words = np.moveaxis(words, -3, -4).reshape(-1, len(x[0]), *words.shape[-2:])
        words = words[np.asarray(condition.text.mask).reshape(-1)]
        low, high = (f(words, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
        clip = self.model.codec.decode(x)[0]
        words = ((words - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
        scale = clip.shape[1] // words.shape[-1]
        return clip, self.reader.tokens(prompt), words.repeat(scale, -1).repeat(scale, -2)

    @property
    def takes_known(self) -> bool:
        """Whether the model is trained to be given known frames."""
        return getattr(self.config.model, "known_frames", False)

    def draw_noise(self, count: int, seed: int, config: Config) -> Float[Array, "b f c h w"]:
        """The noise that so many clips are made of; the first ones do not depend on the count."""
        shape = self.model.codec.shape(config.data.frames, config.data.size)
        key = jax.random.split(named_keys(seed).sample)[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(count))
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    def with_options(
        self, steps: int | None = None, frames: int | None = None, size: int | None = None, **sample
    ) -> Config:
        """The checkpoint's config with these options in place of its own, checked."""
        given = lambda **options: {k: v for k, v in options.items() if v is not None}  # noqa: E731
        if sample.get("eta") is not None and sample.get("solver") is None:
            sample["solver"] = "ddim"
        options = replace(self.config.sample, **given(sample_steps=steps, **sample))
        if options.solver != "ddim" and sample.get("eta") is None:
            options = replace(options, eta=None)  # the checkpoint's eta belongs to its own solver
        data = replace(self.config.data, images=None, **given(frames=frames, size=size))
        train = replace(self.config.train, short_frames=None)
        config = replace(self.config, data=data, train=train, sample=options)
        config.check()
        return config

    def denoiser(
        self, text: Text, away: Text, scale: float, percentile: float | None,
        known: KnownFrames | None = None, loop: bool = False,
    ) -> eqx.Module:  # fmt: skip
        """The guided, thresholded denoiser for a batch of prompts, and of known frames."""
        predict, schedule = self.config.diffusion.predict, self.schedule
        denoiser = Denoiser(self.model.model, schedule, Condition(text, known, loop), predict)
        if scale != 1 and not self.config.data.unconditional:
            denoiser = guide(denoiser, Condition(away, known, loop), scale)
        percentile = None if percentile is None else jax.numpy.asarray(percentile)
        denoiser = Thresholded(denoiser, self.model.codec.limit, percentile)
        if known is not None:
            return Pinned(denoiser, known)
        return Rolled(denoiser, schedule.T) if loop else denoiser

    def encode_prompts(self, prompts: Sequence[str | None], parts: int = 1) -> Text:
        """A batch of prompts as the model reads them; None is the null prompt.

        If it reads them in parts there are as many as one of the prompts has, at least `parts`.
        """
        if len(prompts) == 0:
            raise TinygifError("expected at least one prompt, got none")
        at_least = (parts,) if self.config.text.parts > 1 else ()
        return run_text_encoder(self.model.text, self.reader.batch(prompts, *at_least))


def spotlights(
    clip: UInt8[np.ndarray, "f h w c"], maps: Float[np.ndarray, "words f h w"]
) -> UInt8[np.ndarray, "words f h w 3"]:
    """The clip in grey once for each word, red where that word is looked at."""
    gray = clip.mean(axis=-1, keepdims=True)[None] / 255
    heat = maps[..., None] * np.array([1.0, 0.25, 0.1])
    return np.round(255 * np.clip(0.7 * gray + 0.6 * heat, 0, 1)).astype(np.uint8)


@eqx.filter_jit
def run_text_encoder(encoder: eqx.Module, prompts: PyTree) -> Text:
    """A batch of word ids, or of a tower's output, through the trained text encoder."""
    return jax.vmap(encoder)(prompts)


def prompt_reader(config: TextConfig, words: list[str]):
    """A tokenizer or a tower: its `batch(prompts)` gives the input of the text encoder."""
    if config.text == "words":
        reader = Tokenizer(words, config.max_tokens)
    else:
        from tinygif.towers import Embeddings

        reader = Embeddings(config)
    return reader if config.parts == 1 else PartReader(reader, config.parts)


def find_checkpoint(path: str | Path | None = None) -> Path:
    """The model file of a run folder, or `path` itself if it is a file; by default the newest one.

    The paths in NAMES mean the models that come with the package. The first of them is also the
    default if there is no run. What looks like user/name, or user/name@revision, and is not here is
    taken from the hub. Raises TinygifError if there is no such file.
    """
    if path is None:
        file = newest(MODEL) or SHIPPED
    elif str(path) in NAMES and not Path(path).exists():
        file = SHIPPED.with_name(f"{path}.safetensors")
    else:
        file = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", str(path))
        if is_id and not Path(path).parent.exists() and not file.exists():
            name, _, revision = str(path).partition("@")
            advice = f"Or is {name} meant to be a folder? There is none."
            file = fetch_model(name, revision or "main", [MODEL], advice) / MODEL
    if not file.exists():
        raise TinygifError(
            f"no checkpoint at {file}: expected a run folder or a {MODEL} file. Train a model with "
            "`python train.py --dataset moving_mnist`, or give the path of one."
        )
    return file


def load(path: str | Path | None = None) -> Pipeline:
    """A pipeline from a run folder or a model file; by default from the newest run."""
    file = find_checkpoint(path)
    if path is None and file == SHIPPED:
        print("no run in runs/: using the weights that come with tinygif", file=sys.stderr)
    model, about = load_model(file)
    return Pipeline(model, about.config, about.words, file)


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that the next start is quick.

    The environment variable JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns this off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
