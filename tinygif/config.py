"""Every choice of a run, as frozen dataclasses, and the few presets. Lesson 15.

`train.py` turns each field into a flag of the same name; a checkpoint carries all of them.
"""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tinygif import schedule as schedules
from tinygif.diffusion import Prediction, Weighting, check_prediction
from tinygif.gif import fps_delays
from tinygif.schedule import Schedule


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    dataset: str = "moving_mnist"
    """moving_mnist, shapes, a folder of clips, or one that `tinygif.clips prepare` made."""
    size: int = 32
    """Side of a clip in pixels."""
    frames: int = 16
    channels: Literal[1, 3] = 1
    """1 is gray; 3 is in colour, and colours the digits and names their colours in captions."""
    fps: int | float = 8
    """Frames per second of the GIFs that are written."""
    flip: bool = False
    """Show clips of a folder mirrored, every other time; captions swap left and right."""
    unconditional: bool = False
    """Train on clips of a folder without captions."""
    digits: Literal[1, 2] = 1
    """At most so many digits in a clip."""
    digit_size: int | None = None
    """Side of a digit in pixels; half of the clip's by default."""
    hold_out: bool = True
    """Keep some digit-direction pairs out of training, to be asked for afterwards."""
    mnist_dir: str | None = None
    """A folder with the four MNIST files, or "bundled"; else the cache, a download, the bundled."""


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net and the text encoder. A level is a resolution; 0 is the largest.

    Attention at a level that is not there is left out. Between the way down and the way up, on the
    smallest images, stands a block with every kind of attention, whatever the levels have.
    """

    width: int = 64
    """Channels of level 0."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level, in widths."""
    blocks: int = 1
    """Residual blocks per level, on the way down and on the way up."""
    patch: int = 2
    """The stem folds patch x patch pixels into channels."""
    time_patch: int = 1
    """The stem folds groups of so many frames into channels."""
    heads: int = 4
    head_dim: int = 32
    space_attention: tuple[int, ...] = (2, 3)
    """Levels with attention over space."""
    time_attention: tuple[int, ...] = (0, 1, 2, 3)
    """Levels with attention over time."""
    text_attention: tuple[int, ...] = (2, 3)
    """Levels with attention to the words."""
    full_attention: int = 1024
    """Pixels up to which attention over space is full; linear above."""
    temporal_conv: bool = False
    """Add a convolution along time after each residual block (2+1-D)."""
    pixel_shuffle: bool = False
    """Upsample by pixel shuffle instead of resize and convolution."""
    checkpoint_gradients: bool = False
    """Recompute blocks in the backward pass: less memory, more time."""
    text: str = "words"
    """Who reads prompts: words, learned along; or, pretrained, clip, bert, a hub id, a folder."""
    text_pool: Literal["last", "first", "mean"] | None = None
    """How a tower sums prompts up; by default CLIP by its last token, BERT by the mean."""
    text_revision: str | None = None
    """Commit of a tower on the hub, SHA-256 of one in a folder; train.py fills it in."""
    text_dims: tuple[int, int] | None = None
    """Widths of a tower's states and of its summary; train.py fills them in."""
    text_width: int = 128
    text_depth: int = 2
    """Layers that are trained, from words on or on top of a tower."""
    max_tokens: int = 16
    """Longest prompt: in words, or in a tower's tokens, of which start and end are two."""

    def check(self, *, frames: int, size: int) -> None:
        """Refuse clips that the stem and the levels cannot fold."""
        fold = self.patch * 2 ** (len(self.multipliers) - 1)
        if size % fold or size < fold:
            raise ValueError(
                f"expected a size that is a multiple of {fold} (patch {self.patch}, halved "
                f"{len(self.multipliers) - 1} times), got {size}"
            )
        if frames % self.time_patch or frames < 1:
            raise ValueError(
                f"expected frames that are a multiple of {self.time_patch}, which the stem folds "
                f"into one, got {frames}"
            )


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise, and what the network says of it."""

    schedule: Literal["linear", "cosine", "scaled_linear", "rectified"] = "cosine"
    diffusion_steps: int = 1000
    """T, the steps of the schedule."""
    zero_snr: bool = False
    """Rescale the schedule to end in pure noise."""
    shift: float = 1.0
    """Multiply sigma / alpha by this: above 1 for clips that are redundant."""
    predict: Prediction = "v"
    measure: Prediction | None = None
    """What the loss compares; what is predicted, by default."""
    loss: Literal["l1", "l2", "huber"] = "l2"
    weighting: Weighting = "uniform"
    gamma: float = 5.0
    """The ceiling of min-SNR and capped weights."""
    logit_normal: tuple[float, float] | None = None
    """Mean and deviation of logit(t / T) in training; all steps evenly by default."""
    drop_text: float = 0.1
    """Share of captions replaced by the null prompt."""
    guidance: float = 3.0
    """Default of sampling: 0 ignores the prompt, 1 follows it, above 1 exaggerates it."""
    solver: Literal["ddpm", "ddim", "dpmpp"] = "ddpm"
    """Default of sampling; fresh noise lets ddpm mend what it got wrong, at the cost of steps."""
    sample_steps: int = 50
    """Default of sampling."""

    def build(self) -> Schedule:
        """The schedule these fields describe."""
        curve = schedules.SCHEDULES[self.schedule](self.diffusion_steps)
        curve = schedules.zero_terminal_snr(curve) if self.zero_snr else curve
        return curve if self.shift == 1 else schedules.shift(curve, self.shift)


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    steps: int | None = None
    """Optimizer steps; overrides minutes."""
    minutes: float | None = None
    """Fix the number of steps so that the run takes about this long."""
    batch_size: int = 16
    short_frames: int | None = None
    """Mix in steps on clips of so few frames, with as many more of them in a batch."""
    short_share: float = 0.5
    """Share of such steps."""
    accumulate: int = 1
    """Split a batch in so many parts, one after another: less memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    """Of AdamW, which also serves vectors and embeddings when Muon has the matrices."""
    muon_rate: float = 0.02
    weight_decay: float = 0.01
    warmup: int = 100
    """Steps in which the learning rate rises from 0."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.999
    """Decay of the average of weights that is sampled from."""
    bfloat16: bool = False
    """Compute in bfloat16; weights and optimizer stay float32."""
    seed: int = 0
    sample_every: int = 500
    """Steps between grids of sample GIFs."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self):
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    preset: Literal["tiny", "small", "base"] = "tiny"
    """tiny: two CPU cores, minutes; small: one GPU, minutes; base: width 64, four levels."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """Refuse before training what would otherwise end it at its first sample or checkpoint."""
        if self.train.steps is None and self.train.minutes is None:
            raise ValueError("how long? add --steps N or --minutes M")
        for name in ("steps", "batch_size", "save_every", "sample_every"):
            value = getattr(self.train, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        self.model.check(frames=self.data.frames, size=self.data.size)
        if (short := self.train.short_frames) is not None:
            self.model.check(frames=short, size=self.data.size)
            if short > self.data.frames:
                raise ValueError(f"expected short_frames of at most {self.data.frames}, the frames "
                                 f"of a clip, got {short}")  # fmt: skip
        if (law := self.diffusion.logit_normal) is not None and law[1] <= 0:
            raise ValueError(f"expected a positive deviation in logit_normal, got {law}")
        fps_delays(self.data.frames, self.data.fps)
        check_prediction(self.diffusion.build(), self.diffusion.predict)

    def at(self, step: int) -> "Config":
        """The config of a step: some may be for many short clips, which cost as much as few long.

        What a thing looks like is learned from many things, how it moves from few: compare the
        joint training on images and clips of Video Diffusion Models (Ho et al. 2022).
        """
        few, train = self.train.short_frames, self.train
        if few is None or int((step + 1) * train.short_share) == int(step * train.short_share):
            return self
        more = train.batch_size * (self.data.frames // few)
        return replace(
            self, data=replace(self.data, frames=few), train=replace(train, batch_size=more)
        )


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """A config from the plain values of `dataclasses.asdict`, as they come back from JSON."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    strange = sorted(set(values) - set(known))
    if strange:
        raise ValueError(f"unknown fields of {cls.__name__}: {strange}; expected {sorted(known)}")
    parts = {
        "data": DataConfig, "model": ModelConfig, "diffusion": DiffusionConfig,
        "train": TrainConfig,
    }  # fmt: skip
    out = {}
    for name, value in values.items():
        if name in parts:
            value = from_dict(parts[name], value)
        out[name] = tuple(value) if isinstance(value, list) else value
    return cls(**out)


REDUNDANT = DiffusionConfig(
    shift=3.0, predict="x0", measure="v", weighting="capped", gamma=25.0, logit_normal=(0.5, 1.0)
)  # fmt: skip
"""For clips that are mostly black and mostly still; lessons/LOG.md has the experiments."""
TINY = Config(
    preset="tiny",
    model=ModelConfig(
        width=64, multipliers=(2, 3), patch=4, time_patch=4, space_attention=(),
        time_attention=(1,), text_attention=(), temporal_conv=True, pixel_shuffle=True,
    ),
    diffusion=REDUNDANT,
    train=TrainConfig(
        minutes=13.0, optimizer="muon", learning_rate=2e-3, warmup=50, ema=0.99, short_frames=4,
    ),
)  # fmt: skip
SMALL = Config(
    preset="small",
    model=ModelConfig(
        width=64, multipliers=(1, 2, 4), patch=2, time_patch=2, space_attention=(2,),
        time_attention=(1, 2), text_attention=(2,), temporal_conv=True,
    ),
    diffusion=REDUNDANT,
    train=TrainConfig(
        steps=6000, batch_size=128, optimizer="muon", learning_rate=2e-3, ema=0.995, bfloat16=True
    ),
)  # fmt: skip
BASE = Config(
    preset="base",
    model=ModelConfig(
        width=64, multipliers=(1, 2, 4, 8), patch=2, time_patch=1, blocks=2,
        time_attention=(1, 2, 3), pixel_shuffle=True,
    ),
    diffusion=DiffusionConfig(shift=3.0),
    train=TrainConfig(steps=100_000, batch_size=64, bfloat16=True, sample_every=2000),
)  # fmt: skip
PRESETS = {"tiny": TINY, "small": SMALL, "base": BASE}
