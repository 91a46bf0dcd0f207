"""A video transformer: a clip is a row of tokens, and so is the prompt. Lesson 09.

A token is a box of pixels: `patch` x `patch` of them in `time_patch` frames. Every token attends to
all others, or in turn to those of its frame and of its place. A block knows the noise level and the
prompt by adaLN-zero (DiT, Peebles and Xie 2023, section 3.2): they scale and shift what it reads,
and a gate that starts at zero scales what it adds. Queries and keys are brought to the same length
before they are compared (QK-norm, Dehghani et al. 2023), and are turned by their frame, row and
column (3-D rotary).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Key

from tinygif.attention import Attention, softmax_attention, zeroed
from tinygif.errors import check_limits, expect
from tinygif.position import add_waves, rotary
from tinygif.resnet import ConditionMLP
from tinygif.text import Condition
from tinygif.unet import Clip, fold, fold_known, unfold

TIME_WIDTH = 64
"""Width of the sines of the noise level."""
BASE = 100.0
"""Of the rotary angles: a clip has tens of places along each axis, not thousands of words."""

Tokens = Float[Array, "n d"]


@dataclass(frozen=True)
class TransformerConfig:
    """The settings of the transformer."""

    model: Literal["transformer"] = "transformer"
    """unet or transformer; `--model unet --help` lists the settings of the other."""
    width: int = 256
    """Numbers in a token."""
    depth: int = 6
    """Blocks."""
    heads: int = 4
    patch: int = 2
    """A token stands for patch x patch pixels, or places of a code."""
    time_patch: int = 2
    """And for this many frames."""
    attend: Literal["full", "factorised"] = "full"
    """full: to all tokens. factorised: to those of its frame and to those of its place, in turn."""
    read: Literal["context", "cross"] = "context"
    """How the prompt is read. context: its words are tokens among the others. cross: by attention
    of its own in each block."""
    place_octaves: int = 4
    """Octaves of sines by which a token knows its place; 0 for none."""
    known_frames: bool = False
    """Whether the network can be given frames of the clip; `--known-share` trains that."""
    checkpoint_gradients: bool = False
    """Recompute blocks in the backward pass: less memory, more time."""

    LIMITS: ClassVar[dict[str, tuple[int, int]]] = {
        "width": (8, 2**14), "depth": (1, 256), "heads": (1, 256), "patch": (1, 64),
        "time_patch": (1, 256), "place_octaves": (0, 12),
    }  # fmt: skip

    def check(self, *, frames: int, size: int, fold: int = 1) -> None:
        """Refuse settings from which no network can be built, and clips that it could not fold.

        fold: pixels of a clip that the codec makes one, in height and in width.
        """
        check_limits(self, self.LIMITS)
        what = f"a width that is a multiple of {2 * self.heads}, at least 6 for each head,"
        fits = self.width % (2 * self.heads) == 0 and self.width // self.heads >= 6
        expect(fits, what, self.width)
        alone = self.attend == "full" or self.read == "cross"
        expect(alone, "--read cross with --attend factorised", self.read)
        side = fold * self.patch
        expect(size >= side and size % side == 0, f"a size that is a multiple of {side}", size)
        what = f"frames that are a multiple of {self.time_patch}, which a token stands for"
        expect(frames >= 1 and frames % self.time_patch == 0, what, frames)

    def build(
        self, shape: tuple[int, int, int, int], text_width: int, *, masks: bool = False,
        key: Key[Array, ""],
    ) -> "Transformer":  # fmt: skip
        """A new transformer for clips of shape (f, c, h, w) and `Text` of width `text_width`.

        masks: give one channel more, as `Composed` wants it.
        """
        self.check(frames=shape[0], size=shape[2])
        return Transformer(self, shape[1], text_width, masks=masks, key=key)


def modulate(x: Tokens, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> Tokens:
    """Tokens of mean 0 and deviation 1, scaled and shifted as the condition says."""
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * (1 + scale)[None] + shift[None]


def rotary_3d(
    x: Float[Array, "n heads d"], grid: tuple[int, int, int], *, circle: bool = False
) -> Float[Array, "n heads d"]:
    """Turn a third of the features by the frame of a token, a third by its row and by its column.

    circle: the frames make whole turns, so the last one is next to the first.
    """
    f, h, w = grid
    third = x.shape[-1] // 6 * 2  # even, as rotary turns pairs
    parts = jnp.split(x, [x.shape[-1] - 2 * third, x.shape[-1] - third], axis=-1)
    forms = ("f (h w k) d", "h (f w k) d", "w (f h k) d")
    turned = []
    for part, form in zip(parts, forms):
        rows = rearrange(part, f"(f h w) k d -> {form}", f=f, h=h, w=w)
        rows = rotary(rows, BASE, circle=circle and form is forms[0])
        turned.append(rearrange(rows, f"{form} -> (f h w) k d", f=f, h=h, w=w, k=x.shape[1]))
    return jnp.concatenate(turned, axis=-1)


class Block(eqx.Module):
    """Attention, then a perceptron; both read and add as the condition says."""

    modulation: eqx.nn.Linear
    qkv: eqx.nn.Linear
    q_norm: eqx.nn.RMSNorm
    k_norm: eqx.nn.RMSNorm
    out: eqx.nn.Linear
    cross: Attention | None
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    axis: Literal["all", "space", "time"] = eqx.field(static=True)

    def __init__(
        self, config: TransformerConfig, axis: Literal["all", "space", "time"], text_width: int, *,
        key: Key[Array, ""],
    ):  # fmt: skip
        keys, d = jax.random.split(key, 6), config.width
        self.modulation = zeroed(eqx.nn.Linear(d, 6 * d, key=keys[0]))
        self.qkv = eqx.nn.Linear(d, 3 * d, use_bias=False, key=keys[1])
        self.q_norm, self.k_norm = (eqx.nn.RMSNorm(d // config.heads) for _ in range(2))
        self.out = eqx.nn.Linear(d, d, key=keys[2])
        self.cross = None
        if config.read == "cross":
            size = d // config.heads
            self.cross = Attention(d, config.heads, size, context_dim=text_width, key=keys[3])
        self.fc1 = eqx.nn.Linear(d, 4 * d, key=keys[4])
        self.fc2 = eqx.nn.Linear(4 * d, d, key=keys[5])
        self.heads, self.axis = config.heads, axis

    def __call__(
        self, x: Tokens, words: Float[Array, "m d2"], mask: Bool[Array, " m"],
        condition: Float[Array, " d"], grid: tuple[int, int, int], circle: bool, seen: list | None,
    ) -> tuple[Tokens, Float[Array, "m d2"]]:  # fmt: skip
        """The tokens of the clip and those of the prompt after this block.

        With `cross` the words are not changed. Else they are tokens like the others.
        """
        parts = jnp.split(self.modulation(jax.nn.silu(condition)), 6)
        shift, scale, gate, shift2, scale2, gate2 = parts
        m = 0 if self.cross is not None else len(words)
        x = x if m == 0 else jnp.concatenate([words, x])
        y = self.attend(modulate(x, shift, scale), mask[:m], grid, circle, seen)
        x = x + gate[None] * jax.vmap(self.out)(y)
        if self.cross is not None:
            if seen is not None:
                seen.append(self.cross.weights(x, words, mask))
            x = self.cross(x, words, mask=mask)
        y = jax.vmap(lambda y: self.fc2(jax.nn.gelu(self.fc1(y))))(modulate(x, shift2, scale2))
        x = x + gate2[None] * y
        return x[m:], words if m == 0 else x[:m]

    def attend(
        self, x: Tokens, mask: Bool[Array, " m"], grid: tuple[int, int, int], circle: bool,
        seen: list | None,
    ) -> Tokens:  # fmt: skip
        """What every token takes from those that it sees; the first m are words."""
        (f, h, w), m = grid, len(mask)
        q, k, v = jnp.split(jax.vmap(self.qkv)(x), 3, axis=1)
        q, k, v = (rearrange(a, "n (h d) -> n h d", h=self.heads) for a in (q, k, v))
        q, k = (jax.vmap(jax.vmap(norm))(a) for norm, a in ((self.q_norm, q), (self.k_norm, k)))
        turn = lambda a: jnp.concatenate(  # noqa: E731
            [a[:m], rotary_3d(a[m:], grid, circle=circle)]
        )
        q, k = turn(q), turn(k)
        if self.axis == "all":
            shown = jnp.concatenate([mask, jnp.ones(f * h * w, bool)])
            if seen is not None and m:
                one_hot = jnp.broadcast_to(jnp.eye(len(k), m)[:, None], (len(k), self.heads, m))
                seen.append(softmax_attention(q[m:], k, one_hot, mask=shown).mean(axis=1))
            y = softmax_attention(q, k, v, mask=shown)
        else:
            form = "f (h w) k d" if self.axis == "space" else "(h w) f k d"
            q, k, v = (rearrange(a, f"(f h w) k d -> {form}", f=f, h=h, w=w) for a in (q, k, v))
            y = jax.vmap(softmax_attention)(q, k, v)
            y = rearrange(y, f"{form} -> (f h w) k d", f=f, h=h, w=w)
        return rearrange(y, "n h d -> n (h d)")


class Transformer(eqx.Module):
    """`model(x_t, t, condition) -> prediction`, for one clip; t is the noise level in [0, 1]."""

    condition: ConditionMLP
    stem: eqx.nn.Linear
    known: eqx.nn.Linear | None
    words: eqx.nn.Linear | None
    blocks: list[Block]
    modulation: eqx.nn.Linear
    head: eqx.nn.Linear
    mask: eqx.nn.Linear | None
    config: TransformerConfig = eqx.field(static=True)

    def __init__(
        self, config: TransformerConfig, channels: int, text_width: int, *, masks: bool = False,
        key: Key[Array, ""],
    ):  # fmt: skip
        keys, d = jax.random.split(key, 7), config.width
        box = config.time_patch * config.patch**2
        axes = ("all",) if config.attend == "full" else ("space", "time")
        block = lambda i: Block(  # noqa: E731
            config, axes[i % len(axes)], text_width, key=jax.random.fold_in(keys[0], i)
        )
        self.config = config
        self.condition = ConditionMLP(TIME_WIDTH, d, text_width, key=keys[1])
        self.stem = eqx.nn.Linear(box * channels + 4 * config.place_octaves, d, key=keys[2])
        self.known = None
        if config.known_frames:  # zeros: at first the network does as if there were none
            given = box * channels + config.time_patch
            self.known = zeroed(eqx.nn.Linear(given, d, use_bias=False, key=keys[3]))
        self.words = None
        if config.read == "context":
            self.words = eqx.nn.Linear(text_width, d, key=keys[4])
        self.blocks = [block(i) for i in range(config.depth)]
        self.modulation = zeroed(eqx.nn.Linear(d, 2 * d, key=keys[5]))
        self.head = zeroed(eqx.nn.Linear(d, box * channels, key=keys[6]))
        self.mask = zeroed(eqx.nn.Linear(d, box, key=keys[6])) if masks else None

    def __call__(
        self, x_t: Clip, t: Float[Array, ""], condition: Condition, seen: list | None = None
    ) -> Float[Array, "f c2 h w"]:
        """seen: a list that gets how much every token looks at each word, (tokens words)."""
        k, p, text = self.config.time_patch, self.config.patch, condition.text
        folded = fold(x_t, k, p)
        grid = (len(folded), *folded.shape[2:])
        x = jax.vmap(self.stem)(to_tokens(add_waves(folded, self.config.place_octaves)))
        if self.known is not None:
            given = fold_known(condition.known, x_t, k, p)
            x = x + jax.vmap(self.known)(to_tokens(given))
        words = text.states if self.words is None else jax.vmap(self.words)(text.states)
        vector = self.condition(t, text.pooled)
        apply = lambda block, x, words: block(  # noqa: E731
            x, words, text.mask, vector, grid, condition.circle, seen
        )
        if self.config.checkpoint_gradients and seen is None:
            apply = eqx.filter_checkpoint(apply)
        for block in self.blocks:
            x, words = apply(block, x, words)
        x = modulate(x, *jnp.split(self.modulation(jax.nn.silu(vector)), 2))
        heads = (self.head,) if self.mask is None else (self.head, self.mask)
        return jnp.concatenate(
            [unfold(from_tokens(jax.vmap(head)(x), grid), k, p) for head in heads], axis=1
        )

    def words_seen(
        self, x_t: Clip, t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "f n h w"]:
        """How much each pixel of each frame looks at each word, the mean over all blocks.

        Each block is divided by its largest value, and boxes are enlarged to the clip's size.
        """
        seen, (f, _, h, w), k, p = [], x_t.shape, self.config.time_patch, self.config.patch
        self(x_t, t, condition, seen)
        mean = jnp.mean(jnp.stack([a / a.max() for a in seen]), axis=0)
        maps = from_tokens(mean, (f // k, h // p, w // p))
        return jax.image.resize(maps, (f, maps.shape[1], h, w), "nearest")


def to_tokens(x: Float[Array, "f c h w"]) -> Float[Array, "n c"]:
    """The folded pixels of a clip as rows, frame by frame and row by row."""
    return rearrange(x, "f c h w -> (f h w) c")


def from_tokens(x: Float[Array, "n c"], grid: tuple[int, int, int]) -> Float[Array, "f c h w"]:
    """The inverse of `to_tokens`."""
    f, h, w = grid
    return rearrange(x, "(f h w) c -> f c h w", f=f, h=h, w=w)
