"""The space-time U-Net: an image U-Net lifted over frames, with attention along time between.

The shape is that of Video Diffusion Models (Ho et al. 2022, section 3): residual blocks within
frames, attention over space, over time and to the prompt, down to small images and up again with
skips, which are added rather than stacked: the first convolution on the way up costs half. The stem
folds `patch` x `patch` pixels and groups of `time_patch` frames into channels, since a clip is
redundant in both. No 3-D convolution anywhere. Lesson 08.
"""

import itertools
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
from einops import rearrange
from jaxtyping import Array, Float, Key

from tinygif.attention import Attention, over_space, over_time, to_text, zeroed
from tinygif.errors import TinygifError
from tinygif.position import RelativePositionBias
from tinygif.resnet import (
    Conv3x3,
    Downsample,
    ResnetBlock,
    TemporalConv,
    Upsample,
    group_norm,
    time_embedding,
)
from tinygif.text import Condition, Text, TextToGif

Clip = Float[Array, "f c h w"]
KINDS = ("conv", "space", "text", "time")
"""What may follow a residual block: a convolution along time; attention over space, to the words of
the prompt, over time."""


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net. A level is a resolution; level 0 is the largest."""

    model: Literal["unet"] = "unet"
    width: int = 64
    """Channels of level 0, when its multiplier is 1."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level, in widths."""
    levels: tuple[str, ...] = ("time", "time", "space+text+time", "space+text+time")
    """What follows the residual blocks of each level: kinds in order, joined by +; "" for nothing.
    conv: convolution along time. space, text, time: attention over space, to words, over time."""
    middle: tuple[str, ...] = ("space+text+time", "")
    """The same for each block between the way down and the way up, on the smallest images."""
    blocks: int = 1
    """Residual blocks per level, on the way down and on the way up."""
    patch: int = 2
    """The stem folds patch x patch pixels into channels."""
    time_patch: int = 1
    """The stem folds groups of so many frames into channels."""
    heads: int = 4
    head_dim: int = 32
    full_attention: int = 1024
    """Pixels up to which attention over space is full; linear above."""
    pixel_shuffle: bool = False
    """Upsample by pixel shuffle instead of resize and convolution."""
    checkpoint_gradients: bool = False
    """Recompute blocks in the backward pass: less memory, more time."""

    def check(self, *, frames: int, size: int) -> None:
        """Refuse settings that make no network, and clips that the network cannot fold."""
        for name in ("width", "blocks", "patch", "time_patch", "heads"):
            if getattr(self, name) < 1:
                raise TinygifError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.head_dim < 2 or self.head_dim % 2:
            raise TinygifError(f"expected an even head_dim of at least 2, got {self.head_dim}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise TinygifError(f"expected multipliers of at least 1, got {self.multipliers}")
        if len(self.levels) != len(self.multipliers):
            raise TinygifError(
                f"expected one entry in levels for each of {len(self.multipliers)} multipliers, "
                f'got {self.levels}: for example --levels {" ".join(["time"] * len(self.multipliers))}'
            )
        for entry in (*self.levels, *self.middle):
            kinds = entry.split("+") if entry else []
            if len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
                raise TinygifError(
                    f"expected levels and middle made of {', '.join(KINDS)}, each at most once and "
                    f"joined by +, got {entry!r}"
                )
        fold = self.patch * 2 ** (len(self.multipliers) - 1)
        if size % fold or size < fold:
            raise TinygifError(
                f"expected a size that is a multiple of {fold} (patch {self.patch}, halved "
                f"{len(self.multipliers) - 1} times), got {size}"
            )
        if frames % self.time_patch or frames < 1:
            raise TinygifError(
                f"expected frames that are a multiple of {self.time_patch}, which the stem folds "
                f"into one, got {frames}"
            )

    def build(
        self, shape: tuple[int, int, int, int], text_width: int, *, key: Key[Array, ""]
    ) -> "UNet3D":
        """A new U-Net for clips of a shape (f, c, h, w) and prompts of a width."""
        frames, channels, size, _ = shape
        self.check(frames=frames, size=size)
        return UNet3D(self, channels, size, text_width, key=key)


class SpaceTimeBlock(eqx.Module):
    """A residual block on each frame, then the layers of its level, in their order."""

    resnet: ResnetBlock
    mixing: dict[str, eqx.Module]
    kinds: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, c_in: int, c_out: int, condition: int, kinds: tuple[str, ...], config: UNetConfig,
        side: int, text_width: int, *, key: Key[Array, ""],
    ):  # fmt: skip
        resnet_key, *keys = jax.random.split(key, 1 + len(KINDS))
        keys, heads, head_dim = dict(zip(KINDS, keys)), config.heads, config.head_dim
        linear = side * side > config.full_attention
        build = {
            "conv": lambda key: TemporalConv(c_out, key=key),
            "space": lambda key: Attention(c_out, heads, head_dim, linear=linear, key=key),
            "text": lambda key: Attention(c_out, heads, head_dim, context_dim=text_width, key=key),
            "time": lambda key: Attention(c_out, heads, head_dim, rotate=True, key=key),
        }
        self.resnet = ResnetBlock(c_in, c_out, condition, key=resnet_key)
        self.mixing = {kind: build[kind](keys[kind]) for kind in kinds}
        self.kinds = kinds

    def __call__(
        self, x: Clip, condition: Float[Array, " d"], text: Text, bias: Float[Array, "heads f f"]
    ) -> Float[Array, "f c_out h w"]:
        x = jax.vmap(self.resnet, in_axes=(0, None))(x, condition)
        for kind in self.kinds:
            layer = self.mixing[kind]
            match kind:
                case "conv":
                    x = layer(x)
                case "space":
                    x = over_space(layer, x)
                case "text":
                    x = to_text(layer, x, text.states, text.mask)
                case "time":
                    x = over_time(layer, x, bias)
        return x


class ConditionMLP(eqx.Module):
    """The noise level in [0, 1] and the pooled prompt as one vector, which FiLM layers read."""

    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    from_text: eqx.nn.Linear

    def __init__(self, width: int, dim: int, text_width: int, *, key: Key[Array, ""]):
        key1, key2, text_key = jax.random.split(key, 3)
        self.fc1 = eqx.nn.Linear(width, dim, key=key1)
        self.fc2 = eqx.nn.Linear(dim, dim, key=key2)
        self.from_text = eqx.nn.Linear(text_width, dim, key=text_key)

    def __call__(self, t: Float[Array, ""], pooled: Float[Array, " d2"]) -> Float[Array, " d"]:
        level = time_embedding(t, self.fc1.in_features).astype(pooled.dtype)
        return jax.nn.silu(self.fc2(jax.nn.silu(self.fc1(level))) + self.from_text(pooled))


class UNet3D(eqx.Module):
    """`model(x_t, t, condition) -> prediction`, for one clip; t is the noise level in [0, 1]."""

    condition: ConditionMLP
    bias: RelativePositionBias
    stem: Conv3x3
    down: list[list[SpaceTimeBlock]]
    shrink: list[Downsample]
    middle: list[SpaceTimeBlock]
    up: list[list[SpaceTimeBlock]]
    grow: list[Upsample]
    norm: eqx.nn.GroupNorm
    head: Conv3x3
    config: UNetConfig = eqx.field(static=True)

    def __init__(
        self, config: UNetConfig, channels: int, size: int, text_width: int, *, key: Key[Array, ""]
    ):
        keys = (jax.random.fold_in(key, i) for i in itertools.count())
        widths = [config.width * m for m in config.multipliers]
        patch = channels * config.time_patch * config.patch**2
        dim = 4 * config.width

        def block(c_in: int, level: int, kinds: str) -> SpaceTimeBlock:
            layers, side = tuple(kinds.split("+")) if kinds else (), size // config.patch // 2**level
            return SpaceTimeBlock(
                c_in, widths[level], dim, layers, config, side, text_width, key=next(keys)
            )

        levels = list(enumerate(config.levels))
        self.config = config
        self.condition = ConditionMLP(config.width, dim, text_width, key=next(keys))
        self.bias = RelativePositionBias(config.heads, key=next(keys))
        self.stem = Conv3x3(patch, widths[0], key=next(keys))
        self.down = [[block(widths[i], i, k) for _ in range(config.blocks)] for i, k in levels]
        self.shrink = [Downsample(a, b, key=next(keys)) for a, b in pairwise(widths)]
        self.middle = [block(widths[-1], len(widths) - 1, kinds) for kinds in config.middle]
        self.up = [[block(widths[i], i, k) for _ in range(config.blocks)] for i, k in levels]
        self.grow = [
            Upsample(b, a, shuffle=config.pixel_shuffle, key=next(keys))
            for a, b in pairwise(widths)
        ]
        self.norm = group_norm(widths[0])
        self.head = zeroed(Conv3x3(widths[0], patch, key=next(keys)))

    def __call__(self, x_t: Clip, t: Float[Array, ""], condition: Condition) -> Clip:
        p, q = self.config.time_patch, self.config.patch
        x = rearrange(x_t, "(f k) c (h p) (w q) -> f (k c p q) h w", k=p, p=q, q=q)
        text = condition.text
        film, bias = self.condition(t, text.pooled), self.bias(len(x))

        def apply(block: SpaceTimeBlock, x: Clip) -> Float[Array, "f c_out h w"]:
            return block(x, film, text, bias)

        if self.config.checkpoint_gradients:
            apply = eqx.filter_checkpoint(apply)

        x, skips = jax.vmap(self.stem)(x), []
        for i, blocks in enumerate(self.down):
            if i > 0:
                x = jax.vmap(self.shrink[i - 1])(x)
            for block in blocks:
                x = apply(block, x)
                skips.append(x)
        for block in self.middle:
            x = apply(block, x)
        for i, blocks in reversed(list(enumerate(self.up))):
            for block in blocks:
                x = apply(block, x + skips.pop())
            if i > 0:
                x = jax.vmap(self.grow[i - 1])(x)
        x = jax.vmap(self.head)(jax.nn.silu(jax.vmap(self.norm)(x)))
        return rearrange(x, "f (k c p q) h w -> (f k) c (h p) (w q)", k=p, p=q, q=q)


def without_time(model: TextToGif) -> TextToGif:
    """The model with the layers that mix frames switched off: their last projections are zero."""

    def cut(path: tuple, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return leaf * 0 if ".mixing.time.out." in name or ".mixing.conv.conv." in name else leaf

    return jax.tree_util.tree_map_with_path(cut, model)
