"""Attention over space, attention over time, and attention to the words of the prompt.

A clip of f frames of h x w pixels has (f h w)^2 pairs of pixels. Attention within each frame, and
then along time at each pixel, looks at f (h w)^2 + h w f^2 of them (factorised as in Video
Diffusion Models, Ho et al. 2022, section 3). Every layer here is `x + something that starts at
zero`. Lesson 06.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Key

from tinygif.position import rotary

Clip = Float[Array, "f c h w"]


def zeroed(layer: eqx.Module) -> eqx.Module:
    """The same layer with all its weights zero, so that a residual branch adds nothing at first."""
    return jax.tree.map(lambda a: jnp.zeros_like(a) if eqx.is_array(a) else a, layer)


def softmax_attention(
    q: Float[Array, "n heads d"], k: Float[Array, "m heads d"], v: Float[Array, "m heads d2"],
    bias: Float[Array, "heads n m"] | None = None, mask: Bool[Array, " m"] | None = None,
) -> Float[Array, "n heads d2"]:  # fmt: skip
    """softmax(q k / sqrt(d) + bias) v (Vaswani et al. 2017, eq. 1); False in `mask` hides a key.

    Scores are summed and kept in float32, also where q and k are bfloat16.
    """
    scores = jnp.einsum("nhd,mhd->hnm", q, k, preferred_element_type=jnp.float32)
    scores = scores / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[None, None, :], scores, -1e30)
    return jnp.einsum("hnm,mhd->nhd", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def linear_attention(
    q: Float[Array, "n heads d"],
    k: Float[Array, "m heads d"],
    v: Float[Array, "m heads d"],
    mask: Bool[Array, " m"] | None = None,
) -> Float[Array, "n heads d"]:
    """Attention whose cost grows with n, not n^2 (Shen et al. 2021, eq. 4).

    Queries are normalised over features, keys over tokens; k^T v is summed first. False in `mask`
    hides a key. There are no scores here, so there is no place for a bias.
    """
    if mask is not None:
        k = jnp.where(mask[:, None, None], k, -1e30)
    q = jax.nn.softmax(q, axis=-1) / q.shape[-1] ** 0.5
    k = jax.nn.softmax(k, axis=0)
    return jnp.einsum("nhd,hde->nhe", q, jnp.einsum("nhd,nhe->hde", k, v))


class Attention(eqx.Module):
    """Multi-head attention on tokens: a norm before it, a projection after it that starts at zero.

    Attends to `context` if there is one, else to `x` itself. `linear` chooses linear attention.
    `rotate` turns queries and keys by their position (rotary embedding).
    """

    norm: eqx.nn.RMSNorm
    q: eqx.nn.Linear
    kv: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    linear: bool = eqx.field(static=True)
    rotate: bool = eqx.field(static=True)

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, context_dim: int | None = None,
        linear: bool = False, rotate: bool = False, key: Key[Array, ""],
    ):  # fmt: skip
        q_key, kv_key, out_key = jax.random.split(key, 3)
        inner = heads * head_dim
        self.norm = eqx.nn.RMSNorm(dim)
        self.q = eqx.nn.Linear(dim, inner, use_bias=False, key=q_key)
        self.kv = eqx.nn.Linear(context_dim or dim, 2 * inner, use_bias=False, key=kv_key)
        self.out = zeroed(eqx.nn.Linear(inner, dim, key=out_key))
        self.heads, self.linear, self.rotate = heads, linear, rotate

    def __call__(
        self,
        x: Float[Array, "n dim"],
        context: Float[Array, "m context"] | None = None,
        *,
        bias: Float[Array, "heads n m"] | None = None,
        mask: Bool[Array, " m"] | None = None,
        circle: bool = False,
    ) -> Float[Array, "n dim"]:
        q, k, v = self.project(x, context)
        if self.rotate:
            q, k = rotary(q, circle=circle), rotary(k, circle=circle)
        if self.linear and bias is not None:
            raise ValueError("linear attention has no scores to add a bias to: leave the bias out")
        if self.linear:
            y = linear_attention(q, k, v, mask)
        else:
            y = softmax_attention(q, k, v, bias, mask)
        return x + jax.vmap(self.out)(rearrange(y, "n h d -> n (h d)"))

    def project(
        self, x: Float[Array, "n dim"], context: Float[Array, "m context"] | None
    ) -> tuple[Array, Array, Array]:
        """Queries (n heads d), keys and values (m heads d)."""
        y = jax.vmap(self.norm)(x)
        q = jax.vmap(self.q)(y)
        k, v = jnp.split(jax.vmap(self.kv)(y if context is None else context), 2, axis=-1)
        q, k, v = (rearrange(a, "n (h d) -> n h d", h=self.heads) for a in (q, k, v))
        return q, k, v

    def weights(
        self, x: Float[Array, "n dim"], context: Float[Array, "m context"], mask: Bool[Array, " m"]
    ) -> Float[Array, "n m"]:
        """How much each token takes of each token of the context, the mean over heads.

        Values that are one-hot come out as their weights.
        """
        q, k, _ = self.project(x, context)
        one_hot = jnp.broadcast_to(jnp.eye(len(k))[:, None], (len(k), self.heads, len(k)))
        return softmax_attention(q, k, one_hot, mask=mask).mean(axis=1)


def over_space(attention: Attention, x: Clip) -> Clip:
    """Each frame's pixels attend to each other; no frame sees another."""
    h = x.shape[2]
    y = jax.vmap(attention)(rearrange(x, "f c h w -> f (h w) c"))
    return rearrange(y, "f (h w) c -> f c h w", h=h)


def over_time(
    attention: Attention, x: Clip, bias: Float[Array, "heads f f"], *, circle: bool = False
) -> Clip:
    """Each pixel attends to itself in the other frames; no pixel sees another.

    circle: the first frame comes after the last.
    """
    h = x.shape[2]
    one_pixel = lambda tokens: attention(tokens, bias=bias, circle=circle)  # noqa: E731
    y = jax.vmap(one_pixel)(rearrange(x, "f c h w -> (h w) f c"))
    return rearrange(y, "(h w) f c -> f c h w", h=h)


def words_seen(
    attention: Attention, x: Clip, states: Float[Array, "n d"], mask: Bool[Array, " n"]
) -> Float[Array, "f n h w"]:
    """How much each pixel looks at each word, in `to_text`; over the words it sums to 1."""
    f, _, h, _ = x.shape
    y = attention.weights(rearrange(x, "f c h w -> (f h w) c"), states, mask)
    return rearrange(y, "(f h w) n -> f n h w", f=f, h=h)


def to_text(
    attention: Attention, x: Clip, states: Float[Array, "n d"], mask: Bool[Array, " n"]
) -> Clip:
    """Every pixel of every frame attends to the words of the prompt."""
    f, _, h, _ = x.shape
    y = attention(rearrange(x, "f c h w -> (f h w) c"), states, mask=mask)
    return rearrange(y, "(f h w) c -> f c h w", f=f, h=h)
