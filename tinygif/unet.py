"""The space-time U-Net: an image U-Net applied to every frame, with layers along time in between.

The shape is that of Video Diffusion Models (Ho et al. 2022, section 3): residual blocks within
frames; attention over space, to the prompt and over time; down to small images and up again. Each
block on the way up also gets the output of its partner on the way down. The two are added, not
stacked as channels as in the paper: the next convolution then costs half. The stem folds `patch` x
`patch` pixels and groups of `time_patch` frames into channels, because neighbouring pixels and
frames are much alike. There is no 3-D convolution. Lesson 08.
"""

from dataclasses import dataclass
from itertools import count, pairwise, zip_longest
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from tinygif.attention import Attention, over_space, over_time, to_text, words_seen, zeroed
from tinygif.errors import TinygifError, check_limits, expect
from tinygif.position import RelativePositionBias, add_waves
from tinygif.resnet import (
    ConditionMLP,
    Conv3x3,
    Downsample,
    ResnetBlock,
    TemporalConv,
    Upsample,
    group_norm,
)
from tinygif.text import Condition, KnownFrames, Text, TextToGif

Clip = Float[Array, "f c h w"]
KINDS = ("conv", "space", "text", "time")
"""The layers that may follow a residual block: a convolution along time; attention over space, to
the words of the prompt, or over time."""
MAX_LEVELS = 12


@dataclass(frozen=True)
class UNetConfig:
    """The settings of the U-Net. Each level is one resolution; level 0 has the largest images."""

    model: Literal["unet"] = "unet"
    """unet or transformer; `--model transformer --help` lists the settings of the other."""
    width: int = 64
    """Channels of a level whose multiplier is 1."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of each level, in widths."""
    levels: tuple[str, ...] = ("time", "time", "space+text+time", "space+text+time")
    """The layers after the residual blocks of each level: kinds in order, joined by +; "" for none.
    conv: convolution along time. space, text, time: attention over space, to words, over time."""
    middle: tuple[str, ...] = ("space+text+time", "")
    """The same for each block between the way down and the way up, on the smallest images."""
    blocks: int = 1
    """Residual blocks per level, on the way down and on the way up."""
    patch: int = 2
    """The stem folds patch x patch pixels into channels."""
    time_patch: int = 1
    """The stem folds groups of this many frames into channels."""
    place_octaves: int = 0
    """Octaves of sines by which the stem knows the place of a pixel; 0 for none."""
    heads: int = 4
    head_dim: int = 32
    full_attention: int = 1024
    """Attention over space is full on images of up to this many pixels, linear on larger ones."""
    pixel_shuffle: bool = False
    """Upsample by pixel shuffle instead of resize and convolution."""
    known_frames: bool = False
    """Whether the network can be given frames of the clip; `--known-share` trains that."""
    checkpoint_gradients: bool = False
    """Recompute blocks in the backward pass: less memory, more time."""

    LIMITS: ClassVar[dict[str, tuple[int, int]]] = {
        "width": (1, 2**13), "multipliers": (1, 256), "blocks": (1, 64), "patch": (1, 64),
        "time_patch": (1, 256), "heads": (1, 1024), "head_dim": (2, 1024),
        "full_attention": (0, 2**24), "place_octaves": (0, 12),
    }  # fmt: skip

    def check(self, *, frames: int, size: int, fold: int = 1) -> None:
        """Refuse settings from which no network can be built, and clips that it could not fold.

        fold: pixels of a clip that the codec makes one, in height and in width.
        """
        check_limits(self, self.LIMITS)
        expect(self.head_dim % 2 == 0, "an even head_dim", self.head_dim)
        n = len(self.multipliers)
        expect(0 < n <= MAX_LEVELS, f"1 to {MAX_LEVELS} multipliers", n)
        what = f"at most {MAX_LEVELS} blocks in middle"
        expect(len(self.middle) <= MAX_LEVELS, what, self.middle)
        what = f"a level for each of {n} multipliers, such as --levels {' '.join(['time'] * n)}"
        expect(len(self.levels) == n, what, self.levels)
        what = f"levels and middle made of {', '.join(KINDS)}, each at most once and joined by +"
        for entry in (*self.levels, *self.middle):
            kinds = split_kinds(entry)
            expect(sorted(kinds) == sorted(set(kinds) & set(KINDS)), what, repr(entry))
        side = fold * self.patch * 2 ** (n - 1)
        what = (f"a size that is a multiple of {side} (codec {fold}, patch {self.patch}, "
                f"halved {n - 1} times)")  # fmt: skip
        expect(size >= side and size % side == 0, what, size)
        what = f"frames that are a multiple of {self.time_patch}, which the stem folds into one"
        expect(frames >= 1 and frames % self.time_patch == 0, what, frames)

    def build(
        self, shape: tuple[int, int, int, int], text_width: int, *, masks: bool = False,
        key: Key[Array, ""],
    ) -> "UNet3D":  # fmt: skip
        """A new U-Net for clips of shape (f, c, h, w) and `Text` of width `text_width`.

        masks: give one channel more, as `Composed` wants it.
        """
        self.check(frames=shape[0], size=shape[2])
        return UNet3D(self, shape[1], shape[2], text_width, masks=masks, key=key)


def split_kinds(entry: str) -> tuple[str, ...]:
    """The kinds in one entry of `levels` or `middle`."""
    return tuple(entry.split("+")) if entry else ()


class SpaceTimeBlock(eqx.Module):
    """A residual block on each frame, then the layers of its level, in their order."""

    resnet: ResnetBlock
    mixing: dict[str, eqx.Module]
    kinds: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, width: int, condition: int, kinds: tuple[str, ...], config: UNetConfig, side: int,
        text_width: int, *, key: Key[Array, ""],
    ):  # fmt: skip
        resnet_key, *keys = jax.random.split(key, 1 + len(KINDS))
        keys, heads, head_dim = dict(zip(KINDS, keys)), config.heads, config.head_dim
        linear = side * side > config.full_attention
        build = {
            "conv": lambda key: TemporalConv(width, key=key),
            "space": lambda key: Attention(width, heads, head_dim, linear=linear, key=key),
            "text": lambda key: Attention(width, heads, head_dim, context_dim=text_width, key=key),
            "time": lambda key: Attention(width, heads, head_dim, rotate=True, key=key),
        }
        self.resnet = ResnetBlock(width, condition, key=resnet_key)
        self.mixing = {kind: build[kind](keys[kind]) for kind in kinds}
        self.kinds = kinds

    def __call__(
        self, x: Clip, condition: Float[Array, " d"], text: Text, bias: Float[Array, "heads f f"],
        circle: bool = False, seen: list | None = None,
    ) -> Clip:  # fmt: skip
        x = jax.vmap(self.resnet, in_axes=(0, None))(x, condition)
        for kind in self.kinds:
            match kind:
                case "conv":
                    x = self.mixing["conv"](x, circle=circle)
                case "space":
                    x = over_space(self.mixing["space"], x)
                case "text":
                    if seen is not None:
                        seen.append(words_seen(self.mixing["text"], x, text.states, text.mask))
                    x = to_text(self.mixing["text"], x, text.states, text.mask)
                case "time":
                    x = over_time(self.mixing["time"], x, bias, circle=circle)
        return x


class UNet3D(eqx.Module):
    """`model(x_t, t, condition) -> prediction`, for one clip; t is the noise level in [0, 1]."""

    condition: ConditionMLP
    bias: RelativePositionBias
    stem: Conv3x3
    known: Conv3x3 | None
    down: list[list[SpaceTimeBlock]]
    shrink: list[Downsample]
    middle: list[SpaceTimeBlock]
    up: list[list[SpaceTimeBlock]]
    grow: list[Upsample]
    norm: eqx.nn.GroupNorm
    head: Conv3x3
    mask: Conv3x3 | None
    config: UNetConfig = eqx.field(static=True)

    def __init__(
        self, config: UNetConfig, channels: int, size: int, text_width: int, *,
        masks: bool = False, key: Key[Array, ""],
    ):  # fmt: skip
        keys = (jax.random.fold_in(key, i) for i in count())
        widths = [config.width * m for m in config.multipliers]
        patch = channels * config.time_patch * config.patch**2
        dim, shuffle = 4 * config.width, config.pixel_shuffle

        def block(level: int, entry: str) -> SpaceTimeBlock:
            width, side, kinds = widths[level], size // config.patch // 2**level, split_kinds(entry)
            return SpaceTimeBlock(width, dim, kinds, config, side, text_width, key=next(keys))

        levels = list(enumerate(config.levels))
        self.config = config
        self.condition = ConditionMLP(config.width, dim, text_width, key=next(keys))
        self.bias = RelativePositionBias(config.heads, key=next(keys))
        self.stem = Conv3x3(patch + 4 * config.place_octaves, widths[0], key=next(keys))
        self.known = None
        if config.known_frames:  # zeros: at first the network does as if there were none
            given = patch + config.time_patch
            self.known = zeroed(Conv3x3(given, widths[0], key=next(keys)))
        self.down = [[block(*level) for _ in range(config.blocks)] for level in levels]
        self.shrink = [Downsample(a, b, key=next(keys)) for a, b in pairwise(widths)]
        self.middle = [block(len(widths) - 1, entry) for entry in config.middle]
        self.up = [[block(*level) for _ in range(config.blocks)] for level in levels]
        self.grow = [Upsample(b, a, shuffle=shuffle, key=next(keys)) for a, b in pairwise(widths)]
        self.norm = group_norm(widths[0])
        self.head = zeroed(Conv3x3(widths[0], patch, key=next(keys)))
        mask = Conv3x3(widths[0], patch // channels, key=next(keys))
        self.mask = zeroed(mask) if masks else None

    def __call__(
        self, x_t: Clip, t: Float[Array, ""], condition: Condition, seen: list | None = None
    ) -> Float[Array, "f c2 h w"]:
        """seen: a list that gets what every attention to words saw, (f n h w)."""
        k, p = self.config.time_patch, self.config.patch
        x = fold(x_t, k, p)
        text, circle = condition.text, condition.circle
        bias = self.bias(len(x), circle=circle)
        vector = self.condition(t, text.pooled)
        apply = lambda block, x: block(x, vector, text, bias, circle, seen)  # noqa: E731
        if self.config.checkpoint_gradients and seen is None:
            apply = eqx.filter_checkpoint(apply)

        x, skips = jax.vmap(self.stem)(add_waves(x, self.config.place_octaves)), []
        if self.known is not None:
            x = x + jax.vmap(self.known)(fold_known(condition.known, x_t, k, p))
        for blocks, shrink in zip_longest(self.down, self.shrink):
            for block in blocks:
                x = apply(block, x)
                skips.append(x)
            x = x if shrink is None else jax.vmap(shrink)(x)
        for block in self.middle:
            x = apply(block, x)
        for blocks, grow in zip_longest(self.up[::-1], self.grow[::-1]):
            for block in blocks:
                x = apply(block, x + skips.pop())
            x = x if grow is None else jax.vmap(grow)(x)
        x = jax.nn.silu(jax.vmap(self.norm)(x))
        heads = (self.head,) if self.mask is None else (self.head, self.mask)
        return jnp.concatenate([unfold(jax.vmap(head)(x), k, p) for head in heads], axis=1)

    def words_seen(
        self, x_t: Clip, t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "f n h w"]:
        """How much each pixel of each frame looks at each word, as images in [0, 1].

        The mean over all attention to words, each divided by its largest value; layers on small
        images and for groups of frames are enlarged to the clip's size.
        """
        seen, (f, _, h, w) = [], x_t.shape
        self(x_t, t, condition, seen)
        if not seen:
            raise TinygifError("this model has no attention to words: give it a level with text")
        grow = lambda a: jax.image.resize(a, (f, a.shape[1], h, w), "linear")  # noqa: E731
        return jnp.mean(jnp.stack([grow(a / a.max()) for a in seen]), axis=0)


def fold(clip: Clip, k: int, p: int) -> Float[Array, "f2 c2 h2 w2"]:
    """Groups of k frames, and of p x p pixels, as channels."""
    return rearrange(clip, "(f k) c (h p) (w q) -> f (k c p q) h w", k=k, p=p, q=p)


def fold_known(
    known: KnownFrames | None, like: Clip, k: int, p: int
) -> Float[Array, "f2 c2 h2 w2"]:
    """Known frames and their mask, folded like a clip; zeros if none is known."""
    if known is None:
        known = KnownFrames(jnp.zeros_like(like), jnp.zeros(len(like), bool))
    nothing = jnp.zeros_like(known.frames)
    frames = fold(jnp.where(known.mask[:, None, None, None], known.frames, nothing), k, p)
    mask = rearrange(known.mask, "(f k) -> f k 1 1", k=k).astype(frames.dtype)
    mask = jnp.broadcast_to(mask, (len(frames), k, *frames.shape[2:]))
    return jnp.concatenate([frames, mask], axis=1)


def unfold(x: Float[Array, "f2 c2 h2 w2"], k: int, p: int) -> Clip:
    """The clip that `fold` made these channels of."""
    return rearrange(x, "f (k c p q) h w -> (f k) c (h p) (w q)", k=k, p=p, q=p)


def without_time(model: TextToGif) -> TextToGif:
    """The model with the layers that mix frames switched off: their last projections are zero."""

    def cut(path: tuple, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        is_last = ".mixing.time.out." in name or ".mixing.conv.conv." in name
        return jnp.zeros_like(leaf) if is_last else leaf

    return jax.tree_util.tree_map_with_path(cut, model)
