"""Do frames show their prompt? The CLIP score, with CLIP's image tower beside its text tower.

The score of a frame is the cosine between its vector and that of the prompt (Hessel et al. 2021,
eq. 1, but without the factor 2.5, and negative values are kept). Lesson 18.
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

from tinygif.config import TextConfig
from tinygif.errors import expect
from tinygif.towers.embeddings import Embeddings, resolve_tower
from tinygif.towers.pretrained import (
    CLIP_BLOCK,
    Block,
    check_sizes,
    load_weights,
    make_blocks,
    read_config,
    tower_config,
)

IMAGE_SIZES = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    image_size=224, patch_size=32, projection_dim=512, hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)  # fmt: skip
"""The sizes of ViT-B/32, which stand for those that a config.json leaves out."""
CLIP_IMAGE = CLIP_BLOCK | {
    "patches": "vision_model.embeddings.patch_embedding.weight",
    "class_token": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    "layers": "vision_model.encoder.layers",
    "norm_before": "vision_model.pre_layrnorm",  # spelled so in the files
    "norm_after": "vision_model.post_layernorm",
    "projection": "visual_projection",
}
OTHER_ARRAYS = r"text_model\.|text_projection\.|logit_scale$|.*position_ids$"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in the images that CLIP was trained on."""
BATCH = 32
"""Frames that are encoded at once."""


class ClipImage(eqx.Module):
    """CLIP's image tower: from an image, cut into patches, to a vector comparable to prompts."""

    patches: Float[Array, "d c p p"]
    class_token: Float[Array, " d"]
    positions: Float[Array, "n d"]
    norm_before: eqx.nn.LayerNorm
    layers: list[Block]
    norm_after: eqx.nn.LayerNorm
    projection: eqx.nn.Linear

    def __init__(self, sizes: dict[str, Any], *, key: Key[Array, ""]):
        d, p, eps = (sizes[name] for name in ("hidden_size", "patch_size", "layer_norm_eps"))
        d2, patches = sizes["projection_dim"], (sizes["image_size"] // p) ** 2
        layer_key, projection_key = jax.random.split(key)
        self.patches, self.class_token = jnp.zeros((d, 3, p, p)), jnp.zeros(d)
        self.positions = jnp.zeros((1 + patches, d))
        self.norm_before, self.norm_after = eqx.nn.LayerNorm(d, eps), eqx.nn.LayerNorm(d, eps)
        self.layers = make_blocks(sizes, True, layer_key)
        self.projection = eqx.nn.Linear(d, d2, use_bias=False, key=projection_key)

    def hidden_states(self, image: Float[Array, "c h w"]) -> list[Float[Array, "n d"]]:
        """After the embedding and after each layer. The class token comes first."""
        p = self.patches.shape[-1]
        x = rearrange(image, "c (h p) (w q) -> (h w) (c p q)", p=p, q=p)
        x = x @ rearrange(self.patches, "d c p q -> (c p q) d")
        x = jnp.concatenate([self.class_token[None], x]) + self.positions
        x = [jax.vmap(self.norm_before)(x)]
        for layer in self.layers:
            x.append(layer(x[-1]))
        return x

    def __call__(self, image: Float[Array, "c h w"]) -> Float[Array, " d2"]:
        return self.projection(self.norm_after(self.hidden_states(image)[-1][0]))


def prepare_frames(frames: UInt8[np.ndarray, "f h w c"], side: int) -> Float[np.ndarray, "f 3 s s"]:
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
    """Both towers of a CLIP model; call it with clips and their prompts.

    name: clip, a hub id or a folder. Raises TinygifError for a model that is not found, or that has
    no image tower.
    """

    def __init__(self, name: str):
        # CLIP reads 77 tokens; prompts that training encoded with this tower are in its cache
        config = resolve_tower(TextConfig(text=name, text_pool="last", max_tokens=77))
        self.embeddings = Embeddings(config)
        folder = self.embeddings.folder
        model_config = read_config(folder)
        has_images = model_config["model_type"] == "clip" and "vision_config" in model_config
        expect(has_images, "a CLIP model with an image tower", config.text)
        sizes = IMAGE_SIZES | tower_config(model_config, "vision", folder)
        sizes["projection_dim"] = model_config.get("projection_dim", 512)
        self.side = check_sizes(sizes, IMAGE_SIZES, folder)["image_size"]
        template = eqx.filter_eval_shape(ClipImage, sizes, key=jax.random.key(0))
        self.tower = load_weights(template, folder / "model.safetensors", CLIP_IMAGE, OTHER_ARRAYS)

    def __call__(
        self, clips: UInt8[np.ndarray, "b f h w c"], prompts: Sequence[str]
    ) -> Float[np.ndarray, "b f"]:
        """The cosine of every frame to its clip's prompt, from -1 to 1."""
        from tqdm import tqdm

        frames, vectors = rearrange(clips, "b f h w c -> (b f) h w c"), []
        for i in tqdm(range(0, len(frames), BATCH), desc="CLIP score",
                      disable=not sys.stderr.isatty()):  # fmt: skip
            images = prepare_frames(frames[i : i + BATCH], self.side)
            padding = np.zeros((BATCH - len(images), *images.shape[1:]), np.float32)
            padded = np.concatenate([images, padding])  # one shape, so one compiled program
            vectors.append(np.asarray(encode_images(self.tower, padded))[: len(images)])
        images = normalise(np.concatenate(vectors)).reshape(*clips.shape[:2], -1)
        return np.einsum("bfd,bd->bf", images, normalise(self.embeddings.batch(prompts).pooled))


def normalise(x: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "b d"]:
    """Vectors of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@eqx.filter_jit
def encode_images(
    tower: ClipImage, images: Float[Array | np.ndarray, "b c h w"]
) -> Float[Array, "b d"]:
    """A batch through the image tower, in full precision on every kind of device."""
    with jax.default_matmul_precision("highest"):
        return jax.vmap(tower)(images)
