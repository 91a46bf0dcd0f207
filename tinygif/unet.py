"""The space-time U-Net: an image U-Net lifted over frames, with attention along time between.

The shape is that of Video Diffusion Models (Ho et al. 2022, section 3): residual blocks within
frames, attention over space, over time and to the prompt, down to small images and up again with
skips, which are added rather than stacked: the first convolution on the way up costs half. The stem
folds `patch` x `patch` pixels and groups of `time_patch` frames into channels, since a clip is
redundant in both. No 3-D convolution anywhere. Lesson 08.
"""

import itertools
from itertools import pairwise

import equinox as eqx
import jax
from einops import rearrange
from jaxtyping import Array, Float, Key

from tinygif.attention import Attention, over_space, over_time, to_text, zeroed
from tinygif.config import DataConfig, ModelConfig
from tinygif.position import RelativePositionBias
from tinygif.resnet import (
    Conv,
    Downsample,
    ResnetBlock,
    TemporalConv,
    Upsample,
    group_norm,
    time_embedding,
)
from tinygif.text import Prompt, Text, TextAdapter, TextEncoder

Clip = Float[Array, "f c h w"]


class SpaceTimeBlock(eqx.Module):
    """Residual block per frame, then whichever mixing this level has: space, prompt, time."""

    resnet: ResnetBlock
    conv_time: TemporalConv | None
    space: Attention | None
    text: Attention | None
    time: Attention | None

    def __init__(
        self, c_in: int, c_out: int, side: int, level: int | None, config: ModelConfig,
        condition: int, *, key: Key[Array, ""],
    ):  # fmt: skip
        resnet_key, conv_key, space_key, text_key, time_key = jax.random.split(key, 5)
        heads, head_dim = config.heads, config.head_dim
        self.resnet = ResnetBlock(c_in, c_out, condition, key=resnet_key)
        self.conv_time = TemporalConv(c_out, key=conv_key) if config.temporal_conv else None
        self.space = self.text = self.time = None
        if level in (None, *config.space_attention):
            linear = side * side > config.full_attention
            self.space = Attention(c_out, heads, head_dim, linear=linear, key=space_key)
        if level in (None, *config.text_attention):
            width = config.text_width
            self.text = Attention(c_out, heads, head_dim, context_dim=width, key=text_key)
        if level in (None, *config.time_attention):
            self.time = Attention(c_out, heads, head_dim, rotate=True, key=time_key)

    def __call__(
        self, x: Clip, condition: Float[Array, " d"], text: Text, bias: Float[Array, "heads f f"]
    ) -> Float[Array, "f c_out h w"]:
        x = jax.vmap(self.resnet, in_axes=(0, None))(x, condition)
        if self.conv_time is not None:
            x = self.conv_time(x)
        if self.space is not None:
            x = over_space(self.space, x)
        if self.text is not None:
            x = to_text(self.text, x, text.states, text.mask)
        if self.time is not None:
            x = over_time(self.time, x, bias)
        return x


class UNet3D(eqx.Module):
    """`model(x_t, t, text) -> prediction`, for one clip; t is the noise level in [0, 1]."""

    condition: eqx.nn.MLP
    from_text: eqx.nn.Linear
    bias: RelativePositionBias
    stem: Conv
    down: list[list[SpaceTimeBlock]]
    shrink: list[Downsample]
    middle: list[SpaceTimeBlock]
    up: list[list[SpaceTimeBlock]]
    grow: list[Upsample]
    norm: eqx.nn.GroupNorm
    head: Conv
    config: ModelConfig = eqx.field(static=True)

    def __init__(self, data: DataConfig, config: ModelConfig, *, key: Key[Array, ""]):
        config.check(frames=data.frames, size=data.size)
        keys = (jax.random.fold_in(key, i) for i in itertools.count())
        widths = [config.width * m for m in config.multipliers]
        sides = [data.size // config.patch // 2**i for i in range(len(widths))]
        patch = data.channels * config.time_patch * config.patch**2
        d = 4 * config.width

        def block(c_in: int, i: int, level: int | None) -> SpaceTimeBlock:
            return SpaceTimeBlock(c_in, widths[i], sides[i], level, config, d, key=next(keys))

        levels = range(len(widths))
        self.config = config
        self.condition = eqx.nn.MLP(config.width, d, d, 1, jax.nn.silu, key=next(keys))
        self.from_text = eqx.nn.Linear(config.text_width, d, key=next(keys))
        self.bias = RelativePositionBias(config.heads, key=next(keys))
        self.stem = Conv(patch, widths[0], key=next(keys))
        self.down = [[block(widths[i], i, i) for _ in range(config.blocks)] for i in levels]
        self.shrink = [Downsample(a, b, key=next(keys)) for a, b in pairwise(widths)]
        self.middle = [block(widths[-1], -1, level) for level in (None, len(widths))]
        self.up = [[block(widths[i], i, i) for _ in range(config.blocks)] for i in levels]
        self.grow = [
            Upsample(b, a, shuffle=config.pixel_shuffle, key=next(keys))
            for a, b in pairwise(widths)
        ]
        self.norm = group_norm(widths[0])
        self.head = zeroed(Conv(widths[0], patch, key=next(keys)))

    def __call__(self, x_t: Clip, t: Float[Array, ""], text: Text) -> Clip:
        p, q = self.config.time_patch, self.config.patch
        x = rearrange(x_t, "(f k) c (h p) (w q) -> f (k c p q) h w", k=p, p=q, q=q)
        condition = self.condition(time_embedding(t, self.config.width).astype(x.dtype))
        condition = jax.nn.silu(condition + self.from_text(text.pooled))
        bias = self.bias(len(x))

        def apply(block: SpaceTimeBlock, x: Clip) -> Float[Array, "f c_out h w"]:
            return block(x, condition, text, bias)

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


class TextToGif(eqx.Module):
    """All that is trained: the text encoder, or what stands on a frozen one, and the U-Net."""

    text: TextEncoder | TextAdapter
    unet: UNet3D

    def __init__(self, data: DataConfig, config: ModelConfig, words: int, *, key: Key[Array, ""]):
        text_key, unet_key = jax.random.split(key)
        width, depth = config.text_width, config.text_depth
        if config.text == "words":
            n = config.max_tokens
            self.text = TextEncoder(words, width, depth, max_tokens=n, key=text_key)
        else:
            self.text = TextAdapter(config.text_dims, width, depth, key=text_key)
        self.unet = UNet3D(data, config, key=unet_key)

    def __call__(self, x_t: Clip, t: Float[Array, ""], prompt: Prompt) -> Clip:
        return self.unet(x_t, t, self.text(prompt))
