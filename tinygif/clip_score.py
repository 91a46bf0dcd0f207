"""Do frames show their prompt? CLIP's image tower, of the same blocks as its text tower.

The score (Hessel et al. 2021, eq. 1, without its factor of 2.5 and without clipping at zero) is the
cosine of a frame's vector and its prompt's, averaged over frames. Lesson 18.
"""

import sys
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Key, UInt8

from tinygif.config import ModelConfig
from tinygif.embeddings import Embeddings, settle
from tinygif.pretrained import (
    CLIP_BLOCK,
    CLIP_SIZES,
    Block,
    TowerError,
    blocks,
    checked,
    fill,
    read_config,
)

# of ViT-B/32, for what a config.json leaves out
IMAGE_SIZES = CLIP_SIZES | dict(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12, image_size=224, patch_size=32
)
CLIP_IMAGE = CLIP_BLOCK | {
    "patches": "vision_model.embeddings.patch_embedding.weight",
    "summary": "vision_model.embeddings.class_embedding",
    "places": "vision_model.embeddings.position_embedding.weight",
    "layers": "vision_model.encoder.layers",
    "norm": "vision_model.pre_layrnorm",  # spelled so in the files
    "last": "vision_model.post_layernorm",
    "project": "visual_projection",
}
OTHERS = r"text_model\.|text_projection\.|logit_scale$|.*position_ids$"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours CLIP was trained on."""
FRAMES = 32  # read at once


class ClipImage(eqx.Module):
    """CLIP's image tower: an image, patch by patch, to a vector beside those of prompts."""

    patches: Float[Array, "d c p p"]
    summary: Float[Array, " d"]
    places: Float[Array, "n d"]
    norm: eqx.nn.LayerNorm
    layers: list[Block]
    last: eqx.nn.LayerNorm
    project: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d, p, eps = (sizes[name] for name in ("hidden_size", "patch_size", "layer_norm_eps"))
        layer_key, project_key = jax.random.split(key)
        self.patches, self.summary = jnp.zeros((d, 3, p, p)), jnp.zeros(d)
        self.places = jnp.zeros((1 + (sizes["image_size"] // p) ** 2, d))
        self.norm, self.last = eqx.nn.LayerNorm(d, eps), eqx.nn.LayerNorm(d, eps)
        self.layers = blocks(sizes, True, layer_key)
        self.project = eqx.nn.Linear(d, sizes["projection_dim"], use_bias=False, key=project_key)

    def hidden(self, image: Float[Array, "c h w"]) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer."""
        p = self.patches.shape[-1]
        x = rearrange(image, "c (h p) (w q) -> (h w) (c p q)", p=p, q=p)
        x = jnp.concatenate([self.summary[None], x @ self.patches.reshape(len(self.summary), -1).T])
        x = [jax.vmap(self.norm)(x + self.places)]
        for layer in self.layers:
            x.append(layer(x[-1]))
        return x

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, " d2"]:
        return self.project(self.last(self.hidden(image)[-1][0]))


def prepare(frames: UInt8[np.ndarray, "f h w c"], side: int) -> Float[np.ndarray, "f 3 s s"]:
    """Frames as CLIP saw images: resized (bicubic), cropped to the middle square, normalised."""
    from PIL import Image

    f, h, w, _ = frames.shape
    scale = side / min(h, w)
    size = (max(side, int(w * scale)), max(side, int(h * scale)))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    rgb = np.broadcast_to(frames, (f, h, w, 3))
    images = [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in rgb]
    x = np.stack([np.asarray(x)[top : top + side, left : left + side] for x in images]) / 255
    return rearrange((x - MEAN) / DEVIATION, "f h w c -> f c h w").astype(np.float32)


class ClipScore:
    """Both towers of a CLIP model; call it with clips and their prompts."""

    def __init__(self, name: str):
        # as long as CLIP reads; the cache of its text tower is that of training
        config = settle(ModelConfig(text=name, text_pool="last", max_tokens=77))
        self.texts = Embeddings(config)
        about = read_config(self.texts.folder)
        if about["model_type"] != "clip" or "vision_config" not in about:
            raise TowerError(f"expected a CLIP model with an image tower, got {config.text}")
        given = about["vision_config"] | (about.get("vision_config_dict") or {})
        sizes = IMAGE_SIZES | given | {"projection_dim": about.get("projection_dim", 512)}
        self.side = checked(sizes, self.texts.folder)["image_size"]
        template = eqx.filter_eval_shape(ClipImage, sizes, key=jax.random.key(0))
        path = self.texts.folder / "model.safetensors"
        self.tower = fill(template, path, CLIP_IMAGE, OTHERS)

    def __call__(
        self, clips: UInt8[np.ndarray, "b f h w c"], prompts: Sequence[str]
    ) -> Float[np.ndarray, "b f"]:
        """The cosine of every frame to its clip's prompt, -1 to 1."""
        from tqdm import tqdm

        frames, parts = rearrange(clips, "b f h w c -> (b f) h w c"), []
        for i in tqdm(range(0, len(frames), FRAMES), desc="CLIP score",
                      disable=not sys.stderr.isatty()):  # fmt: skip
            some = prepare(frames[i : i + FRAMES], self.side)
            some = np.concatenate([some, np.zeros((FRAMES - len(some), *some.shape[1:]), "f4")])
            parts.append(np.asarray(see(self.tower, some))[: len(frames) - i])
        images = unit(np.concatenate(parts)).reshape(*clips.shape[:2], -1)
        return np.einsum("bfd,bd->bf", images, unit(self.texts.batch(prompts).pooled))


def unit(x: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "b d"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@eqx.filter_jit
def see(tower: ClipImage, images: Float[Array | np.ndarray, "b c h w"]) -> Float[Array, "b d"]:
    with jax.default_matmul_precision("highest"):
        return jax.vmap(tower)(images)
