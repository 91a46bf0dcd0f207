"""Every choice of a run, as frozen dataclasses, and the few presets. Lesson 15.

`train.py` turns each field into a flag of the same name; a checkpoint stores all of them. The
model's own fields are defined beside the model, in `unet.py`.
"""

import dataclasses
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import jax
from jaxtyping import Array, Key
from typing_extensions import Doc

from tinygif import schedule as schedules
from tinygif.autoencoder import CodecConfig
from tinygif.diffusion import Prediction, Weighting, check_prediction
from tinygif.errors import check_limits, check_range, expect
from tinygif.gif import fps_delays
from tinygif.guidance import GUIDANCE_HELP
from tinygif.parts import Composed, EachPart
from tinygif.sampler import SOLVERS, SolverName, timesteps
from tinygif.schedule import Schedule, ScheduleName
from tinygif.text import TextAdapter, TextEncoder, TextToGif
from tinygif.transformer import TransformerConfig
from tinygif.unet import UNetConfig

MODELS = {"unet": UNetConfig, "transformer": TransformerConfig}
"""The kinds of model by name, each with its own config class; `--model` chooses one."""


@dataclass(frozen=True)
class DataConfig:
    """The data set, and the shape of its clips."""

    dataset: str = "moving_mnist"
    """moving_mnist, shapes, sprites, a folder of clips, or what `tinygif.clips prepare` made."""
    size: int = 32
    """Side of a clip in pixels."""
    frames: int = 16
    channels: Literal[1, 3] = 1
    """1 is gray, 3 is colour. In colour, captions of digits name the colour."""
    fps: int | float = 8
    """Frames per second of the GIFs that are written."""
    flip: bool = False
    """Mirror a clip of a folder half of the time, and swap left and right in its caption."""
    unconditional: bool = False
    """Train on the clips of a folder, and leave their captions out."""
    images: str | None = None
    """A folder of pictures with captions, x.png and x.txt: some short clips are one of them."""
    image_share: float = 0.5
    """Share of the short clips (--short-frames) that are pictures, if there are any."""
    loops: bool = False
    """The clips are loops: train on them from any frame, in layers along time that see a circle."""
    digits: Literal[1, 2] = 1
    """The largest number of digits in a clip."""
    digit_size: int | None = None
    """Side of a digit in pixels; half of the clip's by default."""
    hold_out: bool = True
    """Keep some pairs of digit and direction out of training, to test the model on them."""
    mnist_dir: str | None = None
    """A folder with the four MNIST files, or "bundled" for the digits that come with tinygif. By
    default the cached files, else a download, else the bundled digits."""
    sprites_dir: str | None = None
    """A folder with the 39 sheets of sprites; by default the cached ones, else a download."""
    digits_hash: str | None = None
    """SHA-256 of the digits that were trained on; train.py fills it in."""


@dataclass(frozen=True)
class TextConfig:
    """How prompts are read."""

    text: str = "words"
    """words: a text encoder that is trained together with the model. Or a pretrained, frozen one (a
    tower): clip, bert, a hub id, a folder."""
    text_pool: Literal["last", "first", "mean"] | None = None
    """How a tower makes one vector of a prompt: by default CLIP's last token, or BERT's mean."""
    text_revision: str | None = None
    """The tower's commit on the hub, or SHA-256 of its folder; train.py fills it in."""
    text_dims: tuple[int, int] | None = None
    """Widths of a tower's states and of its pooled vector; train.py fills them in."""
    text_width: int = 128
    text_depth: int = 2
    """Trained transformer layers, on word embeddings or on top of a tower."""
    max_tokens: int = 24
    """Length of the longest prompt, in words; or in a tower's tokens, start and end included."""
    parts: int = 1
    """With 2 or more, prompts are split at "and", and each part is drawn by itself. A batch of
    captions has so many parts, or more if a caption has; each number is compiled by itself."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise, and what the network predicts."""

    schedule: ScheduleName = "cosine"
    diffusion_steps: int = 1000
    """T, the steps of the schedule."""
    zero_snr: bool = False
    """Rescale the schedule to end in pure noise."""
    shift: float = 1.0
    """Multiply sigma / alpha by this; use more than 1 for redundant clips (large, or slow)."""
    predict: Prediction = "v"
    measure: Prediction | None = None
    """The quantity in which the loss is measured; by default the one that the network predicts."""
    loss: Literal["l1", "l2", "huber"] = "l2"
    weighting: Weighting = "uniform"
    gamma: float = 5.0
    """The largest weight of an error in x0, for min_snr and capped."""
    logit_normal: tuple[float, float] | None = None
    """Mean and standard deviation of logit(t / T) in training; uniform t by default."""
    drop_text: float = 0.1
    """Share of captions replaced by the null prompt."""

    def build(self) -> Schedule:
        """The schedule these fields describe."""
        curve = schedules.SCHEDULES[self.schedule](self.diffusion_steps)
        curve = schedules.zero_terminal_snr(curve) if self.zero_snr else curve
        return curve if self.shift == 1 else schedules.shift(curve, self.shift)


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained."""

    steps: int | None = None
    """Optimizer steps of the whole run; overrides minutes."""
    minutes: float | None = None
    """Minutes of the whole run; the learning rate then follows the clock."""
    batch_size: int = 16
    short_frames: int | None = None
    """Some steps train on more but shorter clips, of this many frames, at the same cost."""
    short_share: float = 0.5
    """Share of the steps that train on short clips."""
    known_share: float = 0.0
    """Share of the clips of which the model is given some frames; needs --known-frames."""
    accumulate: int = 1
    """Split each batch into this many parts, computed one after another: less memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    """Learning rate of AdamW. With Muon, AdamW still trains vectors and embeddings."""
    muon_rate: float = 0.02
    """Learning rate of Muon, which trains the matrices."""
    weight_decay: float = 0.01
    warmup: int = 100
    """Steps in which the learning rate rises from 0 at the start."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    """A gradient whose norm is larger is scaled down to this norm."""
    ema: float = 0.999
    """Decay of the moving average of the weights; clips are sampled from the average."""
    lora: int = 0
    """Rank of an adapter: train it, and leave the weights of --init as they are; 0 for none."""
    lora_layers: tuple[str, ...] = ()
    """Adapt only matrices whose names contain one of these, such as text or resnet."""
    lora_words: tuple[str, ...] = ()
    """The words that are new to the model of --init; train.py fills them in."""
    bfloat16: bool = False
    """Compute in bfloat16; weights and optimizer stay float32."""
    seed: int = 0
    sample_every: int = 500
    """Steps between grids of sample GIFs."""
    save_every: int = 500
    """Steps between checkpoints."""

    def progress(self, step: int, seconds: float) -> float:
        """How far a run is: 0 at its start, 1 at its end; by steps, or else by the clock."""
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


@dataclass(frozen=True)
class SampleConfig:
    """Defaults of sampling."""

    guidance: Annotated[float, Doc(GUIDANCE_HELP)] = 3.0
    solver: SolverName = "ddpm"
    """ddpm adds fresh noise at each step, so it can correct mistakes, but needs more steps."""
    sample_steps: int = 20
    eta: float | None = None
    """Fresh noise in each ddim step, 0 to 1."""
    temperature: float = 1.0
    """Deviation of the noise that a clip begins as. Below 1 clips are more typical and less varied
    (not with ddpm, whose fresh noise undoes it)."""
    dynamic_threshold: float | None = None
    """Scale a guess of x0 down if this quantile of |x0| leaves the range of pixels; for example
    0.995."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    preset: Literal["tiny", "small", "base"] = "tiny"
    """tiny: two CPU cores, minutes; small: one GPU, minutes; base: width 64, four levels."""
    data: DataConfig = field(default_factory=DataConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: UNetConfig | TransformerConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def check(self) -> None:
        """Refuse settings that cannot work, before any work is done. Raises TinygifError."""
        data, train, sample = self.data, self.train, self.sample
        for part in (data, self.codec, self.text, self.diffusion, train, sample):
            check_limits(part, LIMITS)
        self.model.check(frames=data.frames, size=data.size, fold=self.codec.fold)
        if (short := train.short_frames) is not None:
            check_range("short_frames", short, 1, data.frames)
            self.model.check(frames=short, size=data.size, fold=self.codec.fold)
        alone = short == getattr(self.model, "time_patch", 1)
        what = "short_frames as many as the model folds into one, so that a picture is alone, for "
        expect(data.images is None or alone, f"{what}--images", short)
        able = train.known_share == 0 or getattr(self.model, "known_frames", False)
        expect(able, "--known-frames with --known-share", train.known_share)
        expect(train.ema < 1, "an ema below 1, or the average would never move", train.ema)
        what = f"a batch_size that is a multiple of accumulate, {train.accumulate}"
        expect(train.batch_size % train.accumulate == 0, what, train.batch_size)
        normal = self.diffusion.logit_normal
        expect(normal is None or normal[1] > 0, "a positive deviation in logit_normal", normal)
        solver = repr(sample.solver)
        expect(sample.solver in SOLVERS, f"a solver of {', '.join(SOLVERS)}", solver)
        expect(sample.eta is None or sample.solver == "ddim", "the ddim solver for eta", solver)
        fps_delays(data.frames, data.fps)
        timesteps(self.diffusion.diffusion_steps, sample.sample_steps)
        check_prediction(self.diffusion.build(), self.diffusion.predict)

    def init(self, words: int, *, key: Key[Array, ""]) -> TextToGif:
        """A new model with random weights, for a vocabulary of `words` ids."""
        text_key, model_key, codec_key = jax.random.split(key, 3)
        options, data = self.text, self.data
        codec = self.codec.build(data.channels, key=codec_key)
        width, depth = options.text_width, options.text_depth
        if options.text == "words":
            text = TextEncoder(words, width, depth, max_tokens=options.max_tokens, key=text_key)
        else:
            text = TextAdapter(options.text_dims, width, depth, key=text_key)
        shape, in_parts = codec.shape(data.frames, data.size), options.parts > 1
        model = self.model.build(shape, width, masks=in_parts, key=model_key)
        if in_parts:
            text, model = EachPart(text), Composed(model)
        return TextToGif(text, model, codec)


SEEDS = 0, 2**32 - 1  # JAX would ignore further bits
LIMITS = {
    "size": (1, 4096), "frames": (1, 4096), "digit_size": (1, 4096), "codec_steps": (0, 10**9),
    "codec_width": (1, 1024), "latent_channels": (1, 256), "text_dims": (1, 2**16),
    "text_width": (4, 2**14), "text_depth": (0, 64), "max_tokens": (1, 4096), "parts": (1, 16),
    "diffusion_steps": (2, 10**5), "shift": (1e-3, 1000), "gamma": (0, 1e6), "drop_text": (0, 1),
    "logit_normal": (-100, 100), "lora": (0, 1024), "steps": (1, 10**9), "minutes": (0.01, 10**6),
    "batch_size": (1, 2**20), "short_share": (0, 1), "known_share": (0, 1), "image_share": (0, 1),
    "accumulate": (1, 1024), "learning_rate": (0, 100), "muon_rate": (0, 100),
    "weight_decay": (0, 100), "warmup": (0, 10**9), "clip": (0, 1e6), "ema": (0, 1), "seed": SEEDS,
    "sample_every": (1, 10**9), "save_every": (1, 10**9), "guidance": (0, 1000), "eta": (0, 1),
    "dynamic_threshold": (0, 1), "temperature": (0, 10),
}  # fmt: skip
"""The lowest and the highest value of the fields of every section but the model's own."""


class Keys(NamedTuple):
    """The random keys of a run. Every other random key is made from one of them."""

    init: Key[Array, ""]
    train: Key[Array, ""]
    data: Key[Array, ""]
    sample: Key[Array, ""]
    codec: Key[Array, ""]

    def stream_seed(self) -> int:
        """The seed of the stream of examples."""
        return int(jax.random.bits(jax.random.split(self.data)[0]))


def named_keys(seed: int) -> Keys:
    """The keys that a seed of 32 bits gives."""
    check_range("seed", seed, *SEEDS)
    return Keys(*jax.random.split(jax.random.key(seed), 5))


def from_dict(cls: type, values: Any) -> Any:
    """A config from the plain values of `dataclasses.asdict`, as they come back from JSON.

    Raises TinygifError for fields that the class does not have, and for values of another type than
    its fields take. `Config.check` then refuses values that are out of range.
    """
    what = f"a dictionary of the fields of {cls.__name__}"
    expect(isinstance(values, dict), what, repr(values))
    types = get_type_hints(cls)
    strange = sorted(set(values) - set(types))
    expect(not strange, f"{what}: {', '.join(sorted(types))}", f"unknown fields: {strange}")
    return cls(**{name: from_json(name, types[name], value) for name, value in values.items()})


def from_json(name: str, kind: Any, value: Any) -> Any:
    """The value of a field of a config: lists become tuples, dictionaries become configs."""
    if name == "model" and isinstance(value, dict):
        model = value.get("model", "unet")
        known = isinstance(model, str) and model in MODELS
        expect(known, f"a model of {', '.join(MODELS)}", repr(model))
        return from_dict(MODELS[model], value)
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)
    value = tuple(value) if isinstance(value, list) else value
    type_name = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    expect(has_type(value, kind), f"{name} of type {type_name}", repr(value))
    return value


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON, its lists made tuples, has the type that a field declares."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if origin in (Union, UnionType):
        return any(has_type(value, option) for option in options)
    if origin is tuple:
        if options[-1] is Ellipsis:
            options = options[:1] * len(value) if isinstance(value, tuple) else ()
        return (isinstance(value, tuple) and len(value) == len(options)
                and all(map(has_type, value, options)))  # fmt: skip
    return type(value) is kind or (kind is float and type(value) is int)


# ---- presets ---------------------------------------------------------------------------------

REDUNDANT_CLIPS = DiffusionConfig(
    shift=3.0, predict="x0", measure="v", weighting="capped", gamma=25.0, logit_normal=(0.5, 1.0)
)  # fmt: skip
"""For clips that are mostly black and mostly still; lessons/LOG.md has the experiments."""
CLEAR = SampleConfig(solver="dpmpp", sample_steps=10, temperature=0.2)
"""Typical clips: of digits it draws 99% right, strictly, where temperature 1 draws 80%."""
TINY = Config(
    preset="tiny",
    sample=CLEAR,
    model=UNetConfig(
        width=64, multipliers=(2, 3), levels=("conv", "conv+time"),
        middle=("conv+space+text+time", "conv"), patch=4, time_patch=4, pixel_shuffle=True,
    ),
    diffusion=REDUNDANT_CLIPS,
    train=TrainConfig(
        minutes=13.0, optimizer="muon", learning_rate=2e-3, warmup=50, ema=0.99, short_frames=4,
    ),
)  # fmt: skip
SMALL = Config(
    preset="small",
    sample=CLEAR,
    model=UNetConfig(
        width=64, multipliers=(1, 2, 4), levels=("conv", "conv+time", "conv+space+text+time"),
        middle=("conv+space+text+time", "conv"), patch=2, time_patch=2,
    ),
    diffusion=REDUNDANT_CLIPS,
    train=TrainConfig(
        steps=6000, batch_size=128, optimizer="muon", learning_rate=2e-3, ema=0.995, bfloat16=True
    ),
)  # fmt: skip
BASE = Config(
    preset="base",
    sample=CLEAR,
    model=UNetConfig(
        width=64, multipliers=(1, 2, 4, 8),
        levels=("", "time", "space+text+time", "space+text+time"), blocks=2, pixel_shuffle=True,
    ),
    diffusion=DiffusionConfig(shift=3.0),
    train=TrainConfig(steps=100_000, batch_size=64, bfloat16=True, sample_every=2000),
)  # fmt: skip
PRESETS = {"tiny": TINY, "small": SMALL, "base": BASE}
